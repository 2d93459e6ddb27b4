"""YAML of strangers: one sentence with file and line, in bounded time and memory, whatever it holds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

import commands
from ffvit.config import recipe, strict_yaml
from ffvit.config.strict_yaml import MAX_BYTES, parse_yaml, read_yaml
from ffvit.errors import UserError
from ffvit.run_folder import read_config
from ffvit.study.plan import MAX_SEEDS, read_plan

PLAN = "network: ff_micro_patch2_8\nrecipe: digits\ndata: digits\n"

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
)
MERGE_BOMB = "\n".join(
    ["a0: &a0 {k: 1}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" for n in range(1, 25)]
)

HOSTILE = {
    "aliases": (BOMB, "line 6: has more than 200,000 values"),
    "merged aliases": (MERGE_BOMB, "has more than 200,000 values"),
    "an alias of itself": ("a: &a [*a]", "line 1: the alias .a lies within"),
    "a deep alias": (
        "\n".join(["a0: &a0 []"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 99)]),
        "more than 50 lists",
    ),
    "brackets": ("[" * 3000, "line 1: has more than 50 lists"),
    "fields": ("{a: " * 3000, "line 1: has more than 50 lists"),
    "block lists": ("- " * 3000, "line 1: has more than 50 lists"),
    "a long integer": (f"\nseed: {'9' * 5000}", "line 2: a number of 5,000 characters is too long"),
    "a long hexadecimal": (f"seed: 0x{'f' * 5000}", "line 1: a number of 5,002"),
    "a sexagesimal": (f"seed: 1{':59' * 5000}", "line 1: a number of 15,001"),
    "no number": ("seed: 0x_", "line 1: '0x_' is no number"),
    "a field twice": ("seed: 1\n\nseed: 2", "line 3: the field 'seed' stands there twice"),
    "a field twice, deep": ("a: [{b: 1, 'b': 2}]", "line 1: the field 'b' stands there twice"),
    "a list as a name": ("? [a]\n: 1", "line 1: a field's name must be text"),
    "a tag of Python": ("a: !!python/object/apply:os.system [id]", "line 1: tags are not used here"),
    "binary": ("a: !!binary aGVsbG8=", "line 1: tags are not used here"),
    "a set": ("a: !!set {x}", "line 1: tags are not used here"),
    "a float": ("a: !!float x", "line 1: tags are not used here"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: not YAML"),
    "control characters": ("a: 1\nb: \x01", "line 2: not YAML: it has the character #x0001"),
    "long": ("a: " + "x" * MAX_BYTES, "is longer than 4,194,304 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_in_one_sentence(tmp_path, name):
    text, sentence = HOSTILE[name]
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    started = time.monotonic()
    for read in (read_yaml, read_config, read_plan) if len(text) < 10_000 else (read_yaml,):
        with pytest.raises(UserError, match=sentence) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 60


def test_very_many_values_are_refused(monkeypatch):
    monkeypatch.setattr(strict_yaml, "MAX_VALUES", 1000)
    assert len(parse_yaml("- 1\n" * 999, "text")) == 999
    with pytest.raises(UserError, match="line 1000: has more than 1,000 values"):
        parse_yaml("- 1\n" * 2000, "text")


@pytest.mark.parametrize("content", [b"\xff\xfe\0a", b"a: \xff"])
def test_bytes_that_are_no_text_are_refused(tmp_path, content):
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"plan\.yaml: cannot be read: it is not UTF-8 text"):
        read_plan(path)


def test_an_endless_file_is_read_to_the_limit_only():
    with pytest.raises(UserError, match="is longer than"):
        read_yaml(Path("/dev/zero"))


def test_the_command_says_it_in_one_sentence(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN + "title: &t [*t]\n")
    done = commands.here("compare", "--study", path, "--out", tmp_path / "out", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"ffvit: {path}, line 4: the alias *t lies within")
    assert done.stderr.count("\n") == 1


def test_what_is_harmless_stays():
    text = "a: &base {x: 1, y: [1e-3, .5, -7, null, true, ~]}\nb: {<<: *base, x: 2}\nc: {<<: *base, <<x: 1}\nd: 2024-99-99\n'1': 0x10\n"
    expected = yaml.safe_load(text.replace("2024-99-99", "'2024-99-99'"))
    assert parse_yaml(text, "text") == expected
    assert parse_yaml("", "text") is None


def test_the_plans_and_recipes_of_ours_are_read_as_before():
    studies = Path(__file__).parents[2] / "studies"
    assert len(list(studies.glob("*.yaml"))) >= 5
    for path in studies.glob("*.yaml"):
        assert read_yaml(path) == yaml.safe_load(path.read_text())
    for made in recipe.RECIPES.values():
        assert parse_yaml(str(made), "recipe") == yaml.safe_load(str(made))


@pytest.mark.parametrize("seeds", ["1000000", f"[{', '.join(map(str, range(20_000)))}]"])
def test_very_many_seeds_are_refused_at_once(tmp_path, seeds):
    path = tmp_path / "plan.yaml"
    path.write_text(f"{PLAN}seeds: {seeds}\n")
    started = time.monotonic()
    with pytest.raises(UserError, match=f"a study has at most {MAX_SEEDS:,} seeds; got "):
        read_plan(path)
    assert time.monotonic() - started < 10
    path.write_text(f"{PLAN}seeds: {MAX_SEEDS}\nmax_seeds: {MAX_SEEDS}\n")
    assert len(read_plan(path).seeds) == MAX_SEEDS


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("max_seeds: 1000000\nsequential: true", "max_seeds: .*less than or equal to 1000"),
        ("folds: 1000000", "folds: .*less than or equal to 1000"),
        (
            "factors: {" + ", ".join(f"f{n}: {{a: {{}}, b: {{}}}}" for n in range(30)) + "}",
            "factors: .*at most 1,000 arms",
        ),
    ],
)
def test_plans_of_very_many_runs_are_refused_at_once(tmp_path, fields, sentence):
    path = tmp_path / "plan.yaml"
    path.write_text(f"{PLAN}{fields}\n")
    with pytest.raises(UserError, match=sentence):
        read_plan(path)
