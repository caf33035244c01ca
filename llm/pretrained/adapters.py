"""Checkpoints that hold only what was trained, and the frozen weights that belong to them."""

from __future__ import annotations

import hashlib
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.errors import CheckpointError
from llm.pretrained.checkpoint import (
    BASE,
    ENTRY,
    WEIGHTS_PREFIX,
    plain_weights_of,
    trained_of,
    weights_of,
)
from llm.pretrained.hub import repository_of
from llm.pretrained.packages import PACKAGED

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_OF_THE_RUN = ("trained", BASE, "settings", "skipped_steps", "unsupervised_batches")
"""What an entry says of the run that trained adapters, and of a checkpoint without them no longer."""


def fingerprint(weights: dict[str, Tensor]) -> str:
    """A hash (SHA-256) of tensors by name: equal only if all bits are."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def leave_out_base(checkpoint: dict[str, Any], frozen: dict[str, Tensor], source: str) -> None:
    """Take the frozen weights out of a checkpoint, and note which they are and where.

    Args:
        checkpoint: as it is to be written; changed in place.
        frozen: the frozen weights, by their names in the network.
        source: what they were read from.
    """
    for name in frozen:
        del checkpoint["state_dict"][f"{WEIGHTS_PREFIX}{name}"]
    file = Path(source).expanduser()
    is_name = (source in PACKAGED or repository_of(source) is not None) and not file.exists()
    where = source if is_name else str(file.absolute())
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in frozen.items()}
    others = {name: dtype for name, dtype in dtypes.items() if dtype != "float32"}
    checkpoint[ENTRY][BASE] = {"source": where, "fingerprint": fingerprint(frozen), "dtypes": others}


def base_of(checkpoint: dict[str, Any], path: str | Path) -> str | None:
    """Where the frozen weights are that a checkpoint leaves out; None if it has all.

    Args:
        checkpoint: as it was read.
        path: of its file.

    Raises:
        CheckpointError: they are neither where they were nor beside the checkpoint.
    """
    base, file = checkpoint[ENTRY].get(BASE), Path(path)
    if base is None:
        return None
    kinds = {"source": str, "fingerprint": str, "dtypes": dict}
    if not isinstance(base, dict) or not all(isinstance(base.get(name), kind) for name, kind in kinds.items()):
        raise CheckpointError(f"{str(path)!r} is damaged: it does not say which frozen weights belong to it")
    source: str = base["source"]
    for candidate in (source, str(file.parent / Path(source).name)):
        if Path(candidate).exists() and Path(candidate).resolve() != file.resolve():
            return candidate
    if source in PACKAGED or repository_of(source) is not None:
        return source
    raise CheckpointError(
        f"{str(path)!r} holds adapters alone, and the weights that it was trained on, {source!r}, are not there: put "
        f"them back, or beside it as {Path(source).name!r}"
    )


def add_base(checkpoint: dict[str, Any], path: str | Path, source: str, base: dict[str, Tensor]) -> None:
    """Put the frozen weights of a checkpoint back.

    Args:
        checkpoint: as it was read; changed in place.
        path: of its file.
        source: what the frozen weights were read from.
        base: those, and what was trained in their place.

    Raises:
        CheckpointError: they are not those that it was trained on.
    """
    weights, dtypes = weights_of(checkpoint), checkpoint[ENTRY][BASE]["dtypes"]
    missing = {
        name: tensor.to(_DTYPES.get(str(dtypes.get(name)), torch.float32))
        for name, tensor in base.items()
        if name not in weights
    }
    expected = checkpoint[ENTRY][BASE]["fingerprint"]
    if (found := fingerprint(missing)) != expected:
        raise CheckpointError(
            f"{str(path)!r} holds adapters to other weights than those in {source!r}: expected the fingerprint "
            f"{expected[:12]}, found {found[:12]}; put the weights that it was trained on in their place"
        )
    checkpoint["state_dict"] |= {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in missing.items()}
    checkpoint[ENTRY][BASE]["source"] = source


def merge(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A checkpoint of weights alone, at step 0, in which the adapters of another are part of the weights.

    Args:
        checkpoint: as it was read.
        path: of its file.

    Raises:
        CheckpointError: it has no adapters: they are merged already, or there never were any.
    """
    if not trained_of(checkpoint).lora.rank:
        raise CheckpointError(
            f"{str(path)!r} has no adapters to merge: they are part of the weights already, or there never were any"
        )
    entry = {name: value for name, value in checkpoint[ENTRY].items() if name not in _OF_THE_RUN}
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version_of("lightning"),
        "state_dict": {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in plain_weights_of(checkpoint).items()},
        ENTRY: entry,
    }
