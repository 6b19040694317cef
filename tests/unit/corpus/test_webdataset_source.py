"""WebDataset tars: what a sample is, what of it is read, and that no tar, however hostile, stops a scan."""

import hashlib
import json
import pickle
import random
import subprocess
import sys
import tarfile
import textwrap
from dataclasses import replace
from itertools import pairwise

import fsspec
import pytest

from kd_ray.config.corpus import PathSplit
from kd_ray.corpus.source import Box, Input, Polygon, Rejected
from kd_ray.errors import CorpusError, StorageError
from tests.support.corpus_files import png, write
from tests.support.tars import header, scanned, scanned_bytes, sidecar, source_of, special, tar_bytes, told

THREE = [("0.png", png(0)), ("0.cls", b"4"), ("1.png", png(1)), ("1.cls", b"5"), ("2.png", png(2)), ("2.cls", b"6")]
BLOCK = 512


def block_of(data: bytes, name: str) -> int:
    """Where the header of a member begins."""
    start = data.index(name.encode() + b"\0")
    assert start % BLOCK == 0
    return start


class TestSamples:
    @pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_members_with_one_name_are_one_sample_in_every_format(self, tmp_path, tar_format):
        found = scanned_bytes(tmp_path, tar_bytes(THREE, tar_format=tar_format))
        assert told(found) == [("a.tar#0", "4"), ("a.tar#1", "5"), ("a.tar#2", "6")]
        assert [each.data for each in found] == [png(0), png(1), png(2)]

    @pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_and_foreign_names_are_whole(self, tmp_path, tar_format):
        key = "Straße/" + "ü" * 200 + "/猫"
        found = scanned_bytes(
            tmp_path, tar_bytes([(f"{key}.png", png(0)), (f"{key}.cls", b"1")], tar_format=tar_format)
        )
        assert told(found) == [(f"a.tar#{key}", "1")]

    def test_the_key_ends_at_the_first_dot_of_the_last_name(self, tmp_path):
        members = [("v1.0/x.png", png(0)), ("v1.0/x.seg.png", b"mask"), ("./y.png", png(1)), ("./._y.png", b"mac")]
        found = scanned_bytes(tmp_path, tar_bytes(members), mask_extension="seg.png")
        assert [(each.location, each.mask) for each in found] == [("a.tar#v1.0/x", b"mask"), ("a.tar#y", None)]

    def test_the_first_image_of_a_sample_counts_whatever_the_case_of_its_extension(self, tmp_path):
        found = scanned_bytes(tmp_path, tar_bytes([("0.JPEG", b"first"), ("0.png", b"second")]))
        assert told(found) == [("a.tar#0.png", "other_type"), ("a.tar#0", "None")]
        assert found[0].size_bytes == len(b"second")
        assert found[1].data == b"first"

    def test_members_that_are_of_no_sample_are_told_unless_they_are_hidden(self, tmp_path):
        lost = [("noext", b"123"), ("d/noext", b""), ("end.", b"12")]
        hidden = [(".hid.png", png(3)), (".png", png(5)), ("d/.noext", b"")]
        found = scanned_bytes(tmp_path, tar_bytes([THREE[0], *lost, *hidden, THREE[1]]))
        assert [(each.location, each.reason, each.size_bytes) for each in found[:3]] == [
            ("a.tar#noext", "other_type", 3),
            ("a.tar#d/noext", "other_type", 0),
            ("a.tar#end.", "other_type", 2),
        ]
        assert told(found[3:]) == [("a.tar#0", "4")]

    def test_a_sample_without_an_image_is_told_with_its_bytes(self, tmp_path):
        members = [("0.heic", bytes(700)), ("0.cls", b"12"), *THREE[2:4]]
        found = scanned_bytes(tmp_path, tar_bytes(members))
        assert found[0] == Rejected(location="a.tar#0", reason="no_image", size_bytes=702)

    @pytest.mark.parametrize(
        ("text", "label"),
        [(b"7", "7"), (b"007", "007"), (b"0", "0"), (b"00", "00"), (b"-1", "None"), (b" 7\n", "7"), (b"1.0", "1.0")],
    )
    def test_a_label_is_a_number_where_it_is_written_as_one(self, tmp_path, text, label):
        found = scanned_bytes(tmp_path, tar_bytes([("0.png", png(0)), ("0.cls", text)]))
        assert told(found) == [("a.tar#0", label)]

    def test_with_declared_classes_a_padded_number_is_one_unless_it_is_a_name(self, tmp_path):
        write(tmp_path / "classes.json", json.dumps(["cat", "dog", "007"]).encode())
        members = [("0.png", png(0)), ("0.cls", b"001"), ("1.png", png(1)), ("1.cls", b"007")]
        found = scanned_bytes(tmp_path, tar_bytes(members), classes_uri=str(tmp_path / "classes.json"))
        assert told(found) == [("a.tar#0", "dog"), ("a.tar#1", "007")]

    def test_a_name_that_comes_back_is_another_sample(self, tmp_path):
        members = [("0.png", png(0)), ("1.png", png(1)), ("0.png", png(2)), ("1.cls", b"1")]
        found = scanned_bytes(tmp_path, tar_bytes(members))
        assert told(found) == [("a.tar#0", "None"), ("a.tar#1", "None"), ("a.tar#0", "None"), ("a.tar#1", "no_image")]

    def test_sidecar_values(self, tmp_path):
        values = {
            "label": 3,
            "caption": "a cat",
            "boxes": [[1, 2, 3, 4, 7]],
            "polygons": [[0, 0, 4, 0, 4, 4]],
            "sha256": hashlib.sha256(png(0)).hexdigest(),
            "md5": hashlib.md5(png(0)).hexdigest().upper(),
            "uid": "any",
        }
        [each] = scanned_bytes(tmp_path, tar_bytes([("0.json", sidecar(**values)), ("0.png", png(0))]))
        assert (each.label, each.caption, each.data) == ("3", "a cat", png(0))
        assert each.boxes == (Box(label=7, corners=(1, 2, 3, 4)),)
        assert each.polygons == (Polygon(label=None, points=(0, 0, 4, 0, 4, 4)),)

    def test_cls_and_txt_come_before_the_sidecar(self, tmp_path):
        members = [
            ("0.png", png(0)),
            ("0.cls", b"dog\n"),
            ("0.txt", b"a dog\n"),
            ("0.json", sidecar(label=1, caption="x")),
        ]
        [each] = scanned_bytes(tmp_path, tar_bytes(members))
        assert (each.label, each.caption) == ("dog", "a dog")

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            (b"{", "bad_annotation"),
            (b"[" * 100_000, "bad_annotation"),
            (b"[]", "bad_annotation"),
            (sidecar(boxes=[[1, 2]]), "bad_annotation"),
            (sidecar(polygons=[[1, 2]]), "bad_annotation"),
            (sidecar(caption=3), "bad_annotation"),
            (b'{"caption": "\\ud800"}', "bad_annotation"),
            (sidecar(label=[1]), "bad_label"),
            (sidecar(label=True), "bad_label"),
            (b'{"label": "\\ud800"}', "bad_label"),
            (sidecar(sha256="0" * 64), "damaged_archive"),
            (sidecar(md5="0" * 32), "damaged_archive"),
        ],
    )
    def test_a_sidecar_that_cannot_be_used_rejects_its_sample_alone(self, tmp_path, values, reason):
        members = [("0.png", png(0)), ("0.json", values), ("1.png", png(1)), ("1.cls", b"1")]
        assert told(scanned_bytes(tmp_path, tar_bytes(members))) == [("a.tar#0", reason), ("a.tar#1", "1")]

    @pytest.mark.parametrize(
        ("uid", "location"),
        [
            ("8f3a", "a.tar#0 uid=8f3a"),
            (12, "a.tar#0 uid=12"),
            (None, "a.tar#0"),
            (True, "a.tar#0"),
            (["x"], "a.tar#0"),
            ("x" * 257, "a.tar#0"),
            ("\ud800", "a.tar#0"),
        ],
        ids=repr,
    )
    def test_the_uid_is_kept_in_the_location(self, tmp_path, uid, location):
        write(tmp_path / "a.tar", tar_bytes([("0.png", png(0)), ("0.json", sidecar(uid=uid))]))
        source = source_of(tmp_path)
        [each] = [each for extent in source.extents() for each in source.scan(extent)]
        assert each.location == location
        assert [again.location for again in source.fetch([each.locator])] == [location]

    def test_a_hash_of_another_length_is_not_compared(self, tmp_path):
        members = [("0.png", png(0)), ("0.json", sidecar(sha256="abc", md5=None))]
        assert told(scanned_bytes(tmp_path, tar_bytes(members))) == [("a.tar#0", "None")]

    def test_the_hash_of_a_download_that_was_resized_is_not_compared(self, tmp_path):
        members = [("0.png", png(0)), ("0.json", sidecar(sha256="0" * 64, original_width=640, width=256))]
        assert told(scanned_bytes(tmp_path, tar_bytes(members))) == [("a.tar#0", "None")]

    @pytest.mark.parametrize(
        ("label", "told_label"),
        [
            (b"1", "dog"),
            (b"-1", "None"),
            (b"2", "bad_label"),
            (b"cat", "cat"),
            (b"eel", "bad_label"),
            (b"", "bad_label"),
            (b"\xff", "bad_label"),
            (b"9" * 5000, "bad_label"),
        ],
    )
    def test_labels_are_declared_classes(self, tmp_path, label, told_label):
        write(tmp_path / "classes.json", json.dumps(["cat", "dog"]).encode())
        data = tar_bytes([("0.png", png(0)), ("0.cls", label)])
        assert told(scanned_bytes(tmp_path, data, classes_uri=str(tmp_path / "classes.json"))) == [
            ("a.tar#0", told_label)
        ]

    def test_the_declared_classes_are_told(self, tmp_path):
        write(tmp_path / "classes.json", json.dumps(["cat", "dog"]).encode())
        assert source_of(tmp_path, classes_uri=str(tmp_path / "classes.json")).class_names() == ("cat", "dog")

    def test_a_name_that_is_not_utf8_is_escaped(self, tmp_path):
        data = tar_bytes([("\udcff.png", png(0))], tar_format=tarfile.GNU_FORMAT)
        assert told(scanned_bytes(tmp_path, data)) == [("a.tar#\\xff", "None")]

    def test_old_tars_without_magic_are_read(self, tmp_path):
        head = bytearray(header("0.png", len(png(0)), kind=tarfile.AREGTYPE))
        head[257:512] = bytes(255)
        head[148:156] = b"        "
        head[148:156] = b"%06o\0 " % sum(head)
        data = bytes(head) + png(0).ljust(-(-len(png(0)) // BLOCK) * BLOCK, b"\0") + bytes(2 * BLOCK)
        assert [each.data for each in scanned_bytes(tmp_path, data)] == [png(0)]


class TestListing:
    def test_every_tar_is_an_extent_and_other_files_are_told(self, tmp_path):
        write(tmp_path / "b" / "1.tar", tar_bytes(THREE))
        write(tmp_path / "0.tar", tar_bytes(THREE[:2]))
        write(tmp_path / "b" / "readme.txt", b"text")
        source = source_of(tmp_path, samples_per_file=1000)
        *tars, others = source.extents()
        assert [extent.num_inputs for extent in tars] == [1000, 1000]
        assert [extent.num_bytes for extent in tars] == [10240, 10240]
        assert list(source.scan(others)) == [Rejected(location="b/readme.txt", reason="other_type", size_bytes=4)]
        assert [each.location for each in scanned(source)[:2]] == ["0.tar#0", "b/1.tar#0"]

    def test_splits_are_folders_files_or_patterns(self, tmp_path):
        for name in ("train-0.tar", "train-1.tar", "val.tar", "held/out.tar"):
            write(tmp_path / name, tar_bytes(THREE[:2]))
        source = source_of(tmp_path, split=PathSplit(train="train-*.tar", val="val.tar", test="held"))
        assert [extent.split for extent in source.extents()] == ["train", "train", "val", "test"]

    def test_the_digest_changes_with_the_file(self, tmp_path):
        def digest() -> str:
            return next(iter(source_of(tmp_path).extents())).digest

        write(tmp_path / "a.tar", tar_bytes(THREE))
        before = digest()
        assert digest() == before
        write(tmp_path / "a.tar", tar_bytes(THREE[:2]))
        assert digest() != before

    def test_a_file_of_a_name_that_reads_like_a_pattern_is_read(self, tmp_path):
        write(tmp_path / "a[1].tar", tar_bytes(THREE[:2]))
        assert told(scanned(source_of(tmp_path / "a[1].tar"))) == [("a[1].tar#0", "4")]

    def test_no_tars_at_all_is_an_error(self, tmp_path):
        write(tmp_path / "src" / "train" / "readme.txt", b"")
        (tmp_path / "src" / "test").mkdir()
        with pytest.raises(CorpusError, match=r"src: no \.tar files among its 1 visible files.*Check corpus\.uri"):
            list(source_of(tmp_path / "src").extents())
        write(tmp_path / "src" / "train" / "0.tar", tar_bytes(THREE))
        with pytest.raises(CorpusError, match=r"test: no \.tar files among its 0"):
            list(source_of(tmp_path / "src", split=PathSplit()).extents())

    def test_the_source_pickles(self, tmp_path):
        write(tmp_path / "a.tar", tar_bytes(THREE))
        source = source_of(tmp_path)
        assert scanned(pickle.loads(pickle.dumps(source))) == scanned(source)


class TestHostileTars:
    def test_unsafe_names_are_rejected_and_the_rest_goes_on(self, tmp_path):
        members = [("../0.png", png(0)), ("/etc/1.png", png(1)), ("a/../2.png", png(2)), *THREE[:2], ("../0.cls", b"1")]
        assert told(scanned_bytes(tmp_path, tar_bytes(members))) == [
            ("a.tar#../0.png", "unsafe_path"),
            ("a.tar#/etc/1.png", "unsafe_path"),
            ("a.tar#a/../2.png", "unsafe_path"),
            ("a.tar#../0.cls", "unsafe_path"),
            ("a.tar#0", "4"),
        ]

    @pytest.mark.parametrize(
        ("info", "reason"),
        [
            (special("d/0.png", tarfile.SYMTYPE, target="/etc/passwd"), "unsafe_path"),
            (special("d/0.png", tarfile.SYMTYPE, target="../../x.png"), "unsafe_path"),
            (special("d/0.png", tarfile.SYMTYPE, target="../x.png"), "not_a_file"),
            (special("d/0.png", tarfile.LNKTYPE, target="../x.png"), "unsafe_path"),
            (special("d/0.png", tarfile.LNKTYPE, target="x.png"), "not_a_file"),
            (special("d/0.png", tarfile.FIFOTYPE), "not_a_file"),
            (special("d/0.png", tarfile.CHRTYPE), "not_a_file"),
            (special("d/0.png", tarfile.BLKTYPE), "not_a_file"),
        ],
    )
    def test_what_is_no_file_is_one_row_and_its_sample_none(self, tmp_path, info, reason):
        found = scanned_bytes(tmp_path, tar_bytes([info, ("d/0.cls", b"1"), *THREE[:2]]))
        assert told(found) == [("a.tar#d/0.png", reason), ("a.tar#0", "4")]

    def test_folders_are_ignored(self, tmp_path):
        assert told(scanned_bytes(tmp_path, tar_bytes([special("d.png", tarfile.DIRTYPE), *THREE[:2]]))) == [
            ("a.tar#0", "4")
        ]

    def test_sparse_members_are_rejected(self, tmp_path):
        old = bytearray(header("0.png", 512, kind=tarfile.GNUTYPE_SPARSE))
        old[482] = 1  # the map goes on in another block
        old[148:156] = b"        "
        old[148:156] = b"%06o\0 " % sum(old)
        new = tarfile.TarInfo("1.png")
        new.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        data = bytes(old) + bytes(BLOCK) + bytes(512) + tar_bytes([new, *THREE[:2]])
        assert told(scanned_bytes(tmp_path, data)) == [
            ("a.tar#0.png", "not_a_file"),
            ("a.tar#1.png", "not_a_file"),
            ("a.tar#0", "4"),
        ]

    def test_a_member_of_three_gigabytes_is_skipped(self, tmp_path):
        rest = tar_bytes(THREE[:2])
        with open(tmp_path / "a.tar", "wb") as tar:
            tar.write(header("9.png", 3 << 30))
            tar.seek(BLOCK + (3 << 30))
            tar.write(rest)
        found = scanned(source_of(tmp_path / "a.tar"))
        assert told(found) == [("a.tar#9.png", "too_large"), ("a.tar#0", "4")]
        assert found[0].size_bytes == 3 << 30

    def test_a_sidecar_that_would_fill_the_memory_is_rejected(self, tmp_path):
        found = scanned_bytes(tmp_path, tar_bytes([("0.png", png(0)), ("0.json", bytes(17 << 20))]))
        assert told(found) == [("a.tar#0.json", "too_large"), ("a.tar#0", "None")]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty"),
            (bytes(10240), "empty"),
            (b"<html>404</html>", "not_an_archive"),
            (b"\x1f\x8b" + bytes(range(256)) * 8, "not_an_archive"),
        ],
    )
    def test_what_is_no_tar_is_one_row(self, tmp_path, data, reason):
        assert scanned_bytes(tmp_path, data) == [Rejected(location="a.tar", reason=reason, size_bytes=len(data))]

    def test_a_tar_cut_anywhere_gives_its_complete_samples_and_one_row(self, tmp_path):
        whole = tar_bytes(THREE)
        starts = [block_of(whole, name) for name in ("0.png", "1.png", "2.png")]
        end = block_of(whole, "2.cls") + 2 * BLOCK
        for size in range(BLOCK, end + 1, BLOCK):
            found = scanned_bytes(tmp_path, whole[:size])
            # a sample is complete only where the next one begins: what follows might belong to it
            num_complete = max(sum(size >= start + BLOCK for start in starts) - 1, 0)
            complete = [(f"a.tar#{i}", str(4 + i)) for i in range(num_complete)]
            assert told(found) == [*complete, ("a.tar", "damaged_archive")]
            assert found[-1].size_bytes == size - starts[num_complete]
        assert len(scanned_bytes(tmp_path, whole[: end + BLOCK])) == 3

    def test_a_flipped_bit_in_any_header_ends_the_tar_there(self, tmp_path):
        whole = tar_bytes(THREE)
        for place, name in enumerate(name for name, _ in THREE):
            start = block_of(whole, name)
            for at in random.Random(place).sample(range(BLOCK), 20):
                data = bytearray(whole)
                data[start + at] ^= 1
                found = scanned_bytes(tmp_path, bytes(data))
                if 148 <= at < 156 and len(found) == 3:
                    continue  # a space for a zero byte in the checksum's own field says the same
                complete = [each for each in found if isinstance(each, Input)]
                # at the very first header without its magic nothing tells that this is a tar
                assert {each.reason for each in found if isinstance(each, Rejected)} <= {
                    "damaged_archive",
                    "not_an_archive",
                }
                assert len(found) == len(complete) + 1 == max(place - 1, 0) // 2 + 1

    def test_a_tar_that_goes_on_after_its_end_is_told(self, tmp_path):
        first, second = tar_bytes(THREE[:2]), tar_bytes(THREE[2:])
        found = scanned_bytes(tmp_path, first + second)
        assert told(found) == [("a.tar#0", "4"), ("a.tar", "damaged_archive")]

    @pytest.mark.parametrize(
        "data",
        [
            header("x", 0, kind=tarfile.GNUTYPE_LONGNAME) * 5_000,
            header("x", -BLOCK * 3),
            header("x", -BLOCK * 3, kind=tarfile.XHDTYPE),
            header("x", 1 << 40, kind=tarfile.GNUTYPE_LONGNAME),
            header("x", BLOCK, kind=tarfile.XHDTYPE) + b"9" * BLOCK,
            header("x", BLOCK, kind=tarfile.XHDTYPE) + b"0 path=x\n".ljust(BLOCK, b"\0"),
            header("x", BLOCK, kind=tarfile.XHDTYPE) + b"11 size=-9\n".ljust(BLOCK, b"\0") + header("y", 0),
            header("x", 3 << 20, kind=tarfile.XHDTYPE) + b"9" * (3 << 20),
            header("x", 1 << 60),
        ],
        ids=[
            "chain",
            "backwards",
            "backwards-pax",
            "huge-name",
            "digits",
            "zero",
            "negative-size",
            "huge-pax",
            "exabyte",
        ],
    )
    def test_headers_that_hang_or_fill_the_memory_are_damage(self, tmp_path, data):
        assert told(scanned_bytes(tmp_path, data)) == [("a.tar", "damaged_archive")]

    @pytest.mark.parametrize("seed", range(8))
    def test_no_mutation_stops_a_scan_and_what_it_gives_is_fetched_alike(self, tmp_path, seed):
        rng = random.Random(seed)
        info = special("l.png", tarfile.SYMTYPE, target="0.png")
        long = [("d/" * 120 + "9.png", png(9)), ("d/" * 120 + "9.json", sidecar(label=1))]
        whole = tar_bytes([*THREE, info, *long], tar_format=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
        for _ in range(100):
            data = bytearray(whole[: rng.choice([len(whole), rng.randrange(1, len(whole))])])
            for _ in range(rng.randrange(4)):
                block = rng.randrange(len(data)) // BLOCK * BLOCK
                at = min(block + rng.randrange(160), len(data) - 1)
                data[at] = rng.randrange(256)
                if len(data) >= block + BLOCK and rng.random() < 0.5:  # let the damage pass the checksum
                    data[block + 148 : block + 156] = b"        "
                    data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + BLOCK])
            found = scanned_bytes(tmp_path, bytes(data))
            assert sum(isinstance(each, Rejected) and each.location == "a.tar" for each in found) <= 1
            inputs = [each for each in found if isinstance(each, Input)]
            again = source_of(tmp_path / "a.tar").fetch([each.locator for each in inputs])
            assert list(again) == inputs


