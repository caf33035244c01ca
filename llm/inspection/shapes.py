"""The shape of every stage, as a table."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from llm.config import ClassifierConfig, GPTConfig, RNNConfig, TransformerConfig
from llm.inspection.probe import Capture, capture
from llm.model import EncoderDecoder, Stage, build_network
from llm.runtime.counting import MIXED_PRECISIONS, TRUE_PRECISIONS, default_dtype
from llm.runtime.words import in_columns

_HEADERS = ("stage", "axes", "shape", "dtype", "bytes", "parameters")
_LAYER = re.compile(r"((?:encoder )?block) (\d+) / ")


@dataclass(frozen=True)
class ShapeRow:
    """One row of a shape table."""

    stage: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    parameters: int

    @classmethod
    def of(cls, stage: Stage) -> ShapeRow:
        """The row of a stage."""
        tensor = stage.tensor
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(stage.name, stage.axes, tuple(tensor.shape), dtype, tensor.nbytes, stage.parameters)

    def cast(self, dtype: torch.dtype | None) -> ShapeRow:
        """The same stage in another dtype, if one is given."""
        if dtype is None:
            return self
        n_bytes = math.prod(self.shape) * dtype.itemsize
        return dataclasses.replace(self, dtype=str(dtype).removeprefix("torch."), bytes=n_bytes)

    def cells(self) -> tuple[str, ...]:
        """The cells of the row."""
        shape = "x".join(map(str, self.shape)) or "1 number"
        return (
            self.stage,
            self.axes,
            shape,
            self.dtype,
            f"{self.bytes:,}",
            f"{self.parameters:,}" * bool(self.parameters),
        )


def shape_rows(found: Capture) -> list[ShapeRow]:
    """One row for every stage of a capture."""
    return [ShapeRow.of(stage) for stage in found.values()]


def trace_shapes(
    config: GPTConfig, batch_size: int, length: int | None = None, precision: str = "32-true"
) -> list[ShapeRow]:
    """The shapes of every stage of a forward pass, without computing anything.

    Args:
        config: the architecture, a GPT's or another network's.
        batch_size: B.
        length: T. Default: the context length.
        precision: Lightning's name for that of training, which decides the dtypes.
    """
    mixed, true = MIXED_PRECISIONS.get(precision), TRUE_PRECISIONS.get(precision, torch.float32)
    with FakeTensorMode(), default_dtype(true):
        model = build_network(config)
        ids = torch.zeros(batch_size, length or config.context_length, dtype=torch.int64)
        targets = ids if model.predicts_tokens else ids[:, -1]
        inputs = {"source": ids} if isinstance(model, EncoderDecoder) else {}
        rows = shape_rows(capture(model, ids, targets, mixed, **inputs))
    return [row.cast(_dtype_within_attention(row, mixed or true)) for row in rows]


def _dtype_within_attention(row: ShapeRow, fused: torch.dtype) -> torch.dtype | None:
    """What fused attention reads and gives, and what it never holds, which is shown in float32; None elsewhere."""
    held = dict.fromkeys(("Q", "K", "V", "context"), fused) | dict.fromkeys(("scores", "weights"), torch.float32)
    return held.get(row.stage.rpartition(" / ")[2])


def legend(config: GPTConfig | RNNConfig, batch_size: int, length: int | None = None) -> str:
    """What the letters stand for, with their values."""
    if isinstance(config, RNNConfig):
        return (
            f"B = {batch_size} (batch), S = T = {length or config.context_length} (tokens of source and target), "
            f"C = {config.n_embd} (embedding), H = {config.hidden_size} (hidden state), "
            f"M = {config.memory_size} (the encoder's states), V = {config.vocab_size} (vocabulary)"
        )
    kv_heads = f"K = {config.kv_heads} (key and value heads), " if config.kv_heads < config.heads else ""
    labels = f", N = {len(config.labels)} (labels)" if isinstance(config, ClassifierConfig) else ""
    is_translated = isinstance(config, TransformerConfig)
    tokens, what = ("S = T", "tokens of source and target") if is_translated else ("T", "tokens")
    return (
        f"B = {batch_size} (batch), {tokens} = {length or config.context_length} ({what}), "
        f"C = {config.n_embd} (embedding), "
        f"H = {config.heads} (heads), {kv_heads}D = {config.head_dim} (head size), V = {config.vocab_size} (vocabulary)"
        f"{labels}"
    )


def text_table(rows: Iterable[ShapeRow]) -> str:
    """A table for the terminal. Blocks that are alike are shown once: `block 0-3`, with the parameters of all."""
    return "\n".join(in_columns([_HEADERS, *(row.cells() for row in _fold(list(rows)))], right=(4, 5)))


def markdown_table(rows: Iterable[ShapeRow]) -> str:
    """The same table in Markdown."""
    cells = (row.cells() for row in _fold(list(rows)))
    lines = [_HEADERS, ("---", "---", "---", "---", "---:", "---:"), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def html_table(rows: Iterable[ShapeRow]) -> str:
    """The same table in HTML, for notebooks."""
    lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in _HEADERS)}</tr>"]
    for row in _fold(list(rows)):
        lines.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row.cells())}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _fold(rows: list[ShapeRow]) -> list[ShapeRow]:
    counts: dict[str, int] = {}
    for row in rows:
        if match := _LAYER.match(row.stage):
            counts[match[1]] = int(match[2]) + 1
    folded = []
    for row in rows:
        match = _LAYER.match(row.stage)
        if match is None or (n := counts[match[1]]) == 1:
            folded.append(row)
        elif match[2] == "0":
            name = f"{match[1]} 0-{n - 1} / {row.stage[match.end() :]}"
            folded.append(ShapeRow(name, row.axes, row.shape, row.dtype, row.bytes * n, row.parameters * n))
    return folded
