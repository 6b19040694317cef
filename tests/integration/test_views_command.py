"""`kd-ray views`: from a recipe and a folder of images to pictures of its views, without Ray and without a model."""

import io
import json
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image
from rich.console import Console

from kd_ray.config.load import load_recipe
from kd_ray.corpus.packing.pack import pack
from kd_ray.errors import RecipeError
from kd_ray.views import mix_of
from pipelines.show_views import SheetRequest, show_views
from tests.support.corpus_files import write, write_classes
from tests.support.html_page import Page
from tests.support.processes import run
from tests.support.recipes import VALID
from tests.support.recipes import write as write_recipe

# What an installed kd-ray does, and then the names of heavy packages that it has loaded.
PROGRAM = """
import sys
from kd_ray.cli import main
try:
    main()
finally:
    print("loaded:", sorted({"torch", "torchvision", "timm", "ray"} & set(sys.modules)))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_classes(tmp_path / "images", per_class=6)
    text = VALID.replace("uri: images,", f"uri: {tmp_path}/images,").replace("out/small", f"{tmp_path}/out")
    return write_recipe(tmp_path, text)


def views(*arguments: str | Path, cwd: Path | None = None) -> CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "views", *map(str, arguments)]
    return run(command) if cwd is None else run(command, cwd=cwd)


def page_of(folder: Path) -> Page:
    return Page((folder / "views.html").read_text(encoding="utf-8"))


def test_a_folder_of_images_is_looked_at_before_and_after_packing(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "views"
    before = views(recipe, "--samples", "3")
    assert before.returncode == 0, before.stderr
    for told in ("3 samples by 2 views", "32×32 px", "Nothing is packed yet", str(out / "views.png"), "loaded: []"):
        assert told in before.stdout, before.stdout
    assert len(page_of(out).all("img")) == 3 * (1 + 2)
    with Image.open(out / "views.png") as picture:
        assert picture.format == "PNG"

    pack(load_recipe(recipe).corpus)
    after = views(recipe, "student.input.size_px=[24,24]", "--views", "3", "--out", tmp_path / "sheet")
    assert after.returncode == 0, after.stderr
    assert "From the packed corpus" in after.stdout
    assert "No teacher sees those from 2 on" in after.stdout
    assert len(page_of(tmp_path / "sheet").all("img")) == 6 * (1 + 3 * 2)


def test_the_outputs_of_a_run_on_s3_are_not_where_one_looks(recipe: Path, tmp_path: Path) -> None:
    """Nothing is written beside a run that is elsewhere, but in the folder where the command is given."""
    here = tmp_path / "here"
    here.mkdir()
    # a folder where `kd_ray` is not lies first on the path of `python -c`
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{PROGRAM}"]
    arguments = ["out=s3://bucket/run", f"corpus.packed_uri={tmp_path}/packed", f"cache.uri={tmp_path}/cache"]
    done = run([*program, "views", str(recipe), *arguments], cwd=here)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (here / "views").iterdir()) == ["views.html", "views.png"]


def test_mixed_views_name_their_partners(recipe: Path, tmp_path: Path) -> None:
    done = views(recipe, "views.policy.mix={mixup_alpha: 1.0}", "--samples", "2", "--views", "1")
    assert done.returncode == 0, done.stderr
    assert "once packed, the partners are of the row group" in " ".join(done.stdout.split())
    page = page_of(tmp_path / "out" / "views")
    ids = [text.split(",")[0].removeprefix("sample ") for tag, text in page.texts if text.startswith("sample ")]
    partners = [json.loads(text)[-1]["partner"] for tag, text in page.texts if tag == "pre"]
    assert len(partners) == 2
    assert all(f"{partner:016x}" != own for partner, own in zip(partners, ids, strict=True))


def test_one_sample_is_shown_mixed_with_images_that_are_not(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ["views.policy.mix={mixup_alpha: 1.0}"])
    console = Console(file=io.StringIO(), record=True, width=400)
    sheet = show_views(loaded, SheetRequest(num_samples=1, num_views=1), console=console)
    (row,) = sheet.rows
    assert mix_of(row.views[0].params) is not None
    told = console.export_text()
    assert "1 sample by 1 view, as seen by" in told
    assert "mixed with another of 8 images" in told


def test_one_image_alone_is_said_not_to_be_mixed(recipe: Path, tmp_path: Path) -> None:
    for path in sorted((tmp_path / "images").rglob("*.*"))[1:]:
        path.unlink()
    loaded = load_recipe(recipe, ["views.policy.mix={mixup_alpha: 1.0}"])
    sheet = show_views(loaded, SheetRequest(num_samples=1, num_views=1), console=Console(quiet=True))
    assert "Views are not mixed: there is one image." in sheet.notes
    assert mix_of(sheet.rows[0].views[0].params) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--samples", "0"], "--samples: got 0, expected at least 1"),
        (["views.coutn=3"], "Did you mean count?"),
        (["corpus.uri=nowhere/at/all"], "nowhere/at/all"),
        (["--out", "RECIPE"], "recipe.yaml"),
        (["--out", "/proc/nope"], "/proc/nope/views.png: cannot write: No such file or directory. Give another"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_paragraph(recipe: Path, arguments: list[str], told: str) -> None:
    done = views(recipe, *(str(recipe) if each == "RECIPE" else each for each in arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "\n\n" not in done.stderr.strip()


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (SheetRequest(num_views=-1), "--views: got -1, expected at least 1"),
        (SheetRequest(num_samples=100, num_views=3), "300 views, expected at most 256"),
    ],
)
def test_more_or_less_than_a_page_can_hold_is_refused(recipe: Path, request_: SheetRequest, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        show_views(load_recipe(recipe), request_, console=Console())


def test_a_recipe_that_does_not_exist_is_told(tmp_path: Path) -> None:
    done = views(tmp_path / "absent.yaml")
    assert done.returncode == 2
    assert "no such recipe" in done.stderr


def test_a_damaged_corpus_is_told(recipe: Path, tmp_path: Path) -> None:
    pack(load_recipe(recipe).corpus)
    for shard in (tmp_path / "out" / "corpus").rglob("*.parquet"):
        write(shard, b"x" * shard.stat().st_size)
    done = views(recipe)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "damaged" in done.stderr
    assert "Traceback" not in done.stderr
