"""A target set on storage: opening, creating, writing one unit of an output, reading one view of it."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kd_ray.cache.arrays import ArrayLayout, ViewBytes, encode_group, layout_of
from kd_ray.cache.calibration import Calibration
from kd_ray.cache.codecs import Array, Coding, refuse_not_finite
from kd_ray.cache.commits import Collection, Commit
from kd_ray.cache.spec import Spec, explain_absence, read_spec, write_or_check
from kd_ray.cache.statistics import ChannelStatistics
from kd_ray.cache.units import Unit
from kd_ray.errors import CacheCorrupt, CacheIncomplete, FingerprintMismatch
from kd_ray.storage import Storage, join, open_storage

TARGET_SET_FILE = "target_set.json"
OUTPUT_FILE = "output.json"
CALIBRATION_FILE = "calibration.json"
SAMPLE_IDS = "sample_id"

SampleIds = NDArray[np.uint64]


def members_digest(sample_ids: SampleIds) -> str:
    """What binds a unit to its rows: BLAKE2b-128 (hex) of the sample ids in their order."""
    return hashlib.blake2b(sample_ids.astype("<u8").tobytes(), digest_size=16).hexdigest()


def refuse_other_members(collection: Collection, commit: Commit, sample_ids: SampleIds) -> None:
    """Raise CacheCorrupt where the unit was made from other samples than these, which the corpus has in its span."""
    digest = members_digest(sample_ids)
    if commit.members_digest != digest:
        raise CacheCorrupt(
            f"{collection.location(collection.folder)}: unit {commit.unit.id} was made from other samples than the "
            f"corpus holds there ({commit.members_digest} against {digest}). Restore the corpus it was built from, or "
            "use another cache.uri."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of one target set."""

    target_set: Spec
    spec: Spec
    collection: Collection

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one view's values."""
        return tuple(self.spec.identity["shape"])

    @property
    def coding(self) -> Coding:
        """How values are stored."""
        return Coding.from_identity(self.spec.identity)

    def calibration(self) -> Calibration | None:
        """What values are encoded and decoded with; None where the codec needs nothing, or nothing is fixed yet.

        Raises:
            CacheCorrupt: the file has changed since it was written.
        """
        if not self.coding.needs_calibration:
            return None
        try:
            data = self.collection.storage.read(f"{self.collection.folder}/{CALIBRATION_FILE}")
        except FileNotFoundError:
            return None
        return Calibration.from_json(data, location=self.calibration_location)

    @property
    def calibration_location(self) -> str:
        """The full address of the calibration, for messages."""
        return self.collection.location(f"{self.collection.folder}/{CALIBRATION_FILE}")

    def fixed_calibration(self) -> Calibration | None:
        """What values are encoded and decoded with; None where the codec needs nothing.

        Raises:
            CacheCorrupt: it is missing, or has changed since it was written.
        """
        found = self.calibration()
        if found is None and self.coding.needs_calibration:
            raise self._without_calibration()
        return found

    def must_be_calibrated(self) -> bool:
        """Whether the calibration is still to be fixed, before the first unit is written.

        Raises:
            CacheCorrupt: it is missing, though units have been committed.
        """
        if self.calibration() is not None or not self.coding.needs_calibration:
            return False
        committed = self.collection.newest_generations()
        if self.calibration() is not None:  # another worker has fixed it meanwhile
            return False
        if committed:  # and that before it committed anything
            raise self._without_calibration()
        return True

    def calibrate(self, values_VND: NDArray[np.float32]) -> None:
        """Fix the calibration from values [view, sample, …] where none is fixed yet: the first one stays.

        Raises:
            ExtractionError: a value is not finite, or there are too few for a basis.
        """
        what = f"{self.target_set.name} {self.spec.name} of the calibrating views"
        refuse_not_finite(values_VND, what=what)
        calibration = self.coding.calibrate(values_VND, what=what)
        self.collection.storage.create(f"{self.collection.folder}/{CALIBRATION_FILE}", calibration.to_json())

    def write(
        self,
        unit: Unit,
        values_VND: NDArray[np.float32],
        sample_ids: SampleIds,
        *,
        attempt: str,
        generation: int = 0,
    ) -> bool:
        """Store the unit's values [view, sample, …]; False if another attempt had committed that generation before.

        Where the codec needs a calibration, it has been fixed before.

        Raises:
            ExtractionError: values that may not be stored.
            CacheCorrupt: the calibration is missing.
        """
        assert values_VND.shape == (unit.num_views, len(sample_ids), *self.shape), (values_VND.shape, unit, self.shape)
        what = f"{self.target_set.name} {self.spec.name} of unit {unit.id}"
        attributes = {
            "target_set": self.target_set.fingerprint,
            "output": self.spec.fingerprint,
            "views": [unit.view_start, unit.view_stop],
        }
        encoded = self.coding.encode(values_VND, calibration=self.fixed_calibration(), what=what)
        arrays: dict[str, Array] = {**encoded, SAMPLE_IDS: sample_ids.astype("<u8")[None]}
        with ThreadPoolExecutor(1) as beside:
            statistics = beside.submit(ChannelStatistics.of, values_VND)
            objects = encode_group(arrays, attributes)
            return self.collection.publish(
                unit,
                objects,
                attempt=attempt,
                num_rows=len(sample_ids),
                members_digest=members_digest(sample_ids),
                arrays={name: layout_of(name, array) for name, array in arrays.items()},
                statistics=lambda: statistics.result().to_json(),
                generation=generation,
            )

    def _without_calibration(self) -> CacheCorrupt:
        return CacheCorrupt(
            f"{self.calibration_location}: is missing. Restore it: no value of this output can be read without it."
        )

    def read(self, commit: Commit, *, view_index: int, sample_ids: SampleIds) -> Array:
        """Values [sample, …] of one view, decoded; raises what `read_encoded` does."""
        encoded = self.read_encoded(commit, view_index=view_index, sample_ids=sample_ids)
        return self.coding.decode(encoded, calibration=self.fixed_calibration())

    def read_encoded(self, commit: Commit, *, view_index: int, sample_ids: SampleIds) -> dict[str, Array]:
        """The arrays [sample, …] of one view as stored, checked, for the samples that the corpus has in that span.

        Raises:
            CacheCorrupt: the bytes are not those that were committed, or the unit was made from other samples.
        """
        assert commit.unit.view_start <= view_index < commit.unit.view_stop, (commit.unit, view_index)
        refuse_other_members(self.collection, commit, sample_ids)
        return {
            name: self._read_array(commit, layout, view_index=view_index)
            for name, layout in commit.arrays.items()
            if name != SAMPLE_IDS
        }

    def sample_ids(self, commit: Commit) -> SampleIds:
        """The samples of a unit in the order of its rows, as stored beside the values; raises what reading does."""
        # one range, whatever the number of views
        return self._read_array(commit, commit.arrays[SAMPLE_IDS], view_index=commit.unit.view_start)[:]

    def _read_array(self, commit: Commit, layout: ArrayLayout, *, view_index: int) -> Array:
        offset, length = layout.ranges[view_index - commit.unit.view_start]
        name = self.collection.object_name(commit, layout.object_name)
        location = self.collection.location(name)
        view = ViewBytes(layout, location=location)
        try:
            data = self.collection.storage.load_range(name, offset=offset, length=length, seen=view.see)
        except FileNotFoundError as error:
            raise CacheCorrupt(
                f"{location}: is missing, though its unit is committed. Run kd-ray cache repair with this recipe."
            ) from error
        return view.decode(data)

    def statistics(self, commits: Iterable[Commit]) -> ChannelStatistics:
        """Per-channel statistics over units, merged in the units' order."""
        recorded = self.collection.statistics(commits)
        parts = [ChannelStatistics.from_json(recorded[unit]) for unit in sorted(recorded)]
        return reduce(ChannelStatistics.merged, parts)


