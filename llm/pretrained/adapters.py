"""Checkpoints that hold only what was trained, and the frozen weights that belong to them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.errors import CheckpointError
from llm.model.lora import A
from llm.pretrained.adapting import adapt
from llm.pretrained.checkpoint import BASE, ENTRY, WEIGHTS_PREFIX, config_of, trained_of, weights_of
from llm.pretrained.formats import read_pretrained
from llm.pretrained.hub import NAMES


def fingerprint(weights: dict[str, Tensor]) -> str:
    """A hash (SHA-256) of tensors by name: equal only if all bits are."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy())
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
    where = source if source in NAMES else str(Path(source).expanduser().absolute())
    checkpoint[ENTRY][BASE] = {"source": where, "fingerprint": fingerprint(frozen)}


def add_base(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Put the frozen weights of a checkpoint back that holds only what was trained.

    Args:
        checkpoint: as it was read; changed in place.
        path: of its file.

    Raises:
        CheckpointError: they are not where they were, nor beside the checkpoint; or are others.
    """
    base, shown = checkpoint[ENTRY][BASE], repr(str(path))
    if not isinstance(base, dict) or not all(isinstance(base.get(name), str) for name in ("source", "fingerprint")):
        raise CheckpointError(f"{shown} is damaged: it does not say which frozen weights belong to it")
    source = _find(base["source"], Path(path))
    weights, config = weights_of(checkpoint), config_of(checkpoint, path)
    found = adapt(read_pretrained(source), config).weights
    missing = {name: tensor for name, tensor in found.items() if name not in weights}
    if trained_of(checkpoint).lora.base_precision == "bfloat16":
        rounded = {f"{name.removesuffix(A)}weight" for name in weights if name.endswith(f".{A}")}
        missing = {name: tensor.bfloat16() if name in rounded else tensor for name, tensor in missing.items()}
    if (theirs := fingerprint(missing)) != base["fingerprint"]:
        raise CheckpointError(
            f"{shown} holds adapters to other weights than those in {source!r}: expected the fingerprint "
            f"{base['fingerprint'][:12]}, found {theirs[:12]}; put the weights that it was trained on in their place"
        )
    checkpoint["state_dict"] |= {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in missing.items()}
    base["source"] = source


def _find(source: str, path: Path) -> str:
    """Where the frozen weights of a checkpoint are."""
    for candidate in (source, str(path.parent / Path(source).name)):
        if candidate in NAMES or (Path(candidate).exists() and Path(candidate).resolve() != path.resolve()):
            return candidate
    raise CheckpointError(
        f"{str(path)!r} holds adapters alone, and the weights that it was trained on, {source!r}, are not there: put "
        f"them back, or beside it as {Path(source).name!r}"
    )
