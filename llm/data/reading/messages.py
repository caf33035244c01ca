"""Short messages with four labels, generated: what the classifier's configuration trains on.

What a message is about does not say its label, and nearly all its words occur under every label: `I will not bring the
keys, as you will see` refuses, `I will bring the keys, as you can not see` promises. So a model has to read the order
of the words. A wording (opening, core and tail) is in one split only.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

MESSAGES = ("messages", "messages-validation", "messages-test")
"""The known names: to train on, and two sets of other wordings."""

_EACH = {"messages": 500, "messages-validation": 60, "messages-test": 100}
"""Messages of a label in each."""

_OPENINGS = ("", "{name}, ", "Hello {name}, ", "Listen, ", "Good morning {name}, ", "Well, ", "About {day}: ", "Look, ")
_CORES = {
    "promise": ("I will {do}", "I can {do}", "I am going to {do}", "let me {do}", "you can leave it to me to {do}"),
    "refusal": (
        "I will not {do}",
        "I can not {do}",
        "I am not going to {do}",
        "do not let me {do}",
        "you can not leave it to me to {do}",
    ),
    "report": ("I {did}", "I went and {did}", "yes, I {did}", "you know that I {did}", "I {did} for you"),
    "request": ("will you {do}", "can you {do}", "you can {do} for me", "please {do}", "I leave it to you to {do}"),
}
_TAILS = (
    "",
    ", as you will see",
    ", as you can not see",
    ", so that you can not say that I did not ask",
    ", which is not going to be easy",
    ", if that is what you want",
    ", and please do not tell {name}",
    ", and {name} will not",
    ", before you ask",
    ", which {name} did not",
)
_TASKS = (
    ("bring the {thing}", "brought the {thing}"),
    ("buy the {thing}", "bought the {thing}"),
    ("clean the {thing}", "cleaned the {thing}"),
    ("fetch the {thing}", "fetched the {thing}"),
    ("find the {thing}", "found the {thing}"),
    ("mend the {thing}", "mended the {thing}"),
    ("pack the {thing}", "packed the {thing}"),
    ("sell the {thing}", "sold the {thing}"),
    ("send the {thing}", "sent the {thing}"),
    ("show {name} the {thing}", "showed {name} the {thing}"),
)
_THINGS = ("keys", "tent", "old radio", "boat", "lamp", "bread", "blue chair", "ladder", "letters", "kettle", "map")
_NAMES = ("Anna", "Boris", "Carla", "Deniz", "Emeka", "Fumiko", "Greta", "Hassan", "Ines", "Jonas")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WHEN = ("", " on {day}", " in the morning", " after work", " with {name}", " before {day}")


def messages(name: str) -> list[tuple[str, str]]:
    """The texts of one of `MESSAGES`, each with its label: always the same ones, all different.

    Args:
        name: which of them.
    """
    draw = random.Random(MESSAGES.index(name))
    found: dict[str, str] = {}
    for label in _CORES:
        wordings = [
            (opening, core, tail)
            for opening in _OPENINGS
            for core in _CORES[label]
            for tail in _TAILS
            if _split_of(opening, core, tail) == name
        ]
        texts: dict[str, str] = {}
        while len(texts) < _EACH[name]:
            texts[_message(draw, draw.choice(wordings))] = label
        found |= texts
    rows = list(found.items())
    draw.shuffle(rows)
    return rows


def _split_of(*wording: str) -> str:
    """The set that a wording belongs to: of ten, one in validation and two in test."""
    place = zlib.crc32("|".join(wording).encode()) % 10
    return MESSAGES[1] if place == 0 else MESSAGES[2] if place < 3 else MESSAGES[0]


def _message(draw: random.Random, wording: Sequence[str]) -> str:
    opening, core, tail = wording
    do, did = draw.choice(_TASKS)
    when = draw.choice(_WHEN)
    text = opening + core.format(do=do + when, did=did + when) + tail
    while "{" in text:  # each name is drawn on its own
        for slot, choices in (("{thing}", _THINGS), ("{name}", _NAMES), ("{day}", _DAYS)):
            text = text.replace(slot, draw.choice(choices), 1)
    return text[0].upper() + text[1:] + draw.choice(".!" if "will you" not in text and "can you" not in text else "?")
