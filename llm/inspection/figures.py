"""Attention maps as pictures.

Drawn pixel by pixel on one palette of 256 colours instead of by a plotting library: a hundred times faster, small
files, and the same bytes for the same weights.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from typing import Literal
from unicodedata import east_asian_width

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from llm.inspection.fonts import font_for

Pixels = npt.NDArray[np.uint8]
Scale = Literal["sqrt", "linear", "log"]
"""How a weight becomes a colour: by its square root, which tells a tenth from nothing; as it is; or by its logarithm,
which shows a thousandth."""

SMALLEST_WEIGHT = 1e-4
"""The lower end of the logarithmic scale; smaller weights are drawn like this one."""

_SCALE, _GREYS = 200, 55
_INK, _PAPER = _SCALE + 6, _SCALE + _GREYS - 1
MASKED = 255
"""The colour of masked keys; nothing else has it."""
_TEXT, _TITLE = 12, 14
_GAP, _LINE, _LEGEND = 14, 18, 440
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
    left, above = _label_strip(tuple(rows), cell), _column_strip(tuple(columns), cell)
    top, side = 3 * _LINE, _LINE + left.shape[1] + 4
    width, height = K * cell + _GAP, R * cell + _LINE + _GAP
    room = math.ceil(font_for(title, _TITLE)[1].getlength(title)) + 16
    total = (top + down * height + above.shape[0] + _LINE, max(side + across * width, room, _LEGEND))
    canvas = np.full(total, _PAPER, np.uint8)
    indices = colour_indices(values)
    for index in range(N):
        y, x = top + index // across * height, side + index % across * width
        picture = indices[index].repeat(cell, 0).repeat(cell, 1)
        canvas[y + _LINE : y + _LINE + R * cell, x : x + K * cell] = picture
        canvas[y : y + _LINE, x : x + K * cell] = _text_line(names[index], K * cell)
        if index % across == 0:
            canvas[y + _LINE : y + _LINE + R * cell, _LINE : _LINE + left.shape[1]] = left
        if index + across >= N:
            bottom = y + _LINE + R * cell + 4
            canvas[bottom : bottom + above.shape[0], x : x + K * cell] = above
    what, key = axes
    canvas[top : top + down * height, :_LINE] = _text_line(what, down * height).T[::-1]
    canvas[-_LINE:, side:] = _text_line(key, total[1] - side)
    canvas[4 : 4 + _LINE, 8:] = _text_line(title, total[1] - 8, _TITLE)
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
    canvas = np.full((_LINE + L * (size + 4) + _LINE + 4, max(_LINE + H * (size + 4) + 4, 300)), _PAPER, np.uint8)
    canvas[4 : 4 + _LINE, 8:] = _text_line(title, canvas.shape[1] - 8)
    for layer, weights in enumerate(maps):
        values, _ = scaled(weights, causal, scale)
        y = _LINE + 6 + layer * (size + 4)
        canvas[y : y + size, 2:_LINE] = _text_line(f"layer {layer}", size)[: _LINE - 2].T[::-1]
        for head, picture in enumerate(colour_indices(values)):
            x = _LINE + head * (size + 4)
            canvas[y : y + size, x : x + size] = picture.repeat(cell, 0).repeat(cell, 1)
    canvas[-_LINE:, _LINE:] = _text_line("head 0, 1, ... to the right; grey: masked", canvas.shape[1] - _LINE)
    return to_image(canvas)


def similarity_map(similarity: Tensor, positions: Sequence[int], title: str) -> Image.Image:
    """The cosines (N, N) between the vectors of N positions, from -1 to 1."""
    values = ((similarity.float() + 1) / 2).cpu().numpy()
    labels = list(map(str, positions))
    axes = ("position", "position")
    return map_grid(values[None], ["cosine similarity"], title, labels, labels, ("-1", "1"), axes, masked=False)


def to_image(canvas: Pixels) -> Image.Image:
    """Palette indices (height, width) as a picture."""
    image = Image.fromarray(canvas, "L")
    image.putpalette(_palette())  # turns it into one of mode P
    return image


def to_png(image: Image.Image) -> bytes:
    """A picture as a PNG file without metadata, so that equal pictures are equal bytes."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=3)  # half the time of the usual 6
    return stream.getvalue()


def scaled(weights: Tensor, causal: bool, scale: Scale) -> tuple[npt.NDArray[np.float32], tuple[str, str]]:
    """Weights (..., T, T) as positions on the colour scale, 0 to 1 and NaN where masked; and labels of its ends."""
    values = weights.detach().float().cpu()
    legend = ("0", "1")
    if scale == "sqrt":
        values, legend = values.clamp_min(0).sqrt(), ("0", "1 (square root scale)")
    elif scale == "log":
        values = 1 - values.clamp_min(SMALLEST_WEIGHT).log10() / math.log10(SMALLEST_WEIGHT)
        legend = (f"{SMALLEST_WEIGHT:g} or less", "1 (log scale)")
    if causal:
        T = values.shape[-1]
        values = values.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), math.nan)
    return values.numpy(), legend


def colour_indices(values: npt.NDArray[np.float32]) -> Pixels:
    """Positions on the colour scale, 0 to 1 and NaN where masked, as indices of the palette."""
    masked = np.isnan(values)
    places = np.where(masked, 0, values).clip(0, 1)
    return np.where(masked, MASKED, np.rint(places * (_SCALE - 1))).astype(np.uint8)


def colours() -> list[str]:
    """The palette as `#rrggbb`."""
    palette = _palette()
    return [f"#{palette[index : index + 3].hex()}" for index in range(0, len(palette), 3)]


@functools.cache
def _palette() -> bytes:
    """256 colours: viridis, which reads well for the colour-blind and in print, then greys from black to white."""
    scale = matplotlib.colormaps["viridis"](np.linspace(0, 1, _SCALE), bytes=True)[:, :3]
    greys = np.rint(np.linspace(0, 255, _GREYS)).astype(np.uint8)[:, None].repeat(3, 1)
    return np.concatenate([scale, greys, [[209] * 3]]).astype(np.uint8).tobytes()


def _draw_legend(canvas: Pixels, legend: tuple[str, str], masked: bool) -> None:
    y, x = _LINE + 8, 8
    for text, bar in ((legend[0], 120), (legend[1], 30 if masked else 0), ("masked" if masked else "", 0)):
        width = math.ceil(font_for(text, _TEXT)[1].getlength(text)) + 10
        canvas[y : y + _LINE, x : x + width] = _text_line(text, width, centred=False)
        x += width
        if bar == 120:
            canvas[y + 2 : y + 14, x : x + bar] = np.linspace(0, _SCALE - 1, bar).astype(np.uint8)
            x += bar + 10
        elif bar:
            x += 14
            canvas[y + 2 : y + 14, x : x + 12] = MASKED
            x += 18


def _text_line(text: str, width: int, size: int = _TEXT, centred: bool | None = None) -> Pixels:
    """One line of text, (18, width); cut where it does not fit."""
    label, font = font_for(text, size)
    image = Image.new("L", (width, _LINE), 0)
    middle = centred if centred is not None else size == _TEXT
    place, anchor = ((width / 2, _LINE / 2), "mm") if middle else ((0, _LINE / 2), "lm")
    ImageDraw.Draw(image).text(place, label, 255, font, anchor)
    return _ink(image)


@functools.lru_cache(maxsize=8)
def _label_strip(labels: tuple[str, ...], cell: int) -> Pixels:
    """Labels one below the other, flush right, each in the middle of its row: (len(labels) cell, widest).

    Where rows are lower than letters, only every second label or fewer is written.
    """
    step = math.ceil(_TEXT / cell)
    drawn = [(index, *font_for(label, _TEXT if cell >= _TEXT else 11)) for index, label in enumerate(labels)][::step]
    width = 4 + math.ceil(max(font.getlength(label) for _, label, font in drawn))
    image = Image.new("L", (width, len(labels) * cell), 0)
    draw = ImageDraw.Draw(image)
    for index, label, font in drawn:
        draw.text((width - 2, (index + 0.5) * cell), label, 255, font, "rm")
    return _ink(image)


def _column_strip(labels: tuple[str, ...], cell: int) -> Pixels:
    """Labels side by side, each read from below; wide ones, as Chinese, upright, one character below the other."""
    strip = _label_strip(labels, cell).T[::-1]
    if cell < _TEXT:
        return strip
    upright = {index: label for index, label in enumerate(labels) if all(east_asian_width(c) == "W" for c in label)}
    height = max([len(strip), *(_LINE + _TEXT * (len(label) - 1) for label in upright.values())])
    strip = np.pad(strip, ((0, height - len(strip)), (0, 0)), constant_values=_PAPER)
    for index, label in upright.items():
        shown, font = font_for(label, _TEXT)
        if shown == label:  # else it is a code point
            image = Image.new("L", (cell, height), 0)
            for place, character in enumerate(label):
                ImageDraw.Draw(image).text((cell / 2, place * _TEXT), character, 255, font, "ma")
            strip[:, index * cell : (index + 1) * cell] = _ink(image)
    return strip


def _ink(image: Image.Image) -> Pixels:
    """Coverage from 0 to 255 as greys of the palette."""
    amount = np.asarray(image, np.float32) / 255
    return np.rint(_PAPER - amount * (_PAPER - _INK)).astype(np.uint8)
