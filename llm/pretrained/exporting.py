"""Write weights for other programs: a folder for `transformers`, or one safetensors file to share."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from llm.config import GPTConfig
from llm.errors import CheckpointError, ConfigError, TokenizerError
from llm.pretrained import huggingface
from llm.pretrained.base import Pretrained
from llm.pretrained.checkpoint import ENTRY, describe
from llm.pretrained.families import family_of
from llm.pretrained.layout import HEAD, Tensors
from llm.pretrained.vocabulary import write_tokenizer
from llm.runtime.files import move_into_place, temporary_for

FORMATS = ("hf", "safetensors")

_OF_A_MODEL = re.compile(
    r"config\.json|generation_config\.json|(model|pytorch_model).*\.(safetensors|bin|json)|"
    r"vocab\.json|merges\.txt|tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja"
)
"""The files of a model's folder, which an export replaces or removes."""


def export(pretrained: Pretrained, out: str | Path, format: str = "hf", overwrite: bool = False) -> list[str]:
    """Write weights in another format. The target is there whole, or as it was before.

    Args:
        pretrained: from `read_pretrained`.
        out: a folder for `hf`, a file for `safetensors`.
        format: `hf`, a folder that `transformers` opens; or `safetensors`, one file with architecture and tokenizer
            in its metadata, which this package reads again.
        overwrite: replace what is there. In a folder, files that do not belong to a model stay.

    Returns:
        What a user should know, a sentence each.

    Raises:
        ConfigError: the format is unknown, or has no place for this architecture.
        CheckpointError: the target is there already, or can't be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    target = Path(out)
    is_folder = format == "hf"
    if is_folder:
        family_of(pretrained.config)  # or say what stands in the way
    refuse_existing(target, overwrite, is_folder)
    write = _write_hugging_face if is_folder else _write_safetensors
    try:
        with _in_one_move(target) as temporary:
            return write(pretrained, temporary)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"can't write {str(target)!r}: {reason}") from error


def refuse_existing(target: Path, overwrite: bool, is_folder: bool = False) -> None:
    """Refuse to replace what is at the target, unless `overwrite` is on.

    Raises:
        CheckpointError: there is something, and `overwrite` is off; or it is a file where a folder should be, or the
            other way round.
    """
    if not target.exists():
        return
    if target.is_dir() != is_folder:
        kind, wanted = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise CheckpointError(f"{str(target)!r} is a {kind}, and a {wanted} is to be written: choose another name")
    if is_folder and not any(target.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{str(target)!r} is there already: choose another name, or replace it with --overwrite")
    if is_folder and not (target / "config.json").is_file():
        raise CheckpointError(f"{str(target)!r} holds no model that could be replaced, but other files: choose another")


@contextlib.contextmanager
def _in_one_move(target: Path) -> Iterator[Path]:
    """A path beside the target to write to, moved into its place at the end, or removed if something went wrong."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(target)
    old = temporary.with_suffix(".old")
    try:
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
            if not _OF_A_MODEL.fullmatch(file.name):
                file.rename(target / file.name)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _write_hugging_face(pretrained: Pretrained, folder: Path) -> list[str]:
    config, tokenizer = pretrained.config, pretrained.tokenizer
    notes = []
    end = None if tokenizer is None else tokenizer.end_of_text_id
    settings, tensors, adds_biases = to_hugging_face(config, pretrained.weights, end)
    if adds_biases:
        notes.append("GPT-2's format always has biases: where this model has none, zeros were written")
    if config.padded_vocab_size > config.vocab_size:
        padding = config.padded_vocab_size - config.vocab_size
        notes.append(f"the {padding} rows of padding were omitted: they belong to no token")
    folder.mkdir()
    settings["dtype"] = str(pretrained.weights["embeddings.token.weight"].dtype).removeprefix("torch.")
    _write_json(folder / "config.json", settings)
    ends: int | list[int] | None = end
    if pretrained.template is not None:
        (folder / "chat_template.jinja").write_text(pretrained.template["source"], encoding="utf-8")
        answers_end = None if tokenizer is None else tokenizer.special_ids.get(pretrained.template.get("end", ""))
        ends = sorted({token for token in (end, answers_end) if token is not None}) or None
    _write_json(folder / "generation_config.json", {"bos_token_id": end, "eos_token_id": ends})
    _save(tensors, folder / "model.safetensors", {"format": "pt"})
    if tokenizer is None:
        notes.append("there is no tokenizer, so no tokenizer files were written")
        return notes
    try:
        write_tokenizer(tokenizer, folder, config.context_length)
    except TokenizerError as error:
        notes.append(f"no tokenizer files were written: {error}")
    return notes


def to_hugging_face(
    config: GPTConfig, weights: Tensors, end_of_text_id: int | None
) -> tuple[dict[str, Any], Tensors, bool]:
    """The `config.json` and the tensors of the family that can hold an architecture, and whether biases were added.

    Raises:
        ConfigError: none can.
    """
    if (family := family_of(config)) is not None:
        tensors = family.layout.to_theirs(weights, config)
        return family.config_to_json(config, end_of_text_id), family.whole_names(tensors), False
    tensors = huggingface.LAYOUT.to_theirs(weights, config)
    adds_biases = huggingface.add_missing_biases(tensors, weights)
    return huggingface.config_to_json(config, end_of_text_id), huggingface.with_prefix(tensors), adds_biases


def _write_safetensors(pretrained: Pretrained, file: Path) -> list[str]:
    described = describe(pretrained.config, pretrained.tokenizer)
    entry = json.dumps(described | ({} if pretrained.template is None else {"template": pretrained.template}))
    shared = {HEAD} if pretrained.config.tie_head else set()  # stored once, with the token embedding
    tensors = {name: tensor.contiguous() for name, tensor in pretrained.weights.items() if name not in shared}
    _save(tensors, file, {ENTRY: entry})
    return []


def _save(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
    """Write a file; with one entry of metadata, since several would be in another order each time."""
    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, metadata)
    file.chmod(mode)  # safetensors makes files that only their owner can read
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
