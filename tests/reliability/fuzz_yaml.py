"""Fuzzes the reader of YAML, of plans and of configurations."""

from __future__ import annotations

import contextlib

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["ffvit.strict_yaml", "ffvit.value", "ffvit.study.plan", "yaml"]):
        import ffvit.strict_yaml
        import ffvit.study.plan  # noqa: F401

from fuzzing import fuzz, scratch

from ffvit.errors import UserError
from ffvit.run import read_config
from ffvit.strict_yaml import read_yaml
from ffvit.study.plan import read_plan


def target(data: bytes) -> None:
    path = scratch() / "x.yaml"
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        if isinstance(read_yaml(path), dict):
            with contextlib.suppress(UserError):
                read_plan(path)
            read_config(path)


def seeds() -> list[bytes]:
    small = b"network: ff_micro_patch2_8\nrecipe: {base: digits, epochs: 3}\ndata: digits\nseeds: [1, 2]\n"
    odd = b'a: &a {x: 1e-3, y: [.5, 0x1, 0o7, 1:30, ~, true]}\nb: {<<: *a}\n? |\n  t\n: >-\n  u\n--- "\\u00e9"\n...\n'
    config = b"network: {name: ff_micro_patch2_8}\nrecipe: {epochs: 1}\nseed: 1\n"
    factors = b"factors: {patches.mixer: [attention, none], b: {c: {width: 8}}}\nsearch: none\nfolds: 3\nbudget: time\n"
    return [small, odd, config, small + factors]


if __name__ == "__main__":
    fuzz(target, seeds)
