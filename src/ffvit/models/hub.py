"""Folders in the format of timm and the Hugging Face Hub, `config.json` beside `model.safetensors`: written, downloaded.

timm opens such a folder as `local-dir:FOLDER` or `hf-hub:user/name`, transformers by its path or repository. A ViT is
written as timm's own class; other networks of ours take `ffvit.register_with_timm()` first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from ffvit.errors import ModelError, OutputError
from ffvit.files.atomic_write import atomic_path
from ffvit.models.backbone import Backbone
from ffvit.models.description import info_of, note_for_timm, preprocess_of, set_preprocess
from ffvit.models.vit_conversion import timm_vit_of, to_layout

HUB = "hf-hub:"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""What timm and the Hub call a folder's files."""


def write_hub_folder(
    network: nn.Module,
    folder: Path,
    class_names: Sequence[str] | None,
    temperature: float | None = None,
    ood_threshold: float | None = None,
) -> None:
    """Write a network as timm and the Hub keep it; `ffvit.load` reads the folder as it reads a run.

    Args:
        network: Made by `create_model` or `load`, or a `Backbone`.
        folder: Made if it is not there.
        class_names: In the order of the logits; `config.json` calls them `label_names`.
        temperature: What its logits are divided by to calibrate its probabilities, if it was fitted.
        ood_threshold: Energy score below which an image is of none of the classes, likewise.

    Raises:
        UserError: The folder is not empty, or the network cannot be described.
    """
    pool = getattr(network, "global_pool", None)
    info = info_of(network, class_names, temperature, ood_threshold)
    info["global_pool"] = pool if isinstance(pool, str) else None
    _write(_for_timm(network), folder, info, class_names)


def _for_timm(network: nn.Module) -> nn.Module:
    """Timm's own class with the same weights, where there is one; else the network, described for timm."""
    try:
        vit = timm_vit_of(network) if isinstance(network, Backbone) else None
    except ModelError:  # no ViT
        vit = None
    if vit is None:
        note_for_timm(network)
        return network
    set_preprocess(vit, preprocess_of(network))
    return vit


def write_paper_file(network: nn.Module, path: Path) -> None:
    """Write a network as the paper's checkpoints are: a pickle with the weights under `model`, by the released names.

    Under `ffvit` it says which version wrote it; the released code ignores other entries, as those of DeiT's training.

    Raises:
        UserError: The released class is another network.
    """
    if not isinstance(network, Backbone):
        raise ModelError("this network has no counterpart in the paper's class: it is timm's")
    state = {name: tensor.detach().cpu().clone() for name, tensor in to_layout(network, "released").items()}
    with atomic_path(path) as temporary:
        torch.save({"model": state, "ffvit": version("ffvit")}, temporary)


def _write(network: nn.Module, folder: Path, info: dict[str, Any], class_names: Sequence[str] | None) -> None:
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})  # which transformers asks for
    config: dict[str, Any] = {"ffvit": info} | ({"label_names": list(class_names)} if class_names is not None else {})
    with atomic_path(folder / CONFIG) as temporary:
        save_config_for_hf(network, temporary, config, dict(getattr(network, "_model_args", {})))
        written = json.loads(temporary.read_text(encoding="utf-8"))
        written.get("model_args", {}).pop("num_classes", None)  # said above; transformers gives it a second time
        temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def check_empty(folder: Path) -> None:
    """Check that a folder can be written without replacing anything.

    Raises:
        OutputError: There is a file of that name, or something in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: is there, and is no empty folder; give another name")


def download(address: str) -> Path:
    """The folder of a repository's `config.json` and `model.safetensors`, downloaded once into the Hub's own cache.

    huggingface_hub resumes what was broken off. Weights in another format are not downloaded.

    Args:
        address: `hf-hub:user/name`, or `hf-hub:user/name@revision`.

    Raises:
        UserError: There is no such repository, it has no safetensors, it cannot be reached, or the file is damaged.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = address.removeprefix(HUB).partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except HFValidationError as error:
        raise ModelError(f"{address}: is no repository's name ({error}); write hf-hub:user/name") from None
    except GatedRepoError:
        raise ModelError(f"{address}: the owner asks you to request access first, on its page on the Hub") from None
    except RevisionNotFoundError:
        raise ModelError(f"{address}: the repository has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{address}: there is no such repository, or it is private (log in: hf auth login)") from None
    except Exception as error:  # of the system, or the HTTP library that huggingface_hub uses
        raise ModelError(
            f"{address}: cannot be downloaded ({type(error).__name__}); without a network, copy the repository's {CONFIG} "
            f"and {WEIGHTS} into a folder, and give the folder instead"
        ) from None
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{address}: holds no {WEIGHTS}, and nothing else is downloaded: pickles can run code")
    _check_hash(weights)
    return folder


def _check_hash(weights: Path) -> None:
    """Check a file by the name that the Hub's cache gives its content, its SHA-256."""
    expected = weights.resolve().name
    if not re.fullmatch(r"[0-9a-f]{64}", expected):  # a small file that git keeps, by another hash
        return
    with weights.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise ModelError(f"{weights}: damaged: not of the SHA-256 that the Hub says; delete it and load again")
