from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ffvit.data.shards import cache as caching
from ffvit.data.shards import download as downloading
from ffvit.data.shards.addresses import expand_braces
from ffvit.data.shards.cache import ShardCache, file_lock
from ffvit.data.shards.download import RetryPolicy
from ffvit.errors import UserError
from servers import serving

SIZE = 100_000
SCRIPT = (
    "import os, sys; from pathlib import Path; from ffvit.data.shards.cache import ShardCache\n"
    "cache = ShardCache((sys.argv[1],), Path(sys.argv[2]))\n"
)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Downloads are given up on after a short while."""
    monkeypatch.setattr(
        downloading, "RETRY", RetryPolicy(tries=4, stall_seconds=0.3, first_wait=0.01, longest_wait=0.05)
    )


@pytest.fixture
def served(tmp_path) -> Path:
    """A folder of ten shards that are all different."""
    folder = tmp_path / "served"
    folder.mkdir()
    for n in range(10):
        (folder / f"{n:02}.tar").write_bytes(np.random.default_rng(n).bytes(SIZE + n))
    return folder


@pytest.fixture
def server(served):
    with serving(served) as server:
        yield server


@pytest.fixture
def kept(tmp_path) -> Path:
    return tmp_path / "kept"


def new_cache(server, kept: Path, **settings) -> ShardCache:
    return ShardCache(expand_braces(server.address("{00..09}.tar")), kept, **settings)


def read(shards: ShardCache, n: int) -> bytes:
    descriptor = shards.open(n)
    try:
        return os.pread(descriptor, 2 * SIZE, 0)
    finally:
        os.close(descriptor)


def numbers(kept: Path) -> set[int]:
    return {int(path.stem) for path in kept.iterdir() if not path.name.startswith(".")}


def test_a_file_of_the_wrong_size_here_is_downloaded_again(server, kept, served):
    shards = new_cache(server, kept, sizes=tuple(SIZE + n for n in range(10)))
    kept.mkdir()
    shards.path(3).write_bytes(b"torn")
    assert read(shards, 3) == (served / "03.tar").read_bytes()


def test_a_file_that_was_put_there_is_not_downloaded(server, kept, served):
    """As the message of a download without a connection advises."""
    server.trouble = lambda: "503"
    shards = new_cache(server, kept, sizes=tuple(SIZE + n for n in range(10)))
    with pytest.raises(UserError, match=f"check the connection .* or put the file at {shards.path(3)} yourself"):
        shards.open(3)
    shards.path(3).write_bytes((served / "03.tar").read_bytes())
    assert read(shards, 3) == (served / "03.tar").read_bytes()


def test_shards_of_one_name_in_several_folders_are_told_apart(tmp_path):
    assert ShardCache(("s3://a/x.tar?key", "s3://a/y.tar"), tmp_path).files == ("x.tar", "y.tar")
    assert ShardCache(("s3://a/x.tar", "s3://b/x.tar"), tmp_path).files == ("000000-x.tar", "000001-x.tar")


def test_a_folder_that_cannot_be_made_is_said(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be kept there"):
        new_cache(server, tmp_path / "file" / "kept").open(3)


class TestSharing:
    def test_processes_download_a_shard_once(self, server, kept):
        server.pause = 0.1
        script = f"{SCRIPT}print(os.fstat(cache.open(0)).st_size)"
        command = [sys.executable, "-c", script, server.address("03.tar"), str(kept)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.communicate(timeout=60)[0] for process in both] == [f"{SIZE + 3}\n"] * 2
        assert server.gets("03.tar") == [0]

    def test_threads_download_a_shard_once(self, server, kept):
        shards = new_cache(server, kept)
        server.pause = 0.05
        with ThreadPoolExecutor(4) as threads:
            assert len(set(threads.map(lambda _: read(shards, 3), range(4)))) == 1
        assert server.gets("03.tar") == [0]

    def test_a_download_that_was_killed_is_resumed(self, server, kept, served):
        fates = iter([""])
        server.trouble = lambda: next(fates, "stall")
        process = subprocess.Popen(
            [sys.executable, "-c", f"{SCRIPT}cache.open(0)", server.address("03.tar"), str(kept)]
        )
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size > 10_000 for path in kept.glob(".*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert numbers(kept) == set()
        server.trouble = lambda: ""
        shards = ShardCache((server.address("03.tar"),), kept)
        assert read(shards, 0) == (served / "03.tar").read_bytes()
        first, again = server.gets("03.tar")
        assert (first, again > 10_000) == (0, True)

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_fork_continues_alone(self, server, kept, served):
        shards = new_cache(server, kept)
        read(shards, 0)
        good = False
        if (child := os.fork()) == 0:
            try:
                good = all(read(shards, n) == (served / f"{n:02}.tar").read_bytes() for n in range(2))
            finally:
                os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(server.gets("00.tar")) == 1
        assert read(shards, 2) == (served / "02.tar").read_bytes()

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_process_forked_while_a_lock_is_held_does_not_hold_it_on(self, tmp_path):
        with file_lock(tmp_path / "lock"):
            if (child := os.fork()) == 0:
                signal.pause()
        try:
            with file_lock(tmp_path / "lock", wait=False) as acquired:
                assert acquired
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def test_it_can_be_pickled(self, server, kept):
        shards = new_cache(server, kept)
        again = pickle.loads(pickle.dumps(shards))
        assert (read(again, 0), again) == (read(shards, 0), shards)


class TestLimit:
    def test_the_least_recently_used_are_removed(self, server, kept, monkeypatch):
        monkeypatch.setattr(caching, "MOST_BYTES", int(3.5 * SIZE))
        shards = new_cache(server, kept)
        for n in (0, 1, 2, 0, 3):
            read(shards, n)
            time.sleep(0.01)
        assert numbers(kept) == {0, 2, 3}

    def test_what_is_open_stays(self, server, kept, monkeypatch):
        monkeypatch.setattr(caching, "MOST_BYTES", SIZE)
        mine, other = new_cache(server, kept), new_cache(server, kept)
        descriptor = mine.open(0)
        for n in range(1, 4):
            read(other, n)
        assert numbers(kept) == {0, 3}
        os.close(descriptor)
        read(other, 4)
        assert numbers(kept) == {4}

    def test_an_index_beside_the_shards_stays(self, server, kept, monkeypatch):
        monkeypatch.setattr(caching, "MOST_BYTES", SIZE)
        kept.mkdir()
        for name in ("_info.json", "train.index", "train.names"):
            (kept / name).touch()
        shards = new_cache(server, kept)
        for n in range(2):
            read(shards, n)
        assert {path.name for path in kept.glob("[!.]*")} == {"_info.json", "train.index", "train.names", "01.tar"}

    def test_a_removed_shard_is_downloaded_again(self, server, kept, served, monkeypatch):
        monkeypatch.setattr(caching, "MOST_BYTES", 2 * SIZE)
        shards = new_cache(server, kept)
        for n in (*range(4), 0):
            assert read(shards, n) == (served / f"{n:02}.tar").read_bytes()
        assert len(server.gets("00.tar")) == 2


class TestPrefetch:
    def wait(self, done) -> None:
        deadline = time.monotonic() + 60
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_what_was_prefetched_is_not_downloaded_again(self, server, kept):
        shards = new_cache(server, kept)
        shards.prefetch(range(4))
        self.wait(lambda: kept.exists() and len(numbers(kept)) == 4)
        asked = len(server.asked)
        for n in range(4):
            read(shards, n)
        assert len(server.asked) == asked
        self.wait(lambda: not any(thread.name == "ffvit-prefetch" for thread in threading.enumerate()))

    def test_another_call_takes_the_place_of_the_first(self, server, kept):
        server.pause = 0.3
        shards = new_cache(server, kept)
        shards.prefetch(range(8))
        shards.prefetch([9])
        self.wait(lambda: not any(thread.name == "ffvit-prefetch" for thread in threading.enumerate()))
        assert 9 in numbers(kept)
        assert len(numbers(kept)) < 6

    def test_an_error_of_a_prefetch_shows_when_the_shard_is_opened(self, server, kept):
        server.trouble = lambda: "404"
        shards = new_cache(server, kept)
        shards.prefetch([3])
        with pytest.raises(UserError, match=r"03\.tar: cannot be downloaded"):
            shards.open(3)

    def test_a_process_ends_without_waiting_for_it(self, server, kept):
        server.trouble = lambda: "stall"
        script = f"{SCRIPT}cache.prefetch([0]); import time; time.sleep(0.3)"
        command = [sys.executable, "-c", script, server.address("03.tar"), str(kept)]
        done = subprocess.run(command, timeout=30, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
