"""What a checkpoint holds, and how it is read: tensors and primitives only, never code.

A `.ckpt` is what Lightning writes (weights, optimizer, progress) plus one entry of ours, `llm`, with the
architecture and the tokenizer as plain dicts: the file alone is enough to generate text.
"""

from __future__ import annotations

import pickle
import zipfile
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from llm.config import GPTConfig, LoRAConfig, OptimConfig
from llm.config.tasks import LANGUAGE
from llm.errors import CheckpointError, LLMError, OtherTaskError, first_line_of
from llm.model.lora import merged
from llm.model.networks import NETWORKS, config_class
from llm.model.trained import ALL, Trained
from llm.runtime.files import make_folder, whole_file
from llm.runtime.trust import refuse_named_code
from llm.tokenizers import Tokenizer, tokenizer_from_dict

ENTRY = "llm"
VERSION = 2
WEIGHTS_PREFIX = "network."
SOURCE_TOKENIZER = "source_tokenizer"
"""Where the entry of a translator has the tokenizer of its sources."""
MODEL_TYPE = "model_type"
"""Where the entry says of which family of Hugging Face's the weights were that training began with."""
BASE = "base"
"""Of the entry: which frozen weights the checkpoint leaves out, and where they are."""


class NetworkConfig(Protocol):
    """The architecture of a network: a dataclass of primitives."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives."""


def describe(
    config: NetworkConfig, tokenizer: Tokenizer | None, task: str = LANGUAGE, model_type: str | None = None
) -> dict[str, Any]:
    """The entry `llm` of a checkpoint."""
    described = {
        "version": VERSION,
        "task": task,
        "architecture": type(config).__name__,
        "network": config.to_dict(),
        "tokenizer": None if tokenizer is None else tokenizer.to_dict(),
    }
    return described if model_type is None else {**described, MODEL_TYPE: model_type}


def read_checkpoint(path: str | Path, with_checksums: bool = True) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; tensors are mapped, and read when they are used.

    Args:
        path: of the file.
        with_checksums: compare every part of it with its checksum, which reads the whole file once.

    Raises:
        CheckpointError: the file is missing, is not a checkpoint of ours, or is damaged.
    """
    shown = repr(str(path))
    if "://" in str(path):
        raise CheckpointError(f"{shown} is a URL: download the file yourself, and only from where you trust")
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):  # a pipe would block
        raise CheckpointError(f"{shown} is not a regular file; save the checkpoint in one first")
    _verify(Path(path), with_checksums)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {shown}") from error
    except IsADirectoryError as error:
        names = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "last.ckpt", "best.ckpt")
        found = next((str(Path(path) / name) for name in names if (Path(path) / name).is_file()), None)
        such_as = "" if found is None else f", such as {found!r}"
        raise CheckpointError(f"{shown} is a folder; give the .ckpt file in it{such_as}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{shown} is not a checkpoint of this package: it holds something other than tensors and plain values, "
            "and is not opened"
        ) from error
    except Exception as error:  # a damaged file can make torch raise anything
        raise CheckpointError(f"{shown} is not a checkpoint, or is damaged: {first_line_of(error)}") from error
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(n), dict) for n in (ENTRY, "state_dict")):
        raise CheckpointError(
            f"{shown} is not a checkpoint of this package: it has no entry {ENTRY!r} and 'state_dict'"
        )
    version = checkpoint[ENTRY].get("version")
    if type(version) is not int or version != VERSION:
        older = type(version) is int and version < VERSION
        advice = "export it with the version that wrote it (--format hf), and import that" if older else "update llm"
        raise CheckpointError(
            f"{shown} has version {str(version)[:80]}, this package reads version {VERSION}: {advice}"
        )
    refuse_named_code(checkpoint, shown)
    tokenizer = checkpoint[ENTRY].setdefault("tokenizer", None)
    if tokenizer is not None and not (isinstance(tokenizer, dict) and isinstance(tokenizer.get("kind"), str)):
        raise CheckpointError(f"{shown} is damaged: its tokenizer is not a dict with a kind")
    if wrong := [name for name, tensor in checkpoint["state_dict"].items() if not isinstance(tensor, Tensor)]:
        raise CheckpointError(f"{shown} is damaged: {wrong[0]!r} is not a tensor")
    return checkpoint


def task_in(path: str | Path) -> str:
    """The word of the task of a checkpoint, without reading its tensors; raises what `read_checkpoint` raises."""
    return task_of(read_checkpoint(path, with_checksums=False))


def _verify(path: Path, with_checksums: bool) -> None:
    """Compare every part of a file with its checksum: torch writes a CRC-32 of each, and ignores it when it reads.

    0.1 s for 500 MB in the page cache, which the reading of the tensors then finds warm.

    Raises:
        CheckpointError: the file is cut short, a bit of it was changed, or it is not a file of torch's.
    """
    if not path.is_file():  # torch reports what it is
        return
    shown = repr(str(path))
    if (size := path.stat().st_size) == 0:
        raise CheckpointError(f"{shown} is empty: it is not a checkpoint, or was cut short")
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            # So that reading takes time proportional to the size of the file, even of a malicious one.
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or size < sum(
                p.file_size for p in parts
            ):
                raise CheckpointError(f"{shown} is not a checkpoint: torch does not write such files")
            damaged = archive.testzip() if with_checksums else None
    except OSError as error:
        raise CheckpointError(f"can't read {shown}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError) as error:
        reason = "it is not in torch's file format" if str(error) == "File is not a zip file" else str(error)
        raise CheckpointError(f"{shown} is not a checkpoint, or was cut short: {reason}") from error
    if damaged is not None:
        raise CheckpointError(f"{shown} is damaged: its part {damaged!r} does not match its checksum")


def write_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint in one move: what was at `path` stays whole until the new file is on the disk.

    Raises:
        CheckpointError: it can't be written.
    """
    target = Path(path)
    try:
        make_folder(target.parent)
        with whole_file(target) as file:
            torch.save(checkpoint, file)
    except OSError as error:
        raise CheckpointError(
            f"can't write the checkpoint {str(target)!r}: {error.strerror}; the one before it, if any, is whole"
        ) from error


