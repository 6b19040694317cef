"""The contact sheet shows the very pixels that each model gets, and the PNG shows the contact sheet."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kd_ray.config.kept import KeptFormat
from kd_ray.config.load import load_recipe
from kd_ray.config.views import CenterCrop, Mix, Policy
from kd_ray.corpus.packed import PackedCorpus
from kd_ray.evaluate.contact_sheet import MIN_VIEW_PX, Eye, Sheet, SheetKind, contact_sheet, eyes_of
from kd_ray.evaluate.sheet_html import sheet_html
from kd_ray.evaluate.sheet_png import MAX_WIDTH_PX, _wrapped, enlarged, sheet_png
from kd_ray.evaluate.sheet_samples import packed_group
from kd_ray.evaluate.whole_image import WHOLE_PX, sheet_font
from kd_ray.views import View, draw, keep_view, mix_of, render
from pipelines.show_views import sheet_of as sheet_of_recipe
from tests.support.recipes import VALID, write
from tests.support.tiny_world import POLICY, ROW_GROUP_SIZE, VIEW_SEED, images_of

SMALL = Eye(names=("student",), size_px=(24, 40), interpolation="bilinear")
LARGE = Eye(names=("big (teacher)", "teacher"), size_px=(160, 144), interpolation="bicubic")
NUM_VIEWS = 3


def sheet_of(
    corpus: PackedCorpus,
    *,
    policy: Policy = POLICY,
    eyes: tuple[Eye, ...] = (LARGE, SMALL),
    num_samples: int = 2,
    num_views: int = NUM_VIEWS,
    kept: KeptFormat | None = None,
) -> Sheet:
    return contact_sheet(
        packed_group(corpus),
        title="Views of tiny",
        notes=("Policy tiny.",),
        kinds=(SheetKind(name="", policy=policy, num_views=num_views, eyes=eyes, kept=kept),),
        view_seed=VIEW_SEED,
        num_samples=num_samples,
        report=lambda _done: None,
    )


def first_ids(corpus: PackedCorpus) -> list[int]:
    return corpus.read_rows(corpus.shards("train")[0].name, 0, 1).sample_ids.tolist()


class TestSheet:
    def test_views_are_what_each_eye_gets(self, tiny_corpus: PackedCorpus) -> None:
        sheet = sheet_of(tiny_corpus)
        images = images_of(tiny_corpus)
        assert len(sheet.rows) == 2
        for sample_id, row in zip(first_ids(tiny_corpus), sheet.rows, strict=False):
            assert f"{sample_id:016x}" in row.name
            assert [view.view_index for view in row.views] == [0, 1, 2]
            image = images[sample_id]
            for view in row.views:
                size_px = image.shape[:2]
                params = draw(
                    POLICY, seed=VIEW_SEED, sample_id=sample_id, view_index=view.view_index, image_size_px=size_px
                )
                assert view.params == params
                for eye, pixels in zip(row.kind.eyes, view.pixels, strict=True):
                    wanted = render(image, params, size_px=eye.size_px, interpolation=eye.interpolation)
                    np.testing.assert_array_equal(pixels, wanted)

    def test_kept_views_are_what_each_eye_gets_after_the_codec(self, tiny_corpus: PackedCorpus) -> None:
        kept = KeptFormat(size_px=SMALL.size_px, codec="jpeg", quality=50)
        sheet = sheet_of(tiny_corpus, kept=kept)
        images = images_of(tiny_corpus)
        for sample_id, row in zip(first_ids(tiny_corpus), sheet.rows, strict=False):
            for view in row.views:
                _, stored = keep_view(View(params=view.params, image_HW3=images[sample_id]), kept)
                np.testing.assert_array_equal(view.pixels[1], stored.pixels_HW3)
                np.testing.assert_array_equal(view.pixels[0], stored.render(LARGE.size_px, LARGE.interpolation))

    def test_mixed_views_have_partners_of_the_whole_row_group(self, tiny_corpus: PackedCorpus) -> None:
        policy = POLICY.model_copy(update={"mix": Mix(mixup_alpha=1.0, cutmix_alpha=1.0)})
        sheet = sheet_of(tiny_corpus, policy=policy, eyes=(SMALL,), num_views=20)
        members, images, partners = first_ids(tiny_corpus), images_of(tiny_corpus), set()
        for sample_id, row in zip(members, sheet.rows, strict=False):
            for view in row.views:
                mix = mix_of(view.params)
                assert mix is not None
                partners.add(mix.partner)
                wanted = render(
                    images[sample_id],
                    view.params,
                    size_px=SMALL.size_px,
                    interpolation=SMALL.interpolation,
                    partner_HW3=images[mix.partner],
                )
                np.testing.assert_array_equal(view.pixels[0], wanted)
        assert partners == set(members), "40 draws among 7 others"

    def test_no_more_rows_than_the_first_row_group_has(self, tiny_corpus: PackedCorpus) -> None:
        assert len(sheet_of(tiny_corpus, num_samples=1000).rows) == ROW_GROUP_SIZE

    def test_a_centre_crop_has_a_box_for_each_shape_of_eye(self, tiny_corpus: PackedCorpus) -> None:
        policy = Policy(name="centre", operations=(CenterCrop(kind="center_crop", crop_fraction=0.5),))
        tall, wide = replace(SMALL, size_px=(40, 20)), replace(SMALL, size_px=(20, 40))
        (both,) = sheet_of(tiny_corpus, policy=policy, eyes=(tall, wide), num_samples=1, num_views=1).rows
        (one,) = sheet_of(tiny_corpus, policy=policy, eyes=(tall,), num_samples=1, num_views=1).rows
        assert (both.whole_HW3 != one.whole_HW3).any()

    def test_progress_is_told_sample_by_sample(self, tiny_corpus: PackedCorpus) -> None:
        told: list[int] = []
        contact_sheet(
            packed_group(tiny_corpus),
            title="",
            notes=(),
            kinds=(SheetKind(name="", policy=POLICY, num_views=1, eyes=(SMALL,)),),
            view_seed=0,
            num_samples=3,
            report=told.append,
        )
        assert told == [1, 2, 3]


class TestEyes:
    def test_models_with_equal_pixels_are_one_eye_whatever_their_normalisation(self, tmp_path: Path) -> None:
        (eye,) = eyes_of(load_recipe(write(tmp_path), ["student.input.mean=[0,0,0]"]))
        assert eye.names == ("teacher", "student")
        assert eye.title == "teacher, student: 32×32 px, bicubic"

    @pytest.mark.parametrize("change", ["student.input.size_px=[64,32]", "student.input.interpolation=bilinear"])
    def test_another_size_or_interpolation_is_another_eye(self, tmp_path: Path, change: str) -> None:
        teacher, student = eyes_of(load_recipe(write(tmp_path), [change, "student.name=tiny"]))
        assert teacher.names == ("teacher",)
        assert student.names == ("tiny (student)",)

    @pytest.mark.parametrize(("size_px", "factor"), [((1, 1), MIN_VIEW_PX), ((32, 32), 4), ((24, 50), 2), ((65, 8), 1)])
    def test_small_views_are_enlarged_by_whole_factors(self, size_px: tuple[int, int], factor: int) -> None:
        eye = replace(SMALL, size_px=size_px)
        assert eye.factor == factor
        assert (f"shown as {factor}×{factor}" in eye.legend) == (factor > 1)


def holds(page: NDArray[np.uint8], block: NDArray[np.uint8]) -> bool:
    """Whether the block is somewhere on the page, pixel for pixel."""
    height, width = block.shape[:2]
    for row, column in np.argwhere((page == block[0, 0]).all(axis=2)).tolist():
        if np.array_equal(page[row : row + height, column : column + width], block):
            return True
    return False


class TestPng:
    @pytest.mark.parametrize(("eyes", "num_views"), [((SMALL,), 2), ((LARGE, SMALL), 9)])
    def test_shows_every_view_at_its_pixels(
        self, tiny_corpus: PackedCorpus, eyes: tuple[Eye, ...], num_views: int
    ) -> None:
        sheet = sheet_of(tiny_corpus, eyes=eyes, num_views=num_views)
        picture = Image.open(io.BytesIO(sheet_png(sheet)))
        assert picture.format == "PNG"
        assert picture.width <= MAX_WIDTH_PX
        page = np.asarray(picture)
        for row in sheet.rows:
            assert holds(page, row.whole_HW3)
            for view in row.views:
                for eye, pixels in zip(eyes, view.pixels, strict=True):
                    assert holds(page, enlarged(pixels, eye.factor)), (row.name, view.view_index, eye.title)

    def test_one_view_that_is_wider_than_the_page_widens_it(self, tiny_corpus: PackedCorpus) -> None:
        wide = replace(SMALL, size_px=(8, MAX_WIDTH_PX))
        page = np.asarray(Image.open(io.BytesIO(sheet_png(sheet_of(tiny_corpus, eyes=(wide,), num_samples=1)))))
        assert page.shape[1] > MAX_WIDTH_PX + WHOLE_PX
        assert all(
            holds(page, view.pixels[0]) for view in sheet_of(tiny_corpus, eyes=(wide,), num_samples=1).rows[0].views
        )

    def test_words_add_ink_below_the_view(self, tiny_corpus: PackedCorpus) -> None:
        sheet = sheet_of(tiny_corpus, eyes=(SMALL,), num_samples=1, num_views=1)
        (row,) = sheet.rows
        mute = replace(sheet, rows=(replace(row, views=(replace(row.views[0], params=row.views[0].params[:1]),)),))
        told, less = (np.asarray(Image.open(io.BytesIO(sheet_png(each)))) for each in (sheet, mute))
        assert (told < 128).sum() > (less < 128).sum()

    def test_the_same_views_give_the_same_bytes(self, tiny_corpus: PackedCorpus) -> None:
        assert sheet_png(sheet_of(tiny_corpus)) == sheet_png(sheet_of(tiny_corpus))


@given(
    text=st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), max_size=80), width=st.integers(30, 300)
)
def test_lines_fit_their_width_and_lose_nothing(text: str, width: int) -> None:
    lines = list(_wrapped(text, width))
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(len(line) <= 1 or sheet_font().getlength(line) <= width for line in lines)


KINDS = """\
    name: two
    kinds:
      wide: {operations: [{kind: random_resized_crop}]}
      narrow: {operations: [{kind: random_resized_crop, scale: [0.1, 0.4]}], num_crops: 3, size_px: [20, 20]}
