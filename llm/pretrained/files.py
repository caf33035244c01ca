"""Read other people's files without running what may be in them: tensors and plain values only."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm.errors import CheckpointError
from llm.pretrained.other_kinds import kind_of_file, kind_of_folder

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "ckpt.pt", "model.pt")
"""The files that a folder is searched for, in this order; an index before them, which names several."""
_FOUND = (*INDEXES, *WEIGHTS, "checkpoints/best.ckpt", "checkpoints/last.ckpt")
_POINTER = b"version https://git-lfs.github.com/"
"""How a file begins that git has put in the place of a large one."""


class Content(NamedTuple):
    """What a file holds: its tensors by name or, from torch's format, whatever was saved; and its metadata."""

    value: Any
    metadata: dict[str, str]


def read_content(path: Path) -> Content:
    """The content of a weights file, or of the several that an index names, on the CPU.

    Raises:
        CheckpointError: it can't be read; says why.
    """
    if path.name.endswith(".index.json"):
        return Content(_read_shards(path), {})
    if path.exists() and not path.is_file():  # a pipe would block, and a device has no end
        raise CheckpointError(f"{str(path)!r} is not a regular file; save the weights in one first")
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        raise CheckpointError(f"can't read {str(path)!r}: {error.strerror}") from error
    _refuse_pointer(path, start)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path)
    if (kind := kind_of_file(path)) is not None:
        raise CheckpointError(f"{str(path)!r} is {kind}")
    return Content(_read_torch(path), {})


def _refuse_pointer(path: Path, start: bytes) -> None:
    """Refuse what stands for a large file in a repository that was cloned without it."""
    if start == _POINTER:
        raise CheckpointError(
            f"{str(path)!r} is a pointer of Git LFS, not the file: run git lfs pull in its folder, or download it"
        )


def start_of(path: Path, n_bytes: int) -> bytes:
    """The first bytes of a file; fewer where it has fewer, none where it can't be read or is not a regular file."""
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            return file.read(n_bytes)
    except OSError:
        return b""


def holds_weights(folder: Path) -> bool:
    """Whether a folder has a weights file that is read."""
    return any((folder / name).is_file() for name in _FOUND)


def find_weights(folder: Path) -> Path:
    """The weights file of a folder, or the index of several; of the folder of a run, its best or else last checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    for name in _FOUND:
        if (folder / name).is_file():
            return folder / name
    if (kind := kind_of_folder(folder)) is not None:
        raise CheckpointError(f"{str(folder)!r} {kind}")
    if runs := sorted(str(path.parent) for path in folder.glob("*/checkpoints")):
        raise CheckpointError(f"{str(folder)!r} is a folder of runs; give one of them, such as {runs[-1]!r}")
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
    raise CheckpointError(
        f"the folder {str(folder)!r} holds no weights: expected {', '.join((*WEIGHTS, *INDEXES))}; found {found}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: it can't be read, or is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_pointer(path, text[: len(_POINTER)].encode())
        content = json.loads(text)
    except OSError as error:
        raise CheckpointError(f"can't read {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} should hold a JSON object, it holds a {type(content).__name__}")
    return content


def _read_safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return Content({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged, or no safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    """What torch.save wrote, in its format of today or in that from before version 1.6."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{str(path)!r} is not opened: it is not a file of torch, or holds something other than tensors and plain "
            "values, which could run code. Save the state dict alone, or use safetensors"
        ) from error
    except Exception as error:  # a damaged file can make torch raise anything
        reason = str(error).splitlines()[0] if isinstance(error, OSError | RuntimeError) else type(error).__name__
        raise CheckpointError(f"{str(path)!r} is damaged, or holds no weights: {reason}") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors of the files that an index names, which lie beside it."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise CheckpointError(f"{str(index)!r} has no 'weight_map' of file names")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        if Path(name).name != name or "\\" in name or name.endswith(".index.json"):
            raise CheckpointError(f"{str(index)!r} names {name!r}, which is not a weights file beside it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{str(index)!r} names the file {name!r}, which is missing: put it there")
        content = read_content(index.parent / name).value
        if not is_tensors(content):
            raise CheckpointError(f"{str(index.parent / name)!r} holds something other than tensors")
        tensors |= content
    if different := sorted(set(files) ^ set(tensors)):
        raise CheckpointError(f"{str(index)!r} and its files do not name the same tensors: {', '.join(different)}")
    return tensors


def is_tensors(value: Any) -> bool:
    """Whether a value is a dict of tensors by name."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )
