"""A small real build, what it leaves in a cache, and how two caches compare."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kd_ray.cache.catalog import read_catalog
from kd_ray.cache.findings import Finding
from kd_ray.cache.garbage import find_garbage, remove_garbage
from kd_ray.cache.units import Unit
from kd_ray.cache.verify import verify
from kd_ray.config.teacher import Teacher
from kd_ray.extraction.job import ExtractJob
from kd_ray.storage import open_storage
from tests.support.tiny_world import pack_images, plan_teacher, plan_views, save_teacher, write_images
from tests.support.writers import Task, Writers, writers

NUM_VIEWS = 2
NEVER_S = float("inf")
CODECS = {"summary": {"codec": "int8"}, "logits": {"codec": "float16"}}  # one that is calibrated, one that is not


@dataclass(frozen=True, kw_only=True)
class Build:
    """A teacher with two outputs on the views of 60 images, and the processes that can compute it."""

    job: ExtractJob
    units: list[Unit]
    writers: Writers
    folder: Path

    @property
    def log(self) -> Path:
        """Where writers say what they give to the teacher."""
        return self.folder / "log"

    def task(self, cache_uri: str, *, name: str, **changes: object) -> Task:
        """The whole of it for one writer."""
        return replace(Task(cache_uri=cache_uri, name=name, log=str(self.log)), **changes)

    def events(self) -> list[tuple[str, str, str]]:
        """(what, writer, unit) in the order in which they came, of all writers."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(what, writer, unit) for what, writer, unit in map(str.split, lines)]

    def computed(self, writer: str) -> set[str]:
        """Ids of the units with which a writer, by its name, has run the teacher."""
        return {unit for what, by, unit in self.events() if (what, by) == ("compute", writer)}

    def recomputed(self, writers: Collection[str]) -> set[tuple[str, str]]:
        """(writer, unit) of what one of `writers` computed though one of them had committed it before it began."""
        done, begun_late, found = set[str](), set[tuple[str, str]](), set[tuple[str, str]]()
        for what, writer, unit in self.events():
            if writer not in writers:
                continue
            if what == "done":
                done.add(unit)
            elif what == "begin" and unit in done:
                begun_late.add((writer, unit))
            elif what == "compute" and (writer, unit) in begun_late:
                found.add((writer, unit))
        return found

    def complete_units(self, records: Iterable[str]) -> set[str]:
        """Ids of the units of which nothing is missing, by the names of all commit records."""
        units = Counter(name.rsplit("/", 1)[-1].removesuffix(".0.json") for name in records)
        return {unit for unit, num_records in units.items() if num_records == len(CODECS) + 1}


@contextmanager
def small_build(folder: Path, *, per_class: int = 25) -> Iterator[Build]:
    """See `Build`; writers see the environment of now."""
    write_images(folder / "source", per_class=per_class)
    corpus = pack_images(folder / "source", folder / "packed")
    saved = save_teacher(folder, seed=0)
    config = Teacher.model_validate({**saved.config.model_dump(), "outputs": CODECS})
    views = plan_views(corpus, folder / "nowhere", num_views=NUM_VIEWS)
    known = replace(saved, config=config)
    plan = plan_teacher(known, views, corpus, folder / "nowhere", outputs=tuple(CODECS))
    units = list(views.units)
    with writers(plan.job, units, folder=folder) as started:
        yield Build(job=plan.job, units=units, writers=started, folder=folder)


def committed(cache_uri: str) -> dict[str, bytes]:
    """All that readers may look at, by its name with `attempt` for the attempt's: identities, calibrations, commit
    records and the objects that they name.
    """
    root = open_storage(cache_uri)
    found: dict[str, bytes] = {}
    for name in root.list(""):
        if "/units/" in name:
            continue
        found[name] = root.read(name)
        if "/commits/" in name:
            record = json.loads(found[name])
            folder, attempt = name.split("/commits/")[0], record["attempt"]
            shown = {**record, "attempt": "attempt", "crc32c": "that of the record"}
            found[name] = json.dumps(shown, sort_keys=True).encode()
            for inside in record["objects"]:
                path = f"{folder}/units/{record['unit']}/{{}}/{inside}"
                found[path.format("attempt")] = root.read(path.format(attempt))
    return found


def attempts(cache_uri: str) -> set[tuple[str, str, str]]:
    """(folder of the output or view set, unit, attempt) of whatever was begun to be written."""
    split = (name.split("/units/") for name in open_storage(cache_uri).list("") if "/units/" in name)
    return {(folder, *rest.split("/")[:2]) for folder, rest in split}


def findings(cache_uri: str) -> tuple[Finding, ...]:
    """What `kd-ray cache verify` finds."""
    catalog = read_catalog(cache_uri)
    return tuple(verify(catalog, catalog.entries, report=lambda done, total: None, num_threads=1).all_findings)


def collect_garbage(cache_uri: str) -> set[str]:
    """What `kd-ray cache gc --older-than 0 --yes` does; why things went."""
    garbage = find_garbage(read_catalog(cache_uri), before_s=NEVER_S)
    remove_garbage(cache_uri, garbage)
    return {each.reason for each in garbage}
