"""`kd-ray cache fidelity`: what each codec would do to the targets that are stored, and what it would cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from kd_ray.cache.calibration import Calibration, calibrating_unit
from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.codecs import Coding
from kd_ray.cache.commits import Commit
from kd_ray.cache.fidelity import TEMPERATURES, Fidelity, codings_for, measure, title_of
from kd_ray.cache.records import read_records
from kd_ray.cache.target_set import Output
from kd_ray.errors import CacheIncomplete, ExtractionError, RecipeError
from kd_ray.telemetry.progress import meter
from kd_ray.telemetry.units import human_bytes
from pipelines.cache.told import print_json

DEFAULT_SAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Some views of an output: of each unit in `views`, these views of all its samples."""

    output: Output
    calibrated_by: Commit
    views: Sequence[tuple[Commit, int]]

    @property
    def num_views(self) -> int:
        """Views of single samples."""
        return sum(commit.num_rows for commit, _ in self.views)

    def parts(self) -> Iterator[NDArray[Any]]:
        """Values [sample, …], one view of one unit after the other."""
        for commit, view_index in self.views:
            yield self.output.read(commit, view_index=view_index, sample_ids=self.output.sample_ids(commit))


def measure_fidelity(uri: str, name: str, *, num_samples: int, console: Console, as_json: bool) -> None:
    """Print a table of all codecs that the output could have.

    Raises:
        RecipeError: `name` is no output, or fewer samples than one are asked for.
        CacheIncomplete: nothing is committed.
    """
    if num_samples < 1:
        raise RecipeError(f"--samples: got {num_samples}, expected at least 1. Leave it out for {DEFAULT_SAMPLES}.")
    catalog = read_catalog(uri)
    path, output = catalog.one(name, catalog.outputs)
    assert isinstance(output, Output)
    if output.coding.codec == "top_k":
        raise RecipeError(
            f"{path}: is stored as top_k, which has lost what other codecs would keep. Give an output that is stored "
            "as float32, or extract one into another cache.uri."
        )
    commits = list(read_records(output.collection, use_manifests=True).newest.values())
    if not commits:
        raise CacheIncomplete(f"{uri}/{path}: has no units yet. Run the extract stage first.")
    share = share_of(output, commits, num_samples=num_samples)
    found = _measure_all(share, commits, console=Console(stderr=True) if as_json else console)
    if as_json:
        told = [each.to_json() for each in found]
        print_json({"name": path, "stored_as": output.coding.codec, "views": share.num_views, "codecs": told})
        return
    console.print(_table(found, is_logits=_is_logits(output)))
    console.print(_about(path, share), highlight=False, soft_wrap=True)


def share_of(output: Output, commits: Sequence[Commit], *, num_samples: int) -> Share:
    """Whole views of units evenly spread over all, at least `num_samples` of them together where there are so many."""
    views = [(commit, view) for commit in commits for view in range(commit.unit.view_start, commit.unit.view_stop)]
    rows = sum(commit.num_rows for commit, _ in views)
    count = min(-(-num_samples * len(views) // rows), len(views))
    chosen = [views[index * len(views) // count] for index in range(count)]
    return Share(output=output, calibrated_by=commits[0], views=chosen)


def _measure_all(share: Share, commits: Sequence[Commit], *, console: Console) -> list[Fidelity]:
    """Mean and variance are those of all that is committed, the calibration is of the first views, as in extraction."""
    output = share.output
    statistics = output.statistics(commits)
    values = _calibrating_values(output, share.calibrated_by)
    codings = codings_for(output.shape, is_logits=_is_logits(output))
    calibrations: dict[float | None, Calibration | str] = {}  # a basis is found once for all codecs
    found = []
    with meter(console, "measuring", unit="codecs") as progress:
        progress.update(0, total=len(codings))
        for number, coding in enumerate(codings, start=1):
            if coding.explained_variance not in calibrations:
                calibrations[coding.explained_variance] = _calibration(coding, values)
            calibration = calibrations[coding.explained_variance]
            if isinstance(calibration, str):
                size = coding.bytes_per_view
                found.append(Fidelity(title=title_of(coding), bytes_per_view=size, refused=calibration))
            else:
                found.append(
                    measure(
                        coding,
                        share.parts(),
                        mean_D=statistics.mean,
                        variance_D=statistics.variance,
                        calibration=calibration,
                        is_logits=_is_logits(output),
                    )
                )
            progress.update(number, total=len(codings))
    return found


def _calibration(coding: Coding, values: NDArray[Any]) -> Calibration | str:
    """Or why there is none."""
    try:
        return coding.calibrate(values, what=title_of(coding))
    except ExtractionError as error:
        return str(error)


def _calibrating_values(output: Output, first: Commit) -> NDArray[Any]:
    """[view, sample, …] of the first row group; its samples are counted as if all groups of the unit had as many."""
    unit, ids = calibrating_unit(first.unit), output.sample_ids(first)
    num_rows = -(-first.num_rows // (first.unit.span.group_stop - first.unit.span.group_start))
    views = range(unit.view_start, unit.view_stop)
    return np.stack([output.read(first, view_index=view, sample_ids=ids)[:num_rows] for view in views])


def _is_logits(output: Output) -> bool:
    return bool(output.spec.identity["output"] == "logits")


def _table(found: Sequence[Fidelity], *, is_logits: bool) -> Table:
    caption = "bytes: of a view; cosine: of centred vectors, mean and worst one; NMSE: by channel, mean and worst one"
    caption += "; KL: in nats, mean and 99th percentile" if is_logits else ""
    table = Table(box=box.SIMPLE, caption=caption, caption_justify="left")
    table.add_column("codec", no_wrap=True)
    headings = ["bytes", "1 - cosine", "NMSE", *(f"KL, T = {t:g}" for t in TEMPERATURES if is_logits)]
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in found:
        if each.refused is not None:
            table.add_row(each.title, f"{each.bytes_per_view:,}", "cannot store these")
            continue
        told = [
            _pair(*(None if value is None else 1 - value for value in (each.cosine_mean, each.cosine_least))),
            _pair(each.nmse_mean, each.nmse_worst),
            *(_pair(mean, p99) for mean, p99 in each.kl.values()),
        ]
        table.add_row(each.title, f"{each.bytes_per_view:,}", *told)
    return table


def _pair(mean: float | None, worst: float | None) -> str:
    return "" if mean is None or worst is None else f"{mean:.1e} {worst:.1e}"


def _about(path: str, share: Share) -> str:
    output = share.output
    exact = (
        ""
        if output.coding.codec == "float32"
        else f" These are stored as {output.coding.codec}: what that lost is not in."
    )
    size = human_bytes(share.num_views * output.coding.bytes_per_view)
    return f"{path}: {share.num_views:,} views ({size}) against their values as stored.{exact}"
