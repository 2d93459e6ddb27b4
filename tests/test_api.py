from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import ffvit
from commands import asked
from ffvit import api
from ffvit.cli import COMMANDS, cli_options
from ffvit.config import commands
from ffvit.config.choices import choose_recipe, fields_of
from ffvit.config.options import options_of
from ffvit.config.recipe import RECIPES, Recipe
from ffvit.study.plan_options import plan_of
from ffvit.terminal import Terminal

QUICK = {"base": "digits", "epochs": 1, "warmup_epochs": 0, "batch_size": 256}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_field_of_a_command_is_an_option_and_says_what_it_is(command):
    names = {option.path[0] for option in options_of(command)}
    assert names == set(command.__pydantic_fields__) - {"verbose"}
    assert all(option.help and option.help.endswith((".", ")")) for option in cli_options(command))
    flags = [name for option in cli_options(command) for name in option.names]
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("name", sorted({run.__name__ for run in api.RUN.values()} & set(ffvit.__all__)))
def test_functions_have_the_fields_of_their_command(name):
    kinds = {run.__name__: kind for kind, run in api.RUN.items()}
    function = getattr(ffvit, name)
    assert list(inspect.signature(function).parameters) == list(inspect.signature(kinds[name]).parameters)
    for field, info in kinds[name].__pydantic_fields__.items():
        assert f"{field}: {info.description}" in function.__doc__


def test_nothing_is_printed_unless_asked(tmp_path, capfd):
    ffvit.train(recipe=QUICK, out=tmp_path / "quiet")
    ffvit.evaluate(tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    ffvit.train(recipe=QUICK, out=tmp_path / "told", verbose=True)
    assert "epoch 1/1" in capfd.readouterr().out
    console = Terminal(file=(tmp_path / "said.txt").open("w"))
    ffvit.train(recipe=QUICK, out=tmp_path / "kept", verbose=console)
    console.file.close()
    assert "epoch 1/1" in (tmp_path / "said.txt").read_text()
    assert capfd.readouterr() == ("", "")


def test_evaluate_writes_what_it_was_told_to_write_alone(tmp_path):
    run = ffvit.train(recipe=QUICK, out=tmp_path / "run")
    before = sorted(path.name for path in run.path.iterdir())
    score = ffvit.evaluate(run.path, json=tmp_path / "figures.json", predictions=tmp_path / "all.csv")
    assert sorted(path.name for path in run.path.iterdir()) == before
    assert str(score.evaluation.top1.value) in (tmp_path / "figures.json").read_text()
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + score.evaluation.images


def test_python_and_the_command_line_ask_for_the_same(tmp_path):
    typed = asked("--recipe", "deit", "--recipe.ema-decay", "none", "--image-size", 8, "--seed", 3, "--workers", 2,
                 "--data.validation", 0.25, cwd=tmp_path)  # fmt: skip
    command = commands.Train(
        recipe={"base": "deit", "ema_decay": None},
        image_size=8,
        seed=3,
        hardware={"workers": 2},
        data={"validation": 0.25},
    )
    assert typed == api.config_of(command)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ffvit.train(seed=-1), "seed: input should be greater than or equal to 0; got -1"),
        (lambda: ffvit.train(image_size=(8, 8, 8)), "image_size: give one number for a square, or height and width; got 3 numbers"),
        (lambda: ffvit.train(recipe="diet"), "recipe: none is called 'diet', did you mean 'deit'?"),
        (lambda: ffvit.train(recipe={"epoch": 3}), "recipe.epoch: there is no such field, did you mean 'epochs'?"),
        (lambda: ffvit.train(hardware={"accelerator": "gpu"}), "got 'gpu', did you mean 'cuda'?"),
        (lambda: ffvit.evaluate("x", crop=2), "crop: input should be less than or equal to 1; got 2"),
        (lambda: ffvit.compare(study=ffvit.Plan(network="ff_micro_patch2_8", recipe="digits", factors={"depth": [1, 2]}), seeds=3, margin=1.0),
         "study: a Plan holds all of this: change it instead of giving seeds, margin"),
        (lambda: ffvit.predict("nowhere.pth", "x.jpg", top=0), "top: input should be greater than 0; got 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_user_error_that_names_the_field(call, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ffvit.UserError) as raised:
        call()
    assert sentence in str(raised.value)


def test_a_keyword_that_is_none_is_a_type_error():
    with pytest.raises(TypeError, match="modell"):
        ffvit.train(modell="x")


def test_choosing_a_recipe(tmp_path):
    base = RECIPES["small"]
    assert choose_recipe(None, base) is base
    assert choose_recipe({"epochs": 3}, base) == base.replace(epochs=3)
    assert choose_recipe({"base": "deit", "epochs": 3}, base) == RECIPES["deit"].replace(epochs=3)
    assert choose_recipe(Recipe(lr=0.5), base) == Recipe(lr=0.5)
    (tmp_path / "r.yaml").write_text(str(Recipe(lr=0.5)))
    assert choose_recipe(tmp_path / "r.yaml", base) == Recipe(lr=0.5)
    assert fields_of({"base": str(tmp_path / "r.yaml"), "epochs": "3"}, "base") == {
        **dict(Recipe(lr=0.5)),
        "epochs": "3",
    }
    assert fields_of("deit", "base") == {"base": "deit"}


def test_a_study_takes_a_plan_as_it_is():
    plan = ffvit.Plan(network="ff_micro_patch2_8", recipe="digits", factors={"depth": [1, 2]})
    assert plan_of(commands.Compare(study=plan)) is plan


def test_importing_needs_no_torch():
    code = "import sys, ffvit, ffvit.api, ffvit.cli; assert not {'torch', 'timm', 'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_reference_page_is_what_the_code_says():
    docs = Path(__file__).parents[1] / "docs"
    page = runpy.run_path(str(docs / "reference.py"))["reference"]()
    assert (docs / "reference.md").read_text(encoding="utf-8") == page, "run: python docs/reference.py"
    assert "| `--recipe.epochs`, `--epochs` | int | deit 300, small 100, digits 25 |" in page


def test_benchmark_stays_a_function_once_its_package_is_imported(tmp_path):
    for _ in range(2):
        found = ffvit.benchmark(
            "ff_micro_patch2_8", precisions="fp32", rounds=1, seconds=0.01, batch_size=2, train=False
        )
        assert [row["network"] for row in found["rows"]] == ["ff_micro_patch2_8"]


def test_a_verbose_check_prints_what_it_found_and_a_silent_one_nothing(tmp_path, capsys):
    folder = tmp_path / "photos" / "empty"
    folder.mkdir(parents=True)
    (folder / "broken.jpg").write_bytes(b"no image")
    assert ffvit.check(tmp_path / "photos").serious
    assert capsys.readouterr().out == ""
    ffvit.check(tmp_path / "photos", verbose=True)
    assert "cannot be read" in capsys.readouterr().out


def test_train_says_what_it_takes_for_a_network():
    with pytest.raises(ffvit.UserError, match=r"model: must be a name or an Architecture, .*; got Backbone"):
        ffvit.train(ffvit.create_model("ff_micro_patch2_8"))
