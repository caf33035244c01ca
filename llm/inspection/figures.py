"""Attention maps as pictures.

Drawn pixel by pixel on one palette of 256 colours instead of by a plotting library: a hundred times faster, small
files, and the same bytes for the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from llm.inspection.colours import MASKED, N_COLOURS, PAPER, Pixels, Scale, colour_indices, scaled, to_image
from llm.inspection.fonts import font_for
from llm.inspection.lettering import LINE, TEXT, column_strip, label_strip, text_line

_GAP, _LEGEND, _TITLE = 14, 440, 14
_MAP, _MANY = 450, 16
_MOST_CELLS = 500_000  # a byte each at most, so that the file stays under 1 MB


def head_grid(
    weights: Tensor,
    labels: Sequence[str],
    title: str,
    causal: bool,
    scale: Scale = "sqrt",
    hide_first: bool = False,
    head: int | None = None,
) -> Image.Image:
    """All heads of one layer, or one of them in a large picture: a row for each query, a column for each key.

    The same weight has the same colour in every picture of a scale, so that they are comparable. Masked keys are grey.

    Args:
        weights: (H, T, T).
        labels: one for each of the T tokens.
        title: above the picture.
        causal: whether the keys after the query are masked.
        scale: how weights become colours; see `Scale`.
        hide_first: omit the column of the first token, which often has most of the weight.
        head: the only one to draw. Default: all of them.

    Raises:
        ValueError: there are not as many labels as tokens, or no such head.
    """
    size = _MAP if head is None else 2 * _MAP
    return map_grid(*head_maps(weights, labels, title, causal, scale, hide_first, head), size=size)


def head_maps(
    weights: Tensor,
    labels: Sequence[str],
    title: str,
    causal: bool,
    scale: Scale,
    hide_first: bool,
    head: int | None = None,
) -> tuple[npt.NDArray[np.float32], list[str], str, list[str], list[str], tuple[str, str]]:
    """What a picture of heads shows: maps (H, T, T), their names, title, labels of rows and of columns, legend.

    The arguments are those of `head_grid`; what would make the picture too large is left out, and the title says so.
    """
    names = [f"head {number}" for number in range(len(weights))]
    if head is not None:
        if not 0 <= head < len(weights):
            raise ValueError(f"there is no head {head}: this layer has {len(weights)}, numbered from 0")
        weights, names = weights[head : head + 1], names[head : head + 1]
    H, T, _ = weights.shape
    if len(labels) != T:
        raise ValueError(f"expected a label for each of {T} tokens, got {len(labels)}")
    if (shown := math.isqrt(_MOST_CELLS // H)) < T:
        weights, labels = weights[:, :shown, :shown], labels[:shown]
        title += f"; the first {shown} of {T} tokens"
    values, legend = scaled(weights, causal, scale)
    columns = list(labels)
    if hide_first and len(columns) > 1:
        values, columns = values[:, :, 1:], columns[1:]
        title += "; the first token's column is omitted"
    return values, names, title, list(labels), columns, legend


def map_grid(
    values: npt.NDArray[np.float32],
    names: Sequence[str],
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    legend: tuple[str, str] = ("0", "1"),
    axes: tuple[str, str] = ("query: who looks", "key: who is looked at"),
    masked: bool = True,
    size: int = _MAP,
) -> Image.Image:
    """Maps side by side, in a grid as square as possible.

    Args:
        values: (N, R, K) from 0 to 1; NaN where masked.
        names: one for each map.
        title: above the picture.
        rows: R labels.
        columns: K labels.
        legend: what the two ends of the colours mean.
        axes: what rows and columns are.
        masked: whether the legend explains grey.
        size: the most pixels of a map's longer side, if a pixel is enough for a cell.

    Raises:
        ValueError: labels and maps don't fit.
    """
    N, R, K = values.shape
    if len(rows) != R or len(columns) != K:
        raise ValueError(f"expected {R} row and {K} column labels, got {len(rows)} and {len(columns)}")
    cell = max(1, min(size // 25, (size if N <= _MANY else size * 2 // 3) // max(R, K)))
    across = math.ceil(math.sqrt(N))
    down = math.ceil(N / across)
    left, above = label_strip(tuple(rows), cell), column_strip(tuple(columns), cell)
    top, side = 3 * LINE, LINE + left.shape[1] + 4
    width, height = K * cell + _GAP, R * cell + LINE + _GAP
    room = math.ceil(font_for(title, _TITLE)[1].getlength(title)) + 16
    total = (top + down * height + above.shape[0] + LINE, max(side + across * width, room, _LEGEND))
    canvas = np.full(total, PAPER, np.uint8)
    indices = colour_indices(values)
    for index in range(N):
        y, x = top + index // across * height, side + index % across * width
        picture = indices[index].repeat(cell, 0).repeat(cell, 1)
        canvas[y + LINE : y + LINE + R * cell, x : x + K * cell] = picture
        canvas[y : y + LINE, x : x + K * cell] = text_line(names[index], K * cell)
        if index % across == 0:
            canvas[y + LINE : y + LINE + R * cell, LINE : LINE + left.shape[1]] = left
        if index + across >= N:
            bottom = y + LINE + R * cell + 4
            canvas[bottom : bottom + above.shape[0], x : x + K * cell] = above
    what, key = axes
    canvas[top : top + down * height, :LINE] = text_line(what, down * height).T[::-1]
    canvas[-LINE:, side:] = text_line(key, total[1] - side)
    canvas[4 : 4 + LINE, 8:] = text_line(title, total[1] - 8, _TITLE)
    _draw_legend(canvas, legend, masked)
    return to_image(canvas)


def montage(maps: Sequence[Tensor], causal: bool, title: str, scale: Scale = "sqrt") -> Image.Image:
    """Small maps of every head, a row for each layer: one picture of the whole model.

    Args:
        maps: for each layer (H, T, T).
        causal: whether the keys after the query are masked.
        title: above the picture.
        scale: how weights become colours; see `Scale`.
    """
    H, T, _ = maps[0].shape
    L = len(maps)
    cell = max(1, min(4, 800 // (T * max(H, L))))
    size = T * cell
    canvas = np.full((LINE + L * (size + 4) + LINE + 4, max(LINE + H * (size + 4) + 4, 300)), PAPER, np.uint8)
    canvas[4 : 4 + LINE, 8:] = text_line(title, canvas.shape[1] - 8)
    for layer, weights in enumerate(maps):
        values, _ = scaled(weights, causal, scale)
        y = LINE + 6 + layer * (size + 4)
        canvas[y : y + size, 2:LINE] = text_line(f"layer {layer}", size)[: LINE - 2].T[::-1]
        for head, picture in enumerate(colour_indices(values)):
            x = LINE + head * (size + 4)
            canvas[y : y + size, x : x + size] = picture.repeat(cell, 0).repeat(cell, 1)
    canvas[-LINE:, LINE:] = text_line("head 0, 1, ... to the right; grey: masked", canvas.shape[1] - LINE)
    return to_image(canvas)


def similarity_map(similarity: Tensor, positions: Sequence[int], title: str) -> Image.Image:
    """The cosines (N, N) between the vectors of N positions, from -1 to 1."""
    values = ((similarity.float() + 1) / 2).cpu().numpy()
    labels = list(map(str, positions))
    axes = ("position", "position")
    return map_grid(values[None], ["cosine similarity"], title, labels, labels, ("-1", "1"), axes, masked=False)


def _draw_legend(canvas: Pixels, legend: tuple[str, str], masked: bool) -> None:
    y, x = LINE + 8, 8
    for text, bar in ((legend[0], 120), (legend[1], 30 if masked else 0), ("masked" if masked else "", 0)):
        width = math.ceil(font_for(text, TEXT)[1].getlength(text)) + 10
        canvas[y : y + LINE, x : x + width] = text_line(text, width, centred=False)
        x += width
        if bar == 120:
            canvas[y + 2 : y + 14, x : x + bar] = np.linspace(0, N_COLOURS - 1, bar).astype(np.uint8)
            x += bar + 10
        elif bar:
            x += 14
            canvas[y + 2 : y + 14, x : x + 12] = MASKED
            x += 18
