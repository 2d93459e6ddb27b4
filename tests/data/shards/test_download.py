from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

import ffvit.data.shards.download
from ffvit.data.shards import cache as shard_cache
from ffvit.data.shards.cache import ShardCache
from ffvit.data.shards.download import RetryPolicy, expand_braces, fetch, is_remote
from ffvit.errors import UserError
from servers import serving

HASTE = RetryPolicy(tries=4, stall_seconds=0.3, first_wait=0.01, longest_wait=0.05)
SIZE = 100_000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(ffvit.data.shards.download, "CHUNK", 30_000)


@pytest.fixture
def far(tmp_path):
    """A folder of ten shards that are all different."""
    folder = tmp_path / "far"
    folder.mkdir()
    for n in range(10):
        (folder / f"{n:02}.tar").write_bytes(np.random.default_rng(n).bytes(SIZE + n))
    return folder


@pytest.fixture
def server(far):
    with serving(far) as server:
        yield server


@pytest.fixture
def near(tmp_path):
    return tmp_path / "near"


def cache(server, near, **settings) -> ShardCache:
    settings = {"patience": HASTE, "folder": near} | settings
    return ShardCache(expand_braces(server.address("{00..09}.tar")), **settings)


def here(near) -> set[str]:
    return {path.name for path in near.iterdir() if not path.name.startswith(".")}


