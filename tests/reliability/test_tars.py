"""Tar files and indices of strangers, or damaged ones: nothing is lost in silence, nothing ends in a traceback."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import commands
from ffvit import Data
from ffvit.data.images import BadImageError
from ffvit.data.shards import download as downloading
from ffvit.data.shards import tars
from ffvit.data.shards.download import RetryPolicy
from ffvit.data.shards.index import write_index, write_info
from ffvit.data.shards.local import open_files
from ffvit.data.shards.reader import ShardFolder, ShardImages, open_shards
from ffvit.data.shards.remote import open_remote
from ffvit.data.shards.tars import read_shard
from ffvit.data.splits import open_splits
from ffvit.errors import UserError
from servers import serving


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Downloads are given up on after a short while."""
    monkeypatch.setattr(
        downloading, "RETRY", RetryPolicy(tries=2, stall_seconds=2.0, first_wait=0.01, longest_wait=0.05)
    )


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(count: int, name: str = "{:04}", first: int = 0) -> list[tuple[str, bytes]]:
    return [
        member
        for number in range(first, first + count)
        for member in (
            (f"{name.format(number)}.jpg", b"image %d" % number),
            (f"{name.format(number)}.cls", b"%d" % (number % 2)),
        )
    ]


class TestCutOff:
    def test_a_tar_cut_anywhere_is_refused(self, tmp_path):
        """At every header, in every header and in every content; before, one in three cuts was taken for whole."""
        whole = write_tar(tmp_path / "x.tar", samples(6)).read_bytes()
        last = 6 * 4 * 512
        path = tmp_path / "cut.tar"
        for length in range(0, last + 512, 128):
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"cut\.tar: is cut off, or no tar file") as caught:
                read_shard(path)
            assert "\n" not in str(caught.value)
        path.write_bytes(whole[: last + 512])  # one block of zeros is an end mark
        assert len(read_shard(path).records) == 6

    def test_the_command_refuses_it(self, tmp_path):
        path = write_tar(tmp_path / "tars" / "x.tar", samples(40))
        path.write_bytes(path.read_bytes()[: 30 * 4 * 512])
        done = commands.here("check", tmp_path / "tars", cwd=tmp_path)
        assert done.returncode == 2
        assert "x.tar: is cut off, or no tar file (it ends at byte 61,440 without a tar file's end mark)" in done.stderr

    @pytest.mark.parametrize("bit", range(0, 4096, 97))
    def test_a_damaged_header_in_the_middle_is_refused_or_harmless(self, tmp_path, bit):
        path = write_tar(tmp_path / "x.tar", samples(4))
        content = bytearray(path.read_bytes())
        content[4 * 512 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.tar: is cut off, or no tar file .the header at byte 2,048 is damaged"):
            read_shard(path)

    def test_two_joined_tars_are_refused(self, tmp_path):
        one, other = (write_tar(tmp_path / f"{n}.tar", samples(3, first=n)).read_bytes() for n in (0, 3))
        (tmp_path / "both.tar").write_bytes(one + other)
        with pytest.raises(UserError, match="more lies behind its end mark at byte 6,144, as where two tar files"):
            read_shard(tmp_path / "both.tar")


class TestSamples:
    def test_keys_with_dots_are_refused_not_merged(self, tmp_path):
        path = write_tar(tmp_path / "x.tar", samples(30, "photo.{:02}"))
        with pytest.raises(UserError, match=r"photo\.00\.jpg and photo\.01\.jpg are images of one sample.*first dot"):
            read_shard(path)

    def test_keys_with_dots_are_taken_where_nothing_is_lost(self, tmp_path):
        path = write_tar(tmp_path / "x.tar", samples(3, "{}.v2"))
        assert len(read_shard(path).records) == 3

    def test_the_same_image_twice_is_refused(self, tmp_path):
        path = write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.cls", b"0")])
        with pytest.raises(UserError, match=r"a\.jpg and a\.jpg are images of one sample"):
            read_shard(path)

    def test_what_is_left_out_is_counted_and_said(self, tmp_path, capsys):
        folder = tmp_path / "tars"
        members = samples(6)
        for number in range(3):
            members += [(f"b{number}.png", b"mask"), (f"b{number}.jpg", b"photo"), (f"b{number}.cls", b"1")]
        members += [("c.jpg", b"photo"), ("c.seg.png", b"mask"), ("c.cls", b"0")]
        members += [("d.cls", b"1"), ("e.heic", b"photo"), ("e.cls", b"0")]
        path = write_tar(folder / "x.tar", members)
        with tarfile.open(path, "a") as tar:
            for kind, name in ((tarfile.LNKTYPE, "f\x1b[2J.jpg"), (tarfile.SYMTYPE, "g.jpg")):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = kind, "0000.jpg"
                tar.addfile(link)
        for _ in range(2):  # when it is looked through, and when its index is found
            images = open_files(folder)["train"].images
            assert [images.read(index) for index in range(6, 10)] == [b"photo"] * 4
            told = capsys.readouterr().err
            tars._say_once.cache_clear()
            assert "x.tar" not in told  # of all files together
            assert (
                f"{folder}: 4 samples hold more than one image, of which one is taken (first: b0.jpg, and not b0.png)"
                in told
            )
            assert f"{folder}: 2 samples have a label but no image, and are left out (first: d.cls)" in told
            assert (
                f"{folder}: 2 images are links or sparse files in their tar file, and are left out (first: f\\x1b[2J.jpg)"
                in told
            )

    @pytest.mark.parametrize(
        ("members", "sentence"),
        [
            ([("a.jpg", b""), ("a.json", b"[" * 100_000)], "has no label"),
            ([("a.jpg", b""), ("a.json", b'{"label": ' + b"9" * 5000 + b"}")], "has no label"),
            ([("a.jpg", b""), ("a.json", b'{"label": "' + b"x" * 5000 + b'"}')], "has 'xxx.*as its label"),
            ([("a.jpg", b""), ("a.cls", b"1_0")], "has '1_0' as its label"),
            ([("a.jpg", b""), ("a.cls", b"1" * 2**21)], "has no label"),
        ],
    )
    def test_hostile_labels_are_refused_in_a_sentence(self, tmp_path, members, sentence):
        with pytest.raises(UserError, match=sentence) as caught:
            read_shard(write_tar(tmp_path / "x.tar", members))
        assert len(str(caught.value)) < 600


class TestHeaders:
    def header(self, name: str = "a.jpg", kind: bytes = b"0", size: bytes = b"00000000000\0") -> bytes:
        member = tarfile.TarInfo(name)
        member.type = kind
        block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
        block[124:136] = size
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % (sum(block))
        return bytes(block)

    @pytest.mark.parametrize(
        "size",
        [
            b"\xff" * 12,  # -1
            b"\xff" * 10 + b"\xfc\x00",  # -1024: back to before the header, for ever
            b"\x80" + b"\xff" * 11,
            b"77777777777\0",
            b"-0000001000\0",
        ],
    )
    @pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"S", b"K"])
    @pytest.mark.parametrize("place", [0, 3])
    def test_impossible_sizes_are_refused_at_once(self, tmp_path, size, kind, place):
        path = tmp_path / "x.tar"
        good = write_tar(tmp_path / "good.tar", samples(place)).read_bytes()[: place * 4 * 512]
        path.write_bytes(good + self.header(kind=kind, size=size) + bytes(4096))
        with pytest.raises(UserError, match=r"x\.tar: is cut off, or no tar file"):
            read_shard(path)

    def test_headers_without_end_are_refused(self, tmp_path):
        path = tmp_path / "x.tar"
        path.write_bytes(self.header(kind=b"x", size=b"00000000000\0") * 5000 + bytes(1024))
        with pytest.raises(UserError, match=r"x\.tar: is cut off, or no tar file"):
            read_shard(path)

    def test_a_sparse_tar_with_a_huge_image_is_refused_unread(self, tmp_path):
        path = tmp_path / "x.tar"
        size = 200 * 10**9 // 512 * 512
        with path.open("wb") as file:
            file.write(self.header(size=b"\x80" + size.to_bytes(11, "big")))
            file.truncate(512 + size + 1024)
        with pytest.raises(UserError, match=r"a\.jpg has 200,000,000,000 bytes; an image has at most"):
            read_shard(path)

    def test_what_is_no_regular_file_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "x.tar")
        with pytest.raises(UserError, match=r"x\.tar: is cut off, or no tar file .it is no regular file"):
            read_shard(tmp_path / "x.tar")


