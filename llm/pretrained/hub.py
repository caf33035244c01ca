"""OpenAI's published weights, by name, from the Hugging Face hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llm.errors import CheckpointError

NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
_FILES = ["config.json", "model.safetensors", "vocab.json", "merges.txt"]


def fetch(name: str) -> Path:
    """The folder of published weights: downloaded, resuming where a download was cut off, or already here.

    What was downloaded is checked against the SHA-256 that the hub states.

    Raises:
        CheckpointError: huggingface_hub is not installed, there is no network and no earlier download, or a file is
            damaged; says where a folder can be put by hand.
    """
    repository = f"openai-community/{name}"
    by_hand = (
        f"put config.json and model.safetensors of {repository} into a folder {str(Path(name))!r} here, "
        "or give the path of such a folder"
    )
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {name!r} here, and to download it needs huggingface_hub (pip install 'llm[hub]'); or "
            f"{by_hand}"
        ) from error
    try:  # without a network, what is here has to do
        revision = HfApi().model_info(repository, files_metadata=True, timeout=10)
    except Exception as reason:  # its kinds are those of several libraries
        try:
            return Path(snapshot_download(repository, allow_patterns=_FILES, local_files_only=True))
        except LocalEntryNotFoundError:
            raise CheckpointError(
                f"can't download {repository} ({type(reason).__name__}: no network?): {by_hand}"
            ) from reason
    try:
        folder = Path(snapshot_download(repository, revision=revision.sha, allow_patterns=_FILES))
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
