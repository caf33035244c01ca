"""Published weights, by name, from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from llm.errors import CheckpointError

NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's weights, which go without an owner's name."""

_REPOSITORIES = {name: f"openai-community/{name}" for name in NAMES} | {"distilgpt2": "distilbert/distilgpt2"}
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_OF_FILES = re.compile(r".*\.(ckpt|pth?|bin|safetensors|json|gguf|pkl|txt|html|ya?ml)", re.IGNORECASE)
_FILES = ["*.json", "*.txt", "*.jinja"]


def repository_of(name: str) -> str | None:
    """The repository that a name stands for: one of `NAMES`, or `owner/name`; None if it is no such name."""
    if _ID.fullmatch(name) and not _OF_FILES.fullmatch(name) and not Path(name).parent.exists():
        return name
    return _REPOSITORIES.get(name)


def fetch(repository: str) -> Path:
    """The folder of published weights: downloaded, resuming where a download was cut off, or already here.

    Args:
        repository: as `repository_of` gives it.

    What was downloaded is checked against the SHA-256 that the hub states.

    Raises:
        CheckpointError: huggingface_hub is not installed, there is no network and no earlier download, or a file is
            damaged; says where a folder can be put by hand.
    """
    name = next((name for name, found in _REPOSITORIES.items() if found == repository), repository)
    by_hand = (
        f"put config.json, model.safetensors and the tokenizer's files of {repository} into a folder {name!r} here, or "
        "give the path of such a folder"
    )
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {name!r} here, and to download it needs huggingface_hub (pip install "
            f"'see-inside-llm[hub]'); or {by_hand}"
        ) from error
    try:  # without a network, what is here has to do
        revision = HfApi().model_info(repository, files_metadata=True, timeout=10)
    except Exception as reason:  # its kinds are those of several libraries
        try:
            return Path(snapshot_download(repository, local_files_only=True))
        except LocalEntryNotFoundError:
            raise CheckpointError(
                f"can't download {repository} ({type(reason).__name__}: no network?): {by_hand}"
            ) from reason
    names = [file.rfilename for file in revision.siblings or ()]
    weights = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "pytorch_model*.bin"
    wanted = [*_FILES, weights]
    try:
        folder = Path(
            snapshot_download(repository, revision=revision.sha, allow_patterns=wanted, ignore_patterns=["*/*"])
        )
    except Exception as error:
        raise CheckpointError(
            f"the download of {repository} stopped ({type(error).__name__}); start again to resume it, or {by_hand}"
        ) from error
    for file in revision.siblings or ():
        if file.lfs is not None and (folder / file.rfilename).is_file():
            with (folder / file.rfilename).open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != file.lfs.sha256:
                raise CheckpointError(
                    f"{str(folder / file.rfilename)!r} is damaged: expected SHA-256 {file.lfs.sha256}, got {found}; "
                    "remove it and start again"
                )
    return folder
