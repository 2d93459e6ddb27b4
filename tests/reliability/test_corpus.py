"""Replays what fuzzing once found, and the seeds that it begins with; `python tests/reliability/fuzz_NAME.py` looks for more."""

from __future__ import annotations

import importlib
import random

import pytest
from fuzzing import CORPUS

TARGETS = ("jpeg", "tars", "index", "yaml", "lists", "weights")


FOUND = [(name, path) for name in TARGETS for path in sorted((CORPUS / name).glob("*"))]


@pytest.mark.parametrize(("name", "path"), FOUND, ids=[f"{name}-{path.name}" for name, path in FOUND])
def test_what_fuzzing_found_stays_mended(name, path):
    importlib.import_module(f"fuzz_{name}").target(path.read_bytes())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_survives_a_few_hundred_mutations(name):
    """A taste of what the fuzzers do by the million: bytes changed, cut out, doubled."""
    module = importlib.import_module(f"fuzz_{name}")
    draw = random.Random(0)
    seeds = module.seeds()
    for seed in seeds:
        module.target(seed)
    for _ in range(300):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data) + 1)
            match draw.randrange(3):
                case 0:
                    data[at : at + 1] = bytes([draw.randrange(256)])
                case 1:
                    del data[at : at + draw.randint(1, 40)]
                case 2:
                    data[at:at] = data[max(0, at - draw.randint(1, 40)) : at]
        module.target(bytes(data))