def checkpoint_of(
    config: GPTConfig,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer | None,
    template: dict[str, Any] | None = None,
    task: str = LANGUAGE,
    model_type: str | None = None,
) -> dict[str, Any]:
    """A checkpoint of weights alone, at step 0: enough to generate, to validate and to start a run from.

    Args:
        config: the architecture.
        weights: every tensor of that network, by its name in the model.
        tokenizer: or None, if it reads token ids.
        template: how a conversation becomes text, if that is known.
        task: that they were trained for.
        model_type: of the family that they were read as; None if it is not known.
    """
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version_of("lightning"),
        "state_dict": {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in weights.items()},
        ENTRY: describe(config, tokenizer, task, model_type) | ({} if template is None else {"template": template}),
    }


def weights_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of the model in a checkpoint, by their names in the model."""
    return {
        name.removeprefix(WEIGHTS_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(WEIGHTS_PREFIX)
    }


def trained_of(checkpoint: dict[str, Any]) -> Trained:
    """What was trained in a checkpoint, and its adapters; everything, without adapters, where it does not say.

    Raises:
        CheckpointError: what it says is damaged.
    """
    entry = checkpoint[ENTRY].get("trained")
    if entry is None:
        return ALL
    try:
        return Trained(tuple(entry["train"]), LoRAConfig(**entry["lora"]), tuple(entry["new"]))
    except (TypeError, KeyError, LLMError) as error:
        raise CheckpointError(
            f"the checkpoint is damaged: what it says of its adapters can't be used: {error}"
        ) from error


def plain_weights_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """As `weights_of`, adapters merged into the weights beside them: those of a network without adapters."""
    return merged(
        weights_of(checkpoint), trained_of(checkpoint).lora, checkpoint[ENTRY]["network"].get("vocab_size", 0)
    )


def task_of(checkpoint: dict[str, Any]) -> str:
    """The word of the task that a checkpoint was trained for."""
    return str(checkpoint[ENTRY].get("task", LANGUAGE))


def has_template(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint states how a conversation becomes text: by itself, or by its tokenizer."""
    entry = checkpoint[ENTRY]
    roles = (entry["tokenizer"] or {}).get("roles")
    return entry.get("template") is not None or (isinstance(roles, dict) and roles.get("chat_template") is not None)


def model_type_of(checkpoint: dict[str, Any]) -> str | None:
    """The family of the weights that a checkpoint began with; None if it does not say."""
    found = checkpoint[ENTRY].get(MODEL_TYPE)
    return found if isinstance(found, str) else None


def config_of(checkpoint: dict[str, Any], path: str | Path) -> GPTConfig:
    """The architecture of a checkpoint; a GPT's where it does not say which.

    Raises:
        OtherTaskError: it is of a task whose network this package does not build from a checkpoint.
        CheckpointError: it is not one that this package can build.
    """
    name = str(checkpoint[ENTRY].get("architecture", GPTConfig.__name__))
    if (kind := config_class(name)) is None:
        if (task := task_of(checkpoint)) != LANGUAGE:
            raise OtherTaskError(
                f"{str(path)!r} is a checkpoint of the task {task[:80]!r}, whose network can't be used here", task
            )
        known = ", ".join(kind.__name__ for kind in NETWORKS)
        raise CheckpointError(f"{str(path)!r} holds the architecture {name[:80]!r}; this package builds {known}")
    try:
        return kind(**checkpoint[ENTRY]["network"])
    except (TypeError, KeyError, LLMError) as error:
        raise CheckpointError(f"{str(path)!r} holds an architecture that can't be built: {error}") from error


def tokenizer_of(checkpoint: dict[str, Any], path: str | Path, name: str = "tokenizer") -> Tokenizer:
    """The tokenizer of a checkpoint, or another that it has by the name `SOURCE_TOKENIZER`.

    Raises:
        CheckpointError: it has none, or one that can't be built.
    """
    state = checkpoint[ENTRY].get(name)
    if state is None:
        raise CheckpointError(f"{str(path)!r} has no {name.replace('_', ' ')}, so it can't read or write text")
    try:
        return tokenizer_from_dict(state)
    except LLMError as error:
        raise CheckpointError(f"{str(path)!r} is damaged: its tokenizer can't be built: {error}") from error


def optim_of(checkpoint: dict[str, Any], path: str | Path) -> OptimConfig | None:
    """The optimizer settings that a checkpoint was trained with; None if it does not say.

    Raises:
        CheckpointError: they are damaged.
    """
    settings = checkpoint[ENTRY].get("settings")
    if settings is None:
        return None
    try:
        return OptimConfig(**settings["optim"])
    except (TypeError, KeyError, LLMError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: its settings can't be used: {error}") from error