class TestAddresses:
    def test_braces_count_and_list(self):
        assert expand_braces("s3://b/x-{0008..0011}.tar") == [f"s3://b/x-{n:04}.tar" for n in range(8, 12)]
        assert expand_braces("x{9..11}") == ["x9", "x10", "x11"]
        assert expand_braces("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
        assert expand_braces("https://host/plain.tar") == ["https://host/plain.tar"]

    @pytest.mark.parametrize("wrong", ["x{5..3}", "x{a}", "x{0..3", "x}", "{a,{b,c}}", "{0..9999}{0..9999}"])
    def test_other_braces_are_refused(self, wrong):
        with pytest.raises(UserError, match=r"brace|count|neither|stand for"):
            expand_braces(wrong)

    def test_what_is_an_address(self):
        assert all(map(is_remote, ("s3://bucket/x", "https://host/x", "gs://b/x", "memory://x", "HTTP://h/x")))
        assert not any(map(is_remote, ("digits", "/data/x", "hfds/user/set", "nothing://x", "wds/x")))


class TestFetching:
    @pytest.mark.parametrize("ranges", [True, False])
    def test_every_shard_arrives_whole_from_a_server_that_fails_one_request_in_five(self, far, near, ranges):
        with serving(far, ranges) as server:
            server.one_in(5)
            shards = cache(server, near)
            for n in range(10):
                assert shards.path(n).read_bytes() == (far / f"{n:02}.tar").read_bytes()
        assert here(near) == {f"{n:02}.tar" for n in range(10)}
        assert not list(near.glob(".*.part"))

    def test_it_goes_on_where_the_connection_broke(self, server, near, far):
        fates = iter(["", "", "", "drop", "drop"])  # the size, two chunks, then nothing
        server.trouble = lambda: next(fates, "")
        cache(server, near).path(3)
        assert server.gets("03.tar") in (
            [0, 30_000, 60_000, 60_000, 90_000],
            [0, 30_000, 60_000, 60_000, 60_000, 90_000],
        )

    def test_a_file_replaced_meanwhile_is_begun_anew(self, server, near, far):
        fates = iter([""] * 2)
        server.trouble = lambda: next(fates, "503")
        with pytest.raises(UserError):
            cache(server, near).path(3)
        (far / "03.tar").write_bytes(b"other" * 20_000)
        server.trouble = lambda: ""
        assert cache(server, near).path(3).read_bytes() == b"other" * 20_000

    @pytest.mark.parametrize(
        ("fate", "said"),
        [("503", "the server answers 503"), ("stall", "nothing came for 0.3 s"), ("drop", "disconnected")],
    )
    def test_a_server_that_always_fails_is_given_up(self, server, near, fate, said):
        server.trouble = lambda: fate
        with pytest.raises(UserError, match=rf"03\.tar: not fetched in 4 tries .*{said}"):
            cache(server, near).path(3)

    def test_a_connection_refused_is_given_up(self, near):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(UserError, match=r"x\.tar: not fetched in 4 tries .*[Cc]onnect"):
            ShardCache([f"http://127.0.0.1:{port}/x.tar?secret"], folder=near, patience=HASTE).path(0)

    @pytest.mark.parametrize("status", ["404", "403", "401"])
    def test_what_is_not_there_or_forbidden_is_not_tried_again(self, server, near, status):
        server.trouble = lambda: status
        with pytest.raises(UserError, match=rf"03\.tar: cannot be fetched \(the server answers {status}"):
            cache(server, near).path(3)
        assert len(server.asked) <= 2  # fsspec asks for the size by HEAD, then by GET

    def test_a_size_that_is_not_the_known_one_is_an_error(self, server, near):
        with pytest.raises(UserError, match=r"it is 100,003 bytes long there, not 7"):
            cache(server, near, sizes=[7] * 10).path(3)

    def test_a_file_of_the_wrong_size_here_is_fetched_again(self, server, near, far):
        near.mkdir()
        (near / "03.tar").write_bytes(b"torn")
        shards = cache(server, near, sizes=[SIZE + n for n in range(10)])
        assert shards.path(3).read_bytes() == (far / "03.tar").read_bytes()

    def test_other_file_systems(self, near):
        fsspec.filesystem("memory").pipe("/bucket/x.tar", b"abc" * 30_000)
        assert ShardCache(["memory://bucket/x.tar"], folder=near).path(0).read_bytes() == b"abc" * 30_000
        with pytest.raises(UserError, match=r"memory://bucket/y\.tar: cannot be fetched \(there is no such file"):
            ShardCache(["memory://bucket/y.tar"], folder=near).path(0)

    def test_a_missing_package_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(UserError, match=r"s3://bucket/x\.tar: .*pip install 'ffvit\[s3\]'"):
            fetch("s3://bucket/x.tar", tmp_path / "x.tar")

    def test_a_full_disk_is_said(self, server, near, monkeypatch):
        def no_room(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", no_room)
        with pytest.raises(UserError, match=r"near: the disk is full .*03\.tar is fetched; free some space"):
            cache(server, near).path(3)

    def test_a_folder_that_cannot_be_made_is_said(self, server, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be kept there"):
            cache(server, tmp_path / "file" / "near").path(3)

    def test_training_s_draws_stay_where_they_are(self, server, near):
        server.one_in(2, fates=("drop",))
        script = (  # in a process of its own, for beartype draws which items it checks
            "import random, sys; from pathlib import Path; from ffvit.data.shards import cache as shard_cache, download\n"
            "download.CHUNK, before = 30_000, random.getstate()\n"
            "haste = download.RetryPolicy(first_wait=0.01, longest_wait=0.05)\n"
            "shard_cache.ShardCache([sys.argv[1]], folder=Path(sys.argv[2]), patience=haste).path(0)\n"
            "assert random.getstate() == before"
        )
        subprocess.run([sys.executable, "-c", script, server.address("03.tar"), str(near)], check=True)
        assert len(server.asked) > 5


class TestSharing:
    def test_processes_fetch_a_shard_once(self, server, near):
        server.pause = 0.1
        script = (
            "import sys; from pathlib import Path; from ffvit.data.shards.cache import ShardCache\n"
            "print(ShardCache([sys.argv[1]], folder=Path(sys.argv[2])).path(0).stat().st_size)"
        )
        command = [sys.executable, "-c", script, server.address("03.tar"), str(near)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.communicate(timeout=30)[0] for process in both] == [f"{SIZE + 3}\n"] * 2
        assert server.gets("03.tar") == [0]

    def test_threads_fetch_a_shard_once(self, server, near):
        shards = cache(server, near)
        server.pause = 0.05
        with ThreadPoolExecutor(4) as threads:
            assert len(set(threads.map(lambda _: shards.path(3), range(4)))) == 1
        assert server.gets("03.tar") == [0, 30_000, 60_000, 90_000]

    def test_a_fetch_that_was_killed_is_gone_on_with(self, server, near, far):
        script = (
            "import sys; from pathlib import Path; from ffvit.data.shards import cache as shard_cache, download\n"
            "download.CHUNK = 30_000; shard_cache.ShardCache([sys.argv[1]], folder=Path(sys.argv[2])).path(0)"
        )
        fates = iter([""] * 3)
        server.trouble = lambda: next(fates, "stall")
        process = subprocess.Popen([sys.executable, "-c", script, server.address("03.tar"), str(near)])
        while len(server.gets("03.tar")) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert here(near) == set()
        server.trouble = lambda: ""
        shards = ShardCache([server.address("03.tar")], folder=near, patience=HASTE)
        assert shards.path(0).read_bytes() == (far / "03.tar").read_bytes()
        *before, after = server.gets("03.tar")
        assert before == [0, 30_000, 60_000]
        assert 60_000 <= after <= 75_000  # half of the third chunk may be here

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_fork_goes_on_alone(self, server, near, far):
        shards = cache(server, near)
        shards.path(0)
        if (child := os.fork()) == 0:
            try:
                good = all(shards.path(n).read_bytes() == (far / f"{n:02}.tar").read_bytes() for n in range(2))
            finally:
                os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(server.gets("00.tar")) == 4
        assert shards.path(2).read_bytes() == (far / "02.tar").read_bytes()

    def test_it_travels_to_other_processes(self, server, near):
        shards = cache(server, near)
        shards.path(0)
        again = pickle.loads(pickle.dumps(shards))
        assert (again.path(0), len(again), again.limit) == (shards.path(0), 10, None)


class TestLimit:
    def test_the_least_recently_used_go(self, server, near, monkeypatch):
        monkeypatch.setattr(shard_cache, "HELD", 1)
        shards = cache(server, near, limit=int(3.5 * SIZE))
        for n in (0, 1, 2, 0, 3):
            shards.path(n)
            time.sleep(0.01)
        assert here(near) == {"00.tar", "02.tar", "03.tar"}

    def test_what_is_held_stays_and_can_be_read(self, server, near, far, monkeypatch):
        monkeypatch.setattr(shard_cache, "HELD", 2)
        mine, other = cache(server, near, limit=SIZE), cache(server, near, limit=SIZE)
        path = mine.path(0)
        for n in range(1, 6):
            other.path(n)
        assert path.read_bytes() == (far / "00.tar").read_bytes()
        assert here(near) == {"00.tar", "03.tar", "04.tar", "05.tar"}
        del mine
        other.path(6)
        assert here(near) == {"04.tar", "05.tar", "06.tar"}

    def test_a_removed_shard_is_fetched_again(self, server, near, far, monkeypatch):
        monkeypatch.setattr(shard_cache, "HELD", 1)
        shards = cache(server, near, limit=2 * SIZE)
        for n in (*range(4), 0):
            assert shards.path(n).read_bytes() == (far / f"{n:02}.tar").read_bytes()
        assert len(server.gets("00.tar")) == 8


class TestPrefetch:
    def test_what_was_fetched_ahead_is_not_fetched_again(self, server, near):
        shards = cache(server, near)
        shards.prefetch(range(4))
        deadline = time.monotonic() + 60
        while len(here(near) if near.exists() else ()) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        asked = len(server.asked)
        for n in range(4):
            shards.path(n)
        assert len(server.asked) == asked
        while any(thread.name == "ffvit-prefetch" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_what_fails_ahead_is_said_when_it_is_asked_for(self, server, near):
        server.trouble = lambda: "404"
        shards = cache(server, near)
        shards.prefetch([3])
        with pytest.raises(UserError, match=r"03\.tar: cannot be fetched"):
            shards.path(3)

    def test_a_process_ends_without_waiting_for_it(self, server, near):
        server.trouble = lambda: "stall"
        script = (
            "import sys; from pathlib import Path; from ffvit.data.shards.cache import ShardCache\n"
            "ShardCache([sys.argv[1]], folder=Path(sys.argv[2])).prefetch([0]); import time; time.sleep(0.3)"
        )
        command = [sys.executable, "-c", script, server.address("03.tar"), str(near)]
        done = subprocess.run(command, timeout=8, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
