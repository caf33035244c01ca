"""A model as one GGUF file, which llama.cpp and what is built on it open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.config import EncoderConfig, GPTConfig
from llm.errors import ConfigError, TokenizerError
from llm.model.rotary import scaled_speeds
from llm.pretrained import huggingface
from llm.pretrained.base import Pretrained
from llm.pretrained.families import family_of
from llm.pretrained.gguf.architecture import GPT2, ROPE_FACTORS, gguf_name, metadata_of
from llm.pretrained.gguf.written_vocabulary import NO_VOCABULARY, metadata_of_tokenizer
from llm.pretrained.interleaved import to_neighbours
from llm.tokenizers import Tokenizer

DTYPES = {"float32": ("F32", 0), "float16": ("F16", 1), "bfloat16": ("BF16", 32), "q8_0": ("Q8_0", 7)}
"""Types of matrices: the package's names, and the number that a file of such is given."""

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""What llama.cpp calls a `model_type`."""


def architecture_of(config: GPTConfig, model_type: str | None = None) -> str:
    """What llama.cpp calls an architecture.

    Args:
        config: the architecture.
        model_type: the family that it was read as, if it is known.

    Raises:
        ConfigError: it has none like it, or its own differs; says in what.
    """
    family = family_of(config, model_type)
    if family is not None and family.model_type not in _ARCHITECTURES:
        raise ConfigError(
            f"GGUF is written for GPT-2, Llama, Mistral, Qwen2 and Qwen3, and this is of the family {family.name}"
        )
    needed: dict[str, Any] = {"activation": "gelu" if family is None else "silu", "scale_scores": True}
    wrong = [f"{name} is {getattr(config, name)} ({value} there)" for name, value in needed.items()
             if getattr(config, name) != value]  # fmt: skip
    scaling = config.rope_scaling
    if scaling.kind == "yarn" and (scaling.slow, scaling.fast, scaling.length) != (1.0, 32.0, None):
        wrong.append("rope_scaling has a slow, fast or length of its own")
    architecture = "gpt2" if family is None else _ARCHITECTURES[family.model_type]
    if wrong:
        raise ConfigError(
            f"llama.cpp's {architecture} has no place for this architecture: {', '.join(wrong)}; use --format hf"
        )
    return architecture


def refuse_obstacles(pretrained: Pretrained) -> None:
    """Refuse what can't be written.

    Raises:
        ConfigError: `gguf` is not installed, or llama.cpp has no such architecture.
    """
    if isinstance(pretrained.config, EncoderConfig):
        raise ConfigError("GGUF is written of models that predict the next token, and this is an encoder; use hf")
    architecture_of(pretrained.config, pretrained.model_type)
    _gguf()


def write(pretrained: Pretrained, path: Path, dtype: str | None = None) -> list[str]:
    """Write a model with its tokenizer and chat template.

    Norms, biases and GPT-2's positions are in float32, whatever the matrices are in, as llama.cpp wants them.

    Args:
        pretrained: what is written.
        path: of the file.
        dtype: of the matrices, one of `DTYPES`. Default: what they are in.

    Returns:
        What a user should know, a sentence each.

    Raises:
        ConfigError: `gguf` is not installed, or llama.cpp has no such architecture.
    """
    gguf = _gguf()
    config, notes = pretrained.config, list[str]()
    architecture = architecture_of(config, pretrained.model_type)
    held = str(pretrained.weights["embeddings.token.weight"].dtype).removeprefix("torch.")
    kind, file_type = DTYPES[dtype or (held if held in DTYPES else "float32")]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in metadata_of(config, architecture).items():
        _add(writer, name, value)
    if config.sliding_window is not None:
        notes.append(
            f"llama.cpp's {architecture} has no sliding window: the context was written as {config.sliding_window} "
            "positions, within which there is none"
        )
    for name, value in _vocabulary(pretrained.tokenizer, config, notes).items():
        _add(writer, name, value)
    tensors = dict(_tensors(pretrained, architecture, notes))
    kinds = {name: gguf.GGMLQuantizationType[_kind(name, tensor, kind)] for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if kinds[name].name not in ("F32", "F16"):
            shape = gguf.quant_shape_to_byte_shape(shape, kinds[name])
        size = {"F32": np.float32, "F16": np.float16}.get(kinds[name].name, np.uint8)
        n_bytes = int(np.prod(shape)) * np.dtype(size).itemsize
        writer.add_tensor_info(name, shape, np.dtype(size), n_bytes, kinds[name])
    if kind == "Q8_0" and (others := sum(kinds[name].name == "F16" for name in tensors)):
        notes.append(f"{others} matrices whose rows are no multiple of 32 were written in float16")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors.items():  # one at a time: only one is held in another type
        writer.write_tensor_data(gguf.quantize(tensor.detach().float().cpu().numpy(), kinds[name]))
    writer.flush()
    os.fsync(writer.fout[0].fileno())
    writer.close()
    return notes


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError("to write GGUF needs gguf: pip install 'see-inside-llm[gguf]'") from error
    return gguf


def _kind(name: str, tensor: Tensor, kind: str) -> str:
    if tensor.ndim == 1 or name.startswith("position_embd"):
        return "F32"
    return "F16" if kind == "Q8_0" and tensor.shape[1] % 32 else kind


def _tensors(pretrained: Pretrained, architecture: str, notes: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors by llama.cpp's names."""
    config, weights = pretrained.config, pretrained.weights
    if architecture == "gpt2":
        theirs = GPT2.to_theirs(weights, config)
        if huggingface.add_missing_biases(theirs, weights, GPT2):
            notes.append("GPT-2's format always has biases: where this model has none, zeros were written")
        yield from theirs.items()
        return
    family = family_of(config, pretrained.model_type)
    assert family is not None
    for name, tensor in family.layout.to_theirs(weights, config).items():
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        turned = tensor if heads is None or architecture != "llama" else to_neighbours(tensor, heads)
        yield gguf_name(name), turned
    if config.rope_scaling.kind == "llama3":
        plain = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        yield ROPE_FACTORS, plain / scaled_speeds(config.rope_theta, config.head_dim, config.rope_scaling)[0]


def _vocabulary(tokenizer: Tokenizer | None, config: GPTConfig, notes: list[str]) -> dict[str, Any]:
    reason = "the weights came without one"
    try:
        if tokenizer is not None:
            return metadata_of_tokenizer(tokenizer, config.vocab_size)
    except TokenizerError as error:
        reason = str(error)
    notes.append(f"no tokenizer was written, so that llama.cpp reads and writes token ids alone: {reason}")
    return NO_VOCABULARY


def _add(writer: Any, name: str, value: Any) -> None:
    """A value of the metadata, in the type that llama.cpp reads it in."""
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
