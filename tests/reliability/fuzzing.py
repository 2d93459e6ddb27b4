"""What the fuzz targets have in common. A target is a function of bytes; it fails by what it raises, or by its time.

Run one with the extra `fuzz` installed: python tests/reliability/fuzz_jpeg.py -runs=1000000 [CORPUS]. Without a corpus it
begins with tests/reliability/corpus/NAME, what was once found, which `test_corpus.py` replays.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@cache
def scratch() -> Path:
    """A folder of this process, in memory where there is such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="ffvit-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))


def fuzz(target: Callable[[bytes], None], seeds: Callable[[], list[bytes]]) -> None:
    """Run a target on ever other inputs, guided by what they reach."""
    import atheris

    name = Path(sys.argv[0]).stem.removeprefix("fuzz_")
    begin = scratch() / "seeds"
    begin.mkdir()
    for number, seed in enumerate(seeds()):
        (begin / f"{number}").write_bytes(seed)
    found = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    given = [each for each in sys.argv[1:] if not each.startswith("-")]
    options = [each for each in sys.argv[1:] if each.startswith("-")]
    atheris.Setup(
        [sys.argv[0], "-timeout=120", "-rss_limit_mb=4096", "-keep_seed=1", *options, *given, str(begin), *found],
        target,
    )
    atheris.Fuzz()
