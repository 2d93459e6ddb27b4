from __future__ import annotations

import csv
import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from commands import asked, command, environment, here
from commands import ffvit as in_its_own_process
from ffvit.cli import COMMANDS, cli_options
from ffvit.run_folder import Run

FAST = ("--recipe.epochs", 2, "--recipe.warmup-epochs", 1, "--recipe.batch-size", 128)
FEW = ("--recipe.epochs", 2, "--recipe.warmup-epochs", 1, "--recipe.batch-size", 16, "--workers", 0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    done = here("train", "--out", out, *FAST)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def flowers(tmp_path_factory, photos) -> Path:
    """A timm network trained by name on photographs."""
    out = tmp_path_factory.mktemp("runs") / "flowers"
    done = here("train", "resmlp_12_224", "--data", photos, "--image-size", 32, "--out", out, *FEW)
    assert done.returncode == 0, done.stderr
    return out


def refused(*arguments: object, code: int = 2, cwd: Path | None = None) -> str:
    """What is said of a command that cannot be: on stderr, and no traceback."""
    done = here(*arguments, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("ffvit: ") for line in done.stderr.splitlines() if "Warning" not in line)
    return done.stderr


def test_help_is_there_with_examples():
    done = in_its_own_process("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("train", "evaluate", "predict", "models", "Examples:"))
    for name in ("train", "evaluate", "predict", "models"):
        assert here(name, "--help").returncode == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['ffvit', '--help']\nfrom ffvit.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    code += (
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'scipy', 'sklearn'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_train_prints_what_it_is_about_to_do_and_what_it_reached(digits):
    done = here("train", "--config", digits / "config.yaml", "--out", digits.parent / "again")
    assert done.returncode == 0, done.stderr
    for word in (
        "ff_micro_patch2_8, 0.14 M parameters",
        "1,294 for training",
        "validation",
        "'0', '1', '2'",
        "natural order",
        "run folder",
        "epoch 2/2",
    ):
        assert word in done.stdout
    assert "95 % interval" in done.stdout.strip().splitlines()[-1]
    assert (digits.parent / "again" / "best.safetensors").read_bytes() == (digits / "best.safetensors").read_bytes()


@pytest.mark.parametrize("recipe", ["deit", "small", "digits"])
def test_fewer_epochs_than_the_warmup_shorten_it(recipe, tmp_path):
    assert asked("--recipe", recipe, "--recipe.epochs", 3).recipe.warmup == pytest.approx(0.6)
    assert "warmup_epochs 5 and cooldown_epochs 0 leave nothing of 3 epochs" in refused(
        "train", "--recipe.epochs", 3, "--recipe.warmup-epochs", 5, cwd=tmp_path
    )


def test_runs_without_a_name_get_one_each(tmp_path):
    for _ in range(2):
        assert here("train", *FAST, "--data.validation", 0, cwd=tmp_path).returncode == 0
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == [
        "ff_micro_patch2_8-digits",
        "ff_micro_patch2_8-digits-2",
    ]


def test_a_timm_network_by_name_is_trained_evaluated_and_predicts(flowers, photos):
    assert Run(flowers).summary()["network"] == "resmlp_12_224"
    done = here("evaluate", flowers, "--data", photos / "val")
    assert done.returncode == 0, done.stderr
    figures = json.loads((flowers / "evaluation.json").read_text())
    assert figures["top1"] == Run(flowers).summary()["test"]["top1"]
    again = here(
        "train",
        "resmlp_12_224",
        "--data",
        photos,
        "--image-size",
        32,
        "--start-from",
        flowers,
        "--out",
        flowers.parent / "on",
        *FEW,
    )
    assert f"weights of {flowers}" in again.stdout, again.stderr
    done = here("predict", flowers, photos / "val", "--top", 2, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 2 * len(list((photos / "val").rglob("*.jpg")))
    assert {row["class"] for row in rows} <= {"dahlia", "leaves", "pagoda", "sky"}


def test_corruptions_need_no_value_and_are_drawn_in_the_run_folder(digits):
    done = here(
        "evaluate", digits, "--data", "digits", "--severities", "2,5", "--corruptions", "patches", "--workers", 0
    )
    assert done.returncode == 0, done.stderr
    assert "patch shuffle" in done.stdout
    assert f"picture in {digits / 'corruptions.png'}" in done.stdout
    figures = json.loads((digits / "evaluation.json").read_text())
    assert set(figures["corruptions"]["corruptions"]["occlusion"]) == {"mean", "severity_2", "severity_5"}
    assert "this network takes 8 x 8: give --corruptions patches" in refused("evaluate", digits, "--corruptions")
    near = refused("evaluate", digits, "--corruptions", "patch", "--quiet")
    assert near.startswith("ffvit: --corruptions: there is no corruption 'patch', did you mean 'patches'?")
    assert "--severities: " in refused("evaluate", digits, "--corruptions", "fog", "--severities", "3,6")


def test_evaluating_on_two_processes_speaks_once_and_says_the_same(digits):
    one = here("evaluate", digits, "--data", "digits")
    two = in_its_own_process("evaluate", digits, "--data", "digits", "--devices", 2)
    assert two.returncode == 0, two.stderr
    assert two.stdout == one.stdout
    assert "Unknown option: --devices" in refused("predict", digits, digits, "--devices", 2)


def test_predictions_in_every_form(flowers, photos, tmp_path):
    image = next((photos / "val").rglob("*.jpg"))
    (tmp_path / "broken.jpg").write_bytes(image.read_bytes()[:300])
    table = here("predict", flowers, image, tmp_path)
    assert table.returncode == 0
    assert table.stdout.startswith(f"{image}\n")
    assert "%" in table.stdout
    assert "not read: " in table.stderr
    assert "broken.jpg" in table.stderr
    done = here("predict", flowers, image, "--format", "json")
    classes = json.loads(done.stdout)["classes"]
    assert sum(each["probability"] for each in classes) == pytest.approx(1, abs=1e-5)  # all 4 of them
    done = here("predict", flowers, tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("ffvit: none of these images could be read [E-DATA]\n")


def test_what_evaluate_says_beside_its_figures(flowers, photos, tmp_path):
    folder = shutil.copytree(photos / "val", tmp_path / "val")
    (folder / "sky" / "broken.jpg").write_bytes(b"no image")
    done = here("evaluate", flowers, "--data", folder, "--json", tmp_path / "figures.json")
    assert "Warning: 1 of 13 images could not be read." in done.stdout.splitlines()
    assert json.loads((tmp_path / "figures.json").read_text())["bad_images"] == 1
    done = here("evaluate", flowers, "--data", photos / "train", "--json", tmp_path / "figures.json")
    assert "Warning: 48 of 48 images were used to train or select this network" in done.stdout
    assert json.loads((tmp_path / "figures.json").read_text())["used_in_training"] == 48
    done = here("predict", flowers, folder, "--format", "csv")
    assert done.stderr.splitlines()[-1] == "1 of 13 images could not be read"


def test_evaluate_without_data_scores_the_runs_own_test_split(flowers, digits, tmp_path):
    for run, count in ((flowers, 12), (digits, 359)):
        for weights in (run, run / "best.safetensors"):
            done = here("evaluate", weights, "--json", tmp_path / "figures.json")
            assert done.returncode == 0, done.stderr
            assert f"the run's own test split, {count} images" in done.stdout
            figures = json.loads((tmp_path / "figures.json").read_text())
            assert figures["top1"] == Run(run).summary()["test"]["top1"]
    alone = shutil.copy(digits / "best.safetensors", tmp_path / "w.safetensors")
    assert "give --data" in refused("evaluate", alone)


def test_options_of_evaluate_win_over_what_the_weights_say(digits, tmp_path):
    losses = {}
    for given in (
        (),
        ("--crop", 1.0, "--interpolation", "bilinear"),
        ("--crop", 0.7),
        ("--crop", 0.7, "--pixel-backend", "fast"),
    ):
        here("evaluate", digits, "--json", tmp_path / "figures.json", *given)
        losses[given] = json.loads((tmp_path / "figures.json").read_text())["loss"]["value"]
    plain, same, cropped, fast = losses.values()
    assert plain == same
    assert len({plain, cropped, fast}) == 3


def test_models_lists_what_it_costs_and_what_was_published():
    done = here("models", "ff_*")
    for word in ("ff_tiny_patch16_224", "7.68 M", "2.88", "61.4 %", "arXiv 2105.02723"):
        assert word in done.stdout
    assert "ff_small_patch16_224" in here("models", "*small_patch16_224").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "ff_tinny_patch16_224"], "no network is called 'ff_tinny_patch16_224', did you mean 'ff_tiny_patch16_224'?"),
        (["train", "--recipe", "diet"], "none is called 'diet', did you mean 'deit'?"),
        (["train", "--recipe.epoch", 3], "Unknown option: --recipe.epoch. Did you mean --recipe.epochs?"),
        (["train", "--learning-rate", 1], "Unknown option: --learning-rate. Did you mean --lr?"),
        (["train", "--mixup", 1], "Unknown option: --mixup. Did you mean --recipe.mixup?"),
        (["compare", "--batch=8"], "Unknown option: --batch=8. Did you mean --batch-size?"),
        (["train", "--no-am"], "Unknown option: --no-am. Did you mean --no-amp?"),
        (["compare", "--budget", 30], "Unknown option: --budget. See: ffvit compare --help"),
        (["train", "--recipe.epochs", "three"], "--recipe.epochs: must be a whole number; got 'three'"),
        (["train", "--recipe.loss", "bse"], "--recipe.loss: must be 'soft_target' or 'bce'; got 'bse', did you mean 'bce'?"),
        (["train", "--recipe.mixup", -1], "--recipe.mixup: input should be greater than or equal to 0; got '-1'"),
        (["train", "--precision", "fp8"], "--precision: must be 'auto', 'fp32', 'bf16' or 'fp16'; got 'fp8'"),
        (["train", "--precision", "bf16-mixed"], "got 'bf16-mixed', did you mean 'bf16'?"),
        (["train", "--precision", "fp16", "--device", "cpu"], "--precision fp16: PyTorch trains in fp16 on GPUs alone"),
        (["train", "--amp", "--precision", "fp32"], "--precision and --amp set the same: give one of them"),
        (["evaluate", "x", "--amp"], "Unknown option: --amp"),
        (["train", "--accelerator", "gpu"], "--accelerator: must be 'auto', 'cpu', 'cuda' or 'mps'; got 'gpu', did you mean 'cuda'?"),
        (["train", "--recipe", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["train", "--recipe.auto-augment", "brand-m9"], "timm does not know 'brand-m9'"),
        (["train", "ff_tiny_patch16_224", "--image-size", 225], "img_size: height 225 is no multiple of the patch's 16; the nearest is 224 or 240"),
        (["train", "--image-size", 8, 8, 8], "--image-size: give one number for a square, or height and width; got 3 numbers"),
        (["train", "--resume"], "--resume needs the run folder to resume: --out FOLDER"),
        (["train", "--resume", "--out", "x", "--seed", 3], "--resume continues the run with its own settings"),
        (["train", "--seed", -1], "--seed: input should be greater than or equal to 0; got '-1'"),
        (["train", "--seed", 1.5], "--seed: must be a whole number; got '1.5'"),
        (["train", "--seed", 2**64], "--seed: input should be less than 18446744073709551616; got '18446744073709551616'"),
        (["train", "--data.split-seed", 2**32], "--data.split-seed: input should be less than 4294967296"),
        (["compare", "--seeds", 1.5], "--seeds: must be a whole number; got '1.5'"),
        (["compare", "--seeds", -1], "--seeds: input should be greater than 0; got '-1'"),
        (["train", "--data", "nowhere"], "there is no 'nowhere' in"),
        (["train", "--start-from", "nowhere.pth"], "nowhere.pth: there is no such file"),
        (["train", "resnet18", "--recipe.dropout", 2], "--recipe.dropout: input should be less than or equal to 1"),
        (["evaluate", "nowhere.pth"], "nowhere.pth: there is no such file"),
        (["predict", "nowhere.pth", "x.jpg"], "there is no"),
        (["models", "zz*"], "no network matches 'zz*'"),
        (["tran"], 'Unknown command "tran". Did you mean "train"?'),
        (["evaluate"], "WEIGHTS is missing. See: ffvit evaluate --help"),
    ],
)  # fmt: skip
def test_a_users_mistake_gets_one_sentence_and_exit_code_2(arguments, sentence, tmp_path):
    assert sentence in refused(*arguments, cwd=tmp_path)
    assert not list(tmp_path.iterdir())  # and nothing is left behind


def test_folders_that_cannot_be_used(tmp_path, photos):
    (tmp_path / "empty").mkdir()
    assert "there is no image in it" in refused("train", "--data", tmp_path / "empty")
    shutil.copytree(photos / "train" / "sky", tmp_path / "one" / "sky")
    assert "has one class only, 'sky'" in refused("train", "--data", tmp_path / "one")
    shutil.copytree(photos, tmp_path / "differ")
    (tmp_path / "differ" / "val" / "sky").rename(tmp_path / "differ" / "val" / "sea")
    said = refused("train", "--data", tmp_path / "differ")
    assert "'sky' in train but not in val; 'sea' in val but not in train" in said


def test_a_folder_that_exists(digits, tmp_path):
    assert "exists: resume it (--resume), replace it (--overwrite)" in refused("train", "--out", digits, *FAST)
    (tmp_path / "letter.txt").write_text("dear")
    assert "does not delete it" in refused("train", "--out", tmp_path, "--overwrite", *FAST)
    assert "this run is finished" in refused("train", "--out", digits, "--resume")


def test_weights_that_cannot_be_used(digits, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'harmed'}",)

    (tmp_path / "harm.pth").write_bytes(pickle.dumps({"model": Harm()}))
    assert "a pickle that asks to run code" in refused("evaluate", tmp_path / "harm.pth")
    torch.save({"model": Harm()}, tmp_path / "zipped.pth")
    assert "a pickle that asks to run code" in refused("evaluate", tmp_path / "zipped.pth")
    assert not (tmp_path / "harmed").exists()
    whole = (digits / "best.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "truncated or damaged" in refused("evaluate", tmp_path / "half.safetensors")
    said = refused("evaluate", digits / "best.safetensors", "--model", "vit_micro_patch2_8")
    assert "weights of another network" in said
    assert "blocks.0.0.mixer.qkv.weight" in said


def test_an_absurdly_large_image_is_refused_before_it_is_decoded(flowers, tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    said = here("predict", flowers, tmp_path / "bomb.png")
    assert said.returncode == 2
    assert "bomb.png: has more than" in said.stderr
    assert "pixels, and is not decoded" in said.stderr


def test_evaluating_on_classes_the_network_does_not_know(flowers, photos, tmp_path):
    shutil.copytree(photos / "val", tmp_path / "val")
    (tmp_path / "val" / "sky").rename(tmp_path / "val" / "skies")
    assert "the network does not know 'skies' (it knows 4 classes" in refused(
        "evaluate", flowers, "--data", tmp_path / "val"
    )


def test_a_full_disk_stops_the_run_with_a_sentence(tmp_path):
    """A limit on the size of files stands in for the disk: the first checkpoint does not fit."""
    out = tmp_path / "run"
    limit = 1_000_000
    done = subprocess.run(
        command("train", "--out", out, *FAST),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    assert "state.pt: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.rglob(".*.tmp"))


def test_a_loss_that_is_not_finite(tmp_path):
    said = refused(
        "train", "--out", tmp_path / "run", *FAST, "--recipe.lr", 1e30, "--recipe.clip-grad-norm", "none",
        "--recipe.warmup-lr", 1e20, code=1,
    )  # fmt: skip
    assert "the loss became" in said
    assert "of epoch 1" in said
    assert "A lower --lr" in said


def test_options_that_people_type_first_have_short_names(tmp_path):
    recipe = asked("--epochs", 3, "--lr", 0.01, "--batch-size", 32).recipe
    assert (recipe.epochs, recipe.lr, recipe.batch_size) == (3, 0.01, 32)
    assert "specified multiple times" in here("train", "--epochs", 3, "--recipe.epochs", 4, cwd=tmp_path).stderr


def test_images_are_named_by_one_option(tmp_path):
    done = here("train", "--data", "digits", "--data.source", "photos", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "Unknown option: --data.source" in done.stderr


def test_a_boolean_with_a_value_means_it():
    for words, late in (
        (("--recipe.schedule-late", "false"), False),
        (("--recipe.schedule-late",), True),
        (("--recipe.no-schedule-late",), False),
    ):
        config = asked("--recipe", "deit", *words)
        assert config.recipe.schedule_late is late
        assert config.network.name == "ff_micro_patch2_8"


@pytest.mark.parametrize(
    ("words", "precision"), [(["--amp"], "bf16"), (["--no-amp"], "fp32"), (["--amp", "false"], "fp32")]
)
def test_amp_is_short_for_a_precision(words, precision):
    assert asked(*words).hardware.precision == precision


def test_a_recipe_from_a_file_with_fields_over_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: deit\nlr: 0.25\nepochs: 7\n")
    recipe = asked("--recipe", "mine.yaml", "--epochs", 3, cwd=tmp_path).recipe
    assert (recipe.lr, recipe.epochs, recipe.mixup) == (0.25, 3, 0.8)
    (tmp_path / "mine.yaml").write_text("lr: fast\n")
    assert "mine.yaml.lr: must be a number; got 'fast'" in refused("train", "--recipe", "mine.yaml", cwd=tmp_path)


def test_runs_at_once_and_loading_processes_are_two_options(monkeypatch):
    asked = []
    monkeypatch.setattr("ffvit.study.compare.compare", lambda plan, out, **more: asked.append((plan, more)))
    plan = ("ff_micro_patch2_8", "vit_micro_patch2_8", "--data", "digits", "--out", "x")
    assert here("compare", *plan, "--jobs", 3, "--workers", 1).returncode == 0
    assert asked[0][1]["workers"] == 3
    assert asked[0][0].hardware.workers == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_help_all_lists_every_option(name):
    short, whole = here(*name.split(), "--help").stdout, here(*name.split(), "--help-all").stdout
    assert len(short.splitlines()) <= 55
    options = cli_options(COMMANDS[name])
    for option in options:
        assert option.names[0] in whole
        assert option.default is None or "default: " in whole
        assert option.kind is not bool or any(
            f"{dot}no-{option.names[0].rpartition(dot)[2]}" in whole for dot in ("--", ".")
        )
    assert f"{sum(not option.common for option in options)} more options: ffvit {name} --help-all" in short


def test_quiet_says_nothing_and_verbose_shows_where_an_error_was_raised(tmp_path):
    done = here("train", "--out", tmp_path / "run", *FAST, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = here("train", "--out", tmp_path / "run", *FAST, "--verbose")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("ffvit: ")


def test_completion_can_be_installed():
    assert "--install-completion" in here("--help").stdout


def test_ctrl_c_before_a_command_begins_is_no_traceback(monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ffvit.cli.make_app", interrupted)
    done = here("models")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ffvit: interrupted\n")
