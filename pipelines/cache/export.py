"""`kd-ray cache export`: one output as plain Parquet or WebDataset tars with a card, to be published."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Console

from kd_ray.cache.catalog import Catalog, read_catalog
from kd_ray.cache.commits import Commit
from kd_ray.cache.export import SUFFIXES, ExportedView, Format, Labels, encode, exported_views
from kd_ray.cache.export_card import Card, Said
from kd_ray.cache.identity_of import identity_of
from kd_ray.cache.records import read_records
from kd_ray.cache.target_set import CALIBRATION_FILE, Output
from kd_ray.cache.view_store import ViewStore
from kd_ray.config.resolved import versions
from kd_ray.corpus.packed import PackedCorpus, open_corpus
from kd_ray.corpus.source import SPLITS, SplitName
from kd_ray.errors import CacheCorrupt, CacheIncomplete, RecipeError
from kd_ray.storage import Storage, digest_of_json, open_storage, redacted
from kd_ray.telemetry.progress import meter
from kd_ray.telemetry.units import human_bytes
from pipelines.cache.told import print_json

CARD, EXPORT_FILE = "README.md", "export.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Where to and how; `corpus_uri` is the packed corpus that labels come from."""

    to: str
    format: Format
    as_stored: bool = False
    corpus_uri: str | None = None
    said: Said = field(default_factory=Said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is exported: the newest commits of an output and of its views, in the order of units."""

    path: str
    identity: dict[str, Any]
    output: Output
    views: ViewStore
    commits: Sequence[Commit]
    views_commits: Sequence[Commit]
    num_units_wanted: int
    corpus: PackedCorpus | None

    @property
    def split(self) -> SplitName:
        split: SplitName = self.views.spec.identity["split"]
        return split

    def labels(self) -> Labels | None:
        if self.corpus is None:
            return None
        members = self.corpus.members(self.split)
        order = np.argsort(members.sample_ids)
        return Labels(sample_ids=members.sample_ids[order], labels=members.labels[order])


def export_output(uri: str, name: str, request: ExportRequest, *, console: Console, as_json: bool) -> None:
    """Write what is not written yet, the card last.

    Raises:
        RecipeError: `name` is no output, or the destination holds something else.
        CacheIncomplete: nothing is committed.
        CacheCorrupt: something cannot be read; what was written stays, and the same command goes on from it.
    """
    source = _source(read_catalog(uri), name, request)
    storage = open_storage(request.to)
    written = _written_before(storage, source, request)
    names = _file_names(source, request.format)
    labels, calibration = source.labels(), source.output.fixed_calibration()
    with meter(Console(stderr=True) if as_json else console, "exporting", unit="units") as progress:
        for number, (file_name, commit, views_commit) in enumerate(
            zip(names, source.commits, source.views_commits, strict=True), start=1
        ):
            if file_name not in written:
                views = exported_views(
                    source.output,
                    commit,
                    source.views,
                    views_commit,
                    calibration=calibration,
                    labels=labels,
                    as_stored=request.as_stored,
                )
                storage.write(file_name, encode(views, format=request.format))
            progress.update(number, total=len(names))
    if request.as_stored and calibration is not None:
        storage.write(CALIBRATION_FILE, calibration.to_json())
    card = _card(source, request)
    storage.write(CARD, card.text().encode())
    _tell(card, storage, names, console=console, as_json=as_json)


def _source(catalog: Catalog, name: str, request: ExportRequest) -> Source:
    path, output = catalog.one(name, catalog.outputs)
    assert isinstance(output, Output)
    if output.coding.codec == "top_k" and not request.as_stored:
        raise RecipeError(
            f"{path}: is stored as top_k, which has no value for every class. Give --as-stored: indices, logits and "
            "log-sum-exps are exported."
        )
    if output.coding.explained_variance is not None and request.as_stored:
        raise RecipeError(
            f"{path}: is stored as coefficients in a basis, which plain tools do not know. Leave out --as-stored: "
            "values are exported."
        )
    views = catalog.views_of(output)
    if views is None:
        raise CacheCorrupt(f"{redacted(catalog.uri)}/{path}: its views are not in this cache. Restore them.")
    records, of_views = read_records(output.collection), read_records(views.collection)
    findings = [*records.findings, *of_views.findings]
    if findings:
        raise CacheCorrupt(f"{findings[0]} {len(findings)} records of what is to be exported are damaged.")
    units = sorted(records.newest)
    if not units:
        raise CacheIncomplete(f"{redacted(catalog.uri)}/{path}: has no units yet. Run the extract stage first.")
    without_views = [unit for unit in units if unit not in of_views.newest]
    if without_views:
        raise CacheIncomplete(
            f"{redacted(catalog.uri)}/{path}: {len(without_views)} units have no views, the first is "
            f"{without_views[0].id}. Run the extract stage again; it computes them."
        )
    return Source(
        path=path,
        identity=identity_of(catalog, path)[1],
        output=output,
        views=views,
        commits=[records.newest[unit] for unit in units],
        views_commits=[of_views.newest[unit] for unit in units],
        num_units_wanted=len(of_views.newest),
        corpus=_corpus(request.corpus_uri, output, views),
    )


def _corpus(uri: str | None, output: Output, views: ViewStore) -> PackedCorpus | None:
    if uri is None:
        return None
    corpus, expected = open_corpus(uri), output.target_set.identity["corpus_id"]
    if corpus.corpus_id != expected or views.spec.identity.get("split") not in SPLITS:
        raise RecipeError(
            f"--corpus: {redacted(uri)} is the corpus {corpus.corpus_id[:12]}, but the targets are of {expected[:12]}. "
            "Give the packed_uri of the recipe that they were made by, or leave it out: labels are left out then."
        )
    return corpus


def _written_before(storage: Storage, source: Source, request: ExportRequest) -> frozenset[str]:
    """The files of the same export that was interrupted; what is to be exported is noted before anything is written.

    Raises:
        RecipeError: the destination has something else, or a finished export.
    """
    what = {
        "output": source.output.spec.fingerprint,
        "target_set": source.output.target_set.fingerprint,
        "units": digest_of_json([[each.unit.id, each.generation, each.attempt] for each in source.commits]),
        "format": request.format,
        "as_stored": request.as_stored,
        "annotations": None if source.corpus is None else source.corpus.annotated_id,
        "version": versions()["kd-ray"],
    }
    found = storage.list("")
    where = redacted(storage.uri)
    if CARD in found:
        raise RecipeError(f"--to: {where} has a {CARD} already: something is published there. Give an empty location.")
    if not found:
        storage.write(EXPORT_FILE, json.dumps(what, indent=1).encode())
        return frozenset()
    if EXPORT_FILE not in found or json.loads(storage.read(EXPORT_FILE)) != what:
        raise RecipeError(
            f"--to: {where} is not empty ({found[0]}), and not the beginning of this export. Give an empty location."
        )
    return frozenset(found)


def _file_names(source: Source, format: Format) -> list[str]:
    count = len(source.commits)
    return [f"data/{source.split}-{number:05d}-of-{count:05d}.{SUFFIXES[format]}" for number in range(count)]


def _card(source: Source, request: ExportRequest) -> Card:
    output, commits = source.output, source.commits
    some = _first_view(source, request)
    return Card(
        name=source.path.removeprefix("targets/"),
        identity=source.identity,
        fingerprint=output.spec.fingerprint,
        split=source.split,
        format=request.format,
        as_stored=request.as_stored,
        num_samples=sum({each.unit.span: each.num_rows for each in commits}.values()),
        num_views=sum(each.num_rows * each.unit.num_views for each in commits),
        num_units=len(commits),
        num_units_wanted=source.num_units_wanted,
        num_files=len(commits),
        shapes={name: array.shape[1:] for name, array in some.arrays.items()},
        statistics=output.statistics(commits),
        classes=None if source.corpus is None else source.corpus.classes,
        said=request.said,
        version=versions()["kd-ray"],
    )


def _first_view(source: Source, request: ExportRequest) -> ExportedView:
    return next(
        exported_views(
            source.output,
            source.commits[0],
            source.views,
            source.views_commits[0],
            calibration=source.output.fixed_calibration(),
            labels=None,
            as_stored=request.as_stored,
        )
    )


def _tell(card: Card, storage: Storage, names: Sequence[str], *, console: Console, as_json: bool) -> None:
    if as_json:
        sizes = {name: storage.size_bytes(name) for name in names}
        told = {"to": storage.uri, "card": CARD, "files": sizes, "views": card.num_views, "samples": card.num_samples}
        print_json({**told, "units": card.num_units, "units_wanted": card.num_units_wanted, **asdict(card.said)})
        return
    size = human_bytes(sum(storage.size_bytes(name) for name in names))
    partial = "" if card.num_units == card.num_units_wanted else f" ({card.num_units} of {card.num_units_wanted} units)"
    console.print(
        f"{redacted(storage.uri)}: {card.num_views:,} views{partial} in {len(names)} files, {size}; {CARD} says how to "
        "read them",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
