"""The model card of a finished run: what it was trained on, how good it is and how surely, what it costs, how to repeat it.

No path of this machine gets into it: of a folder only its own name is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from ffvit.config.strict_yaml import read_yaml
from ffvit.models.description import class_names_of
from ffvit.profiling.count import count
from ffvit.run_folder import Config, Run
from ffvit.terminal import percent

OURS = "<!-- Written by ffvit push, which replaces this card as long as this line is in it. -->"
PUBLIC_DATA = ("digits", "torch/", "tfds/", "hfds/")
"""How data sets begin that everybody can get by their names."""


def public_config(config: Config) -> Config:
    """A run's configuration without the places of its files."""

    def public(place: str | None) -> str | None:
        return place if place is None or place.startswith(PUBLIC_DATA) else PurePosixPath(place.partition("?")[0]).name

    return config.replace(
        data=config.data.replace(source=public(config.data.source), root=None),
        start_from=public(config.start_from),
        recipe=config.recipe.replace(teacher=public(config.recipe.teacher)),
    )


def model_card(run: Run, network: nn.Module, repository: str, license: str | None) -> str:  # noqa: A002 (the Hub's word)
    """The card, Markdown with the fields that the Hub reads in front.

    Args:
        run: Finished.
        network: Its best weights.
        repository: `user/name`.
        license: Of the weights, as the Hub calls it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    summary, config = run.summary() or {}, public_config(run.config)
    test, source = summary["test"], config.data.source
    name = repository.rpartition("/")[2]
    accuracy = EvalResult(
        task_type="image-classification", dataset_type="image-folder", dataset_name=source, metric_type="accuracy",
        metric_value=round(test["top1"]["value"], 4), dataset_split="test",
    )  # fmt: skip
    fields = ModelCardData(
        library_name="timm", pipeline_tag="image-classification", tags=["image-classification", "timm", "ffvit"],
        license=license, model_name=name, eval_results=[accuracy],
    )  # fmt: skip
    classes = class_names_of(network)
    listed = ", ".join(f"`{each}`" for each in classes[:50]) + (", ..." if len(classes) > 50 else "")
    parts = [
        f"---\n{fields.to_yaml()}\n---\n{OURS}\n",
        f"# {name}\n",
        f"`{summary['network']}`, which tells {len(classes):,} classes apart: {listed}.\n",
        _use(repository, summary["network"]),
        "## Accuracy\n",
        _accuracy(test),
        "## Calibration\n",
        _calibration(test),
        "## Data\n",
        summary["images"].replace(str(run.config.data.source), str(source)) + "\n",
        f"Uploaded: {summary['weights']}. The test split was read once, at the end.\n",
        "## Cost\n",
        _cost(run, network, summary),
        "## Licence\n",
        _licence(license, config),
        "## Repeat it\n",
        f"```sh\nffvit train --config train.yaml --data {'FOLDER' if source != run.config.data.source else source}\n```\n",
        f"`train.yaml` holds everything that was set, the seed {config.seed} too.\n",
    ]
    return "\n".join(parts)


def _use(repository: str, network: str) -> str:
    return f"""## Use

```sh
pip install ffvit
ffvit predict hf-hub:{repository} photo.jpg
```

In Python, where `register_with_timm` is needed if the network is ffvit's own (this one is `{network}`):

```python
import ffvit, timm

ffvit.register_with_timm()
network = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
```

`transformers.AutoModelForImageClassification.from_pretrained("{repository}")` takes it likewise.
"""


def _accuracy(test: Mapping[str, Any]) -> str:
    rows = [f"On {test['images']:,} test images:\n", "| | value | 95 % interval |", "|---|---|---|"]
    for key, title in (("top1", "top-1 accuracy"), ("top5", "top-5 accuracy")):
        if share := test[key]:
            rows.append(
                f"| {title} | {percent(share['value'])} | {percent(share['low'])} to {percent(share['high'])} |"
            )
    rows.append(f"| balanced accuracy | {percent(test['balanced_accuracy'])} | |")
    rows.append(f"| macro F1 | {percent(test['macro_f1'])} | |")
    loss, interval = test["loss"], ""
    if loss["low"] is not None:
        interval = f"{loss['low']:.3f} to {loss['high']:.3f} nats"
    rows.append(f"| loss | {loss['value']:.3f} nats | {interval} |")
    return "\n".join(rows) + "\n"


def _calibration(test: Mapping[str, Any]) -> str:
    if test["calibration_error"] is None:
        return "Not measured.\n"
    said = f"Expected calibration error {percent(test['calibration_error'])}, of the probabilities as they are"
    if test["temperature"] is None or not test["temperature_given"]:
        return said + ".\n"
    return (
        f"{said}; {percent(test['calibration_error_at_temperature'])} with the logits divided by {test['temperature']:.3f}, "
        "which was fitted on the validation split. `ffvit predict` divides; timm and transformers do not.\n"
    )


def _cost(run: Run, network: nn.Module, summary: Mapping[str, Any]) -> str:
    cost, made_on = count(network), read_yaml(run.config_file).get("environment") or {}
    where = ", ".join(made_on.get("devices") or [made_on.get("processor", "unknown hardware")])
    minutes = summary["seconds"] / 60
    time = f"{minutes / 60:,.1f} hours" if minutes > 90 else f"{minutes:,.1f} minutes"
    return (
        f"{cost.parameters / 1e6:,.2f} million parameters; {cost.flops / 1e9:,.3g} GFLOPs an image (a multiply-add is two). "
        f"Training took {time} on {where}, for {summary['images_seen']:,} images.\n"
    )


def _licence(license: str | None, config: Config) -> str:  # noqa: A002
    started = (
        f" Training started from `{config.start_from}`, whose licence holds too."
        if config.start_from is not None
        else ""
    )
    return (
        (f"{license}." if license else "Not stated by whoever uploaded this; ask before you use it.") + started + "\n"
    )


def write_card(run: Run, network: nn.Module, folder: Path, repository: str, license: str | None) -> None:  # noqa: A002
    """Write the card and `train.yaml` into a folder; arguments as in `model_card`."""
    (folder / "README.md").write_text(model_card(run, network, repository, license), encoding="utf-8")
    (folder / "train.yaml").write_text(public_config(run.config).to_yaml(), encoding="utf-8")
