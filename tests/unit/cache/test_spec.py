"""Identities: what changes a fingerprint, what difference is named, and that nothing else is opened."""

import json
from pathlib import Path

import pytest

from kd_ray.cache.codecs import Coding
from kd_ray.cache.spec import (
    Spec,
    explain_absence,
    first_difference,
    output_spec,
    read_spec,
    target_set_spec,
    write_or_check,
)
from kd_ray.cache.target_set import find_output, open_output
from kd_ray.errors import CacheCorrupt, CacheIncomplete, FingerprintMismatch
from kd_ray.storage import open_storage
from tests.support.tiny_cache import new_output, summary, target_set

FILE = "target_set.json"


def test_the_fingerprint_is_sha256_of_canonical_json() -> None:
    spec = Spec(name="é", identity={"b": [1, 2.5, None, True], "a": "é"})
    # printf '%s' '{"a":"é","b":[1,2.5,null,true]}' | sha256sum
    assert spec.fingerprint == "0c187fb652afca8017b5ef38178eeef09a9dfef844316f80ba4207cdf1995ee5"
    assert spec.folder == f"é-{spec.fingerprint[:12]}"


def test_the_order_of_keys_does_not_matter() -> None:
    assert (
        Spec(name="x", identity={"a": 1, "b": 2}).fingerprint == Spec(name="x", identity={"b": 2, "a": 1}).fingerprint
    )


@pytest.mark.parametrize(
    "other",
    [
        target_set_spec("teacher", teacher={"weights": "w1"}, view_set_fingerprint="v" * 64, corpus_id="c0"),
        target_set_spec("teacher", teacher={"weights": "w0"}, view_set_fingerprint="u" * 64, corpus_id="c0"),
        target_set_spec("teacher", teacher={"weights": "w0"}, view_set_fingerprint="v" * 64, corpus_id="c1"),
    ],
    ids=["teacher", "views", "corpus"],
)
def test_whatever_decides_a_target_changes_the_fingerprint(other: Spec) -> None:
    assert other.fingerprint != target_set().fingerprint


@pytest.mark.parametrize(
    "other",
    [
        output_spec("logits", coding=Coding(codec="float16", shape=(3,)), stage=None),
        output_spec("summary", coding=Coding(codec="float16", shape=(4,)), stage=None),
        output_spec("summary", coding=Coding(codec="float32", shape=(3,)), stage=None),
        output_spec("summary", coding=Coding(codec="float16", shape=(3,)), stage=-1),
    ],
    ids=["name", "shape", "codec", "stage"],
)
def test_whatever_decides_stored_bytes_changes_the_fingerprint_of_an_output(other: Spec) -> None:
    assert other.fingerprint != summary().fingerprint


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}}, ("b.c.1", 2, 3)),
        ({"a": [1]}, {"a": [1, 2]}, ("a", [1], [1, 2])),
        ({"a": None}, {}, ("a", None, "(absent)")),
        ({}, {"a": {"b": 1}}, ("a", "(absent)", {"b": 1})),
        ({"a": 1}, {"a": 1.0}, ("a", 1, 1.0)),
        ({"z": 1, "a": 1}, {"z": 2, "a": 2}, ("a", 1, 2)),
        ({"a": {"b": 1}}, {"a": 3}, ("a", {"b": 1}, 3)),
    ],
)
def test_the_first_difference_is_named_by_its_path(
    old: object, new: object, expected: tuple[str, object, object]
) -> None:
    assert first_difference(old, new) == expected


def test_the_first_to_create_decides_what_is_recorded(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    assert write_or_check(storage, FILE, target_set(), recorded={"grid": 2}) == {"grid": 2}
    assert write_or_check(storage, FILE, target_set(), recorded={"grid": 5}) == {"grid": 2}


def test_a_folder_that_holds_something_else_than_its_name_says_is_refused(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    write_or_check(storage, FILE, target_set(), recorded={})
    path = tmp_path / target_set().folder / FILE
    document = json.loads(path.read_bytes())
    document["identity"]["teacher"]["weights"] = "w9"
    path.write_text(json.dumps(document))
    with pytest.raises(FingerprintMismatch, match=r"target_set\.json: .* teacher\.weights: 'w9' -> 'w0'.*cache\.uri"):
        write_or_check(storage, FILE, target_set(), recorded={})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"fingerprint": 1'])
def test_an_identity_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    storage = open_storage(str(tmp_path))
    storage.write(f"{target_set().folder}/{FILE}", content)
    with pytest.raises(CacheCorrupt, match=r"target_set\.json: is not a kd_ray identity file"):
        read_spec(storage, f"{target_set().folder}/{FILE}", wanted=target_set())


def test_absence_is_explained_by_the_nearest_relative(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    far = target_set_spec("teacher", teacher={"weights": "w5"}, view_set_fingerprint="x" * 64, corpus_id="c9")
    near = target_set(weights="w5")
    for spec in (far, near):
        write_or_check(storage, FILE, spec, recorded={})
    reason = explain_absence(storage, target_set(), file_name=FILE)
    assert near.fingerprint[:12] in reason
    assert reason.endswith("first difference: teacher.weights: 'w5' -> 'w0'")


def test_opening_a_target_set_built_by_another_teacher_names_the_difference(tmp_path: Path) -> None:
    new_output(str(tmp_path))
    with pytest.raises(FingerprintMismatch, match=r"teacher\.weights: 'w0' -> 'w1'.*extract stage"):
        open_output(str(tmp_path), target_set(weights="w1"), summary(), create=False)


def test_opening_an_output_stored_with_another_codec_names_the_difference(tmp_path: Path) -> None:
    new_output(str(tmp_path), codec="float32")
    with pytest.raises(FingerprintMismatch, match=r"codec: 'float32' -> 'float16'"):
        open_output(str(tmp_path), target_set(), summary(), create=False)


def test_opening_where_there_is_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(CacheIncomplete, match="holds nothing named teacher"):
        open_output(str(tmp_path), target_set(), summary(), create=False)


def test_a_folder_left_by_a_crash_before_its_identity_file_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "targets" / target_set(weights="w7").folder).mkdir(parents=True)
    with pytest.raises(CacheIncomplete, match="holds nothing named teacher"):
        open_output(str(tmp_path), target_set(), summary(), create=False)


def test_an_output_is_found_only_once_it_was_created(tmp_path: Path) -> None:
    assert find_output(str(tmp_path), target_set(), summary()) is None
    created = new_output(str(tmp_path))
    assert find_output(str(tmp_path), target_set(), summary()) == created
    assert find_output(str(tmp_path), target_set(), summary(codec="float32")) is None
