from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

from photos import write_photos

SOURCE = Path(__file__).parents[1] / "src"

# Shapes and types are checked at each call, in the modules that declare shapes: in all of them a third of the time goes there.
install_import_hook(
    [
        ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        for file in SOURCE.rglob("*.py")
        if "from jaxtyping import" in file.read_text()
    ],
    "beartype.beartype",
)

# No test asserts a time; machines may be slow or busy.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

# Beside other processes that run tests, more threads cost more than they bring. PyTorch is not imported yet.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# Where a shell started the suite in the background, SIGINT is ignored, here and in every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same of SIGHUP under `nohup`.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Tests hold what a processor promises, to the bit; those of a GPU run by themselves: `pytest -m gpu`."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="module", autouse=True)
def _memory_goes_back() -> Iterator[None]:
    """What training made this process keep (`keep_freed_memory`): over a whole suite, gigabytes in pieces."""
    yield
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        library, trim_threshold, blocks_of_their_own = ctypes.CDLL(None), -1, -4
        library.mallopt(trim_threshold, 128 * 1024)
        library.mallopt(blocks_of_their_own, 65536)
        gc.collect()
        library.malloc_trim(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A second thread changes the last bits of a sum, and costs more than it brings on small networks."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of photographs: train/ (12 a class) and val/ (3 a class) of four classes."""
    return write_photos(tmp_path_factory.mktemp("photos"), per_class=12)
