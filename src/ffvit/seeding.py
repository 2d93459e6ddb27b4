"""Randomness that belongs to an image, not to the process that happens to load it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Whatever is seeded and drawn inside, after it all generators are as before.

    Holds for those that timm's and torchvision's transforms draw from: Python's, numpy's global one and torch's on the
    CPU.
    """
    before = random.getstate(), get_bit_generator(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        set_bit_generator(before[1])
        torch.set_rng_state(before[2])


def seed_everything(*numbers: int) -> None:
    """From here on, what these generators draw is a function of these numbers alone; only within `preserve_rng_state`.

    Args:
        numbers: For an image: the run's seed, the epoch, the image's place among its part, and which of its views in
            this epoch this is.
    """
    entropy = np.random.SeedSequence(numbers)
    words = entropy.generate_state(2)
    random.seed(int(words[0]))
    set_bit_generator(np.random.PCG64(entropy))  # put in the global one's place: copying its state is slow
    torch.default_generator.manual_seed(int(words[1]))  # torch.manual_seed would reach for the GPUs too


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside, what is drawn is a function of these numbers alone, in whatever process; after, all is as before."""
    with preserve_rng_state():
        seed_everything(*numbers)
        yield


def seed_of(*numbers: int) -> int:
    """One seed made of several numbers, for a generator that takes only one."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed what a network draws from on this device.

    On a CPU past `torch.manual_seed`, which reaches for every kind of GPU: that takes as long as a layer of a small
    network.
    """
    (torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed)(seed)
