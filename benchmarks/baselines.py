"""Whether ffvit's arms are as strong as their field knows how: `python benchmarks/baselines.py --help`.

Every training here runs in a loop of this file's own (AdamW, cosine, warm-up, random crops, flips, mixing; images and
augmentation as tensors): it shares no code with ffvit's training, so a weakness there would show. What it trains are
ffvit's bodies (attention, feed-forward, no mixing) and, of the same size, timm's ViT and MLP-Mixer.

- `starts`: how positions start, at four learning rates.
- `settings`: one setting at a time, from the configuration that `starts` found.
- `tuned`: every arm with random configurations, chosen on the validation split, and then three new seeds of the choice;
  beside them ffvit's default as a study would run it, with nothing searched but a ladder of rates by short trials.
- `trials`: whether short trials rank rates as full runs do, and what a choice by them costs.

Results go to a file of JSON lines, a line a training; what is there already is not trained again. Tables are printed as
Markdown, from that file alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import numpy as np
import pandas as pd
import torch
from cyclopts import Parameter
from PIL import Image
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.layers import set_fused_attn
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

import ffvit
from ffvit.config.architecture import Architecture, Branch
from ffvit.models.backbone import Backbone

app = cyclopts.App(help=__doc__, help_format="plaintext")

Config = dict[str, Any]
Result = dict[str, Any]


class Body(NamedTuple):
    """Image side and patch side in pixels, width, depth, attention heads."""

    image: int
    patch: int
    width: int
    depth: int
    heads: int


class Case(NamedTuple):
    """A set on a body, how long a training is, whether a mirrored image keeps its class, and the least area of a crop.

    Positions start at `position`, about the standard deviation of the patch embeddings within an image, as in a study.
    """

    set: str
    body: Body
    epochs: int
    batch: int
    flip: bool
    crop: float
    position: float

    @property
    def defaults(self) -> Config:
        """What a configuration says of this case where nothing else is said."""
        return {"crop": self.crop, "position": self.position}


CASES = {
    "digits": Case("digits", Body(8, 2, 64, 3, 2), 25, 64, flip=False, crop=0.7, position=0.5),
    "handwritten-32/8": Case("handwritten", Body(32, 8, 64, 4, 2), 30, 64, flip=False, crop=0.7, position=0.5),
    "handwritten-32/4": Case("handwritten", Body(32, 4, 64, 4, 2), 30, 64, flip=False, crop=0.7, position=0.5),
    "drawings-32/4": Case("drawings", Body(32, 4, 64, 4, 2), 20, 64, flip=True, crop=0.5, position=0.5),
    "photographs-48/6": Case("photographs", Body(48, 6, 96, 6, 3), 15, 64, flip=True, crop=0.5, position=0.3),
    "drawings-64/8": Case("drawings", Body(64, 8, 128, 6, 4), 8, 64, flip=True, crop=0.5, position=0.5),
}
"""The bodies up to 64 px that ffvit plans with, each on a set of its size."""

DEFAULTS: Config = {
    "lr": 3e-3,
    "weight_decay": 0.05,
    "warmup": 0.1,
    "drop_path": 0.0,
    "smoothing": 0.1,
    "mix": 0.0,
    "readout": "mean",
    "heads": 1.0,
    "norm": "default",
    "clip": 1.0,
}
"""Rate; decay; warm-up as a share of the steps; stochastic depth; label smoothing; share of the
batches that are mixed; standard deviation at which positions start, or `sincos`; readout; heads as a multiple of the
body's; axis of the norm in front of a feed-forward layer over patches; largest gradient norm."""


class Images(NamedTuple):
    """One split as bytes, `images channels side side`, and its labels."""

    pixels: Tensor
    labels: Tensor


