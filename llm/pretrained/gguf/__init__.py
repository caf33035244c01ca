"""GGUF, llama.cpp's format: read by the package `gguf`, quantized weights as the numbers that they stand for.

`llm.pretrained.gguf.writing` writes it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.errors import CheckpointError
from llm.pretrained import families
from llm.pretrained.base import Pretrained
from llm.pretrained.files import start_of
from llm.pretrained.gguf.architecture import GPT2, ROPE_FACTORS, config_of, gpt2_config_of, hugging_face_name
from llm.pretrained.gguf.vocabulary import tokenizer_of
from llm.pretrained.interleaved import to_halves
from llm.pretrained.layout import HEAD, TOKEN
from llm.pretrained.vocabulary import add_described_tokenizer
from llm.tokenizers import Tokenizer


def is_gguf(path: Path) -> bool:
    """Whether a file begins as this format does."""
    return start_of(path, 4) == b"GGUF"


def read(path: Path, given: Tokenizer | None = None) -> Pretrained:
    """The model in a file, with its tokenizer and chat template.

    Args:
        path: a file for which `is_gguf` holds.
        given: the tokenizer, where the user says which.

    Raises:
        CheckpointError: `gguf` is not installed, or the file is damaged, a part of several, or of an architecture that
            is not read.
    """
    metadata, stored = _open(path)
    if metadata.get("split.count", 1) > 1:
        raise CheckpointError(
            f"{str(path)!r} is one of {metadata['split.count']} parts: join them with llama.cpp's llama-gguf-split"
        )
    if "token_embd.weight" not in stored:
        raise CheckpointError(
            f"{str(path)!r} has no token_embd.weight, so these are not the weights of a language model"
        )
    if metadata.get("general.architecture") == "gpt2":
        return _read_gpt2(metadata, stored, given)
    factors = stored.pop(ROPE_FACTORS, None)
    config = config_of(metadata, stored, None if factors is None else _dequantized(factors))
    config["vocab_size"] = int(stored["token_embd.weight"].shape[1])
    model = families.read(config, _Tensors(stored, config), str(path))
    format = f"GGUF ({families.FAMILIES[config['model_type']].name})"
    return add_described_tokenizer(dataclasses.replace(model, format=format), lambda: tokenizer_of(metadata), given)


def _read_gpt2(metadata: dict[str, Any], stored: dict[str, Any], given: Tokenizer | None) -> Pretrained:
    config = gpt2_config_of(metadata, stored, int(stored["token_embd.weight"].shape[1]))
    weights = GPT2.to_ours({name: _dequantized(tensor) for name, tensor in stored.items()}, config)
    if len({tensor.dtype for tensor in weights.values()}) > 1:  # norms, biases and positions are in float32
        weights = {name: tensor.float() for name, tensor in weights.items()}
        weights |= {HEAD: weights[TOKEN]} if config.tie_head else {}
    found = Pretrained("GGUF (GPT-2)", config, weights, model_type="gpt2")
    return add_described_tokenizer(found, lambda: tokenizer_of(metadata), given)


class _Tensors(Mapping[str, Tensor]):
    """Tensors by Hugging Face's names, each made when it is looked up.

    Args:
        stored: those of the file, by its names.
        config: the `config.json`.
    """

    def __init__(self, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._stored = {hugging_face_name(name): tensor for name, tensor in stored.items()}
        self._heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
        self._is_interleaved = config["model_type"] == "llama"
        # Norms are in float32 in any file: beside weights in bfloat16 they are so, too, if that loses nothing.
        self._is_short = any(tensor.tensor_type.name == "BF16" for tensor in stored.values())

    def __getitem__(self, name: str) -> Tensor:
        tensor = _dequantized(self._stored[name])
        if self._is_short and tensor.ndim == 1 and torch.equal(tensor, tensor.bfloat16().float()):
            tensor = tensor.bfloat16()
        match = re.fullmatch(r"layers\.\d+\.self_attn\.([qk])_proj\.(weight|bias)", name)
        if match is None or not self._is_interleaved:
            return tensor
        heads = self._heads[match[1]]
        fits = type(heads) is int and heads > 0 and len(tensor) % (2 * heads) == 0
        return to_halves(tensor, heads) if fits else tensor  # else its shape is not the architecture's, as will be said

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata, and the tensors as they are stored, mapped into memory."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise CheckpointError(
            f"{str(path)!r} is a GGUF file, and to read it needs gguf: pip install 'see-inside-llm[gguf]'"
        ) from error
    try:
        reader = GGUFReader(path, "c")  # a private copy of what is written to, which nothing is
        metadata = {name: _value(field) for name, field in reader.fields.items()}
        return metadata, {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # a damaged file can make it raise anything
        raise CheckpointError(f"{str(path)!r} is damaged, or no GGUF file that can be read: {error}") from error


def _value(field: Any) -> Any:
    """A value of the metadata; a number in float32 as its shortest decimal, such as 1e-05."""
    value = field.contents()
    return float(str(np.float32(value))) if field.types[-1].name == "FLOAT32" and type(value) is float else value


def _dequantized(stored: Any) -> Tensor:
    """A tensor as numbers: in the type it has, or float32 where it is quantized."""
    from gguf.quants import dequantize

    kind = stored.tensor_type.name
    if kind == "BF16":
        return torch.from_numpy(stored.data).view(torch.bfloat16)
    if kind in ("F32", "F16", "F64"):
        return torch.from_numpy(stored.data)
    try:
        return torch.from_numpy(dequantize(stored.data, stored.tensor_type))
    except NotImplementedError as error:
        raise CheckpointError(f"the tensor {stored.name} is in {kind}, which gguf can't dequantize") from error
