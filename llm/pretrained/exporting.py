"""Write weights for other programs: a folder for `transformers`, or one safetensors file to share."""

from __future__ import annotations

import contextlib
import dataclasses
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

from llm.config import EncoderConfig, GPTConfig
from llm.config.tasks import NEXT_TOKEN_TASKS
from llm.errors import CheckpointError, ConfigError, TokenizerError
from llm.pretrained import bert, card, huggingface, peft
from llm.pretrained.base import Pretrained
from llm.pretrained.checkpoint import (
    BASE,
    ENTRY,
    config_of,
    describe,
    model_type_of,
    read_checkpoint,
    task_of,
    trained_of,
    weights_of,
)
from llm.pretrained.families import family_of
from llm.pretrained.gguf import writing
from llm.pretrained.hub import repository_of
from llm.pretrained.layout import Tensors, head_name
from llm.pretrained.roles import stated_ids
from llm.pretrained.written_tokenizer import write_tokenizer
from llm.runtime.files import make_folder, move_into_place, temporary_for
from llm.runtime.words import counted
from llm.tokenizers import MASK, Tokenizer

FORMATS = ("hf", "safetensors", "gguf")

_OF_A_MODEL = re.compile(
    r"config\.json|adapter_config\.json|adapter_model\.(safetensors|bin)|generation_config\.json|"
    r"(model|pytorch_model).*\.(safetensors|bin|json)|vocab\.json|merges\.txt|tokenizer.*\.json|"
    r"special_tokens_map\.json|added_tokens\.json|chat_template\.jinja"
)
"""The files of a model's folder, which an export replaces or removes."""


