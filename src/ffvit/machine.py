"""Where a run happens: devices, processes, precision. None of it is meant to move the result."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt

from ffvit.config.base import Value
from ffvit.errors import DeviceError, FfvitError, WorkerError

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch import nn


Thing = TypeVar("Thing")


class Machine(Value):
    """The hardware a run uses. Started by torchrun or SLURM, devices and nodes are what the launcher says."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Kind of device.")
    devices: PositiveInt = Field(1, description="Devices (processes) on each machine.")
    nodes: PositiveInt = Field(1, description="Machines.")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="With several devices: a copy of the network on each, or its weights sharded over them."
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16 where the device has units for it; else fp16 on a GPU, fp32 on a processor."
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Compile the network for training. auto: if the run is long enough to gain by it.",
    )
    workers: NonNegativeInt | None = Field(
        None,
        description="Processes that load images, for each device. Default: as many as it takes to keep up with the network, measured.",
    )
    micro_batch: PositiveInt | None = Field(
        None, description="Per-device micro-batch; gradients accumulate to batch_size."
    )


def device_type(machine: Machine) -> str:
    """The kind of device a run computes on: cpu, cuda or mps."""
    import torch

    if machine.accelerator != "auto":
        return machine.accelerator
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(machine: Machine) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """The precision a run computes in."""
    import torch

    if machine.precision != "auto":
        return machine.precision
    device = device_type(machine)
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device == "cpu" and has_bf16_matmul() else "32-true"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks compute as a run of this precision does; on a processor never in fp16."""
    import torch

    half = torch.float16 if precision == "16-mixed" and device.type != "cpu" else torch.bfloat16
    return torch.autocast(device.type, half, enabled=precision != "32-true")


def start_fabric(machine: Machine) -> Fabric:
    """Start the processes a run needs, and hand each its Fabric.

    Raises:
        UserError: The machine does not have such a device, or not so many.
    """
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    accelerator = device_type(machine)
    there = torch.cuda.device_count() if accelerator == "cuda" else None
    if accelerator == "cuda" and not there:
        raise DeviceError("--accelerator cuda: PyTorch sees no CUDA device on this machine; use cpu")
    devices, nodes = _launched(machine)
    if there is not None and devices > there:
        raise DeviceError(f"--devices {devices}: this machine has {there} CUDA device{'s' * (there > 1)}")
    if accelerator == "cpu" and not _is_launched() and devices > max(2, available_cores()):
        raise DeviceError(
            f"--devices {devices}: this machine has {available_cores()} processor cores; give no more than that"
        )
    # The gradient of a class token that was expanded over the batch has odd strides, and costs nothing for it.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    strategy: Any = "auto"
    if devices * nodes > 1 or machine.strategy == "fsdp":
        strategy = _sharded(devices * nodes) if machine.strategy == "fsdp" else _copied()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what is computed in is said once, by the run
    precision = resolve_precision(machine)
    if accelerator == "cuda" and precision == "32-true":  # PyTorch would round the inputs of convolutions to ten bits
        torch.backends.cudnn.allow_tf32 = False
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise DeviceError(f"this machine cannot be used so: {error}") from None
    fabric.launch()
    atexit.register(terminate_processes, getattr(fabric.strategy.launcher, "procs", []))
    return fabric


def terminate_processes(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 30.0) -> None:
    """End the processes that this one started and that outlive it by so many seconds.

    Where this one fails by itself, they wait in vain for what it was to send, for half an hour, and keep their GPUs.
    """
    until = time.monotonic() + seconds
    for each in processes:
        try:
            each.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.kill()


def all_gather(fabric: Fabric, thing: Thing) -> list[Thing]:
    """What each process holds, in the order of the processes, on all of them."""
    if fabric.world_size == 1:
        return [thing]
    import torch.distributed

    things: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(things, thing)
    return things


def local_world_size(fabric: Fabric) -> int:
    """How many of a run's processes share this machine."""
    return int(getattr(fabric.strategy, "num_processes", 1))  # the strategy of a single device has none to count


def is_rank_zero() -> bool:
    """Whether this process is the only one, or the first of several: the one that speaks and writes."""
    import torch.distributed

    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def on_rank_zero(fabric: Fabric, do: Callable[[], Thing]) -> Thing:
    """Do something on the first process only, and hand all of them its result, or its failure."""
    result: Any = None
    failure: Exception | None = None
    if fabric.is_global_zero:
        try:
            result = do()
        except FfvitError as error:
            failure = error
    result, failure = fabric.broadcast((result, failure))
    if failure is not None:
        raise failure
    return result


