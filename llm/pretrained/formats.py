"""Recognise what a file or folder holds, and read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from llm.config import GPTConfig
from llm.config.tasks import LANGUAGE, NEXT_TOKEN_TASKS
from llm.errors import CheckpointError, LLMError, OtherTaskError
from llm.model.trained import Trained
from llm.pretrained import bert, book, families, gguf, huggingface, llama2c, nanogpt, openai
from llm.pretrained.adapters import add_base, base_of
from llm.pretrained.adapting import adapt, grow_vocabulary
from llm.pretrained.base import Pretrained, Told
from llm.pretrained.checkpoint import (
    ENTRY,
    checkpoint_of,
    config_of,
    model_type_of,
    plain_weights_of,
    read_checkpoint,
    task_of,
)
from llm.pretrained.files import find_weights, is_tensors, read_content, read_json
from llm.pretrained.hub import NAMES, fetch, repository_of
from llm.pretrained.layout import TOKEN, Tensors, clean_names, expected_shapes, head_name
from llm.pretrained.packages import PACKAGED, find_packaged
from llm.pretrained.peft import CONFIG, from_peft, is_peft
from llm.pretrained.vocabulary import add_nanogpt_tokenizer, add_tokenizer, replace_tokenizer
from llm.tokenizers import Tokenizer, tokenizer_from_dict

READABLE = (
    "a checkpoint or safetensors file of this package, a Hugging Face folder or file (GPT-2, Llama, Mistral, Qwen, "
    "Gemma, GPT-NeoX, OPT, BERT), a GGUF file, a .bin of llama2.c, nanoGPT's ckpt.pt, minGPT's model.pt, or a state "
    "dict of the book LLMs-from-scratch"
)


def read_pretrained(
    source: str | Path,
    told: Told | None = None,
    any_task: bool = False,
    tasks: Sequence[str] = NEXT_TOKEN_TASKS,
    tokenizer: Tokenizer | None = None,
) -> Pretrained:
    """The weights, architecture and tokenizer in a file or folder, whatever program wrote it.

    Args:
        source: a path; `gpt2`, `gpt2-medium`, `gpt2-large` or `gpt2-xl` for OpenAI's published weights; `owner/name` on
            the hub; or `smollm2-135m-instruct`, if the package that it comes in is installed.
        told: settings that some formats don't state, `n_head` and `activation`; not used where the format does.
        any_task: take a checkpoint of any task.
        tasks: else those whose checkpoints are taken.
        tokenizer: the model's, in place of the one that is found.

    Raises:
        CheckpointError: it can't be found, read, or recognised, or its tensors don't fit; says why.
    """
    told = {name: value for name, value in (told or {}).items() if value is not None}
    path = locate(source)
    if path.is_dir():
        openai.refuse(path)
        if is_peft(path):
            raise CheckpointError(
                f"{str(path)!r} holds adapters (LoRA) without their base: join them with python -m llm import --from "
                f"{path} --base BASE --out FILE"
            )
        path = find_weights(path)
    try:
        found = _read_file(path, told, tokenizer)
    except CheckpointError as error:
        if str(path) in str(error) or repr(str(path.parent)) in str(error):
            raise
        raise CheckpointError(f"{str(path)!r}: {error}") from error
    if found.task not in tasks and not any_task:
        wanted = "of a language model" if LANGUAGE in tasks else f"of the task {' or '.join(map(repr, tasks))}"
        message = f"{str(source)!r} is a checkpoint of the task {found.task!r}, not {wanted}"
        raise OtherTaskError(message, found.task)
    return found


def import_adapters(folder: str | Path, base: str | None = None) -> dict[str, Any]:
    """A checkpoint of the adapters in a folder of `peft` and of their base.

    Args:
        folder: with `adapter_config.json`.
        base: what they were trained on. Default: what the folder names.

    Raises:
        CheckpointError: the folder or the base can't be read, or they do not belong together.
        ConfigError: the base is of no family of `transformers`.
    """
    named = str(read_json(Path(folder) / CONFIG).get("base_model_name_or_path") or "")
    source = base or named
    if base is None and repository_of(named) is None and not Path(named or "?").exists():
        raise CheckpointError(f"{str(folder)!r} was trained on {named or 'a base without a name'!r}: give it as --base")
    found = read_pretrained(source)
    lora, adapters = from_peft(Path(folder), found.config, found.model_type)
    weights = found.weights | adapters
    checkpoint = checkpoint_of(found.config, weights, found.tokenizer, found.template, found.task, found.model_type)
    checkpoint[ENTRY]["trained"] = Trained(lora=lora).to_dict()
    return checkpoint


def locate(source: str | Path) -> Path:
    """The file or folder behind a path or a published name.

    Raises:
        CheckpointError: there is none.
    """
    if not str(source).strip():  # which would be the current folder
        raise CheckpointError(f"the name of the weights is empty; give {READABLE}")
    path = Path(source).expanduser()
    if path.exists():
        return path
    if "://" in str(source):
        raise CheckpointError(f"{str(source)!r} is a URL: download it yourself, and only from where you trust")
    if str(source) in PACKAGED:
        return find_packaged(str(source))
    if (repository := repository_of(str(source))) is not None:
        return fetch(repository)
    raise CheckpointError(
        f"there is no file or folder {str(source)!r}; give {READABLE}, one of the names {', '.join(NAMES + PACKAGED)}, "
        "or owner/name on the Hugging Face hub"
    )


def _read_file(path: Path, told: Told, given: Tokenizer | None) -> Pretrained:
    if gguf.is_gguf(path):
        return gguf.read(path, given)
    if llama2c.is_llama2c(path):
        return llama2c.read(path, given)
    content, metadata = read_content(path)
    if ENTRY in metadata:
        return replace_tokenizer(_read_shared(content, metadata[ENTRY]), given)
    if isinstance(content, dict) and ENTRY in content:
        return replace_tokenizer(_read_own(path), given)
    if isinstance(content, dict) and "model_args" in content and is_tensors(content.get("model")):
        found = nanogpt.read_nanogpt(content, told)
        return add_nanogpt_tokenizer(found, path, content.get("config"), given)
    tensors = clean_names(_state_dict(content))
    if (config := _stated_config(path.parent)) is not None:
        return _read_stated(config, tensors, path, given)
    if "tok_emb.weight" in tensors and any(name.startswith("trf_blocks.") for name in tensors):
        return add_tokenizer(book.read(tensors, told), None, given)
    if "tok_emb.weight" in tensors and "pos_emb" in tensors:
        return add_tokenizer(nanogpt.read_old_mingpt(tensors, told), None, given)
    if "wte.weight" in tensors and (qkv := _first(tensors, ".attn.c_attn.weight")) is not None:
        if qkv.ndim == 2 and qkv.shape[0] > qkv.shape[1]:  # (3 C, C): nn.Linear
            return add_tokenizer(nanogpt.read_mingpt(tensors, path.parent, told), None, given)
        return add_tokenizer(huggingface.read(tensors, path.parent, told), path.parent, given)
    if any(part in name for name in tensors for part in (".self_attn.", ".attention.self.query.")):
        raise CheckpointError(
            "these are weights of a Hugging Face model, but there is no config.json with a model_type beside them, and "
            "only that says which: put it into the same folder"
        )
    some = ", ".join(sorted(tensors)[:5])
    raise CheckpointError(f"the format is not known; its tensors begin with {some}. What can be read: {READABLE}")


def _stated_config(folder: Path) -> dict[str, Any] | None:
    """The `config.json` in a folder, if it is of Hugging Face's kind, which says what the model is."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    return config if "model_type" in config else None


