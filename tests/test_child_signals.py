from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ffvit.signals import block_signals_in_children


@pytest.fixture(params=[False, True], ids=["alone", "beside a thread"])
def _thread(request):
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    if request.param:
        thread.start()  # takes the signals that the main thread blocks
    yield
    done.set()


@pytest.mark.usefixtures("_thread")
def test_it_is_heard_afterwards():
    started = []

    def fork():
        with block_signals_in_children():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            started.append(True)

    with pytest.raises(KeyboardInterrupt):
        fork()
    assert started
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_child_does_not_hear_it():
    raises = "import signal; signal.raise_signal(signal.SIGINT); print('unheard')"
    with block_signals_in_children():
        child = subprocess.run([sys.executable, "-c", raises], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (0, "unheard\n", "")


def test_nor_does_one_off_a_fork_server():
    program = """
import multiprocessing, signal
from ffvit.signals import block_signals_in_children
child = multiprocessing.get_context("forkserver").Process(target=signal.raise_signal, args=(signal.SIGINT,))
with block_signals_in_children():
    child.start()
child.join()
print(child.exitcode)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")
