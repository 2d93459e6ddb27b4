from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from ffvit.data.shards import download as downloading
from ffvit.data.shards.download import RetryPolicy, download
from ffvit.errors import UserError
from servers import serving

SIZE = 100_000


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Downloads are given up on after a short while."""
    monkeypatch.setattr(
        downloading, "RETRY", RetryPolicy(tries=4, stall_seconds=0.3, first_wait=0.01, longest_wait=0.05)
    )


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(3).bytes(SIZE)


@pytest.fixture
def served(tmp_path, content) -> Path:
    """A folder that is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "x.tar").write_bytes(content)
    return folder


@pytest.fixture
def server(served):
    with serving(served) as server:
        yield server


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept" / "x.tar"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_file_arrives_whole_from_a_server_that_fails_half_of_the_requests(
    served, target, content, ranges, seed, monkeypatch
):
    monkeypatch.setattr(downloading, "RETRY", RetryPolicy(40, 1.0, 0.01, 0.05))
    with serving(served, ranges) as server:
        server.one_in(2, seed)
        download(server.address("x.tar"), target)
    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_it_continues_where_the_connection_broke(server, target, content):
    fates = iter(["", "stall", "", "stall"])  # the size, half of the file; the size, half of the rest
    server.trouble = lambda: next(fates, "")
    download(server.address("x.tar"), target)
    assert server.gets("x.tar") == [0, SIZE // 2, SIZE * 3 // 4]
    assert target.read_bytes() == content


def test_a_file_killed_before_its_last_step_is_not_asked_for_again(server, target, content, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        download(server.address("x.tar"), target)
    monkeypatch.undo()
    download(server.address("x.tar"), target)
    assert server.gets("x.tar") == [0]
    assert target.read_bytes() == content


def test_a_file_replaced_meanwhile_is_begun_again(server, served, target):
    fates = iter(["", "stall"])
    server.trouble = lambda: next(fates, "503")
    with pytest.raises(UserError, match=r"\(the 50,000 bytes that came are kept\)"):
        download(server.address("x.tar"), target)
    (served / "x.tar").write_bytes(b"other" * 20_001)
    server.trouble = lambda: ""
    download(server.address("x.tar"), target)
    assert target.read_bytes() == b"other" * 20_001
    assert list(target.parent.iterdir()) == [target]


def test_other_bytes_than_were_asked_for_are_refused(server, target, monkeypatch):
    async def get(files, address, start):
        return await real_get(files, address, start - 10 if start else 0)

    real_get = downloading._get
    monkeypatch.setattr(downloading, "_get", get)
    fates = iter(["", "stall"])
    server.trouble = lambda: next(fates, "")
    with pytest.raises(UserError, match="sends another part of the file than it was asked for"):
        download(server.address("x.tar"), target)


@pytest.mark.parametrize(
    ("fate", "reason"),
    [("503", "the server answers 503"), ("stall", "nothing came for 0.3 s"), ("drop", "disconnected")],
)
def test_a_server_that_always_fails_is_given_up(server, target, fate, reason):
    server.trouble = lambda: fate
    with pytest.raises(UserError, match=rf"x\.tar: not downloaded in 4 tries .*{reason}.* or put the file at {target}"):
        download(server.address("x.tar"), target)


def test_a_connection_refused_is_given_up(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"x\.tar: not downloaded in 4 tries .*[Cc]onnect") as caught:
        download(f"http://127.0.0.1:{port}/x.tar?secret", target)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", ["404", "403", "401"])
def test_what_is_not_there_or_forbidden_is_not_tried_again(server, target, status):
    server.trouble = lambda: status
    with pytest.raises(UserError, match=rf"x\.tar: cannot be downloaded \(the server answers {status}"):
        download(server.address("x.tar"), target)
    assert len(server.asked) <= 2  # fsspec asks for the size by HEAD, then by GET


def test_a_size_that_is_not_the_known_one_is_an_error(server, target):
    with pytest.raises(UserError, match=r"it is 100,000 bytes long there, not 7"):
        download(server.address("x.tar"), target, size=7)


def test_other_file_systems(target, monkeypatch):
    monkeypatch.setattr(downloading, "CHUNK", 40_000)
    fsspec.filesystem("memory").pipe("/bucket/x.tar", b"abc" * 30_000)
    download("memory://bucket/x.tar", target)
    assert target.read_bytes() == b"abc" * 30_000
    with pytest.raises(UserError, match=r"memory://bucket/y\.tar: cannot be downloaded \(there is no such file"):
        download("memory://bucket/y.tar", target)


def test_a_missing_package_is_named(target, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"s3://bucket/x\.tar: .*pip install 'ffvit\[s3\]'"):
        download("s3://bucket/x.tar", target)


def test_a_full_disk_is_said(server, target, monkeypatch):
    def no_room(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(UserError, match=r"kept: the disk is full .*x\.tar is downloaded; free some space"):
        download(server.address("x.tar"), target)


def test_training_s_draws_stay_where_they_are(server, target):
    fates = iter(["", "truncate", "503"])
    server.trouble = lambda: next(fates, "")
    script = (  # in a process of its own, for beartype draws which items it checks
        "import random, sys; from pathlib import Path; from ffvit.data.shards.download import download\n"
        "before = random.getstate()\n"
        "download(sys.argv[1], Path(sys.argv[2]))\n"
        "assert random.getstate() == before"
    )
    subprocess.run([sys.executable, "-c", script, server.address("x.tar"), str(target)], check=True)
    assert len(server.asked) > 3
