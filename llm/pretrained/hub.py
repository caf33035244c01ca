"""Published weights, by name, from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from llm.errors import CheckpointError

NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's weights, which go without an owner's name."""

_REPOSITORIES = {name: f"openai-community/{name}" for name in NAMES} | {"distilgpt2": "distilbert/distilgpt2"}
_ID = re.compile(r"(?!.*(--|\.\.|\.git$))\w([\w.-]*\w)?/\w([\w.-]{0,94}\w)?", re.ASCII)
"""As huggingface_hub has it, which refuses all others."""
_OF_FILES = re.compile(r".*\.(ckpt|pth?|bin|safetensors|json|gguf|pkl|txt|html|ya?ml)", re.IGNORECASE)
_FILES = ["*.json", "*.txt", "*.jinja", "*.model"]
_OTHERS = ["*/*", "consolidated*"]
"""What is not fetched: folders, and the same weights once more as their makers' own programs have them."""


def repository_of(name: str) -> str | None:
    """The repository that a name stands for: one of `NAMES`, or `owner/name`; None if it is no such name."""
    if _ID.fullmatch(name) and not _OF_FILES.fullmatch(name) and not Path(name).parent.exists():
        return name
    return _REPOSITORIES.get(name)


def fetch(repository: str) -> Path:
    """The folder of published weights: downloaded, or already here.

    A download goes on where its connection broke; one that was ended keeps the files that are whole. Every file is
    compared with the SHA-256, or git's hash, that the hub states. Without a network, an earlier download will do.

    Args:
        repository: as `repository_of` gives it.

    Raises:
        CheckpointError: huggingface_hub is not installed, the hub does not give the repository, there is no network
            and no earlier download, or a file is damaged; says where a folder can be put by hand.
    """
    name = next((name for name, found in _REPOSITORIES.items() if found == repository), repository)
    by_hand = (
        f"put config.json, model.safetensors and the tokenizer's files of {repository} into a folder {name!r} here, or "
        "give the path of such a folder"
    )
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {name!r} here, and to download it needs huggingface_hub (pip install "
            f"'see-inside-llm[hub]'); or {by_hand}"
        ) from error
    try:
        files = HfApi().model_info(repository, files_metadata=True, timeout=10).siblings or []
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repository} is gated: ask for access at https://huggingface.co/{repository}, sign in (hf auth login), "
            f"and start again; or {by_hand}"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no {repository}, or it is private: check the name, or sign in (hf auth login); or {by_hand}"
        ) from error
    except Exception as reason:  # its kinds are those of several libraries
        try:
            return Path(
                snapshot_download(
                    repository,
                    local_files_only=True,
                    allow_patterns=[*_FILES, "*.safetensors"],
                    ignore_patterns=_OTHERS,
                )
            )
        except LocalEntryNotFoundError:
            raise CheckpointError(
                f"can't download {repository} ({type(reason).__name__}: no network?): {by_hand}"
            ) from reason
    is_safe = any(file.rfilename.endswith(".safetensors") and "/" not in file.rfilename for file in files)
    wanted = [*_FILES, "*.safetensors" if is_safe else "pytorch_model*.bin"]
    try:  # of `main`, not of its commit: only so the library finds the folder again without a network
        folder = Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=_OTHERS))
    except Exception as error:
        raise CheckpointError(
            f"the download of {repository} stopped ({type(error).__name__}); start again (what is whole is kept), or "
            f"{by_hand}"
        ) from error
    for file in files:
        if (path := folder / file.rfilename).is_file():
            _verify(path, file.lfs.sha256 if file.lfs is not None else None, file.blob_id)
    return folder


def _verify(path: Path, sha256: str | None, blob_id: str | None) -> None:
    """Compare a file with what the hub states: a SHA-256 of large files, git's hash of the others.

    Raises:
        CheckpointError: it is another file, which is removed, so that it is downloaded again.
    """
    expected = sha256 or blob_id
    if expected is None:
        return
    digest = hashlib.sha256() if sha256 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())  # as git has it
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    if (found := digest.hexdigest()) != expected:
        path.resolve().unlink()  # what the library's link points to
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{str(path)!r} came damaged: expected {'SHA-256' if sha256 else 'the git hash'} {expected}, got {found}; "
            "it has been removed: start again"
        )