"""


class TestKinds:
    @pytest.fixture
    def sheet(self, tiny_corpus: PackedCorpus, tmp_path: Path) -> Sheet:
        text = VALID.replace(VALID[VALID.index("    name: plain") : VALID.index("teacher:")], KINDS)
        recipe = load_recipe(write(tmp_path, text), ["teacher.input.kind_sizes_px.narrow=[28,28]"])
        group = packed_group(tiny_corpus)
        return sheet_of_recipe(recipe, group, num_samples=2, num_draws=2, report=lambda _done: None)

    def test_has_a_row_for_each_kind_of_a_sample_with_its_crops_at_its_sizes(
        self, sheet: Sheet, tiny_corpus: PackedCorpus
    ) -> None:
        assert [row.title.rpartition(": ")[2] for row in sheet.rows] == ["wide", "narrow"] * 2
        assert [len(row.views) for row in sheet.rows] == [2, 6] * 2
        assert [[eye.size_px for eye in kind.eyes] for kind in sheet.kinds] == [[(32, 32)], [(28, 28), (20, 20)]]
        images = images_of(tiny_corpus)
        for number, row in enumerate(sheet.rows):
            sample_id = first_ids(tiny_corpus)[number // 2]
            image = images[sample_id]
            for view in row.views:
                params = draw(
                    row.kind.policy,
                    seed=0,
                    sample_id=sample_id,
                    view_index=view.view_index,
                    image_size_px=image.shape[:2],
                )
                assert view.params == params
                for eye, pixels in zip(row.kind.eyes, view.pixels, strict=True):
                    wanted = render(image, params, size_px=eye.size_px, interpolation=eye.interpolation)
                    np.testing.assert_array_equal(pixels, wanted)

    def test_the_png_and_the_page_show_all_of_them(self, sheet: Sheet) -> None:
        page = np.asarray(Image.open(io.BytesIO(sheet_png(sheet))))
        for row in sheet.rows:
            for view in row.views:
                for eye, pixels in zip(row.kind.eyes, view.pixels, strict=True):
                    assert holds(page, enlarged(pixels, eye.factor)), (row.title, view.view_index, eye.title)
        html = sheet_html(sheet)
        assert all(row.title in html for row in sheet.rows)
        assert html.count("<img") == 2 * (2 + 2 + 6 * 2)

    def test_notes_count_the_views_of_each_kind(self, sheet: Sheet) -> None:
        assert "wide views 0 to 1 of 2, narrow views 0 to 5 of 6" in sheet.notes[0]
