from __future__ import annotations

import multiprocessing
import multiprocessing.util
import signal
import socket
import sys
import time
from multiprocessing import resource_sharer

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset, dataloader

from ffvit.data.check.scan import scan_images
from ffvit.data.images import ArrayImages
from ffvit.data.worker_loader import WorkerLoader

NUMBERS = TensorDataset(torch.arange(6))


class Moment:
    """The first one of a forked process."""


@pytest.fixture
def _interrupted_at_birth(monkeypatch):
    monkeypatch.setattr(multiprocessing.util, "_afterfork_registry", multiprocessing.util._afterfork_registry.copy())
    moment = Moment()
    multiprocessing.util.register_after_fork(moment, lambda _: signal.raise_signal(signal.SIGINT))
    yield
    del moment


@pytest.mark.usefixtures("_interrupted_at_birth")
class TestInterruptedAtBirth:
    def test_loading_goes_on(self, capfd):
        loaded = WorkerLoader(NUMBERS, num_workers=2, multiprocessing_context="fork")
        assert [int(number) for (number,) in loaded] == list(range(6))
        assert capfd.readouterr().err == ""

    def test_looking_goes_on(self, capfd):
        noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
        images = ArrayImages("noise", noise, np.zeros(40, np.int64))
        assert len(list(scan_images(images))) == 40
        assert capfd.readouterr().err == ""


def test_the_process_that_forks_still_hears(capfd):
    loaded = iter(WorkerLoader(NUMBERS, num_workers=2))
    next(loaded)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    del loaded
    assert capfd.readouterr().err == ""


def start_workers_interrupted() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # another test may have started the server with signals held back
    signal.signal(signal.SIGINT, signal.default_int_handler)
    make = dataloader._MultiProcessingDataLoaderIter.__init__

    def interrupted(*arguments):
        make(*arguments)
        time.sleep(1.0)  # by then the workers ignore signals
        signal.raise_signal(signal.SIGINT)

    dataloader._MultiProcessingDataLoaderIter.__init__ = interrupted
    try:
        iter(WorkerLoader(NUMBERS, num_workers=2, multiprocessing_context="fork"))
    except KeyboardInterrupt:
        sys.exit(130)


def test_interrupted_while_its_workers_start_a_process_ends():
    process = multiprocessing.get_context("forkserver").Process(target=start_workers_interrupted)
    process.start()
    process.join(30)
    ended = process.exitcode
    process.kill()
    assert ended == 130


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    list(WorkerLoader(NUMBERS))
    assert torch.equal(torch.get_rng_state(), before)


class FetchedByOneThatIsKilled(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        address, _ = resource_sharer._resource_sharer.register(None, None)
        with socket.socket(socket.AF_UNIX) as killed:
            killed.connect(address)
        time.sleep(0.5)
        return index


def test_loading_processes_do_not_tell_that_the_one_they_load_for_was_killed(capfd):
    assert [int(number) for number in WorkerLoader(FetchedByOneThatIsKilled(), num_workers=1)] == [0]
    assert capfd.readouterr().err == ""