def export(
    pretrained: Pretrained, out: str | Path, format: str = "hf", overwrite: bool = False, dtype: str | None = None
) -> list[str]:
    """Write weights in another format. The target is there whole, or as it was before.

    Args:
        pretrained: from `read_pretrained`.
        out: a folder for `hf`, a file for the others.
        format: `hf`, a folder that `transformers` opens; `safetensors`, one file with architecture and tokenizer
            in its metadata, which this package reads again; or `gguf`, one file for llama.cpp.
        overwrite: replace what is there. In a folder, files that do not belong to a model stay.
        dtype: of the matrices in a `gguf`: float32, float16, bfloat16 or q8_0. Default: what they are in.

    Returns:
        What a user should know, a sentence each.

    Raises:
        ConfigError: the format is unknown, or has no place for this architecture.
        CheckpointError: the target is there already, or can't be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    if dtype is not None and (format != "gguf" or dtype not in writing.DTYPES):
        raise ConfigError(f"dtype {dtype!r} is for --format gguf, one of {', '.join(writing.DTYPES)}")
    target = Path(out)
    is_folder = format == "hf"
    if format == "gguf":
        writing.refuse_obstacles(pretrained)
    if is_folder and isinstance(pretrained.config, EncoderConfig):
        bert.refuse_obstacles(pretrained.config)
    elif is_folder:
        family_of(pretrained.config, pretrained.model_type)  # or say what stands in the way
    refuse_existing(target, overwrite, "config.json" if is_folder else None)
    with _in_one_move(target) as temporary:
        if format == "gguf":
            return writing.write(
                dataclasses.replace(pretrained, tokenizer=_with_template(pretrained)), temporary, dtype
            )
        return (_write_hugging_face if is_folder else _write_safetensors)(pretrained, temporary)


def export_adapters(source: str | Path, out: str | Path, overwrite: bool = False) -> list[str]:
    """Write the adapters of a checkpoint as a folder that `peft` opens; its base is not needed.

    Args:
        source: a checkpoint with adapters.
        out: the folder.
        overwrite: replace the adapters that are there; other files stay.

    Returns:
        What a user should know, a sentence each.

    Raises:
        ConfigError: there are none, more than they is trained, they are of no language model, or `transformers` has no
            such architecture.
        CheckpointError: the source can't be read, or the target is there already, or can't be written.
    """
    checkpoint, target, notes = read_checkpoint(source), Path(out), []
    if (task := task_of(checkpoint)) not in NEXT_TOKEN_TASKS:
        raise ConfigError(
            f"{str(source)!r} is of the task {task!r}: peft's folders are for language models; share the .ckpt itself"
        )
    trained, base = trained_of(checkpoint), checkpoint[ENTRY].get(BASE, {}).get("source")
    if base is not None and not (Path(base) / "config.json").is_file():
        base = repository_of(base)
    config, weights = config_of(checkpoint, source), weights_of(checkpoint)
    settings, tensors = peft.to_peft(config, trained, weights, base, model_type_of(checkpoint))
    if base is None:
        notes.append("it does not name its base: for peft, export that with --format hf")
    if trained.lora.base_precision == "bfloat16":
        notes.append("it was trained on a base in bfloat16: on one in float32, logits differ by the rounding")
    refuse_existing(target, overwrite, peft.CONFIG)
    with _in_one_move(target) as temporary:
        temporary.mkdir()
        _write_json(temporary / peft.CONFIG, settings)
        _save(tensors, temporary / peft.WEIGHTS, {"format": "pt"})
    return notes


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
def _in_one_move(target: Path) -> Iterator[Path]:
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


def _write_hugging_face(pretrained: Pretrained, folder: Path) -> list[str]:
    config, tokenizer = pretrained.config, _with_template(pretrained)
    if isinstance(config, EncoderConfig) and tokenizer is not None:
        tokenizer = _with_mask_role(tokenizer)
    notes = []
    end = None if tokenizer is None else tokenizer.end_of_text_id
    settings, tensors, adds_biases = to_hugging_face(config, pretrained.weights, end, pretrained.model_type)
    is_encoder = isinstance(config, EncoderConfig)
    if adds_biases:
        what = "BERT's format always has biases and segments" if is_encoder else "GPT-2's format always has biases"
        notes.append(f"{what}: where this model has none, zeros were written")
    if config.padded_vocab_size > config.vocab_size:
        padding = config.padded_vocab_size - config.vocab_size
        were = counted(padding, "row of padding was", "rows of padding were")
        notes.append(f"{were} omitted, which belong to no token")
    folder.mkdir()
    settings |= stated_ids(tokenizer)
    settings["dtype"] = str(pretrained.weights["embeddings.token.weight"].dtype).removeprefix("torch.")
    _write_json(folder / "config.json", settings)
    if not is_encoder:
        _write_json(folder / "generation_config.json", stated_ids(tokenizer))
    _save(tensors, folder / "model.safetensors", {"format": "pt"})
    reason = "the weights came without a tokenizer" if tokenizer is None else None
    try:
        if tokenizer is not None:
            write_tokenizer(tokenizer, folder, config.context_length)
    except TokenizerError as error:
        reason = str(error)
    if reason is not None:
        notes.append(f"no tokenizer files were written: {reason}")
    n_parameters = sum(tensor.numel() for tensor in tensors.values())
    (folder / card.NAME).write_text(card.model_card(config, n_parameters, reason), encoding="utf-8")
    return notes


def _with_template(pretrained: Pretrained) -> Tokenizer | None:
    """The tokenizer with the chat template that the model was trained with, whose end of an answer ends a text too."""
    tokenizer, template = pretrained.tokenizer, pretrained.template
    if tokenizer is None or template is None:
        return tokenizer
    ends = (*tokenizer.end_ids, tokenizer.special_ids.get(template.get("end", "")))
    known = tuple(dict.fromkeys(token_id for token_id in ends if token_id is not None))
    return tokenizer.with_roles(dataclasses.replace(tokenizer.roles, end_ids=known, chat_template=template["source"]))


def _with_mask_role(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of an encoder, which says which token is the mask."""
    mask_id = tokenizer.special_ids.get(MASK)
    if tokenizer.roles.mask_id is not None or mask_id is None:
        return tokenizer
    return tokenizer.with_roles(dataclasses.replace(tokenizer.roles, mask_id=mask_id))


def to_hugging_face(
    config: GPTConfig, weights: Tensors, end_of_text_id: int | None, model_type: str | None = None
) -> tuple[dict[str, Any], Tensors, bool]:
    """The `config.json` and the tensors of the family that can hold an architecture, and whether biases were added.

    Args:
        config: the architecture.
        weights: by our names.
        end_of_text_id: or None.
        model_type: the family that they were read as, if it is known.

    Raises:
        ConfigError: none can.
    """
    if isinstance(config, EncoderConfig):
        bert.refuse_obstacles(config)
        tensors, added = bert.to_theirs(weights, config)
        return bert.config_to_json(config), tensors, added
    if (family := family_of(config, model_type)) is not None:
        tensors = family.layout.to_theirs(weights, config)
        return family.config_to_json(config, end_of_text_id), family.whole_names(tensors), False
    tensors = huggingface.LAYOUT.to_theirs(weights, config)
    adds_biases = huggingface.add_missing_biases(tensors, weights)
    return huggingface.config_to_json(config, end_of_text_id), huggingface.with_prefix(tensors), adds_biases


def _write_safetensors(pretrained: Pretrained, file: Path) -> list[str]:
    described = describe(pretrained.config, pretrained.tokenizer, pretrained.task, pretrained.model_type)
    entry = json.dumps(described | ({} if pretrained.template is None else {"template": pretrained.template}))
    config = pretrained.config
    shared = {head_name(config)} if config.tie_head else set()  # stored once, with the token embedding
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
