"""YAML as a configuration needs it, and nothing beyond: what is read of a stranger's file runs no code and stays small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ffvit.errors import ConfigError

MAX_BYTES = 4 * 2**20
"""A file beyond this is no configuration."""

MAX_VALUES = 200_000
"""Values, fields and lists in a file; those that aliases repeat count every time."""

MAX_DEPTH = 50
"""Lists and fields within each other."""

MAX_DIGITS = 40
"""Digits of an integer; ours have at most 20."""


def read_yaml(path: Path) -> Any:
    """What a YAML file says.

    Raises:
        UserError: It cannot be read, or as `parse_yaml`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: it is not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says: fields, lists, text, numbers, true, false and null.

    Args:
        text: One document.
        where: What to call it in an error.

    Raises:
        UserError: It is no YAML, names a field twice, has tags, or is too long, too deep or of too many values (with
            its aliases written out); says in which line.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: is longer than {MAX_BYTES:,} bytes, and no configuration")
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        syntax = "" if isinstance(error, _RefusedError) else "not YAML: "
        raise ConfigError(f"{where}{line}: {syntax}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = f", line {text.count(chr(10), 0, error.position) + 1}"
        raise ConfigError(f"{where}{line}: not YAML: it has the character #x{error.character:04x}") from None
    finally:
        if loader is not None:
            loader.dispose()


class _RefusedError(yaml.MarkedYAMLError):
    """It is YAML, but of a kind that is not taken."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, stricter; a date is text, as in YAML's JSON schema."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._size = self._depth = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # by node: how many values it stands for, and how deep it goes

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Count the values as they are read, those that an alias repeats again."""
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                _refuse(f"the alias *{event.anchor} lies within what it stands for", event)
            size, depth = self._sizes[id(node)]
            self._count(size, depth, event)
            return node
        if event.tag is not None:
            _refuse(f"tags are not used here: leave out {event.tag!r}", event)
        before = self._size
        self._depth += 1
        self._count(1, 0, event)
        node = super().compose_node(parent, index)
        self._sizes[id(node)] = self._size - before, self._height(node)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """A mapping in which every field stands once."""
        node: Any = super().compose_mapping_node(anchor)
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.CollectionNode):
                _refuse("a field's name must be text", key_node)
            key = "<<" if key_node.tag == "tag:yaml.org,2002:merge" else self.construct_object(key_node)
            if key in seen:
                _refuse(f"the field {key_node.value!r} stands there twice", key_node)
            seen.add(key)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """An integer or a floating-point number, as PyYAML reads it."""
        if len(node.value) > MAX_DIGITS:
            _refuse(f"a number of {len(node.value):,} characters is too long", node)
        read = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        try:
            return read(node)
        except (ValueError, IndexError, OverflowError):
            _refuse(f"{node.value!r} is no number; put it in quotes if it is text", node)

    def _count(self, values: int, depth: int, event: Any) -> None:
        self._size += values
        if self._size > MAX_VALUES:
            _refuse(f"has more than {MAX_VALUES:,} values, and is no configuration", event)
        if self._depth + depth > MAX_DEPTH:
            _refuse(f"has more than {MAX_DEPTH} lists or fields within each other, and is no configuration", event)

    def _height(self, node: Any) -> int:
        """How many levels a node goes down; those of its children are known."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(child,) for child in node.value]
        return 1 + max((self._sizes[id(child)][1] for pair in pairs for child in pair), default=0)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Loader.add_constructor(_tag, _Loader.construct_number)


def _refuse(problem: str, at: Any) -> Any:
    raise _RefusedError(problem=problem, problem_mark=at.start_mark)
