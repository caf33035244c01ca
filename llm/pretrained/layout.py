"""How other programs name, orient and split the tensors of a GPT, and the way from there to here and back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llm.config import GPT2_SIZES, EncoderConfig, GPTConfig
from llm.errors import CheckpointError, ConfigError
from llm.model import build_network

Tensors = dict[str, Tensor]

TOKEN, HEAD = "embeddings.token.weight", "head.weight"
MASKED_HEAD, _MASKED_BIAS = "head.output.weight", "head.output.bias"
"""Of an encoder, whose head has more layers than the last."""
_PREFIXES = ("_orig_mod.", "module.", "model.", "transformer.")
"""What torch.compile, parallel training and wrappers put before a name."""


@dataclass(frozen=True)
class Layout:
    """How a program names, orients and splits the tensors of a GPT.

    Args:
        modules: our modules and theirs, with `*` for the number of the block. Where ours is several of theirs,
            their tensors one after the other along the output are ours.
        transposed: our modules whose weights they store as (in, out) instead of (out, in).
        by_head: our modules whose rows they store head by head, each with its queries, keys and values.
        unused_rows: how many rows their tables have before ours, which no token uses.
        norm_parameters: what they call the `weight` and `bias` of a norm.
        buffers: a pattern of the names that are no weights, such as masks; known, and skipped on purpose.
        head: our name for the weights of the output layer.
    """

    modules: Mapping[str, str | tuple[str, ...]]
    transposed: frozenset[str] = frozenset()
    by_head: frozenset[str] = frozenset()
    unused_rows: Mapping[str, int] = field(default_factory=dict)
    norm_parameters: Mapping[str, str] = field(default_factory=lambda: {"weight": "weight", "bias": "bias"})
    buffers: str = r"(?!)"
    head: str = HEAD

    def names(self, ours: str) -> tuple[str, ...]:
        """Their names for one tensor of ours."""
        module, parameter = ours.rsplit(".", 1)
        theirs = self.modules[_generic(module)]
        number = next((part for part in module.split(".") if part.isdigit()), "")
        if module.endswith("norm"):
            parameter = self.norm_parameters[parameter]
        names = (theirs,) if isinstance(theirs, str) else theirs
        return tuple(f"{name.replace('*', number)}.{parameter}" for name in names)

    def is_transposed(self, ours: str) -> bool:
        """Whether they store one tensor of ours as (in, out)."""
        return ours.endswith(".weight") and _module(ours) in self.transposed

    def to_ours(self, tensors: Mapping[str, Tensor], config: GPTConfig) -> Tensors:
        """Their tensors under our names, in our orientation; each one matched by name and shape.

        Args:
            tensors: by their names, without prefixes; see `clean_names`. Each is looked up once, one after the other.
            config: the architecture that they are meant for.

        Raises:
            CheckpointError: lists every tensor that is missing, is not expected, or has another shape.
        """
        left = {name for name in tensors if not re.fullmatch(self.buffers, name)}
        missing, misshaped, ours = [], [], {}
        expected = expected_shapes(config)
        head = self.names(self.head)[0]
        if config.tie_head and head in left and self.is_tied(tensors):
            left.remove(head)
        for name, shape in expected.items():
            if name == self.head and config.tie_head:
                continue
            names, parts = self.names(name), []
            for theirs, rows in zip(names, _rows(shape[0], len(names), config), strict=True):
                unused = self.unused_rows.get(_module(name), 0)
                part = (rows + unused, *shape[1:])
                part = part[::-1] if self.is_transposed(name) else part
                if theirs not in left:
                    missing.append(theirs)
                    continue
                left.remove(theirs)
                tensor = tensors[theirs]
                if tuple(tensor.shape) != part or not _is_usable(tensor):
                    dtype = "" if _is_usable(tensor) else f" of {tensor.dtype}"
                    misshaped.append(f"{theirs} (expected {part}, found {tuple(tensor.shape)}{dtype})")
                else:
                    parts.append(tensor.T if self.is_transposed(name) else tensor[unused:])
            if len(parts) == len(names):
                ours[name] = self.from_heads(name, parts[0] if len(parts) == 1 else torch.cat(parts), config)
        problems = {"missing": missing, "not expected": sorted(left), "of another shape or type": misshaped}
        if any(problems.values()):
            listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
            raise CheckpointError(f"the tensors do not fit the architecture {_in_words(config)}: {listed}")
        if config.tie_head:
            ours[self.head] = ours[TOKEN]
        return ours

    def from_heads(self, name: str, rows: Tensor, config: GPTConfig) -> Tensor:
        """The rows of one tensor of ours, if they store it head by head: all queries, then all keys and values."""
        if _module(name) not in self.by_head:
            return rows
        return rows.unflatten(0, (config.heads, 3, -1)).transpose(0, 1).flatten(0, 2)  # (H x 3 x D) -> (3 x H x D)

    def to_theirs(self, weights: Tensors, config: GPTConfig) -> Tensors:
        """Our tensors under their names, in their orientation, without what is shared or padding."""
        theirs = {}
        for name, tensor in weights.items():
            if name == self.head and config.tie_head:
                continue
            if name in vocabulary_tables(config):
                tensor = tensor[: config.vocab_size]
            if _module(name) in self.by_head:  # (3 x H x D, ...) -> (H x 3 x D, ...)
                tensor = tensor.unflatten(0, (3, config.heads, -1)).transpose(0, 1).flatten(0, 2)
            if unused := self.unused_rows.get(_module(name), 0):
                tensor = torch.cat([tensor.new_zeros(unused, *tensor.shape[1:]), tensor])
            names = self.names(name)
            for part, part_name in zip(tensor.split(_rows(len(tensor), len(names), config)), names, strict=True):
                theirs[part_name] = (part.T if self.is_transposed(name) else part).contiguous()
        return theirs

    def is_tied(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the head has no weights of its own: there are none, or they are the token embedding's."""
        head, token = tensors.get(self.names(self.head)[0]), tensors.get(self.names(TOKEN)[0])
        return head is None or (token is not None and torch.equal(head, token))

    def refuse_other_head(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Check a head that is said to share the token embedding's weights.

        Args:
            tensors: by their names, without prefixes.
            where: named in errors.

        Raises:
            CheckpointError: it has weights of its own.
        """
        if not self.is_tied(tensors):
            head, token = self.names(self.head)[0], self.names(TOKEN)[0]
            raise CheckpointError(
                f"{where!r} says that the head shares the token embedding's weights, but the tensors {head} and "
                f"{token} differ: set tie_word_embeddings to false in config.json, or remove {head}"
            )

    def infer(self, tensors: Tensors, **known: Any) -> GPTConfig:
        """The architecture that the tensors show, and what is known besides.

        Args:
            tensors: by their names, without prefixes.
            known: settings that no tensor shows (`n_head`, `activation`), or that are stated elsewhere. Without
                `n_head` it is that of GPT-2's published size, if the tensors are of one.

        Raises:
            CheckpointError: the tensors show no architecture, or `n_head` is needed or does not fit.
        """

        def shape_of(ours: str, otherwise: tuple[int, int]) -> tuple[int, int]:
            tensor = tensors.get(self.names(ours)[0])
            if tensor is None or tensor.ndim != 2:
                return otherwise  # `to_ours` will list it
            rows, columns = tensor.shape
            return (columns, rows) if self.is_transposed(ours) else (rows, columns)

        def is_there(ours: str) -> bool:
            return self.names(ours)[0] in tensors

        vocab_size, n_embd = shape_of(TOKEN, (0, 0))
        n_layer = max(self._block_numbers(tensors), default=-1) + 1
        if min(vocab_size, n_embd, n_layer) == 0:
            raise CheckpointError("there is no token embedding, or no block, so these are not the weights of a GPT")
        hidden, _ = shape_of("blocks.0.mlp.expand.weight", (4 * n_embd, n_embd))
        shown = {
            "vocab_size": vocab_size,
            "context_length": shape_of("embeddings.position.weight", (1024, n_embd))[0],
            "n_layer": n_layer,
            "n_embd": n_embd,
            "mlp_hidden": None if hidden == 4 * n_embd else hidden,
            "bias": is_there("final_norm.bias"),
            "qkv_bias": is_there("blocks.0.attention.qkv.bias"),
            "tie_head": self.is_tied(tensors),
        }
        if known.get("n_head") is None:
            known["n_head"] = _published_heads(n_layer, n_embd)
        try:
            return GPTConfig(**(shown | known))
        except ConfigError as error:
            raise CheckpointError(f"the weights are of no model that can be built: {error}") from error

    def _block_numbers(self, tensors: Tensors) -> Iterator[int]:
        before, after = re.escape(self.names("blocks.7.attention.qkv.weight")[0]).split("7")
        for name in tensors:
            if match := re.fullmatch(rf"{before}(\d+){after}", name):
                yield int(match[1])


def head_name(config: GPTConfig) -> str:
    """Our name for the weights of the output layer, which may be the token embedding's."""
    return MASKED_HEAD if isinstance(config, EncoderConfig) else HEAD


def vocabulary_tables(config: GPTConfig) -> tuple[str, ...]:
    """Our names for the tensors that have a row for each token."""
    return (TOKEN, MASKED_HEAD, _MASKED_BIAS) if isinstance(config, EncoderConfig) else (TOKEN, HEAD)


def clean_names(tensors: Tensors) -> Tensors:
    """The tensors by their names without the prefixes that wrappers put before them.

    Raises:
        CheckpointError: two names become one.
    """
    clean: Tensors = {}
    for name, tensor in tensors.items():
        bare = name
        while prefix := next((prefix for prefix in _PREFIXES if bare.startswith(prefix)), None):
            bare = bare.removeprefix(prefix)
        if bare in clean:
            raise CheckpointError(f"there are two tensors {bare!r}, one of them as {name!r}")
        clean[bare] = tensor
    return clean


def expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a network; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build_network(config).state_dict().items()}