@pytest.fixture
def prepared(tmp_path) -> Path:
    """A small folder like those of `ffvit prepare`."""
    folder = tmp_path / "prepared"
    files = [write_tar(folder / f"train-{n}.tar", samples(5, first=5 * n)) for n in range(2)]
    split = write_index(folder, "train", map(read_shard, files), "again")
    write_info(folder, ["a", "b"], [split], {}, "again")
    return folder


class TestIndex:
    def test_the_folder_is_whole(self, prepared):
        assert len(open_shards(prepared)["train"].images) == 10

    def test_names_that_are_no_text_stay(self, tmp_path):
        folder = tmp_path / "prepared"
        file = write_tar(folder / "caf\udce9-train-0.tar", samples(4))
        split = write_index(folder, "train", [read_shard(file)], "again")
        write_info(folder, ["a", "\udce9"], [split], {}, "again")
        assert open_shards(folder)["train"].classes == ("a", "\udce9")

    def test_any_byte_of_the_index_changed_is_noticed(self, prepared):
        path = prepared / "train.index"
        whole, refused = path.read_bytes(), []
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            try:
                images = open_shards(prepared)["train"].images
            except UserError as error:
                refused.append(str(error))
                continue
            assert place < 256  # spaces of the header alone
            assert images.labels.tolist() == [0, 1] * 5
        assert len(refused) >= len(whole) - 256
        assert all(sentence.startswith(str(prepared)) for sentence in refused)

    @pytest.mark.parametrize("length", [0, 1, 6, 10, 100, 127, 128, 130, 200, 255, 256, 300])
    def test_an_index_cut_anywhere_is_noticed(self, prepared, length):
        path = prepared / "train.index"
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(UserError, match=r"train\.index: .*prepare the images again"):
            open_shards(prepared)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("shard", 2),
            ("shard", 2**32 - 1),
            ("offset", 10**9),
            ("offset", 2**64 - 1),
            ("length", 2**32 - 1),
            ("name_end", 0),
        ],
    )
    def test_records_beyond_their_shards_are_refused_though_the_checksum_is_right(self, prepared, field, value):
        index = prepared / "train.index"
        records = np.load(index, mmap_mode="r+")
        records[field][4] = value
        records.flush()
        info = json.loads((prepared / "_info.json").read_text())
        info["splits"]["train"]["index_checksum"] = zlib.crc32(np.ascontiguousarray(records).data)
        (prepared / "_info.json").write_text(json.dumps(info))
        with pytest.raises(UserError, match=r"train\.index: is damaged: it describes images that lie in no shard"):
            open_shards(prepared)

    @pytest.mark.parametrize(
        "change",
        [
            lambda info: info | {"splits": []},
            lambda info: info | {"splits": {"train": 3}},
            lambda info: info | {"classes": "ab"},
            lambda info: info | {"classes": [1, 2]},
            lambda info: info | {"splits": {"../train": info["splits"]["train"]}},
            lambda info: info | {"version": [2] * 10_000},
            *(
                lambda info, field=field, value=value: (
                    info | {"splits": {"train": info["splits"]["train"] | {field: value}}}
                )
                for field, value in [
                    ("filenames", ["train-0.tar", "../train-1.tar"]),
                    ("filenames", ["train-0.tar", "/etc/passwd"]),
                    ("filenames", ["train-0.tar", 1]),
                    ("filenames", "ab"),
                    ("filenames", None),
                    ("shard_bytes", [1]),
                    ("shard_bytes", ["x", 1]),
                    ("shard_bytes", [-1, -1]),
                    ("shard_lengths", [2**70, 1]),
                    ("shard_lengths", [0, 10]),
                    ("num_samples", "10"),
                    ("num_samples", 9),
                    ("index_checksum", 1.5),
                ]
            ),
        ],
    )
    def test_damaged_info_is_refused_in_a_sentence(self, prepared, change):
        path = prepared / "_info.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        (prepared / "prepare.json").write_text("{}")
        with pytest.raises(UserError) as caught:
            open_splits(Data(source=str(prepared)))
        assert str(caught.value).startswith(str(prepared))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[" * 100_000, b'{"splits": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"<html>"]
    )
    @pytest.mark.parametrize("plan", [True, False])
    def test_info_that_is_no_json_is_refused_in_a_sentence(self, prepared, content, plan):
        (prepared / "_info.json").write_bytes(content)
        if plan:
            (prepared / "prepare.json").write_text("{}")
        with pytest.raises(UserError, match=r"_info\.json: is damaged"):
            open_splits(Data(source=str(prepared)))

    @pytest.mark.parametrize("names", [["../good/x.tar"], [3], "x.tar", [], None])
    def test_info_of_others_that_leads_elsewhere_is_refused(self, tmp_path, names):
        write_tar(tmp_path / "good" / "x.tar", samples(4))
        write_tar(tmp_path / "bad" / "y.tar", samples(4))
        (tmp_path / "bad" / "_info.json").write_text(json.dumps({"splits": {"train": {"filenames": names}}}))
        with pytest.raises(UserError, match=r"_info\.json: is damaged"):
            open_files(tmp_path / "bad")

    def test_a_tar_cut_after_it_was_prepared_is_refused(self, prepared):
        path = prepared / "train-1.tar"
        path.write_bytes(path.read_bytes()[:4096])
        with pytest.raises(UserError, match=r"train-1\.tar: is cut off: it has 4,096 bytes, and was written with"):
            open_shards(prepared)

    def test_a_flipped_bit_of_an_image_is_a_bad_image(self, prepared, monkeypatch):
        records = np.load(prepared / "train.index")
        stored = (prepared / "train-0.tar").read_bytes()
        records["checksum"][:5] = [
            zlib.crc32(stored[int(r["offset"]) : int(r["offset"]) + int(r["length"])]) for r in records[:5]
        ]
        np.save(prepared / "train.index.npy", records)
        (prepared / "train.index.npy").replace(prepared / "train.index")
        images = ShardImages(prepared / "train.index", ShardFolder(prepared, ("train-0.tar", "train-1.tar")))
        assert images.read(2) == b"image 2"
        damaged = bytearray(stored)
        damaged[int(records["offset"][2])] ^= 1
        (prepared / "train-0.tar").write_bytes(damaged)
        images = ShardImages(prepared / "train.index", ShardFolder(prepared, ("train-0.tar", "train-1.tar")))
        with pytest.raises(BadImageError, match="are not those that were written"):
            images.read(2)