def _read_stated(config: dict[str, Any], tensors: Tensors, path: Path, given: Tokenizer | None) -> Pretrained:
    """A model whose `config.json` says what it is, whatever its tensors look like."""
    folder = path.parent
    if config["model_type"] == "gpt2":
        return add_tokenizer(huggingface.read(tensors, folder, {}), folder, given)
    read = bert.read if config["model_type"] == bert.MODEL_TYPE else families.read
    return add_tokenizer(read(config, tensors, str(path if folder == Path() else folder)), folder, given)


def _first(tensors: Tensors, ending: str) -> Tensor | None:
    return next((tensor for name, tensor in tensors.items() if name.endswith(ending)), None)


def _state_dict(content: Any) -> Tensors:
    """The tensors of a file: the whole of it, or the entry that usual training scripts put them in."""
    if is_tensors(content):
        return content
    for name in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and is_tensors(content.get(name)):
            return content[name]
    what = f"entries {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(f"there is no state dict in it ({what}). What can be read: {READABLE}")


def read_with_base(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, as `read_checkpoint` gives it, with the frozen weights that it may leave out.

    Raises:
        CheckpointError: it can't be read, or those weights can't be found, or are others.
    """
    checkpoint = read_checkpoint(path)
    if (source := base_of(checkpoint, path)) is not None:
        config = config_of(checkpoint, path)
        found = read_pretrained(source, {"n_head": config.n_head}, any_task=True)
        base = adapt(grow_vocabulary(found, config.vocab_size), config)  # as the run did
        add_base(checkpoint, path, source, base.weights)
    return checkpoint


def _read_own(path: Path) -> Pretrained:
    """A checkpoint of this package."""
    checkpoint = read_with_base(path)
    return _own(checkpoint, config_of(checkpoint, path), plain_weights_of(checkpoint))


def _read_shared(tensors: Tensors, entry: str) -> Pretrained:
    """A safetensors file of this package, with the entry of a checkpoint as JSON in its metadata."""
    try:
        checkpoint = {ENTRY: json.loads(entry)}
        config = config_of(checkpoint, "the file")
    except (ValueError, TypeError, KeyError, LLMError) as error:
        raise CheckpointError(f"its metadata describe no model that can be built: {error}") from error
    if config.tie_head and TOKEN in tensors:
        tensors = tensors | {head_name(config): tensors[TOKEN]}
    return _own(checkpoint, config, tensors)


def _own(checkpoint: dict[str, Any], config: GPTConfig, weights: Tensors) -> Pretrained:
    """What the entry of a checkpoint says of its weights."""
    expected = expected_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if different := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        listed = ", ".join(f"{name} (expected {expected.get(name)}, found {found.get(name)})" for name in different)
        raise CheckpointError(f"the tensors do not fit the architecture: {listed}")
    entry = checkpoint[ENTRY]
    try:
        tokenizer = None if entry.get("tokenizer") is None else tokenizer_from_dict(entry["tokenizer"])
    except LLMError as error:
        raise CheckpointError(f"its tokenizer can't be built: {error}") from error
    task, family = task_of(checkpoint), model_type_of(checkpoint)
    return Pretrained("llm", config, weights, tokenizer, task=task, template=entry.get("template"), model_type=family)
