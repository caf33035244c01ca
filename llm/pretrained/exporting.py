"""Write weights for other programs: a folder for `transformers`, or one safetensors file to share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from llm.config.tasks import NEXT_TOKEN_TASKS
from llm.errors import ConfigError
from llm.pretrained import peft
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
from llm.pretrained.gguf import writing
from llm.pretrained.hub import repository_of
from llm.pretrained.layout import head_name
from llm.pretrained.replacing import in_one_move, refuse_existing, save_tensors, write_json
from llm.pretrained.transformers_folder import refuse_obstacles, write_folder
from llm.tokenizers import Tokenizer

FORMATS = ("hf", "safetensors", "gguf")


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
    if is_folder:
        refuse_obstacles(pretrained)
    refuse_existing(target, overwrite, "config.json" if is_folder else None)
    with in_one_move(target) as temporary:
        if format == "safetensors":
            return _write_safetensors(pretrained, temporary)
        pretrained = dataclasses.replace(pretrained, tokenizer=_with_template(pretrained))
        return write_folder(pretrained, temporary) if is_folder else writing.write(pretrained, temporary, dtype)


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
    with in_one_move(target) as temporary:
        temporary.mkdir()
        write_json(temporary / peft.CONFIG, settings)
        save_tensors(tensors, temporary / peft.WEIGHTS, {"format": "pt"})
    return notes


def _with_template(pretrained: Pretrained) -> Tokenizer | None:
    """The tokenizer with the chat template that the model was trained with, whose end of an answer ends a text too."""
    tokenizer, template = pretrained.tokenizer, pretrained.template
    if tokenizer is None or template is None:
        return tokenizer
    ends = (*tokenizer.end_ids, tokenizer.special_ids.get(template.get("end", "")))
    known = tuple(dict.fromkeys(token_id for token_id in ends if token_id is not None))
    return tokenizer.with_roles(dataclasses.replace(tokenizer.roles, end_ids=known, chat_template=template["source"]))


def _write_safetensors(pretrained: Pretrained, file: Path) -> list[str]:
    described = describe(pretrained.config, pretrained.tokenizer, pretrained.task, pretrained.model_type)
    entry = json.dumps(described | ({} if pretrained.template is None else {"template": pretrained.template}))
    config = pretrained.config
    shared = {head_name(config)} if config.tie_head else set()  # stored once, with the token embedding
    tensors = {name: tensor.contiguous() for name, tensor in pretrained.weights.items() if name not in shared}
    save_tensors(tensors, file, {ENTRY: entry})
    return []
