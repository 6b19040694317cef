"""`kd-ray cache`: what each command prints and ends with, without Ray and without torch."""

import json
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support.processes import run
from tests.support.tiny_cache import UNIT
from tests.support.whole_cache import WholeCache, write_cache

# What an installed kd-ray does, and then the names of heavy packages that it has loaded.
PROGRAM = """
import sys
from kd_ray.cli import main
try:
    main()
finally:
    print("loaded:", sorted({"torch", "torchvision", "timm", "ray"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def cache(tmp_path: Path) -> WholeCache:
    return write_cache(str(tmp_path / "cache"))


def kd_ray_cache(*arguments: object, status: int = 0) -> CompletedProcess[str]:
    done = run([sys.executable, "-c", PROGRAM, "cache", *map(str, arguments)])
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def words(text: str) -> str:
    return " ".join(text.split())


def test_ls_has_a_line_for_every_view_set_and_output(cache: WholeCache) -> None:
    done = kd_ray_cache("ls", cache.uri)
    assert all(path in done.stdout for path in cache.paths())
    assert done.stdout.count("complete") == 2
    assert done.stderr == "loaded: []\n"


def test_ls_as_json_is_json_alone(cache: WholeCache) -> None:
    told = json.loads(kd_ray_cache("ls", cache.uri, "--json").stdout)
    assert {each["name"]: each["units"] for each in told["entries"]} == dict.fromkeys(cache.paths(), 2)
    assert told["findings"] == []


def test_ls_names_what_is_damaged_and_lists_the_rest(cache: WholeCache) -> None:
    damaged = Path(cache.uri, cache.path_of("summary"), "output.json")
    damaged.write_text("{")
    done = kd_ray_cache("ls", cache.uri)
    assert f"{damaged}: is not a kd_ray identity file" in words(done.stdout)
    assert cache.path_of("logits") in done.stdout


def test_show_has_identity_statistics_and_units(cache: WholeCache) -> None:
    told = json.loads(kd_ray_cache("show", cache.uri, "summary", "--json").stdout)
    assert told["name"] == cache.path_of("summary")
    assert told["identity"]["codec"] == "float32"
    assert told["target_set"]["teacher"] == {"weights": "w0"}
    assert told["statistics"]["channels"] == 3
    assert told["statistics"]["values_per_channel"] == 20
    assert [each["rows"] for each in told["units"].values()] == [5, 5]
    assert "2 units, 20 views" in kd_ray_cache("show", cache.uri, "summary").stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("ls", "NOWHERE"), "holds no cache"),
        (("show", "CACHE", "nothing"), "nothing in this cache is called nothing"),
        (("show", "CACHE", "targets"), "Give more of the name"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_paragraph(cache: WholeCache, arguments: tuple[str, ...], told: str) -> None:
    places = {"CACHE": cache.uri, "NOWHERE": f"{cache.uri}/nowhere"}
    done = kd_ray_cache(*(places.get(each, each) for each in arguments), status=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert told in done.stderr


def damage(cache: WholeCache) -> Path:
    """One byte of a stored value."""
    (path,) = Path(cache.uri, cache.path_of("summary"), "units", UNIT.id).glob("*/values/c/0/0/0")
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    return path


def test_verify_ends_with_1_where_anything_is_off(cache: WholeCache) -> None:
    done = kd_ray_cache("verify", cache.uri)
    assert "6 units" in done.stdout
    assert "all as written" in done.stdout
    assert done.stderr == "loaded: []\n"
    path = damage(cache)
    done = kd_ray_cache("verify", cache.uri, status=1)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{path}: "))
    assert "crc32c is" in line
    assert "kd-ray cache repair" in line
    told = json.loads(kd_ray_cache("verify", cache.uri, "--json", status=1).stdout)
    assert [each["object"] for each in told["findings"]] == [str(path)]


def test_verify_of_a_part_is_of_that_part(cache: WholeCache) -> None:
    damage(cache)
    assert json.loads(kd_ray_cache("verify", cache.uri, "logits", "--json").stdout)["units"] == 2
    kd_ray_cache("verify", cache.uri, "summary", status=1)
    identity = Path(cache.uri, cache.path_of("logits"), "output.json")
    identity.write_text("{}")
    done = kd_ray_cache("verify", cache.uri, "logits", status=1)
    assert str(identity) in done.stdout


def test_gc_removes_only_with_yes(cache: WholeCache) -> None:
    left = Path(cache.uri, cache.path_of("summary"), "units", UNIT.id, "dead", "zarr.json")
    left.parent.mkdir()
    left.write_text("left")
    assert "nothing to remove" in kd_ray_cache("gc", cache.uri).stdout  # it is younger than a day
    done = kd_ray_cache("gc", cache.uri, "--older-than", 0)
    assert "4 B would go; nothing was removed" in done.stdout
    assert left.exists()
    told = json.loads(kd_ray_cache("gc", cache.uri, "--older-than", 0, "--yes", "--json").stdout)
    assert told["removed"] is True
    assert [(each["bytes"], each["reason"]) for each in told["garbage"]] == [(4, "an attempt that no commit names")]
    assert not left.exists()
    kd_ray_cache("verify", cache.uri)


def test_gc_takes_a_target_set_that_is_named(cache: WholeCache) -> None:
    other = write_cache(cache.uri, teacher="other", weights="w1")
    kd_ray_cache("gc", cache.uri, "--target-set", "other", "--yes")
    told = json.loads(kd_ray_cache("ls", cache.uri, "--json").stdout)
    assert {each["name"] for each in told["entries"]} == set(cache.paths())
    assert not set(other.paths()[1:]) & set(cache.paths())
    kd_ray_cache("verify", cache.uri)
    kd_ray_cache("gc", cache.uri, "--target-set", "other", "--yes", status=2)


def test_diff_names_the_first_field_or_all_of_them(cache: WholeCache, tmp_path: Path) -> None:
    other = write_cache(str(tmp_path / "other"), weights="w1", seed=1)
    places = [f"{each.uri}/{each.path_of('summary')}" for each in (cache, other)]
    done = kd_ray_cache("diff", *places, status=1)
    assert done.stdout.splitlines() == [
        "target_set.teacher.weights: 'w0' -> 'w1'",
        "and 1 more (--all shows them)",
    ]
    done = kd_ray_cache("diff", *places, "--all", status=1)
    assert done.stdout.splitlines()[1:] == ["target_set.view_set.seed: 0 -> 1"]
    told = json.loads(kd_ray_cache("diff", *places, "--json", status=1).stdout)
    assert told["differences"] == [{"field": "target_set.teacher.weights", "old": "w0", "new": "w1"}]
    assert "no difference" in kd_ray_cache("diff", places[0], places[0]).stdout


def test_diff_of_outputs_is_of_how_they_are_stored_first(cache: WholeCache) -> None:
    target_set = f"{cache.uri}/targets/{cache.outputs['summary'].target_set.folder}"
    done = kd_ray_cache("diff", f"{target_set}/summary", f"{target_set}/logits", status=1)
    assert done.stdout.startswith("calibration: '(absent)' -> ")


def test_diff_of_something_else_is_refused(cache: WholeCache) -> None:
    for place, told in ((cache.uri, "got two whole caches"), (f"{cache.uri}/views/other", "Give one of these")):
        assert told in kd_ray_cache("diff", place, place, status=2).stderr


def test_fidelity_measures_every_codec_on_what_is_stored(cache: WholeCache) -> None:
    told = json.loads(kd_ray_cache("fidelity", cache.uri, "summary", "--json").stdout)
    assert (told["stored_as"], told["views"]) == ("float32", 20)
    assert [each["codec"] for each in told["codecs"]][:4] == ["float32", "float16", "bfloat16", "int8"]
    by_codec = {each["codec"]: each for each in told["codecs"]}
    assert by_codec["float16, basis 0.9"]["bytes_per_view"] < by_codec["float16"]["bytes_per_view"]
    assert by_codec["float16"]["nmse"] == {"mean": 0.0, "worst_channel": 0.0}  # eighths are exact there
    assert 0 < by_codec["int8"]["nmse"]["mean"] < 1e-3
    assert json.loads(kd_ray_cache("fidelity", cache.uri, "summary", "--samples", 5, "--json").stdout)["views"] == 5
    table = kd_ray_cache("fidelity", cache.uri, "logits").stdout
    assert "These are stored as int8" in words(table)
    assert "uint8" in table


def test_fidelity_of_what_is_no_output_is_refused(cache: WholeCache) -> None:
    assert "Give more of the name" in kd_ray_cache("fidelity", cache.uri, "views", status=2).stderr
    assert "--samples: got 0" in kd_ray_cache("fidelity", cache.uri, "summary", "--samples", 0, status=2).stderr
