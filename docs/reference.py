"""Writes reference.md: every command with its options, from the fields that they are declared in.

python docs/reference.py
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

from ffvit.cli import COMMANDS, OUTPUT, cli_options
from ffvit.config.options import Option

HEAD = """# Reference: commands and options

Made of the code by `python docs/reference.py`. In Python a command is a function of the same name, and its options
are keywords: `ffvit train --data photos/ --recipe.epochs 50 --workers 2` is
`ffvit.train(data="photos/", recipe={"epochs": 50}, hardware={"workers": 2})`. `ffvit models` is `ffvit.list_models`,
`ffvit train --resume --out RUN` is `ffvit.resume(RUN)`. A flag `--x` has `--no-x`.
"""


def reference() -> str:
    """The page."""
    parts = [HEAD]
    for name, command in COMMANDS.items():
        parts += [f"## ffvit {name}", inspect.cleandoc(command.__doc__ or "")]
        if command.examples:
            parts.append(f"```text\n{command.examples}\n```")
        parts.append(table([option for option in cli_options(command) if option not in OUTPUT]))
    return "\n\n".join([*parts, "## Options of every command", table(list(OUTPUT))]) + "\n"


def table(options: list[Option]) -> str:
    """Options as a Markdown table."""
    rows = ["| option | takes | default | |", "|---|---|---|---|"]
    for option in options:
        names = ", ".join(f"`{name}`" for name in option.names)
        if option.positional:
            names = f"`{option.path[0].upper()}`" + " ..." * option.many
        takes = " \\| ".join(map(str, get_args(option.kind))) or {bool: "", str: "text"}.get(
            option.kind, option.kind.__name__
        )
        rows.append(
            f"| {names} | {takes.lower()} | {option.default or ''} | {option.help.replace('|', chr(92) + '|')} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference(), encoding="utf-8")
