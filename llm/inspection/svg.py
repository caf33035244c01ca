"""Attention maps as SVG, in the colours of the pictures: sharp at any size, their labels are text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from llm.inspection.colours import colour_indices, colours

_CELL, _TEXT = 16, 12
_GAP, _LINE = 24, 20
_LETTER = 0.62  # of the height of the letters, their width


def svg_grid(
    values: npt.NDArray[np.float32],
    names: Sequence[str],
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    legend: tuple[str, str] = ("0", "1"),
) -> str:
    """Maps side by side, in a grid as square as possible; equal maps are equal bytes.

    Args:
        values: (N, R, K) from 0 to 1; NaN where masked.
        names: one for each map.
        title: above the picture.
        rows: R labels.
        columns: K labels.
        legend: what the two ends of the colours mean.
    """
    N, R, K = values.shape
    across = math.ceil(math.sqrt(N))
    left, below = (_GAP + max(map(_width, labels)) for labels in (rows, columns))
    width, height = K * _CELL + _GAP, R * _CELL + _GAP + _LINE
    total = max(left + across * width, _width(title) + _GAP, 480), 3 * _LINE + math.ceil(N / across) * height + below
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" font-size="{_TEXT}" '
        f'font-family="DejaVu Sans, Noto Sans CJK SC, sans-serif" fill="#222">',
        f'<rect width="{total[0]}" height="{total[1]}" fill="white"/>',
        f'<text x="8" y="{_LINE}" font-size="{_TEXT + 2}">{escape(title)}</text>',
        *_key(legend, bool(np.isnan(values).any())),
    ]
    for index, name in enumerate(names):
        x, y = left + index % across * width, 3 * _LINE + index // across * height
        parts.append(f'<text x="{x + K * _CELL // 2}" y="{y - 6}" text-anchor="middle">{escape(name)}</text>')
        parts.append(f'<g transform="translate({x} {y}) scale({_CELL})" shape-rendering="crispEdges">')
        parts += _cells(values[index])
        parts.append("</g>")
        if index % across == 0:
            parts += [
                f'<text x="{x - 6}" y="{y + row * _CELL + 12}" text-anchor="end">{escape(label)}</text>'
                for row, label in enumerate(rows)
            ]
        if index + across >= N:
            parts += [
                f'<text transform="translate({x + column * _CELL + 12} {y + R * _CELL + 6}) rotate(-90)" '
                f'text-anchor="end">{escape(label)}</text>'
                for column, label in enumerate(columns)
            ]
    return "\n".join([*parts, "</svg>\n"])


def _cells(values: npt.NDArray[np.float32]) -> list[str]:
    """A path for each colour, of one square for each cell."""
    indices = colour_indices(values)
    return [
        f'<path fill="{colours()[colour]}" d="'
        + "".join(f"M{x} {y}h1v1h-1z" for y, x in zip(*np.nonzero(indices == colour), strict=True))
        + '"/>'
        for colour in np.unique(indices)
    ]


def _key(legend: tuple[str, str], masked: bool) -> list[str]:
    x, y = 8 + _width(legend[0]) + 6, _LINE + 10
    steps = np.linspace(0, 1, 40, dtype=np.float32)[None]
    end = x + 126
    parts = [
        f'<text x="8" y="{y + 11}">{escape(legend[0])}</text>',
        f'<g transform="translate({x} {y}) scale(3 14)" shape-rendering="crispEdges">',
        *_cells(steps),
        "</g>",
        f'<text x="{end}" y="{y + 11}">{escape(legend[1])}</text>',
    ]
    if masked:
        end += _width(legend[1]) + 16
        parts += [
            f'<g transform="translate({end} {y}) scale(14)">',
            *_cells(np.full((1, 1), np.nan, np.float32)),
            "</g>",
            f'<text x="{end + 20}" y="{y + 11}">masked</text>',
        ]
    return parts


def _width(text: str) -> int:
    """About how wide a text is; letters outside Latin and its neighbours are square."""
    return math.ceil(sum(_TEXT * (_LETTER if ord(letter) < 0x2E80 else 1) for letter in text))
