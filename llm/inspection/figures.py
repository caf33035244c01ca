"""Attention maps as pictures, drawn without a display."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

MASKED_COLOUR = "#d9d9d9"
_INCHES_PER_HEAD = 3.0
_DOTS_PER_INCH = 90
_LABELLED_TOKENS = 40
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Emoji", "Symbola")

Image8 = npt.NDArray[np.uint8]


def attention_figure(weights: Tensor, labels: Sequence[str], title: str, causal: bool) -> Figure:
    """All heads of one layer side by side: a row for each query, a column for each key.

    The colour scale is fixed from 0 to 1, so that pictures compare. Keys that a query may not see are grey.

    Args:
        weights: (H, T, T).
        labels: one for each of the T tokens.
        title: what stands above.
        causal: whether the keys after the query are masked.

    Raises:
        ValueError: there are not as many labels as tokens.
    """
    H, T, _ = weights.shape
    if len(labels) != T:
        raise ValueError(f"expected a label for each of {T} tokens, got {len(labels)}")
    columns = min(H, 4)
    rows = math.ceil(H / columns)
    size = max(_INCHES_PER_HEAD, 0.13 * min(T, _LABELLED_TOKENS) + 1.2)
    figure = Figure(figsize=(size * columns + 0.6, size * rows + 0.5), dpi=_DOTS_PER_INCH, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False)
    step = math.ceil(T / _LABELLED_TOKENS)
    ticks = list(range(0, T, step))
    image = None
    for head, axis in enumerate(axes.flat):
        if head >= H:
            axis.set_visible(False)
            continue
        values = weights[head].float().cpu().numpy()
        if causal:
            values = np.ma.masked_where(np.triu(np.ones((T, T), bool), k=1), values)
        axis.set_facecolor(MASKED_COLOUR)
        image = axis.imshow(values, vmin=0.0, vmax=1.0, cmap="viridis", interpolation="nearest")
        axis.set_title(f"head {head}", fontsize=8)
        for place, set_ticks in (("x", axis.set_xticks), ("y", axis.set_yticks)):
            names = [_escape(labels[tick]) for tick in ticks]
            set_ticks(ticks, names, fontsize=6, family=_fonts(), rotation=90 if place == "x" else 0)
        axis.tick_params(length=1.5, pad=1)
        if head % columns == 0:
            axis.set_ylabel("query: who looks", fontsize=7)
        if head >= H - columns:
            axis.set_xlabel("key: who is looked at", fontsize=7)
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.7, pad=0.01).ax.tick_params(labelsize=6)
    return figure


def to_array(figure: Figure) -> Image8:
    """The pixels of a figure, (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file without metadata, so that equal figures are equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(to_array(figure)).save(stream, "PNG")
    return stream.getvalue()


@functools.cache
def _fonts() -> list[str]:
    """The fonts that this machine has, of those that hold the world's scripts; the first comes with matplotlib."""
    here = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in here]


def _escape(label: str) -> str:
    """A dollar sign would begin a formula."""
    return label.replace("$", r"\$")
