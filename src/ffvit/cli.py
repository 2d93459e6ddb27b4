"""The command line: options made of the commands' fields, errors as sentences, exit codes."""

from __future__ import annotations

import atexit
import difflib
import errno
import gc
import inspect
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, get_args

import cyclopts
from cyclopts import App, Group, Parameter, Token

from ffvit import __version__
from ffvit.cli_output import DRY_RUNS, SHOW
from ffvit.closed_pipe import survive_closed_pipe
from ffvit.command_function import checked
from ffvit.config import commands, data_commands, deploy_commands, inference_commands, insight_commands
from ffvit.config.options import Option, options_of
from ffvit.errors import SYNONYMS, ConfigError, FfvitError, UserError
from ffvit.signals import reraise_lost_signals
from ffvit.terminal import Terminal, close_log, log, log_exception, log_to

COMMANDS: dict[str, type[commands.Command]] = {
    "train": commands.Train,
    "evaluate": inference_commands.Evaluate,
    "predict": inference_commands.Predict,
    "inspect": insight_commands.Inspect,
    "resize": deploy_commands.Resize,
    "convert": deploy_commands.Convert,
    "export": deploy_commands.Export,
    "serve": deploy_commands.Serve,
    "compare": commands.Compare,
    "report": commands.Report,
    "check": data_commands.Check,
    "prepare": data_commands.Prepare,
    "benchmark": commands.Benchmark,
    "benchmark data": data_commands.BenchmarkData,
    "push": deploy_commands.Push,
    "models": commands.ListModels,
    "doctor": commands.Doctor,
}

OUTPUT = (
    Option(("quiet",), ("--quiet",), bool, "Print no progress.", "no", "Output", common=False),
    Option(("debug",), ("--verbose",), bool, "Print the traceback of an error too.", "no", "Output", common=False),
    Option(("log_file",), ("--log-file",), Path, "Append all that is printed to this file, each line with its time and rank.", None, "Output", common=False),
)  # fmt: skip
"""Options of every command that say how much is printed."""

DRY_RUN = Option(
    ("dry_run",),
    ("--dry-run",),
    bool,
    "Check everything, predict time and memory, print the whole configuration, and stop.",
    "no",
    "Output",
)

GROUPS = ("Options", "Images", "Recipe", "Hardware", "Output")
"""Headings of options in the help, in this order."""

METAVARS = {int: "INT", float: "FLOAT"}

EXAMPLES = """Examples:

  ffvit train                              FF-only on handwritten digits
  ffvit train ff_small_patch16_224 --data photos/ --out runs/photos
  ffvit evaluate runs/photos --data photos/val
  ffvit predict runs/photos holiday.jpg --top 3
  ffvit inspect runs/photos                what the network does, as a page
  ffvit resize runs/photos --image-size 384
  ffvit convert runs/photos-vit            take attention out of it
  ffvit export runs/photos --format onnx   a file for other programs
  ffvit serve runs/photos                  a page and an API on this machine
  ffvit compare --data photos/ --minutes 30
  ffvit check photos/                      broken images, duplicates, leaks
  ffvit prepare photos/ shards/            a large data set as a few files
  ffvit doctor                             what is wrong with this machine"""


def make_app(brief: bool = False) -> App:
    """The command line.

    Args:
        brief: Made to show help with the options that people need first, in one list.
    """
    app = App(
        name="ffvit",
        version=__version__,
        help="Train, evaluate and compare image classifiers with and without attention.",
        help_epilogue=EXAMPLES,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # `main` has a word for it
        result_action="return_value",
    )
    app.register_install_completion_command(help="Install completion of options for this shell.")
    for name, command in COMMANDS.items():
        parent, _, word = name.rpartition(" ")
        (app[parent] if parent else app).command(_subcommand(name, word, command, brief))
    return app


def cli_options(command: type[commands.Command]) -> list[Option]:
    """The options of a command on the command line: its own, and those of every command."""
    dry_run = (DRY_RUN,) if command in (commands.Train, commands.Compare) else ()
    return [*options_of(command), *dry_run, *OUTPUT]


