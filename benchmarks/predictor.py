"""What a warm `ffvit.Predictor` takes for one image, beside the network's own time.

python benchmarks/predictor.py [NETWORK ...]

The image is a 500 x 375 photograph (scikit-learn's, resized), for a grey network of 8 x 8 pixels a digit. Everything is
measured in turns; medians over rounds, in milliseconds.
"""

from __future__ import annotations

import io
from statistics import median
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from script import run
from sklearn.datasets import load_digits, load_sample_image

import ffvit


def main(*networks: str, rounds: int = 200, threads: int = 1) -> None:
    """Measure networks (default: ff_micro_patch2_8 and ff_tiny_patch16_224)."""
    torch.set_num_threads(threads)
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {threads} thread(s)\n")
    print("| network | the network | pixels | file |\n|---|---|---|---|")
    for name in networks or ("ff_micro_patch2_8", "ff_tiny_patch16_224"):
        network = ffvit.create_model(name).eval()
        predictor = ffvit.Predictor(network, hardware=ffvit.Hardware(accelerator="cpu"))
        pixels = load_sample_image("flower.jpg") if predictor.preprocess.in_chans == 3 else load_digits().images[0] * 15
        image = Image.fromarray(pixels.astype(np.uint8))
        if predictor.preprocess.in_chans == 3:
            image = image.resize((500, 375))
        file = io.BytesIO()
        image.save(file, "JPEG" if predictor.preprocess.in_chans == 3 else "PNG")
        takes = torch.rand(1, *predictor.preprocess.shape)
        of_file, of_pixels = file.getvalue(), np.asarray(image)
        calls = {
            "network": lambda network=network, takes=takes: network(takes),
            "pixels": lambda predictor=predictor, given=of_pixels: predictor(given),
            "file": lambda predictor=predictor, given=of_file: predictor(given),
        }
        times: dict[str, list[float]] = {call: [] for call in calls}
        with torch.inference_mode():
            for _ in range(rounds):
                for call, measured in calls.items():
                    start = perf_counter()
                    measured()
                    times[call].append(perf_counter() - start)
        plain, *others = (1000 * median(times[call]) for call in calls)
        cells = " | ".join(f"{other:.2f} ms ({other / plain:.2f} x)" for other in others)
        print(f"| {name} | {plain:.2f} ms | {cells} |")


if __name__ == "__main__":
    run(main)
