from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from ffvit.serving.batching import Batcher


class Network:
    """Says the first level of each image; waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.threads: set[int] = set()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert self.go.wait(30)
        self.threads.add(threading.get_ident())
        levels = images[:, 0, 0, :1]
        self.batches.append(levels[:, 0].tolist())
        if 255 in levels:
            raise ValueError("it fails")
        return levels.astype(np.float32)


def image(level: int) -> np.ndarray:
    return np.full((2, 2, 1), level, np.uint8)


def run(scenario, network: Network, most: int = 4, sizes=()) -> list:
    async def main():
        batcher = Batcher(network, most, sizes)
        batcher.start()
        try:
            return await scenario(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(main())


def test_what_comes_while_the_network_is_busy_is_the_next_batch():
    network = Network()

    async def scenario(batcher):
        asked = []
        for level in range(6):
            asked.append(asyncio.create_task(batcher.logits([image(level)])))
            await asyncio.sleep(0)
            if level == 0:
                await asyncio.sleep(0.05)  # the network takes the first alone
        network.go.set()
        return [float(rows[0, 0]) for rows in await asyncio.gather(*asked)]

    assert run(scenario, network) == [0, 1, 2, 3, 4, 5]
    assert network.batches == [[0], [1, 2, 3, 4], [5]]
    assert len(network.threads) == 1


def test_later_images_wait_for_all_others_and_cancelled_ones_are_not_computed():
    network = Network()

    async def scenario(batcher):
        first = asyncio.create_task(batcher.logits([image(0)]))
        await asyncio.sleep(0.05)
        later = asyncio.create_task(batcher.logits([image(1), image(2)], later=True))
        gone = asyncio.create_task(batcher.logits([image(3)]))
        soon = asyncio.create_task(batcher.logits([image(4)]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        network.go.set()
        await asyncio.gather(first, later, soon)

    run(scenario, network, most=2)
    assert network.batches == [[0], [4, 1], [2]]


def test_a_batch_that_fails_fails_those_in_it_alone():
    network = Network()
    network.go.set()

    async def scenario(batcher):
        with pytest.raises(ValueError, match="it fails"):
            await batcher.logits([image(255), image(1)])
        return await batcher.logits([image(7)])

    assert run(scenario, network).tolist() == [[7]]


def test_batches_are_filled_up_to_the_sizes_that_are_compiled():
    network = Network()
    network.go.set()

    async def scenario(batcher):
        batcher.warm(image(9))
        return await batcher.logits([image(1), image(2), image(3)])

    assert run(scenario, network, sizes=(1, 4)).tolist() == [[1], [2], [3]]
    assert network.batches == [[9], [9] * 4, [1, 2, 3, 1]]
