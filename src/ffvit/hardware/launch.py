"""Starts the processes of a run: by itself, under torchrun or under SLURM."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ffvit.config.hardware import Hardware
from ffvit.errors import DeviceError, RequeueError, WorkerError
from ffvit.hardware.devices import available_cores, device_type
from ffvit.hardware.precision import FABRIC, resolve_precision

if TYPE_CHECKING:
    from torch import nn

    from ffvit.hardware.fabric import Fabric


_NOT_LOST = (None, 0, RequeueError.exit_code)
"""Exit codes of a process that runs, has ended, or ends because it was asked to: the others may still save."""


def start_fabric(hardware: Hardware) -> Fabric:
    """Start the processes a run needs, and hand each its Fabric.

    Raises:
        UserError: The machine does not have such a device, or not so many.
    """
    import torch

    from ffvit.hardware.fabric import Fabric, MisconfigurationException

    accelerator = device_type(hardware)
    there = torch.cuda.device_count() if accelerator == "cuda" else None
    if accelerator == "cuda" and not there:
        raise DeviceError("--device cuda: PyTorch sees no CUDA device on this machine; use cpu")
    devices, nodes = _launched(hardware)
    if there is not None and devices > there:
        raise DeviceError(f"--devices {devices}: this machine has {there} CUDA device{'s' * (there > 1)}")
    if accelerator == "cpu" and not _is_launched() and devices > max(2, available_cores()):
        raise DeviceError(
            f"--devices {devices}: this machine has {available_cores()} processor cores; give no more than that"
        )
    precision = resolve_precision(hardware)
    if accelerator == "cpu" and precision == "fp16":
        raise DeviceError("--precision fp16: PyTorch trains in fp16 on GPUs alone; on a CPU use bf16 or fp32")
    # The gradient of a class token that was expanded over the batch has odd strides, and costs nothing for it.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    strategy: Any = "auto"
    if devices * nodes > 1 or hardware.strategy == "fsdp":
        strategy = _fsdp(devices * nodes) if hardware.strategy == "fsdp" else _ddp()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what is computed in is said once, by the run
    if accelerator == "cuda" and precision == "fp32":  # PyTorch would round the inputs of convolutions to ten bits
        torch.backends.cudnn.allow_tf32 = False
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=FABRIC[precision]
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise DeviceError(f"this machine cannot be used so: {error}") from None
    fabric.launch()
    processes = getattr(fabric.strategy.launcher, "procs", [])
    if processes:
        replace_observer(processes)
    atexit.register(terminate_processes, processes)
    return fabric


def replace_observer(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 15.0) -> None:
    """End this process some seconds after one that it started was lost, unless it ends by itself.

    Fabric's own observer kills it at once, often before it can say which process was lost. But something must end it
    where it waits for the lost one in a collective that raises no error.
    """
    from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # it ends when it has nothing to observe
    ending = threading.Event()
    atexit.register(ending.set)

    def observe() -> None:
        while not (lost := [rank for rank, process in enumerate(processes, 1) if process.poll() not in _NOT_LOST]):
            if ending.wait(1.0) or all(process.returncode == 0 for process in processes):
                return
        if ending.wait(seconds):
            return
        named = ", ".join(f"{rank} (pid {processes[rank - 1].pid})" for rank in lost)
        sys.stderr.write(
            f"ffvit: process {named} of {len(processes) + 1} was lost. Resume with --resume [{WorkerError.code}]\n"
        )
        sys.stderr.flush()
        for process in processes:
            process.kill()
        os._exit(WorkerError.exit_code)

    threading.Thread(target=observe, daemon=True, name="observer").start()


def terminate_processes(processes: Sequence[subprocess.Popen[bytes]], seconds: float = 30.0) -> None:
    """End the processes that this one started and that outlive it by so many seconds.

    Where this one fails by itself, they wait in vain for what it was to send, for half an hour, and keep their GPUs.
    """
    until = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _is_launched() -> bool:
    """Whether a launcher, and not Fabric, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_NTASKS" in os.environ


def _launched(hardware: Hardware) -> tuple[int, int]:
    """Devices a machine and machines, as torchrun or SLURM say where one of them started this process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return hardware.devices, hardware.nodes


def _timeout() -> timedelta:
    """How long a process waits for the others: half an hour, or FFVIT_TIMEOUT seconds."""
    return timedelta(seconds=float(os.environ.get("FFVIT_TIMEOUT", "1800")))


def _ddp() -> Any:
    from lightning_fabric.strategies import DDPStrategy

    return DDPStrategy(timeout=_timeout())


def _fsdp(processes: int) -> Any:
    from lightning_fabric.strategies import ModelParallelStrategy

    return ModelParallelStrategy(
        parallelize_fn=shard,
        data_parallel_size=processes,
        tensor_parallel_size=1,
        timeout=_timeout(),
        save_distributed_checkpoint=False,
    )


def shard(network: nn.Module, mesh: Any) -> nn.Module:
    """Shard a network over the data-parallel mesh, block by block, so that one block at a time is whole in memory."""
    from torch.distributed.fsdp import fully_shard

    for block in getattr(network, "blocks", []):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(network, mesh=mesh["data_parallel"])
    return network
