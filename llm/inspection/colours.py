"""From weights to colours: one palette of 256 for all pictures, and the pictures as files."""

from __future__ import annotations

import functools
import io
import math
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Pixels = npt.NDArray[np.uint8]
"""Indices of the palette, (height, width)."""
Scale = Literal["sqrt", "linear", "log"]
"""How a weight becomes a colour: by its square root, which tells a tenth from nothing; as it is; or by its logarithm,
which shows a thousandth."""

SMALLEST_WEIGHT = 1e-4
"""The lower end of the logarithmic scale; smaller weights are drawn like this one."""

N_COLOURS, _GREYS = 200, 55
INK, PAPER = N_COLOURS + 6, N_COLOURS + _GREYS - 1
MASKED = 255
"""The colour of masked keys; nothing else has it."""


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
    return np.where(masked, MASKED, np.rint(places * (N_COLOURS - 1))).astype(np.uint8)


def colours() -> list[str]:
    """The palette as `#rrggbb`."""
    palette = _palette()
    return [f"#{palette[index : index + 3].hex()}" for index in range(0, len(palette), 3)]


@functools.cache
def _palette() -> bytes:
    """256 colours: viridis, which reads well for the colour-blind and in print, then greys from black to white."""
    scale = matplotlib.colormaps["viridis"](np.linspace(0, 1, N_COLOURS), bytes=True)[:, :3]
    greys = np.rint(np.linspace(0, 255, _GREYS)).astype(np.uint8)[:, None].repeat(3, 1)
    return np.concatenate([scale, greys, [[209] * 3]]).astype(np.uint8).tobytes()


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