def _subcommand(path: str, name: str, command: type[commands.Command], brief: bool) -> App:
    """A command with the options of its fields."""
    options = cli_options(command)
    examples = "".join(f"  {line}\n" for line in command.examples.splitlines())
    hidden = sum(not option.common for option in options)
    app = App(
        name=name,
        help=re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or ""),  # a paragraph is wrapped by the terminal
        help_epilogue=(f"Examples:\n\n{examples}\n" if examples else "")
        + (f"{hidden} more options: ffvit {path} --help-all" if brief else ""),
        help_format="plaintext",
    )

    def run(*args: Any, **given: Any) -> int:
        values = dict(zip((option.path for option in options if option.positional), args, strict=False))
        values |= {tuple(path.split("__")): value for path, value in given.items()}
        return _run(command, options, values)

    parameters = [_parameter(option, brief) for option in options]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.default(run)
    return app


def _parameter(option: Option, brief: bool) -> inspect.Parameter:
    """An option as cyclopts wants it. Values stay text, which the command checks."""
    flag = option.kind is bool
    # Any text passes cyclopts: what is wrong with it, the command says, in the same words as everywhere.
    choices = bool(get_args(option.kind))
    kind: Any = option.kind if option.kind in (bool, Path) else option.kind | str if choices else str
    kind = list[str] if option.many else kind
    group = "Options" if brief else option.group
    prefix, dot, last = option.names[0].removeprefix("--").rpartition(".")
    settings = Parameter(
        name=option.names[-1] if brief else option.names,
        help=option.help,
        metavar="CHOICE" if choices else METAVARS.get(option.kind),
        group=Group(group, sort_key=GROUPS.index(group)),
        show=option.common or not brief,
        show_default=(lambda _: option.default) if option.default is not None else False,
        negative=f"--{prefix}{dot}no-{last}" if flag and not (brief and option.default == "no") else (),
        converter=None if flag else _texts if option.many else _text,
        consume_multiple=True if option.many else None,
    )
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD if option.positional else inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if option.required else None
    return inspect.Parameter(
        "__".join(option.path), place, default=default, annotation=Annotated[kind | None, settings]
    )


def _text(_: Any, tokens: Sequence[Token]) -> str:
    return tokens[0].value


def _texts(_: Any, tokens: Sequence[Token]) -> list[str]:
    return [token.value for token in tokens]


def _run(command: type[commands.Command], options: list[Option], given: dict[tuple[str, ...], Any]) -> int:
    """Do what was asked, and hand back the exit code.

    Args:
        command: The command.
        options: Its options.
        given: The values of those that were given, by their paths.
    """
    output = {option.path[0]: given.pop(option.path, None) for option in (DRY_RUN, *OUTPUT)}
    if output["log_file"] is not None:
        log_to(Path(output["log_file"]))
    fields: dict[str, Any] = {"verbose": not output["quiet"]}
    for (field, *inner), value in _with_switches(options, given).items():
        if inner:
            fields.setdefault(field, {})[inner[0]] = value
        else:
            fields[field] = value
    show = DRY_RUNS[command] if output["dry_run"] else SHOW[command]
    try:
        with survive_closed_pipe() if command in (commands.Train, commands.Compare) else nullcontext():
            return show(checked(command, fields)) or 0
    except FfvitError as error:
        if output["debug"]:
            traceback.print_exc()
        if type(error) in (UserError, ConfigError):
            raise type(error)(_with_option_names(str(error), options)) from None
        raise