class TestFetch:
    @pytest.fixture
    def source(self, tmp_path):
        rng = random.Random(0)
        for name in ("0.tar", "b/1.tar"):
            members = []
            for i in range(40):
                key = f"{'long/' * (i % 3 * 20)}{name[0]}{i}"
                parts = [("png", rng.randbytes(rng.randrange(1, 3000))), ("cls", str(i).encode())]
                parts += [("seg.png", rng.randbytes(99)), ("json", sidecar(caption=f"{i}", boxes=[[0, 0, i + 1, 1]]))]
                parts += [("npy", rng.randbytes(rng.choice([10, 900_000])))]
                rng.shuffle(parts)
                members += [(f"{key}.{extension}", data) for extension, data in parts]
                if i % 7 == 0:
                    members.insert(rng.randrange(len(members)), special(f"../{i}.png", tarfile.SYMTYPE, target="/"))
            write(tmp_path / name, tar_bytes(members, tar_format=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])))
        return source_of(tmp_path, mask_extension="seg.png")

    def test_a_random_subset_is_fetched_as_it_was_scanned(self, source):
        inputs = {each.locator: each for each in scanned(source) if isinstance(each, Input)}
        assert len(inputs) == 80
        for seed in range(10):
            wanted = random.Random(seed).sample(sorted(inputs), random.Random(seed).randrange(1, 80))
            found = {each.locator: each for each in source.fetch(wanted)}
            assert found == {locator: replace(inputs[locator], run=0) for locator in wanted}

    def test_a_locator_given_twice_is_fetched_once(self, source):
        locator = next(each.locator for each in scanned(source) if isinstance(each, Input))
        assert len(list(source.fetch([locator, locator]))) == 1

    def test_ranges_of_neighbours_do_not_overlap(self, source):
        inputs = [each for each in scanned(source) if isinstance(each, Input) and each.location.startswith("0.tar")]
        ranges = [tuple(map(int, each.locator.split("#")[1].split("-"))) for each in inputs]
        assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))

    def test_what_has_changed_since_is_an_error(self, tmp_path):
        write(tmp_path / "a.tar", tar_bytes(THREE))
        source = source_of(tmp_path)
        locators = [each.locator for each in scanned(source)]
        write(tmp_path / "a.tar", tar_bytes([("z", bytes(300)), *THREE]))
        with pytest.raises(CorpusError, match=r"a\.tar: no sample lies at its bytes .* Let the source rest"):
            list(source.fetch(locators))
        write(tmp_path / "a.tar", tar_bytes([])[:1024])
        with pytest.raises(StorageError, match=r"a\.tar: got 1024 bytes from 0"):
            list(source.fetch(locators))
        (tmp_path / "a.tar").unlink()
        with pytest.raises(CorpusError, match=r"a\.tar: it cannot be read, though it was there"):
            list(source.fetch(locators))

    def test_a_tar_that_is_gone_at_the_scan_is_rejected(self, tmp_path):
        write(tmp_path / "a.tar", tar_bytes(THREE))
        source = source_of(tmp_path)
        extents = list(source.extents())
        (tmp_path / "a.tar").unlink()
        assert list(source.scan(extents[0])) == [Rejected(location="a.tar", reason="missing", size_bytes=10240)]

    def test_runs_number_64_mib_of_a_tar(self, tmp_path):
        members = [("0.png", b"0"), ("x.bin", bytes(65 << 20)), ("1.png", b"1")]
        found = scanned_bytes(tmp_path, tar_bytes(members))
        assert [each.run for each in found if isinstance(each, Input)] == [0, 1]


def test_tars_behind_fsspec_are_read_alike(tmp_path):
    write(tmp_path / "a.tar", tar_bytes(THREE))
    fsspec.filesystem("memory").pipe_file("/web/a.tar", tar_bytes(THREE))
    far, near = source_of("memory://web"), source_of(tmp_path)
    assert scanned(far) == scanned(near)
    locators = [each.locator for each in scanned(far)]
    assert list(far.fetch(locators[1:])) == list(near.fetch(locators[1:]))


def test_a_big_tar_is_scanned_in_little_memory(tmp_path):
    program = """
        import resource, sys
        from tests.support.tars import source_of
        source = source_of(sys.argv[1])
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before, total = peak(), 0
        for extent in source.extents():
            for each in source.scan(extent):
                total += len(each.data)
        print(total, (peak() - before) // 1024)
    """
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(30):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 10 << 20
            with open("/dev/zero", "rb") as zeros:
                tar.addfile(info, zeros)
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "a.tar")]
    here = {"PYTHONPATH": f"{__file__.rpartition('/')[0]}:{':'.join(filter(None, sys.path))}"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    total, growth_mib = map(int, result.stdout.split())
    assert total == 300 << 20
    assert growth_mib < 100