def open_output(cache_uri: str, target_set: Spec, spec: Spec, *, create: bool) -> Output:
    """The output `spec` of `target_set` under `cache_uri`, created where that is asked.

    Raises:
        FingerprintMismatch: what is stored under that name was made from something else; the first difference is named.
        CacheIncomplete: there is nothing of that name.
    """
    targets = open_storage(join(cache_uri, "targets"))
    outputs = open_storage(join(cache_uri, "targets", target_set.folder))
    if create:
        write_or_check(targets, TARGET_SET_FILE, target_set, recorded={})
        write_or_check(outputs, OUTPUT_FILE, spec, recorded={})
    else:
        _check(targets, target_set, TARGET_SET_FILE)
        _check(outputs, spec, OUTPUT_FILE)
    return unchecked_output(cache_uri, target_set, spec)


def unchecked_output(cache_uri: str, target_set: Spec, spec: Spec) -> Output:
    """The output as it is or would be under `cache_uri`: nothing is read."""
    outputs = open_storage(join(cache_uri, "targets", target_set.folder))
    return Output(target_set=target_set, spec=spec, collection=Collection(storage=outputs, folder=spec.folder))


def under_its_first_name(cache_uri: str, target_set: Spec) -> Spec:
    """The target set under the name it was first stored by: what a recipe calls a teacher does not make it another."""
    suffix = target_set.folder.removeprefix(target_set.name)
    for folder in open_storage(join(cache_uri, "targets")).folders(""):
        if folder.endswith(suffix):
            return Spec(name=folder.removesuffix(suffix), identity=target_set.identity)
    return target_set


def find_output(cache_uri: str, target_set: Spec, spec: Spec) -> Output | None:
    """The output where it exists, None where nothing has been created yet.

    Raises:
        FingerprintMismatch: the folder holds something else than its name says.
    """
    outputs = open_storage(join(cache_uri, "targets", target_set.folder))
    try:
        read_spec(open_storage(join(cache_uri, "targets")), f"{target_set.folder}/{TARGET_SET_FILE}", wanted=target_set)
        read_spec(outputs, f"{spec.folder}/{OUTPUT_FILE}", wanted=spec)
    except FileNotFoundError:
        return None
    return unchecked_output(cache_uri, target_set, spec)


def _check(storage: Storage, spec: Spec, file_name: str) -> None:
    try:
        read_spec(storage, f"{spec.folder}/{file_name}", wanted=spec)
    except FileNotFoundError:
        reason = explain_absence(storage, spec, file_name=file_name)
        advice = "Run the extract stage to build it, or restore the old value."
        kind = FingerprintMismatch if "first difference" in reason else CacheIncomplete
        raise kind(f"{reason}. {advice}") from None