def load(case: Case, sets: Path) -> tuple[dict[str, Images], int]:
    """The splits train, val and test at the body's size, and how many classes there are."""
    side = case.body.image
    if case.set == "digits":
        digits = load_digits()
        pixels = (digits.images[:, None] * (255 / 16)).round().astype(np.uint8)
        (x, xt, y, yt) = train_test_split(pixels, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
    else:
        folder = sets / case.set
        if not folder.is_dir():
            raise ffvit.UserError(f"--sets: there is no folder {folder}; benchmarks/make_datasets.py makes it")
        names = sorted(each.name for each in (folder / "train").iterdir())
        (x, y), (xt, yt) = (_read(folder / split, names, side) for split in ("train", "val"))
    xs, xv, ys, yv = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    splits = {"train": (xs, ys), "val": (xv, yv), "test": (xt, yt)}
    return {name: Images(torch.from_numpy(a), torch.from_numpy(b).long()) for name, (a, b) in splits.items()}, int(
        y.max()
    ) + 1


def _read(folder: Path, names: Sequence[str], side: int) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            image = Image.open(path)
            array = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
            pixels.append(array[None].repeat(3, 0) if array.ndim == 2 else array.transpose(2, 0, 1))
            labels.append(label)
    return np.stack(pixels), np.array(labels)


# Networks


def ours(mixer: str, case: Case, config: Config, channels: int, classes: int) -> nn.Module:
    """ffvit's body with that mixer over the patches."""
    side, patch, width, depth, heads = case.body
    norm = None if config["norm"] == "default" else config["norm"]
    over_patches = {
        "attention": lambda: Branch("attention", "patches", heads=max(1, int(heads * config["heads"]))),
        "feedforward": lambda: Branch("feedforward", "patches", norm=norm),
        "none": lambda: Branch("identity", "patches"),
    }[mixer]()
    learned = config["position"] != "sincos"
    architecture = Architecture(
        width=width,
        depth=depth,
        img_size=(side, side),
        patch=(patch, patch),
        in_chans=channels,
        num_classes=classes,
        block=(over_patches, Branch("feedforward", "features")),
        readout=config["readout"],
        position="vectors" if learned else "sincos",
        init="pytorch",
        **({"position_std": config["position"]} if learned else {}),
    )
    return Backbone(architecture, drop_path_rate=config["drop_path"])


def timm_vit(case: Case, config: Config, channels: int, classes: int) -> nn.Module:
    """timm's ViT of the same size."""
    side, patch, width, depth, heads = case.body
    network = VisionTransformer(
        img_size=side,
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=max(1, int(heads * config["heads"])),
        class_token=config["readout"] == "class_token",
        global_pool="token" if config["readout"] == "class_token" else "avg",
        fc_norm=False,
        drop_path_rate=config["drop_path"],
    )
    positions = network.pos_embed
    assert isinstance(positions, nn.Parameter)
    if config["position"] == "sincos":
        grid = build_sincos2d_pos_embed([side // patch, side // patch], dim=width)
        positions.data[:, -len(grid) :] = grid
        positions.requires_grad_(False)
    else:
        nn.init.normal_(positions, std=config["position"])
    return network


def timm_vit_redrawn(case: Case, config: Config, channels: int, classes: int) -> nn.Module:
    """timm's ViT with the initialization of PyTorch's linear layers, which scales with the width, instead of 0.02."""
    network = timm_vit(case, config, channels, classes)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return network


def timm_mixer(case: Case, config: Config, channels: int, classes: int) -> nn.Module:
    """timm's MLP-Mixer of the same size: as many hidden units as our feed-forward layers have."""
    side, patch, width, depth, _ = case.body
    return MlpMixer(
        num_classes=classes,
        img_size=side,
        in_chans=channels,
        patch_size=patch,
        num_blocks=depth,
        embed_dim=width,
        mlp_ratio=(4 * (side // patch) ** 2 / width, 4.0),
        drop_path_rate=config["drop_path"],
    )


ARMS: dict[str, Callable[[Case, Config, int, int], nn.Module]] = {
    "attention": lambda *given: ours("attention", *given),
    "feed-forward": lambda *given: ours("feedforward", *given),
    "no mixing": lambda *given: ours("none", *given),
    "timm ViT": timm_vit,
    "timm ViT, PyTorch's initialization": timm_vit_redrawn,
    "timm Mixer": timm_mixer,
}
FAMILY = {"attention": "timm ViT", "feed-forward": "timm Mixer"}
"""Our arms, and timm's network of the same kind."""

UNREAD = {
    "timm Mixer": frozenset({"position", "readout", "heads", "norm"}),
    "timm ViT": frozenset({"norm"}),
    "timm ViT, PyTorch's initialization": frozenset({"norm"}),
    "feed-forward": frozenset({"heads"}),
}
"""Settings that an arm has not."""


# Training


def train(
    case: Case, splits: dict[str, Images], classes: int, arm: str, config: Config, seed: int, epochs: int
) -> Result:
    """One training from scratch; what it scores on the validation and on the test split with its last weights."""
    torch.manual_seed(seed)
    images = splits["train"]
    count, channels = images.pixels.shape[:2]
    network = ARMS[arm](case, config, channels, classes)
    scaled = images.pixels.float()
    mean, std = scaled.mean((0, 2, 3), keepdim=True), scaled.std((0, 2, 3), keepdim=True)
    decayed = [each for name, each in network.named_parameters() if each.ndim > 1 and "pos" not in name]
    spared = [each for name, each in network.named_parameters() if each.ndim <= 1 or "pos" in name]
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config["lr"], weight_decay=config["weight_decay"], fused=True)
    per_epoch = count // case.batch
    steps = per_epoch * epochs
    warmup = max(1, round(config["warmup"] * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warmup
            if step < warmup
            else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        ),
    )
    begun = time.process_time()
    network.train()
    diverged = False
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(count)
        chosen = order[step % per_epoch * case.batch :][: case.batch]
        x = crops((images.pixels[chosen].float() - mean) / std, config["crop"], case.flip)
        y = functional.one_hot(images.labels[chosen], classes).float()
        y = y * (1 - config["smoothing"]) + config["smoothing"] / classes
        if torch.rand(()) < config["mix"]:
            x, y = mixed(x, y)
        loss = functional.cross_entropy(_logits(network, x, case), y)
        optimizer.zero_grad()
        loss.backward()
        if config["clip"]:
            nn.utils.clip_grad_norm_(network.parameters(), config["clip"])
        optimizer.step()
        schedule.step()
        if not math.isfinite(loss.item()):
            diverged = True
            break
    result: Result = {
        "diverged": diverged,
        "seconds": round(time.process_time() - begun, 2),
        "parameters": sum(each.numel() for each in network.parameters()),
        "train_loss": float(loss.item()),
    }
    network.eval()
    for split in ("val", "test"):
        with torch.no_grad():
            logits = torch.cat(
                [_logits(network, (x.float() - mean) / std, case) for x in splits[split].pixels.split(256)]
            )
        labels = splits[split].labels
        result[f"{split}_loss"] = float(functional.cross_entropy(logits, labels))
        if split == "val":
            temperatures = np.geomspace(0.25, 4, 33)
            result["val_calibrated"] = min(
                float(functional.cross_entropy(logits / each, labels)) for each in temperatures
            )
        result[f"{split}_images"] = len(labels)
        result[f"{split}_top1"] = 100 * float((logits.argmax(1) == labels).float().mean())
    return result


def _logits(network: nn.Module, x: Tensor, case: Case) -> Tensor:
    with torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=case.body.image > 8 and torch.cpu._is_avx512_bf16_supported()
    ):
        logits: Tensor = network(x)
    return logits.float()


def crops(x: Tensor, least: float, flip: bool) -> Tensor:
    """A random crop of each image, of at least this share of its area, resized to the whole."""
    count = len(x)
    area, ratio = torch.empty(count).uniform_(least, 1), torch.empty(count).uniform_(-0.25, 0.25).exp()
    width, height = ((area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1))
    theta = torch.zeros(count, 2, 3)
    sign = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    theta[:, 0, 0], theta[:, 1, 1] = width * sign, height
    theta[:, 0, 2] = (1 - width) * torch.empty(count).uniform_(-1, 1)
    theta[:, 1, 2] = (1 - height) * torch.empty(count).uniform_(-1, 1)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def mixed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix, each for half of the batches, with the batch turned round."""
    side = x.shape[-1]
    if torch.rand(()) < 0.5:
        share = float(np.random.default_rng(int(torch.randint(2**31, ()))).beta(0.2, 0.2))
        return x * share + x.flip(0) * (1 - share), y * share + y.flip(0) * (1 - share)
    edge = round(side * math.sqrt(float(torch.rand(()))))
    top, left = (int(torch.randint(side - edge + 1, ())) for _ in range(2))
    x = x.clone()
    x[:, :, top : top + edge, left : left + edge] = x.flip(0)[:, :, top : top + edge, left : left + edge]
    share = 1 - edge * edge / side**2
    return x, y * share + y.flip(0) * (1 - share)


# Results


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What every command takes.

    Args:
        sets: Folder of the sets that benchmarks/make_datasets.py made.
        results: File of results, read and added to.
        quick: Two epochs a training, to see that everything runs; name another file of results.
    """

    sets: Path = Path("sets")
    results: Path = Path("baselines.jsonl")
    quick: bool = False


OPTIONS = Options()


class Runs:
    """Trainings, done once each and kept in a file of JSON lines.

    Args:
        case: By its name in `CASES`.
        options: Where the sets and the file are.
    """

    def __init__(self, case: str, options: Options) -> None:
        self.name, self.case, self.sets, self.results = case, CASES[case], options.sets, options.results
        if options.quick:
            self.case = self.case._replace(epochs=2)
        self.known = {each["key"]: each for each in read(self.results)}

    @cached_property
    def data(self) -> tuple[dict[str, Images], int]:
        """The splits and the number of classes."""
        return load(self.case, self.sets)

    def get(self, arm: str, changes: Config, seed: int, length: float = 1.0) -> Result:
        """The result of a training of this share of the epochs."""
        epochs = max(1, round(self.case.epochs * length))
        return self.once(
            arm, changes, seed, epochs, lambda config: train(self.case, *self.data, arm, config, seed, epochs)
        )

    def once(self, arm: str, changes: Config, seed: int, epochs: int, work: Callable[[Config], Result]) -> Result:
        """The result of this work, which is done if the file does not hold it."""
        config = DEFAULTS | self.case.defaults | changes
        what = {"case": self.name, "arm": arm, "config": config, "seed": seed, "epochs": epochs}
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        if key not in self.known:
            found = work(config)
            self.known[key] = {"key": key, **what, **found}
            with self.results.open("a") as file:
                file.write(json.dumps(self.known[key]) + "\n")
            print(
                f"{self.name}, {arm}, {_words(_changes(self.known[key]))}, seed {seed}, {epochs} epochs: validation "
                f"{found['val_top1']:.1f} %, test {found['test_top1']:.1f} %, {found['seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        return self.known[key]


def read(results: Path) -> Iterator[Result]:
    """What a file of results holds."""
    if results.exists():
        yield from map(json.loads, results.read_text().splitlines())


RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
LENGTHS = (0.15, 0.2, 0.34)
FINAL = (100, 101, 102)
"""Seeds that no configuration was chosen on."""

SETTINGS: tuple[Config, ...] = (
    {},
    {"position": 0.2},
    {"position": 1.0},
    {"readout": "class_token"},
    {"heads": 0.5},
    {"heads": 2.0},
    {"norm": "features"},
    {"weight_decay": 0.2},
    {"warmup": 0.25},
    {"clip": 0.0},
    {"drop_path": 0.1},
    {"smoothing": 0.0},
    {"crop": 0.9},
    {"mix": 0.5},
)
"""What `settings` changes, one at a time."""


@app.command
def starts(
    *cases: str,
    options: Options = OPTIONS,
    arms: tuple[str, ...] = ("attention", "feed-forward", "no mixing"),
    rates: tuple[float, ...] = RATES[:-1],
    positions: tuple[str, ...] = ("0.02", "0.5", "sincos"),
    seeds: int = 2,
    length: float = 1.0,
) -> None:
    """Train with positions started in each way, at each learning rate."""
    for runs in _cases(cases, options):
        for seed in range(seeds):
            for arm in arms:
                for position in positions:
                    start = position if position == "sincos" else float(position)
                    for rate in rates:
                        runs.get(arm, {"lr": rate, "position": start}, seed, length)


@app.command
def settings(
    *cases: str,
    options: Options = OPTIONS,
    arms: tuple[str, ...] = ("attention", "feed-forward"),
    rate: float = DEFAULTS["lr"],
    seeds: int = 2,
    length: float = 1.0,
) -> None:
    """Train with one setting changed at a time."""
    for runs in _cases(cases, options):
        for seed in range(seeds):
            for arm in arms:
                for change in SETTINGS:
                    if ("norm" in change and arm != "feed-forward") or ("heads" in change and arm != "attention"):
                        continue
                    if int(runs.case.body.heads * change.get("heads", 1)) < 1:
                        continue
                    runs.get(arm, {"lr": rate} | change, seed, length)


@app.command
def tuned(
    *cases: str,
    options: Options = OPTIONS,
    arms: tuple[str, ...] = tuple(ARMS),
    configurations: int = 12,
    length: float = 1.0,
) -> None:
    """Tune each arm by random search, and ffvit's defaults by a ladder of rates; then train three new seeds of each.

    With `length` below 1, configurations are compared by shorter trainings, and the best three again at full length.
    """
    for runs in _cases(cases, options):
        for arm in arms:
            drawn = random_configurations(arm, runs.case, configurations)
            scored = sorted((runs.get(arm, each, 0, length) for each in drawn), key=_loss)
            if length < 1:
                scored = sorted((runs.get(arm, each["config"], 0) for each in scored[:3]), key=_loss)
            for seed in FINAL:
                runs.get(arm, scored[0]["config"], seed)


@app.command
def ladder(
    *cases: str,
    options: Options = OPTIONS,
    arms: tuple[str, ...] = ("attention", "feed-forward", "no mixing"),
    length: float = 0.34,
) -> None:
    """Train ffvit's defaults as a study does: a ladder of rates by short trials of two seeds, then three new seeds."""
    for runs in _cases(cases, options):
        for arm in arms:
            for seed in FINAL:
                runs.get(arm, {"lr": best_rate(runs, arm, length)}, seed)


@app.command
def trials(
    *cases: str,
    options: Options = OPTIONS,
    arms: tuple[str, ...] = ("attention", "feed-forward", "no mixing"),
    seeds: int = 2,
    full: int = 2,
) -> None:
    """Train the ladder of rates at full length and by trials of three lengths."""
    for runs in _cases(cases, options):
        for arm in arms:
            for rate in RATES:
                for seed in range(full):
                    runs.get(arm, {"lr": rate}, seed)
                for seed in range(seeds):
                    for length in LENGTHS:
                        runs.get(arm, {"lr": rate}, seed, length)


@app.command
def tables(*cases: str, options: Options = OPTIONS) -> None:
    """Print what the file of results holds, as Markdown."""
    stored = list(read(options.results))
    for title, rows in (
        ("Starts of positions", _starts_table(stored)),
        ("One setting at a time", _settings_table(stored)),
        ("Tuned", _tuned_table(stored)),
        ("Short trials", _trials_table(stored)),
    ):
        kept = [row for row in rows if not cases or row["case"] in cases]
        if kept:
            frame = pd.DataFrame(kept).fillna("")
            lines = ["| " + " | ".join(map(str, each)) + " |" for each in (frame.columns, *frame.to_numpy())]
            lines.insert(1, "|---" * frame.shape[1] + "|")
            print(f"## {title}", "", *lines, "", sep="\n")


def _starts_table(stored: list[Result]) -> Iterator[Result]:
    """A row for each start of positions, a column for each rate: mean top-1 on the test split."""
    groups: dict[tuple[str, str, str, int], dict[float, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for each in stored:
        if set(_changes(each)) <= {"lr", "position"} and each["seed"] not in FINAL:
            position = str(each["config"]["position"])
            groups[each["case"], each["arm"], position, each["epochs"]][each["config"]["lr"]].append(each)
    for (case, arm, position, epochs), rates in sorted(groups.items()):
        if sum(key[:2] == (case, arm) and key[3] == epochs for key in groups) > 1:
            scores = {f"{rate:g}": _mean_and_error(rates[rate]) for rate in sorted(rates)}
            yield {"case": case, "arm": arm, "positions start": position, "epochs": epochs} | scores


def _settings_table(stored: list[Result]) -> Iterator[Result]:
    """A row for each setting: the mean difference to the base of the same seed, on validation and test split together."""
    bases = {
        (each["case"], each["arm"], each["epochs"], each["seed"], each["config"]["lr"]): each
        for each in stored
        if set(_changes(each)) <= {"lr"}
    }
    groups: dict[tuple[str, str, int, float, str], list[tuple[Result, Result]]] = defaultdict(list)
    for each in stored:
        change = _changes(each)
        rate = change.pop("lr", DEFAULTS["lr"])
        base = bases.get((each["case"], each["arm"], each["epochs"], each["seed"], rate))
        if len(change) == 1 and base is not None and change in SETTINGS:
            groups[each["case"], each["arm"], each["epochs"], rate, _words(change)].append((each, base))
    for (case, arm, epochs, rate, change), pairs in groups.items():
        moved = [_both(each) - _both(base) for each, base in pairs]
        yield {
            "case": case,
            "arm": arm,
            "epochs": epochs,
            "rate": f"{rate:g}",
            "change": change,
            "top-1, before": f"{np.mean([_both(base) for _, base in pairs]):.1f}",
            "difference": f"{np.mean(moved):+.1f}",
            "n": len(pairs),
        }


def _tuned_table(stored: list[Result]) -> Iterator[Result]:
    """A row for each configuration that was trained with the final seeds."""
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for each in stored:
        if each["seed"] in FINAL and each["epochs"] == CASES[each["case"]].epochs:
            groups[each["case"], each["arm"], _words(_changes(each))].append(each)
    for (case, arm, words), found in sorted(groups.items()):
        searched = set(_changes(found[0])) <= {"lr"}
        yield {
            "case": case,
            "arm": arm,
            "tuned by": "ladder of rates" if searched else "random search",
            "parameters": f"{found[0]['parameters']:,}",
            "top-1": _mean_and_error(found),
            "configuration": words,
        }


def _trials_table(stored: list[Result]) -> Iterator[Result]:
    """A row for each length and number of seeds: how trials rank rates, and what choosing by them costs."""
    runs: dict[tuple[str, str, int], dict[float, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for each in stored:
        if set(_changes(each)) <= {"lr"} and each["config"]["lr"] in RATES and each["seed"] not in FINAL:
            runs[each["case"], each["arm"], each["epochs"]][each["config"]["lr"]][each["seed"]] = each
    for case, arm in dict.fromkeys((case, arm) for case, arm, _ in runs):
        full = runs[case, arm, CASES[case].epochs]
        if set(full) < set(RATES):
            continue
        final = [np.mean([_both(each) for each in full[rate].values()]) for rate in RATES]
        for length in LENGTHS:
            trial = runs[case, arm, max(1, round(CASES[case].epochs * length))]
            if set(trial) < set(RATES):
                continue
            row: Result = {"case": case, "arm": arm, "length": length}
            seeds = sorted(set.intersection(*(set(trial[rate]) for rate in RATES)))
            for name, score in {
                "loss": lambda each: -each["val_loss"],
                "top-1": lambda each: each["val_top1"],
            }.items():
                by_seed = np.array([[score(trial[rate][seed]) for rate in RATES] for seed in seeds])
                for count, scores in ((1, list(by_seed)), (len(seeds), [by_seed.mean(0)])):
                    ranks = np.mean([spearmanr(each, final).statistic for each in scores])
                    regret = np.mean([max(final) - final[int(np.argmax(each))] for each in scores])
                    row[f"{name}, seeds: {count}"] = f"{ranks:.2f}, {regret:.1f}"
            yield row


def _changes(result: Result) -> Config:
    """What differs from the defaults, of what the arm reads."""
    defaults = DEFAULTS | CASES[result["case"]].defaults
    unread = UNREAD.get(result["arm"], frozenset())
    return {name: value for name, value in result["config"].items() if defaults[name] != value and name not in unread}


def _words(config: Config) -> str:
    values = {name: f"{value:g}" if isinstance(value, float) else value for name, value in config.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "defaults"


def _both(result: Result) -> float:
    """Top-1 on the images of the validation and the test split, which a full run of a given rate chose nothing on."""
    counts = np.array([result["val_images"], result["test_images"]])
    return float(np.average([result["val_top1"], result["test_top1"]], weights=counts))


def _mean_and_error(results: list[Result]) -> str:
    scores = [each["test_top1"] for each in results]
    error = f" ± {np.std(scores, ddof=1) / math.sqrt(len(scores)):.1f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.1f}{error}"


@app.command
def library(
    case: str = "handwritten-32/8",
    *,
    options: Options = OPTIONS,
    arms: tuple[str, ...] = tuple(FAMILY),
    rate: float = DEFAULTS["lr"],
) -> None:
    """Train the same by `ffvit.train` and by this file's own loop, with three seeds."""
    for runs in _cases([case], options):
        for arm in arms:
            for seed in FINAL:
                runs.get(arm, {"lr": rate}, seed)
                runs.once(
                    f"{arm}, ffvit.train", {"lr": rate}, seed, runs.case.epochs, partial(_by_library, runs, arm, seed)
                )


def _by_library(runs: Runs, arm: str, seed: int, config: Config) -> Result:
    _, classes = runs.data
    network = ARMS[arm](runs.case, config, 3, classes)
    assert isinstance(network, Backbone)
    with tempfile.TemporaryDirectory() as folder:
        summary = ffvit.train(
            network.architecture,
            ffvit.Data(source=str(runs.sets / runs.case.set), validation=0.2),
            _recipe(runs.case, config),
            hardware=ffvit.Hardware(precision="fp32"),
            seed=seed,
            out=Path(folder) / "run",
        ).summary()
    assert summary is not None
    return {
        "diverged": False,
        "seconds": round(summary["seconds"], 2),
        "parameters": summary["parameters"],
        "val_top1": 100 * summary["validation"]["top1"],
        "test_top1": 100 * summary["test"]["top1"]["value"],
    }


def _recipe(case: Case, config: Config) -> ffvit.Recipe:
    """The same training in ffvit's words."""
    return ffvit.Recipe(
        epochs=case.epochs,
        batch_size=case.batch,
        lr=config["lr"],
        weight_decay=config["weight_decay"],
        clip_grad_norm=config["clip"],
        warmup_epochs=round(config["warmup"] * case.epochs),
        min_lr=0.0,
        label_smoothing=config["smoothing"],
        ema_decay=None,
        crop_scale=(config["crop"], 1.0),
        crop_ratio=(0.78, 1.28),
        interpolation="bilinear",
        flip=0.5 if case.flip else 0.0,
        evaluation_crop=1.0,
    )


def best_rate(runs: Runs, arm: str, length: float, seeds: int = 2) -> float:
    """The rate of least validation loss, the mean over the seeds; a best one at the ladder's end draws it out."""

    def loss(rate: float) -> float:
        return sum(_loss(runs.get(arm, {"lr": rate}, seed, length)) for seed in range(seeds))

    rates = list(RATES)
    while True:
        best = min(rates, key=loss)
        if best == rates[-1]:
            rates.append(best * 2)
        elif best == rates[0]:
            rates.insert(0, best / 2)
        else:
            return best


def random_configurations(arm: str, case: Case, count: int) -> list[Config]:
    """Configurations of an arm, the same in every call: what its field tunes."""
    draw = np.random.default_rng([len(arm), *arm.encode()])
    return [_random(draw, arm, case) for _ in range(count)]


def _random(draw: np.random.Generator, arm: str, case: Case) -> Config:
    return {
        "lr": float(f"{math.exp(draw.uniform(math.log(3e-4), math.log(2e-2))):.2g}"),
        "weight_decay": float(f"{math.exp(draw.uniform(math.log(0.005), math.log(0.3))):.2g}"),
        "warmup": float(draw.choice([0.05, 0.1, 0.2])),
        "drop_path": float(draw.choice([0.0, 0.1])),
        "smoothing": float(draw.choice([0.0, 0.1])),
        "crop": float(draw.choice([case.crop - 0.15, case.crop, 0.9])),
        "mix": float(draw.choice([0.0, 0.0, 0.5] if case.flip else [0.0])),
        "position": [0.02, 0.2, 0.5, "sincos"][int(draw.integers(4))],
        "readout": str(draw.choice(["mean", "class_token"])) if arm == "attention" or "ViT" in arm else "mean",
        "heads": float(draw.choice([1.0, 2.0])),
    }


def _cases(names: Sequence[str], options: Options) -> Iterator[Runs]:
    for name in names or CASES:
        if name not in CASES:
            raise ffvit.UserError(f"{name} is no case (there are: {', '.join(CASES)})")
        torch.set_num_threads(1)
        set_fused_attn(False)  # at these sizes and in bf16 the fused kernel is up to seven times as slow on a processor
        yield Runs(name, options)


def _loss(result: Result) -> float:
    return math.inf if result["diverged"] else float(result["val_calibrated"])


if __name__ == "__main__":
    try:
        app()
    except ffvit.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
