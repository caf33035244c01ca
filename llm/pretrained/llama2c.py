"""The `.bin` of Karpathy's llama2.c, version 0: seven integers, then every tensor of one kind after the other."""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path
from typing import NamedTuple

import torch

from llm.errors import CheckpointError, TokenizerError
from llm.pretrained import families
from llm.pretrained.base import Pretrained
from llm.pretrained.definitions import added_token, around, scored_pieces
from llm.pretrained.files import start_of
from llm.pretrained.interleaved import to_halves
from llm.pretrained.layout import Tensors
from llm.pretrained.tokenizer_files import from_definition
from llm.pretrained.vocabulary import add_described_tokenizer
from llm.tokenizers import Roles, Tokenizer

_HEADER = struct.Struct("<7i")
_BEGIN, _END = ("<s>", 1), ("</s>", 2)


class _Sizes(NamedTuple):
    """The header, in its order."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int  # negative where the head has weights of its own
    max_seq_len: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, in the file's order, those that are of a block with the number of blocks before."""
        C, F, L, V = self.dim, self.hidden_dim, self.n_layers, abs(self.vocab_size)
        D = C // self.n_heads
        H, K = self.n_heads * D, self.n_kv_heads * D
        table = (self.max_seq_len, D // 2)
        shapes: dict[str, tuple[int, ...]] = {
            "embed_tokens": (V, C),
            "input_layernorm": (L, C),
            "self_attn.q_proj": (L, H, C),
            "self_attn.k_proj": (L, K, C),
            "self_attn.v_proj": (L, K, C),
            "self_attn.o_proj": (L, C, H),
            "post_attention_layernorm": (L, C),
            "mlp.gate_proj": (L, F, C),
            "mlp.down_proj": (L, C, F),
            "mlp.up_proj": (L, F, C),
            "norm": (C,),
            "cosines": table,  # not used: they follow from the sizes
            "sines": table,
        }
        return shapes if self.vocab_size > 0 else shapes | {"lm_head": (V, C)}

    @property
    def n_bytes(self) -> int:
        """Of the whole file."""
        return _HEADER.size + 4 * sum(math.prod(shape) for shape in self.shapes().values())


def is_llama2c(path: Path) -> bool:
    """Whether a file begins as this format does, and ends where its sizes say, or before."""
    sizes = _sizes(path)
    return path.suffix == ".bin" and sizes is not None and path.stat().st_size <= sizes.n_bytes


def read(path: Path, given: Tokenizer | None = None) -> Pretrained:
    """The model in a file, and the tokenizer beside it: `tok512.bin` for 512 tokens, or `tokenizer.bin`.

    Args:
        path: a file for which `is_llama2c` holds.
        given: the tokenizer, where the user says which.

    Raises:
        CheckpointError: the file is cut off.
    """
    sizes = _sizes(path)
    assert sizes is not None
    if (found := path.stat().st_size) != sizes.n_bytes:
        raise CheckpointError(
            f"{str(path)!r} is cut off: a file of llama2.c with these sizes has {sizes.n_bytes:,} bytes, this one "
            f"{found:,}"
        )
    config = {
        "model_type": "llama",
        "vocab_size": abs(sizes.vocab_size),
        "max_position_embeddings": sizes.max_seq_len,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.n_heads,
        "num_key_value_heads": sizes.n_kv_heads,
        "hidden_size": sizes.dim,
        "intermediate_size": sizes.hidden_dim,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": sizes.vocab_size > 0,
    }
    model = families.read(config, _tensors(path, sizes), str(path))
    model = dataclasses.replace(model, format="llama2.c")
    return add_described_tokenizer(model, lambda: _tokenizer_beside(path, abs(sizes.vocab_size)), given)


def _tokenizer_beside(path: Path, vocab_size: int) -> Tokenizer | None:
    names = (f"tok{vocab_size}.bin", "tokenizer.bin")
    file = next((path.parent / name for name in names if (path.parent / name).is_file()), None)
    return None if file is None else read_tokenizer(file, vocab_size)


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a file: the longest token's length, then a score, a length and the bytes of each token.

    Args:
        path: the file, which does not say how many tokens there are.
        vocab_size: that number.

    Raises:
        TokenizerError: it holds fewer, or more.
    """
    content, at = path.read_bytes(), 4
    pieces, scores = [], []
    try:
        for _ in range(vocab_size):
            score, length = struct.unpack_from("<fi", content, at)
            at += 8 + length
            pieces.append(content[at - length : at].decode("utf-8").replace(" ", "▁"))
            scores.append(score)
    except (struct.error, UnicodeDecodeError) as error:
        raise TokenizerError(
            f"{str(path)!r} is no tokenizer of llama2.c with {vocab_size} tokens: it has {len(pieces)}"
        ) from error
    if at != len(content):
        raise TokenizerError(f"{str(path)!r} has more than the {vocab_size} tokens of the model")
    pieces[1:3] = [_BEGIN[0], _END[0]]  # between line breaks in the file
    definition = scored_pieces(pieces, scores, pieces[0])
    definition["added_tokens"] = [added_token(pieces[token_id], token_id) for token_id in range(3)]
    definition["post_processor"] = around(_BEGIN, None)
    # Its models were trained on texts that begin with <s> and have nothing between them.
    return from_definition(definition).with_roles(Roles(begin_id=1, end_ids=(1,), unknown_id=0))


def _sizes(path: Path) -> _Sizes | None:
    """The header, if it is one."""
    start = start_of(path, _HEADER.size)
    if len(start) < _HEADER.size:
        return None
    sizes = _Sizes(*_HEADER.unpack(start))
    others = [*sizes[:5], sizes.max_seq_len, abs(sizes.vocab_size)]
    is_one = all(0 < size < 1 << 20 for size in others) and sizes.n_layers < 1 << 10
    return sizes if is_one and sizes.dim % sizes.n_heads == 0 and sizes.n_heads % sizes.n_kv_heads == 0 else None


def _tensors(path: Path, sizes: _Sizes) -> Tensors:
    """By Hugging Face's names, mapped into memory."""
    values = torch.from_file(str(path), shared=False, size=sizes.n_bytes // 4, dtype=torch.float32)
    left, tensors = values[_HEADER.size // 4 :], {}
    for name, shape in sizes.shapes().items():
        tensor, left = left[: math.prod(shape)].view(shape), left[math.prod(shape) :]
        if name in ("embed_tokens", "norm", "lm_head"):
            tensors[f"{name}.weight"] = tensor
        elif name not in ("cosines", "sines"):
            n_head = {"self_attn.q_proj": sizes.n_heads, "self_attn.k_proj": sizes.n_kv_heads}.get(name)
            for layer, rows in enumerate(tensor):
                tensors[f"layers.{layer}.{name}.weight"] = to_halves(rows, n_head) if n_head else rows
    return tensors
