"""Fuzzes the reader of weights: what safetensors, PyTorch's pickles and a Hub's `config.json` say.

The first byte says which file the rest stands for: weights of any kind, our metadata, or a `config.json`.
"""

from __future__ import annotations

import contextlib
import json
import struct
from functools import cache

import torch
from safetensors.torch import save

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["ffvit.models.weights", "ffvit.models.weights_file", "ffvit.config.base"]):
        import ffvit.models.weights  # noqa: F401

from fuzzing import fuzz, scratch

from ffvit.errors import UserError
from ffvit.models.create import create_model
from ffvit.models.weights import load, save_weights
from ffvit.models.weights_file import read_weights


@cache
def whole() -> bytes:
    """A small file of ours."""
    save_weights(scratch() / "whole.safetensors", create_model("ff_micro_patch2_8", 2), ["a", "b"], temperature=1.5)
    return (scratch() / "whole.safetensors").read_bytes()


def metadata(content: bytes) -> str:
    """The JSON in the metadata of a file of ours."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])["__metadata__"]["ffvit"]


def target(data: bytes) -> None:
    if not data:
        return
    kind, content = data[0] % 3, data[1:]
    path = scratch() / "model.safetensors"
    config = scratch() / "config.json"
    config.unlink(missing_ok=True)
    if kind == 1:
        original = whole()
        (length,) = struct.unpack("<Q", original[:8])
        header = json.loads(original[8 : 8 + length])
        header["__metadata__"]["ffvit"] = content.decode(errors="replace")
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + original[8 + length :])
    elif kind == 2:
        config.write_bytes(content)
        path.write_bytes(save({"x": torch.zeros(1)}))
    else:
        path.write_bytes(content)
    with contextlib.suppress(UserError):
        if kind == 1:
            load(path)
        else:
            state, about = read_weights(path)
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
            assert about.temperature is None or about.temperature > 0


def seeds() -> list[bytes]:
    small = scratch() / "small.pth"
    made = [b"\0" + save({"x": torch.zeros(2)}, {"ffvit": "{}"}), b"\1" + metadata(whole()).encode()]
    for legacy in (False, True):
        torch.save({"model": {"x": torch.zeros(2)}}, small, _use_new_zipfile_serialization=not legacy)
        made.append(b"\0" + small.read_bytes())
    config = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0.5]}}
    return [*made, b"\2" + json.dumps(config).encode()]


if __name__ == "__main__":
    fuzz(target, seeds)