@contextmanager
def name_lost_ranks(fabric: Fabric) -> Iterator[None]:
    """Inside, a process that is lost, stopped or hangs is named, instead of the error of the network that waited for it.

    Raises:
        WorkerError: A process of the run no longer answers.
    """
    if fabric.world_size == 1:
        yield
        return
    import torch.distributed

    processes = all_gather(fabric, (platform.node(), os.getpid()))
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        yield
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        with _deaf():  # torchrun stops this process, too, as soon as another is gone
            with suppress(RuntimeError):  # the store is gone with the first process
                store.set(f"ffvit waited/{fabric.global_rank}", "")
            time.sleep(2.0)  # what was killed is gone by then, and what waited as this process did has said so
            lost = {
                rank: reason
                for rank, (host, process) in enumerate(processes)
                if (reason := _state(rank, process, host == platform.node(), store))
            }
        named = "; ".join(f"process {rank} of {fabric.world_size} {reason}" for rank, reason in lost.items())
        named = named or f"a process of {fabric.world_size} no longer answers"
        stopped = WorkerError(f"{named}. Go on with --resume")
        here = [rank for rank, (host, _) in enumerate(processes) if host == platform.node() and rank not in lost]
        stopped.speaks = fabric.global_rank == min(here, default=fabric.global_rank)
        raise stopped from None


def _is_loss(error: BaseException | None) -> bool:
    """Whether an error, or one that it came after (torchrun's SIGTERM, for one), says that a process does not answer."""
    while error is not None:
        if not isinstance(error, FfvitError) and any(sign in str(error) for sign in LOST):
            return True
        error = error.__context__
    return False


@contextmanager
def _deaf() -> Iterator[None]:
    """Inside, SIGTERM is not heard, and not afterwards either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "NCCL", "gloo")
"""What PyTorch says where a process does not answer."""


def _state(rank: int, process: int, here: bool, store: Any) -> str | None:
    """What is wrong with a process, in words; here: whether it is one of this machine."""
    import psutil

    if here:
        try:
            status = psutil.Process(process).status()
        except psutil.NoSuchProcess:
            status = psutil.STATUS_DEAD
        if status in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE):
            return f"(pid {process}) was lost: killed, by the system if memory ran out"
        if status == psutil.STATUS_STOPPED:
            return f"(pid {process}) is stopped, by SIGSTOP"
    try:
        waited = store.check([f"ffvit waited/{rank}"])
    except RuntimeError:
        return None
    where = "" if here else " on another machine: gone, or it"
    return None if waited else f"(pid {process}){where} hangs: it did not come to where the others waited for it"


def _patience() -> timedelta:
    """How long a process waits for the others: half an hour, or FFVIT_TIMEOUT seconds."""
    return timedelta(seconds=float(os.environ.get("FFVIT_TIMEOUT", "1800")))


def _copied() -> Any:
    from lightning_fabric.strategies import DDPStrategy

    return DDPStrategy(timeout=_patience())


def _is_launched() -> bool:
    """Whether a launcher, and not Fabric, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_NTASKS" in os.environ


def _launched(machine: Machine) -> tuple[int, int]:
    """Devices a machine and machines, as torchrun or SLURM say where one of them started this process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return machine.devices, machine.nodes


def has_bf16_matmul() -> bool:
    """Whether the processor has units for bf16: without them it is many times slower than fp32."""
    import torch

    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch does not tell
    return any(units.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES knows them."""
    import torch

    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    return own.split(",") if own else [str(each) for each in range(torch.cuda.device_count())]


def keep_freed_memory() -> None:
    """Have this process hold on to memory that it frees, for what it allocates next, as PyTorch does on a GPU.

    glibc hands blocks from some MiB on back to the system at once, and every step pays for their pages anew: a third of
    the time with 64 images at 224 px. What is kept lies in pieces, so the process grows larger: in a step of FF-base by
    a fifth, but to thrice its size where blocks are computed again, so not where memory is short (docs/speed.md).
    Other systems' allocators are left as they are.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is not None:  # there is none in musl
        trim_threshold, blocks_of_their_own = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX: see mallopt(3)
        change(trim_threshold, -1)
        change(blocks_of_their_own, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has too little memory left; PyTorch has no class for the latter."""
    import torch

    signs = ("can't allocate memory", "not enough memory", "bad_alloc", "could not create a memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in signs)


def available_cores() -> int:
    """Processor cores that this process may use: a scheduler or a container may have left it a few of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _sharded(processes: int) -> Any:
    from lightning_fabric.strategies import ModelParallelStrategy

    return ModelParallelStrategy(
        parallelize_fn=shard,
        data_parallel_size=processes,
        tensor_parallel_size=1,
        timeout=_patience(),
        save_distributed_checkpoint=False,
    )


def shard(network: nn.Module, mesh: Any) -> nn.Module:
    """Shard a network over the data-parallel mesh, block by block, so that one block at a time is whole in memory."""
    from torch.distributed.fsdp import fully_shard

    for block in getattr(network, "blocks", []):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(network, mesh=mesh["data_parallel"])
    return network
