"""A font for each label.

matplotlib ships DejaVu Sans, which has Latin, Greek, Cyrillic, Arabic, Hebrew and many signs, but neither
Chinese nor emoji. Those are drawn with a font of this machine that has them, or else shown by number: `U+4F60`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from llm.inspection.ticks import code_point

_FAMILIES = (
    "notosanscjk",
    "notosanssc",
    "notosansjp",
    "sourcehansans",
    "wqy",
    "droidsansfallback",
    "pingfang",
    "hiragino",
    "msyh",
    "msgothic",
    "malgun",
    "unifont",
    "arial unicode",
    "arialuni",
    "notoemoji",
    "symbola",
    "seguisym",
    "seguiemj",
    "notosansarabic",
    "notosansdevanagari",
    "notosansthai",
    "notosans",
    "freesans",
)
"""File names, in lower case, of fonts that hold the world's scripts; the first that has a label's letters is used."""


def font_for(label: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """A label that can be drawn, and the font to draw it with.

    Args:
        label: any text.
        size: height in pixels.
    """
    letters = frozenset(map(ord, label))
    default = default_font()
    for path in (default, *system_fonts()) if letters - _letters(default) else (default,):
        if letters <= _letters(path):
            return label, _open(path, size)
    known = _letters(default)
    return "".join(c if ord(c) in known else code_point(c) for c in label), _open(default, size)


def default_font() -> str:
    """The path of DejaVu Sans as matplotlib ships it."""
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def system_fonts() -> tuple[str, ...]:
    """The fonts of this machine that may have what DejaVu lacks, best first."""
    from matplotlib.font_manager import findSystemFonts

    ranked = []
    for path in sorted(findSystemFonts()):
        name = Path(path).name.lower()
        rank = next((rank for rank, family in enumerate(_FAMILIES) if name.startswith(family)), None)
        # a regular face before a bold one
        if rank is not None and _letters(path):
            ranked.append((rank, "regular" not in name, path))
    return tuple(path for *_, path in sorted(ranked))


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """The code points that a font has outlines for; none if it can't be read or only has bitmaps."""
    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


@functools.cache
def _open(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