def _in_words(config: GPTConfig) -> str:
    """An architecture in short: what differs from the defaults of `GPTConfig`, and its sizes."""
    sizes = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd")
    default = GPTConfig()
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return ", ".join(
        f"{name} {value}" for name, value in settings.items() if name in sizes or value != getattr(default, name, 0)
    )


def _rows(rows: int, n_parts: int, config: GPTConfig) -> list[int]:
    """How many rows of a tensor of ours each part of it has: the only one, or queries, keys and values."""
    H, K, D = config.heads, config.kv_heads, config.head_dim
    return [rows] if n_parts == 1 else [H * D, K * D, K * D]


def _is_usable(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers as they are: no integers, and no 8-bit floats, which need a scale."""
    return tensor.is_floating_point() and tensor.dtype.itemsize >= 2


def _generic(module: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", module)


def _module(ours: str) -> str:
    """The module of a tensor, with `*` for the number of the block."""
    return _generic(ours.rpartition(".")[0])


def _published_heads(n_layer: int, n_embd: int) -> int:
    for size in GPT2_SIZES.values():
        if (size["n_layer"], size["n_embd"]) == (n_layer, n_embd):
            return size["n_head"]
    raise CheckpointError(
        f"the weights ({n_layer} layers, vectors of size {n_embd}) don't show how many heads there are, and no "
        "configuration says so: give the number (import: --n_head N; train.py: --model.gpt.n_head N)"
    )
