"""A finished run as a repository on the Hugging Face Hub."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from ffvit.errors import OutputError, RunFolderError, UserError
from ffvit.exporting.model_card import OURS, write_card
from ffvit.models.description import class_names_of
from ffvit.models.hub import check_empty, write_hub_folder
from ffvit.models.weights import load
from ffvit.run_folder import Run


def push(
    run: Path,
    repository: str,
    *,
    out: Path | None = None,
    license: str | None = None,  # noqa: A002 (the Hub's word)
    private: bool = False,
    console: Console,
) -> str:
    """Write the best weights of a run, their description and a model card, and upload them.

    huggingface_hub finds the token, from `hf auth login` or `HF_TOKEN`. A card that somebody else wrote is kept.

    Args:
        run: A finished run folder.
        repository: `user/name`; made if it is not there.
        out: Write this folder and upload nothing.
        license: Of the weights, as the Hub calls it.
        private: Make a new repository private.
        console: Where to say what was done.

    Returns:
        The address of the repository, or the folder.

    Raises:
        UserError: The run is not finished, the name cannot be one, the folder is not empty, or the Hub refuses.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"repository: {error}") from None
    if repository.count("/") != 1:
        raise UserError(f"repository: must be user/name; got {repository!r}")
    finished = Run(run)
    if finished.summary() is None:
        raise RunFolderError(f"{run}: the run is not finished: finish it first (ffvit train --resume --out {run})")
    if out is not None:
        check_empty(out)
        _write(finished, out, repository, license)
        console.print(f"written to {out}; nothing was uploaded", markup=False, highlight=False)
        return str(out)
    with TemporaryDirectory() as folder:
        _write(finished, Path(folder), repository, license)
        address = _upload(Path(folder), repository, private)
    console.print(f"uploaded to {address}", markup=False, highlight=False)
    return address


def _write(run: Run, folder: Path, repository: str, license: str | None) -> None:  # noqa: A002
    network: Any = load(run.path)
    write_hub_folder(network, folder, class_names_of(network), network.temperature, network.ood_threshold)
    write_card(run, network, folder, repository, license)


def _upload(folder: Path, repository: str, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="ffvit", library_version=version("ffvit"))
    try:
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        kept = ["README.md"] if _has_card_of_others(api, made.repo_id) else None
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload with ffvit", ignore_patterns=kept
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise OutputError(
                f"{repository}: the Hub does not let you write there: log in (hf auth login) with a token that may write"
            ) from None
        raise OutputError(f"{repository}: the Hub refuses: {str(error).splitlines()[0]}") from None
    except Exception as error:  # of the HTTP library that huggingface_hub uses: another one in each generation
        raise OutputError(
            f"{repository}: the Hub cannot be reached ({type(error).__name__}); --out FOLDER writes the files without it"
        ) from None
    return str(made)


def _has_card_of_others(api: Any, repository: str) -> bool:
    if not api.file_exists(repository, "README.md"):
        return False
    return OURS not in Path(api.hf_hub_download(repository, "README.md")).read_text(encoding="utf-8")
