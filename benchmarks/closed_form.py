"""Time and memory of the closed form of `ffvit convert`: `python benchmarks/closed_form.py`.

All attention layers of DeiT-tiny are fitted on random images, in one pass: neither weights nor pixels change what it costs.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import cyclopts
import timm
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from ffvit.conversion.branches import as_backbone, attention_places
from ffvit.conversion.convert import FIT_BATCH
from ffvit.conversion.order import fit_each
from ffvit.profiling.hardware_peak import machine_name
from ffvit.terminal import track


def main(model: str = "deit_tiny_patch16_224", images: PositiveInt = 2000, threads: PositiveInt = 2) -> None:
    """Fit, and print seconds and MiB.

    Parameters
    ----------
    model
        A plain ViT or DeiT of timm's.
    images
        To fit on.
    threads
        Of the processor.
    """
    torch.set_num_threads(threads)
    network = as_backbone(timm.create_model(model))
    places = attention_places(network)

    def batches() -> Iterator[Float[Tensor, "batch channels height width"]]:
        draws = torch.Generator().manual_seed(0)
        for start in track(range(0, images, FIT_BATCH), "batches"):
            size = min(FIT_BATCH, images - start)
            yield torch.randn(size, 3, *network.architecture.img_size, generator=draws)

    started = time.perf_counter()
    fitted = fit_each(network, places, "static", batches)
    seconds = time.perf_counter() - started
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{machine_name(torch.device('cpu'))}, {threads} threads")
    print(
        f"{model}: closed form of {len(fitted)} layers on {images:,} images: {seconds:.0f} s, {most:,.0f} MiB at most"
    )


if __name__ == "__main__":
    cyclopts.run(main)
