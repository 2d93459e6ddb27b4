"""Where a run happens: devices, processes, precision. None of it is meant to change the result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ffvit.config.base import Value


class Hardware(Value):
    """The hardware a run uses. Started by torchrun or SLURM, devices and nodes are what the launcher says."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Kind of device.")
    devices: PositiveInt = Field(1, description="Devices per machine, a process each.")
    nodes: PositiveInt = Field(1, description="Number of machines.")
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="With several devices: a copy of the network on each, or its weights sharded over them."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description=(
            "bf16 and fp16 are mixed precision, by autocast. auto: bf16 if the device is built for it, else fp16 on a "
            "GPU and fp32 on a CPU; to predict, fp32."
        ),
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Compile the network for training. auto: if the run is long enough to gain from it.",
    )
    workers: NonNegativeInt | None = Field(
        None,
        description="Processes that load images, for each device. Default: one per core, at most 16.",
    )
    micro_batch: PositiveInt | None = Field(
        None, description="Per-device micro-batch; gradients accumulate to batch_size."
    )
