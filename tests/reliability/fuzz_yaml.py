"""Fuzzes the reader of YAML, of plans and of configurations: the first byte says which of them reads the rest.

PyYAML's parser is not traced: that made an input cost four times as much, and the parser is not ours.
"""

from __future__ import annotations

import contextlib

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(
        include=["ffvit.config.strict_yaml", "ffvit.config.base", "ffvit.study.plan", "ffvit.run_folder"]
    ):
        import ffvit.config.strict_yaml
        import ffvit.study.plan  # noqa: F401

from fuzzing import fuzz, scratch

from ffvit.config.strict_yaml import read_yaml
from ffvit.errors import UserError
from ffvit.run_folder import read_config
from ffvit.study.plan import read_plan

READERS = (read_yaml, read_plan, read_config)


def target(data: bytes) -> None:
    path = scratch() / "x.yaml"
    path.write_bytes(data[1:])
    read = READERS[data[0] % len(READERS)] if data else read_yaml
    with contextlib.suppress(UserError):
        read(path)


def seeds() -> list[bytes]:
    small = b"network: ff_micro_patch2_8\nrecipe: {base: digits, epochs: 3}\ndata: digits\nseeds: [1, 2]\n"
    odd = b'a: &a {x: 1e-3, y: [.5, 0x1, 0o7, 1:30, ~, true]}\nb: {<<: *a}\n? |\n  t\n: >-\n  u\n--- "\\u00e9"\n...\n'
    config = b"network: {name: ff_micro_patch2_8}\nrecipe: {epochs: 1}\nseed: 1\n"
    factors = b"factors: {network.patches.mixer: [attention, identity], b: {c: {network.width: 8}}}\nsearch: none\nfolds: 3\nmatch: time\n"
    return [b"\1" + small, b"\0" + odd, b"\2" + config, b"\1" + small + factors]


if __name__ == "__main__":
    fuzz(target, seeds)