class TestCache:
    PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>" + b" " * 600

    def test_a_page_that_came_as_a_tar_is_named_and_not_kept(self, tmp_path):
        folder = tmp_path / "served"
        folder.mkdir()
        (folder / "x.tar").write_bytes(self.PAGE)
        with serving(folder) as server:
            with pytest.raises(UserError, match=r"x\.tar: a web page came, and no tar file .it is not kept here"):
                open_remote(server.address("x.tar"), tmp_path / "cache")
            write_tar(folder / "x.tar", samples(4))
            assert len(open_remote(server.address("x.tar"), tmp_path / "cache")["train"].images) == 4

    def test_a_tar_cut_off_at_the_server_is_named_and_not_kept(self, tmp_path):
        folder = tmp_path / "served"
        path = write_tar(folder / "x.tar", samples(9))
        path.write_bytes(path.read_bytes()[:8192])
        with serving(folder) as server:
            with pytest.raises(UserError, match=r"x\.tar: .*is cut off"):
                open_remote(server.address("x.tar"), tmp_path / "cache")
            write_tar(folder / "x.tar", samples(9))
            assert len(open_remote(server.address("x.tar"), tmp_path / "cache")["train"].images) == 9

    @pytest.mark.parametrize("name", ["train.index", "train.names"])
    def test_a_page_that_came_as_an_index_is_not_kept(self, prepared, tmp_path, name):
        whole = (prepared / name).read_bytes()
        (prepared / name).write_bytes(self.PAGE)
        with serving(prepared) as server:
            with pytest.raises(UserError, match="not kept here"):
                open_remote(server.address(), tmp_path / "cache")
            (prepared / name).write_bytes(whole)
            assert len(open_remote(server.address(), tmp_path / "cache")["train"].images) == 10

    @pytest.mark.parametrize("name", ["_info.json", "train.index", "train.names"])
    def test_a_damaged_index_in_the_cache_is_made_again(self, tmp_path, name):
        folder = tmp_path / "served"
        write_tar(folder / "x.tar", samples(4))
        with serving(folder) as server:
            open_remote(server.address("x.tar"), tmp_path / "cache")
            (path,) = (tmp_path / "cache").glob(f"*/{name}")
            path.write_bytes(path.read_bytes()[:-3])
            assert len(open_remote(server.address("x.tar"), tmp_path / "cache")["train"].images) == 4

    def test_an_info_that_leads_elsewhere_writes_nowhere_else(self, prepared, tmp_path):
        info = json.loads((prepared / "_info.json").read_text())
        info["splits"] = {"../../escaped": info["splits"]["train"]}
        (prepared / "_info.json").write_text(json.dumps(info))
        with serving(prepared) as server, pytest.raises(UserError, match="is damaged"):
            open_remote(server.address(), tmp_path / "cache" / "deep")
        assert not list(tmp_path.rglob("escaped*"))
