"""Lines and strips of text in the greys of the palette."""

from __future__ import annotations

import functools
import math
from unicodedata import east_asian_width

import numpy as np
from PIL import Image, ImageDraw

from llm.inspection.colours import INK, PAPER, Pixels
from llm.inspection.fonts import font_for

TEXT, LINE = 12, 18
"""Size of letters, and height of a line, in pixels."""


def text_line(text: str, width: int, size: int = TEXT, centred: bool | None = None) -> Pixels:
    """One line of text, (18, width); cut where it does not fit."""
    label, font = font_for(text, size)
    image = Image.new("L", (width, LINE), 0)
    middle = centred if centred is not None else size == TEXT
    place, anchor = ((width / 2, LINE / 2), "mm") if middle else ((0, LINE / 2), "lm")
    ImageDraw.Draw(image).text(place, label, 255, font, anchor)
    return _ink(image)


@functools.lru_cache(maxsize=8)
def label_strip(labels: tuple[str, ...], cell: int) -> Pixels:
    """Labels one below the other, flush right, each in the middle of its row: (len(labels) cell, widest).

    Where rows are lower than letters, only every second label or fewer is written.
    """
    step = math.ceil(TEXT / cell)
    drawn = [(index, *font_for(label, TEXT if cell >= TEXT else 11)) for index, label in enumerate(labels)][::step]
    width = 4 + math.ceil(max(font.getlength(label) for _, label, font in drawn))
    image = Image.new("L", (width, len(labels) * cell), 0)
    draw = ImageDraw.Draw(image)
    for index, label, font in drawn:
        draw.text((width - 2, (index + 0.5) * cell), label, 255, font, "rm")
    return _ink(image)


def column_strip(labels: tuple[str, ...], cell: int) -> Pixels:
    """Labels side by side, each read from below; wide ones, as Chinese, upright, one character below the other."""
    strip = label_strip(labels, cell).T[::-1]
    if cell < TEXT:
        return strip
    upright = {index: label for index, label in enumerate(labels) if all(east_asian_width(c) == "W" for c in label)}
    height = max([len(strip), *(LINE + TEXT * (len(label) - 1) for label in upright.values())])
    strip = np.pad(strip, ((0, height - len(strip)), (0, 0)), constant_values=PAPER)
    for index, label in upright.items():
        shown, font = font_for(label, TEXT)
        if shown == label:  # else it is a code point
            image = Image.new("L", (cell, height), 0)
            for place, character in enumerate(label):
                ImageDraw.Draw(image).text((cell / 2, place * TEXT), character, 255, font, "ma")
            strip[:, index * cell : (index + 1) * cell] = _ink(image)
    return strip


def _ink(image: Image.Image) -> Pixels:
    """Coverage from 0 to 255 as greys of the palette."""
    amount = np.asarray(image, np.float32) / 255
    return np.rint(PAPER - amount * (PAPER - INK)).astype(np.uint8)
