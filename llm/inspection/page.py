"""The attention page: one HTML file to explore what every head attends to.

It contains its data, style and script, loads nothing (its content security policy forbids it), and
treats every token as text, never as markup.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm.errors import GenerationError
from llm.inspection.heads import SCORES
from llm.inspection.rollout import WHAT_IT_IS
from llm.runtime.files import write_whole

if TYPE_CHECKING:
    from llm.inspection.report import Report

STEPS = 65535
"""A weight is stored as an integer of 16 bits: to within 0.000008."""

_MOST_VALUES = 1_400_000
"""Weights in a page: 2.8 MB, 3.7 MB as text."""

_LONGEST_LABEL = 32
_GUESSES = 3


class Page(str):
    """An HTML page; in a notebook it shows itself."""

    __slots__ = ()

    def save(self, path: str | Path) -> None:
        """Write it to a file atomically."""
        write_whole(Path(path), self.encode())

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self)}" style="width: 100%; height: 860px; border: 0"></iframe>'


def attention_page(report: Report) -> Page:
    """The page of a report.

    A weight takes 16 bits; a long text is cropped so that the page stays under 5 MB, and both are said on it.

    Raises:
        GenerationError: the logits are NaN or infinite.
    """
    if not report["logits"].isfinite().all():
        raise GenerationError(
            "the model's logits are NaN or infinite, so there is nothing to look at: its weights are damaged"
        )
    config = report.model.config
    shown = min(len(report.ids), most_tokens(config.n_layer, config.heads, config.is_causal))
    notes = list(report.notes)
    if shown < len(report.ids):
        notes.append(f"the first {shown} of {len(report.ids)} tokens are shown, so that the page stays small")
    maps = [weights[:, :shown, :shown] for weights in report.maps]
    data: dict[str, Any] = {
        "title": report.title,
        "model": f"{config.attention} attention, layers: {config.n_layer}, heads: {config.heads}",
        "layers": config.n_layer,
        "heads": config.heads,
        "causal": config.is_causal,
        "shift": int(report.model.predicts_next),
        "labels": report.classes is not None,
        "steps": STEPS,
        "tokens": report.text_labels(_LONGEST_LABEL)[:shown],
        "originals": report.originals and report.names(report.originals[:shown], _LONGEST_LABEL),
        "weights": _encode(torch.cat(maps), config.is_causal),
        "rollout": _encode(report.rollout()[None, :shown, :shown], config.is_causal),
        "rolloutNote": WHAT_IT_IS,
        "scoreNames": list(SCORES),
        "scores": [[_number(getattr(row, name)) for name in SCORES] for row in report.heads()],
        "lens": [
            {
                "name": layer.name,
                "guesses": [report.guesses(row, _LONGEST_LABEL) for row in layer.top_ids[:shown].tolist()],
                "chances": [[round(chance, 4) for chance in row] for row in layer.top_probabilities[:shown].tolist()],
                "ranks": layer.ranks[:shown].tolist(),
            }
            for layer in report.lens(_GUESSES)
        ],
        "notes": notes,
    }
    return compose("page.html", ["page.css"], ["weights.js", "map.js", "page.js"], data)


def compose(body: str, styles: Sequence[str], scripts: Sequence[str], data: dict[str, Any]) -> Page:
    """A page of files of `page_files`, which share their frame, and the data that the scripts show.

    Args:
        body: the file of what is to be seen.
        styles: files of CSS, in their order.
        scripts: files of JavaScript that follow the common one, in their order; the last draws.
        data: what `JSON.parse` is to give the scripts; its `title` is that of the page.
    """
    content = {
        "title": html.escape(data["title"]),
        "style": "".join(map(_file, styles)),
        "body": _file(body).rstrip(),
        "data": _json(data),
        "script": "\n".join(map(_file, ["common.js", *scripts])),
    }
    # In one pass, so that nothing in the content is taken for a place.
    return Page(re.sub(r"{{(\w+)}}", lambda place: content[place[1]], _file("frame.html")))


def encode_weights(weights: Tensor) -> str:
    """Weights from 0 to 1 as base64 of little-endian 16-bit integers, in their order."""
    values = torch.nan_to_num(weights.detach().float().cpu(), 0.0).clamp(0, 1).mul(STEPS).round().numpy()
    return base64.b64encode(values.astype("<u2").tobytes()).decode("ascii")


def most_tokens(n_layer: int, heads: int, causal: bool) -> int:
    """The longest text whose page stays under 5 MB."""
    values = _MOST_VALUES / (n_layer * heads)
    return max(1, math.isqrt(int(2 * values if causal else values)) - 1)


def _encode(maps: Tensor, causal: bool) -> str:
    """Weights (N, T, T), row by row; of causal ones the visible part."""
    if causal:
        T = maps.shape[-1]
        rows, columns = torch.tril_indices(T, T)
        maps = maps[:, rows, columns]  # (N, T, T) -> (N, T (T + 1) / 2)
    return encode_weights(maps)


def _file(name: str) -> str:
    return (resources.files("llm.inspection") / "page_files" / name).read_text(encoding="utf-8")


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _json(data: dict[str, Any]) -> str:
    """JSON in ASCII that can't end the script element it stands in, nor begin a comment there."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