def _with_switches(options: list[Option], given: dict[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    """What was given, with the fields that flags such as `--amp` stand for in place of the flags.

    Raises:
        UserError: The field's own option was given too.
    """
    given = dict(given)
    for option in options:
        if option.values is None or given.get(option.path) is None:
            continue
        field, on = option.path[:-1], given.pop(option.path)
        if field in given:
            own = next(other.names[0] for other in options if other.path == field)
            raise UserError(f"{own} and {option.names[0]} set the same: give one of them")
        given[field] = option.values[not on]
    return given


def _with_option_names(text: str, options: list[Option]) -> str:
    """An error whose lines begin with the names of fields, with those of their options instead."""
    names = {".".join(option.path): option.names[0] for option in options}
    renamed = []
    for line in text.splitlines():
        field, colon, rest = line.partition(": ")
        of_several, _, place = field.rpartition(".")  # height or width, a logger
        renamed.append(names.get(of_several if place.isdecimal() else field, field) + colon + rest)
    return "\n".join(dict.fromkeys(renamed))


def _with_joined_flags(words: Sequence[str]) -> list[str]:
    """`--flag=false` for `--flag false`, whose second word would pass for an argument; and the value that a bare option has."""
    options = {
        name: option for kind in COMMANDS.values() for option in cli_options(kind) for name in option.names
        if option.kind is bool or option.bare
    }  # fmt: skip
    joined: list[str] = []
    for word, following in zip_longest(words, words[1:], fillvalue="-"):
        before = options.get(joined[-1]) if joined else None
        bare = options[word].bare if word in options else None
        if before is not None and before.kind is bool and word in ("true", "false", "yes", "no"):
            joined[-1] += f"={word}"
        elif bare and following.startswith("-"):
            joined.append(f"{word}={bare}")
        else:
            joined.append(word)
    return joined


PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
"""What the system says of a path that was given, rather than of ffvit."""


def main() -> None:
    """What the `ffvit` command runs."""
    # OpenMP's threads burn their time slice while they wait; where other programs share the processor, that is the
    # time the next step needs. Must be set before PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Importing PyTorch creates a million objects that are never freed. With Python's default thresholds, garbage collection
    # during the import and at exit takes two seconds of every command.
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)
    try:
        words = _with_joined_flags(sys.argv[1:])
        app = make_app(brief="--help" in words or "-h" in words)
        words = ["--help" if word == "--help-all" else word for word in words]
        with reraise_lost_signals():
            code = app(words, console=Terminal(), exit_on_error=False, print_error=False)
    except FfvitError as error:
        _fail(f"{error} [{error.code}]", error.exit_code, error.speaks)
    except cyclopts.CycloptsError as error:
        _fail(f"{_usage_sentence(error)} [{UserError.code}]", UserError.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # `ffvit models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        log_exception(error)
        if error.errno not in PATH_ERRORS or not isinstance(error.filename, str):
            raise
        _fail(f"{error.filename}: {error.strerror} [{UserError.code}]", UserError.exit_code)
    except Exception as error:
        log_exception(error)
        raise
    else:
        if code:
            sys.exit(code)
    finally:
        close_log()


def _usage_sentence(error: cyclopts.CycloptsError) -> str:
    """What cannot be read of the command line, and where its help is."""
    words = str(error).rstrip()
    if isinstance(error, cyclopts.MissingArgumentError) and error.keyword is None and error.argument is not None:
        words = f"{error.argument.name.removeprefix('--').upper()} is missing."
    if isinstance(error, cyclopts.UnknownOptionError):
        # cyclopts compares the dashes too, and so takes --quiet for a neighbour of --budget.
        name = error.token.keyword or error.token.value
        near = _nearest_option(name, [name for argument in error.argument_collection for name in argument.names])
        words = words.partition(" Did you mean --")[0] + (f" Did you mean {near}?" if near else "")
    return f"{words} See: {' '.join(('ffvit', *(error.command_chain or ())))} --help"


def _nearest_option(given: str, names: list[str]) -> str | None:
    """The option meant by a wrong name: one that begins like it or is spelled nearly so, with or without its prefix."""
    word, options = given.lstrip("-").partition("=")[0], {}
    for name in names:
        options[name.rpartition(".")[2].removeprefix("--")] = name
    options |= {name.removeprefix("--"): name for name in names}
    longer = [key for key in options if len(word) > 2 and key.startswith(word)]
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.75)
    shorter = [key for key in options if len(key) > 2 and word.startswith(key)]
    candidates = (SYNONYMS.get(word, ""), *longer, *close, *shorter)
    return next((options[key] for key in candidates if key in options), None)


def _fail(words: str, code: int, speaks: bool | None = None) -> None:
    """Say what went wrong, once for all processes of a run, and leave."""
    lines = [f"ffvit: {line}" for line in words.splitlines()]
    if speaks if speaks is not None else os.environ.get("LOCAL_RANK", "0") == "0":
        for line in lines:
            Terminal(stderr=True).say(line)
    else:
        log("\n".join(lines))
    sys.exit(code)


if __name__ == "__main__":
    main()
