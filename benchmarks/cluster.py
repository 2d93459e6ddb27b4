"""What training takes on many GPUs, by arithmetic: seconds a step, bytes a GPU. docs/scaling.md writes it out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ffvit.errors import UserError

Strategy = Literal["ddp", "fsdp"]

NUMBER = 4
"""Bytes of a parameter, of its gradient and of what the optimizer keeps: all are fp32, also under bf16."""

STATE = 5
"""Numbers kept for each parameter while training: itself, its gradient, AdamW's two, the moving average."""

UPDATE = 9
"""Numbers that AdamW and the moving average read (all five) and write (all but the gradient) for each parameter."""

BUCKET = 25 * 2**20
"""Bytes of gradients that DDP sends at once: PyTorch's default."""


@dataclass(frozen=True)
class Cluster:
    """Machines with equal GPUs.

    Attributes:
        gpus: In one machine.
        memory_speed: Of a GPU's memory, bytes a second.
        inner: Between the GPUs of a machine: bytes a second out of each, and as many into it.
        outer: Between machines, for each GPU the same.
        call: Seconds each collective operation takes beside its data.
        inner_hop: Seconds from GPU to GPU in a machine.
        outer_hop: Seconds from machine to machine.
        loading: Images a second that the processor cores beside one GPU can read.
    """

    gpus: int
    memory_speed: float
    inner: float
    outer: float
    call: float
    inner_hop: float
    outer_hop: float
    loading: float

    def machines(self, gpus: int) -> int:
        """How many machines hold so many GPUs.

        Raises:
            UserError: They do not fill whole machines.
        """
        if gpus < 1 or (gpus > self.gpus and gpus % self.gpus):
            raise UserError(f"{gpus} GPUs do not fill whole machines of {self.gpus}: give a multiple, or fewer")
        return max(1, gpus // self.gpus)

    def all_reduce(self, size: float, gpus: int, calls: int = 1) -> float:
        """Seconds to sum `size` bytes over so many GPUs, in so many calls.

        The bytes are the fewest there can be, 2 (n - 1) / n of them out of every GPU and into it (Patarasuk and Yuan,
        2009); the hops are those of NCCL's tree over the machines.
        """
        machines = self.machines(gpus)
        if gpus == 1:
            return 0.0
        hops = 2 * ((gpus / machines - 1) * self.inner_hop + math.log2(machines) * self.outer_hop)
        return 2 * self._ring(size, gpus) + calls * (self.call + hops)

    def gather(self, size: float, gpus: int, calls: int = 1) -> float:
        """Seconds until each of so many GPUs has all of `size` bytes of which it had its share; as long to scatter sums.

        NCCL has a ring alone for this: its hops grow with the GPUs.
        """
        machines = self.machines(gpus)
        if gpus == 1:
            return 0.0
        hops = (gpus - machines) * self.inner_hop + (machines - 1) * self.outer_hop
        return self._ring(size, gpus) + calls * (self.call + hops)

    def _ring(self, size: float, gpus: int) -> float:
        # Rings cross between two machines once for each of their GPUs, each time over another network card.
        bandwidth = self.inner if gpus <= self.gpus else min(self.inner, self.gpus * self.outer)
        return (gpus - 1) / gpus * size / bandwidth


@dataclass(frozen=True)
class Load:
    """What a network asks of a GPU in training.

    Attributes:
        parameters: How many.
        blocks: Equal parts that sharding makes whole one at a time.
        seconds: Of forward and backward pass, an image.
        least: Seconds of forward and backward pass however few the images: the processor's, to start all operations.
        kept: Bytes kept for the backward pass, an image.
        kept_checkpointed: The same where only what enters a block is kept, and one block at a time computed again.
        copies: Bytes kept for the backward pass once: the weights in the precision of the products.
    """

    parameters: int
    blocks: int
    seconds: float
    least: float
    kept: float
    kept_checkpointed: float
    copies: float

    @property
    def size(self) -> float:
        """Bytes of the parameters, and of their gradients."""
        return float(NUMBER * self.parameters)


@dataclass(frozen=True)
class Step:
    """Seconds of a training step.

    Attributes:
        compute: Forward and backward pass.
        communication: Between the GPUs, whether anything waits for it or not.
        update: The optimizer and the moving average.
        device: The three of them, overlapped as they can be.
        loading: Reading the step's images, meanwhile.
    """

    compute: float
    communication: float
    update: float
    device: float
    loading: float

    @property
    def seconds(self) -> float:
        """Of the whole step: the GPU's part or the loader's, whichever is longer."""
        return max(self.device, self.loading)


def step_time(load: Load, cluster: Cluster, gpus: int, images: float, strategy: Strategy = "ddp") -> Step:
    """A training step on so many GPUs with so many images on each.

    A third of the computing is the forward pass. DDP sums gradients during the backward pass. Sharding gathers each
    block's weights before its forward and again before its backward pass, and scatters its gradients' sums after it.

    Raises:
        UserError: The GPUs do not fill whole machines.
    """
    compute = max(images * load.seconds, load.least)
    forward, backward = compute / 3, 2 * compute / 3
    if strategy == "ddp":
        buckets = math.ceil(load.size / BUCKET)
        communication = cluster.all_reduce(load.size, gpus, buckets)
        passes = forward + overlapped_time(backward, communication, buckets)
        update = UPDATE * load.size / cluster.memory_speed
    else:
        once = cluster.gather(load.size, gpus, load.blocks)
        communication = 3 * once
        passes = overlapped_time(forward, once, load.blocks) + overlapped_time(backward, 2 * once, load.blocks)
        update = UPDATE * load.size / gpus / cluster.memory_speed
    return Step(compute, communication, update, passes + update, images / cluster.loading)


def overlapped_time(work: float, communication: float, pieces: int) -> float:
    """Seconds of both at once, where the first or last of so many equal pieces of communication has no work beside it."""
    alone = communication / pieces
    return alone + max(work, communication - alone)


def memory_per_gpu(load: Load, gpus: int, images: int, strategy: Strategy = "ddp", checkpointed: bool = False) -> float:
    """Bytes that a GPU needs with so many images on it at once; the library's own and the work space are not in it."""
    kept = (
        images * load.kept_checkpointed + load.copies / load.blocks
        if checkpointed
        else images * load.kept + load.copies
    )
    if gpus == 1:
        return STATE * load.size + kept
    if strategy == "ddp":
        return (STATE + 1) * load.size + kept  # gradients a second time, in the buckets that are sent
    # Two blocks are whole at a time, the one computed and the one fetched, and the gradients of one.
    return STATE * load.size / gpus + min(3, load.blocks) * load.size / load.blocks + kept


def training_hours(
    load: Load, cluster: Cluster, gpus: int, batch: int, views: float, strategy: Strategy = "ddp"
) -> float:
    """Hours to show so many views of images in batches of `batch` over all GPUs."""
    return views / batch * step_time(load, cluster, gpus, batch / gpus, strategy).seconds / 3600
