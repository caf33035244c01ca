"""Write weights where something may be already: refuse to, or replace it in one move."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from llm.errors import CheckpointError
from llm.pretrained import card, peft
from llm.runtime.files import make_folder, move_into_place, temporary_for

_OF_A_MODEL = re.compile(
    r"config\.json|adapter_config\.json|adapter_model\.(safetensors|bin)|generation_config\.json|"
    r"(model|pytorch_model).*\.(safetensors|bin|json)|vocab\.json|merges\.txt|tokenizer.*\.json|"
    r"special_tokens_map\.json|added_tokens\.json|chat_template\.jinja"
)
"""The files of a model's folder, which an export replaces or removes."""


def refuse_existing(target: Path, overwrite: bool, of_a_folder: str | None = None) -> None:
    """Refuse to replace what is at the target, unless `overwrite` is on.

    Raises:
        CheckpointError: there is something, and `overwrite` is off; or it is a file where a folder should be, or the
            other way round; or a folder without the file `of_a_folder`, which only what may be replaced has.
    """
    if not target.exists():
        return
    is_folder = of_a_folder is not None
    if target.is_dir() != is_folder:
        kind, wanted = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise CheckpointError(f"{str(target)!r} is a {kind}, and a {wanted} is to be written: choose another name")
    if is_folder and not any(target.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{str(target)!r} is there already: choose another name, or replace it with --overwrite")
    if of_a_folder is not None and not (target / of_a_folder).is_file():
        what = "adapters" if of_a_folder == peft.CONFIG else "model"
        raise CheckpointError(
            f"{str(target)!r} holds no {what} that could be replaced, but other files: choose another"
        )


@contextlib.contextmanager
def in_one_move(target: Path) -> Iterator[Path]:
    """A path beside the target to write to, moved into its place at the end, or removed if something went wrong.

    Raises:
        CheckpointError: it can't be written.
    """
    target = target.absolute()
    temporary = temporary_for(target)
    old = temporary.with_suffix(".old")
    try:
        make_folder(target.parent)
        yield temporary
        if not target.is_dir():
            move_into_place(temporary, target)
            return
        target.rename(old)  # a folder that is not empty can't be replaced in one move
        try:
            move_into_place(temporary, target)
        except OSError:
            old.rename(target)
            raise
        for file in old.iterdir():
            if not _is_of_a_model(file):
                file.rename(target / file.name)
        shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and error.errno is None:  # NumPy keeps the system's reason to itself
            reason = f"the disk has no room left, it seems ({error})"
        raise CheckpointError(f"can't write {str(target)!r}: {reason}") from error
    finally:
        with contextlib.suppress(NotADirectoryError):  # of which a part is a file
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _is_of_a_model(file: Path) -> bool:
    if file.name == card.NAME:
        return card.MARK in file.read_text(encoding="utf-8", errors="replace")
    return _OF_A_MODEL.fullmatch(file.name) is not None


def save_tensors(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
    """Write a file; with one entry of metadata, since several would be in another order each time."""
    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, metadata)
    file.chmod(mode)  # safetensors makes files that only their owner can read
    with file.open("rb") as written:
        os.fsync(written.fileno())


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write JSON as a person may read it, its names in alphabetical order."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
