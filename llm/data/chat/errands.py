"""Small errands with one right answer, in four kinds: classify, say it shorter, translate, answer as an assistant.

The world is closed: a corner shop with what it sells, its shelves and its hours, and the diary of a week; a model knows
it by heart. Everything is drawn from
a fixed seed, so that the set is the same everywhere. Held-out errands have wordings that no training errand has; their
words do occur there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from llm.data.chat.messages import ASSISTANT, USER, Conversation, Message

Split = Literal["train", "held_out"]
SIZES: dict[str, int] = {"train": 6000, "held_out": 400}
"""Different conversations in each split."""

_TURNS = (1, 1, 1, 2)
"""Errands in a conversation, drawn for each."""
_HELD_OUT_EVERY = 5
_SEEDS = {"train": 1, "held_out": 2}

_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas", "Laura", "Max")
_DAYS = {
    "Monday": "Montag",
    "Tuesday": "Dienstag",
    "Wednesday": "Mittwoch",
    "Thursday": "Donnerstag",
    "Friday": "Freitag",
    "Saturday": "Samstag",
}
_NUMBERS = {"two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs", "seven": "sieben"}
_COLOURS = {"red": "rote", "green": "grüne", "yellow": "gelbe", "large": "große", "small": "kleine", "fresh": "frische"}
_ITEMS = {
    "apples": "Äpfel",
    "pears": "Birnen",
    "lemons": "Zitronen",
    "onions": "Zwiebeln",
    "carrots": "Karotten",
    "tomatoes": "Tomaten",
    "peppers": "Paprikas",
    "flowers": "Blumen",
    "cakes": "Kuchen",
    "candles": "Kerzen",
}
_VERBS = {
    ("buy", "buys"): "kauft",
    ("sell", "sells"): "verkauft",
    ("find", "finds"): "findet",
    ("bring", "brings"): "bringt",
    ("fetch", "fetches"): "holt",
}
_SHELVES = ("by the door", "at the window", "behind the counter", "near the stairs")
_HOURS = {
    "Monday": "eight to six",
    "Tuesday": "eight to six",
    "Wednesday": "nine to one",
    "Thursday": "eight to six",
    "Friday": "eight to eight",
    "Saturday": "ten to four",
}
_PRICES = dict(zip(_ITEMS, (20, 30, 25, 10, 15, 40, 50, 60, 90, 70), strict=True))
_DIARY = {
    "Monday": "the delivery",
    "Tuesday": "the cleaning",
    "Wednesday": "the choir",
    "Thursday": "the market",
    "Friday": "the tasting",
    "Saturday": "the dance",
}

Item = TypeVar("Item")


class _Draw:
    """Choices from a seed; of `random.Random` only what all versions of Python draw alike."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self, n: int) -> int:
        """From 0 to n - 1."""
        return int(self._random.random() * n)

    def one(self, items: Sequence[Item]) -> Item:
        """One of them."""
        return items[self.number(len(items))]

    def several(self, items: Sequence[Item], count: int) -> list[Item]:
        """Different ones."""
        left = list(items)
        return [left.pop(self.number(len(left))) for _ in range(count)]


def _wordings(*parts: Sequence[str]) -> dict[str, list[str]]:
    """All combinations of parts, every fifth of them held out."""
    every = ["".join(words) for words in itertools.product(*parts)]
    held_out = every[2::_HELD_OUT_EVERY]
    return {"train": [wording for wording in every if wording not in held_out], "held_out": held_out}


_CLASSIFY = _wordings(
    ("Which kind of message is this", "What kind of note is this", "Sort this message", "Sort this note"),
    (": order, complaint, question or thanks", ": question, thanks, order or complaint"),
    (", in one word?", "? One word.", ", please?"),
)
_SHORTER = _wordings(
    ("Say it shorter", "Say this in fewer words", "Make it shorter", "Make this short", "Shorten this"),
    ("", ", please", " for me", " for the diary"),
    (":", "."),
)
_TRANSLATE = _wordings(
    ("Translate", "Please translate", "Now translate", "Can you translate"),
    (" this", " it", " the sentence", " the line"),
    (" into German:", " to German:"),
)
_PRICE = _wordings(
    ("What do", "How much do", "Please tell me what", "I want to know what"),
    (" {n} {items} cost", " {n} of the {items} cost"),
    ("?", " here?", " today?"),
)
_SHELF = _wordings(
    ("Where are the {items}", "Where do I find the {items}", "Please tell me where the {items} are"),
    ("?", " here?", " in the shop?", " today?"),
)
_OPEN = _wordings(
    (
        "When are you open",
        "When is the shop open",
        "Please tell me when the shop is open",
        "I want to know when you are open",
    ),
    (" on {day}", " on a {day}"),
    ("?", ", please?"),
)
_PLAN = _wordings(
    ("What is on {day}", "What is in the diary on {day}", "What do I have on {day}", "Please tell me what is on {day}"),
    ("?", " this week?", ", please?"),
)
_WHEN = _wordings(
    ("When is {plan}", "Which day is {plan}", "On which day is {plan}", "Please tell me when {plan} is"),
    ("?", " this week?", ", please?"),
)
_MESSAGES = {
    "order": (
        "I would like {n} {colour} {items} on {day}.",
        "Please send {n} {items} to {name}.",
        "We need {n} {colour} {items}, please.",
        "{name} will take {n} {items} on {day}.",
    ),
    "complaint": (
        "The {items} from {day} were too old.",
        "{name} got {n} {items} and all were broken.",
        "I paid for {n} {items} and none came on {day}.",
        "The {colour} {items} were bad again.",
    ),
    "question": (
        "Do you have {colour} {items} on {day}?",
        "Can {name} come for the {items} on {day}?",
        "Are there any {items} left?",
        "How long do {colour} {items} keep?",
    ),
    "thanks": (
        "The {items} from {day} were lovely.",
        "{name} loved the {colour} {items}.",
        "You were so kind to {name} on {day}.",
        "What good {items} you had on {day}!",
    ),
}
_LONG = (
    "On {day}, as far as I know, {name} is going to {verb} {n} {colour} {items}.",
    "It is {name} who will {verb} {n} {colour} {items} when {day} comes.",
    "If nothing goes wrong, {name} is going to {verb} {n} {colour} {items} on {day}.",
    "You should know that on {day} {name} will {verb} {n} {colour} {items}.",
)


def _slots(draw: _Draw) -> dict[str, str]:
    (verb, does), german = draw.one(list(_VERBS.items()))
    return {
        "name": draw.one(_NAMES),
        "day": draw.one(list(_DAYS)),
        "n": draw.one(list(_NUMBERS)),
        "colour": draw.one(list(_COLOURS)),
        "items": draw.one(list(_ITEMS)),
        "verb": verb,
        "does": does,
        "german": german,
    }


Errand = tuple[str, str, str]
"""An instruction, its input, and the answer."""


def _classify(draw: _Draw, split: Split) -> Errand:
    kind = draw.one(list(_MESSAGES))
    return draw.one(_CLASSIFY[split]), draw.one(_MESSAGES[kind]).format(**_slots(draw)), kind


def _shorter(draw: _Draw, split: Split) -> Errand:
    slots = _slots(draw)
    short = "{day}: {name} {does} {n} {items}.".format(**slots)
    return draw.one(_SHORTER[split]), draw.one(_LONG).format(**slots), short


def _translate(draw: _Draw, split: Split) -> Errand:
    slots = _slots(draw)
    german = {
        "day": _DAYS[slots["day"]],
        "n": _NUMBERS[slots["n"]],
        "colour": _COLOURS[slots["colour"]],
        "items": _ITEMS[slots["items"]],
    }
    there = "{name} {does} {n} {colour} {items} on {day}.".format(**slots)
    here = "{name} {verb} am {day} {n} {colour} {items}.".format(name=slots["name"], verb=slots["german"], **german)
    return draw.one(_TRANSLATE[split]), there, here


def _shop(draw: _Draw, split: Split) -> Errand:
    slots = _slots(draw)
    items, n, day = slots["items"], slots["n"], slots["day"]
    kind = draw.number(3)
    if kind == 0:
        cost = _PRICES[items] * (2 + list(_NUMBERS).index(n))
        return draw.one(_PRICE[split]).format(**slots), "", f"{n.capitalize()} {items} cost {cost} pence."
    if kind == 1:
        shelf = _SHELVES[list(_ITEMS).index(items) % len(_SHELVES)]
        return draw.one(_SHELF[split]).format(**slots), "", f"The {items} are {shelf}."
    return draw.one(_OPEN[split]).format(**slots), "", f"On {day} the shop is open from {_HOURS[day]}."


def _diary(draw: _Draw, split: Split) -> Errand:
    day, plan = draw.one(list(_DIARY.items()))
    if draw.number(2):
        return draw.one(_PLAN[split]).format(day=day), "", f"On {day} there is {plan}."
    return draw.one(_WHEN[split]).format(plan=plan), "", f"{plan.capitalize()} is on {day}."


_KINDS: tuple[Callable[[_Draw, Split], Errand], ...] = (_classify, _shorter, _translate, _shop, _diary)


def errands(split: Split) -> Iterator[Conversation]:
    """The conversations of a split, all different; no errand of the held-out ones stands in the training ones."""
    draw = _Draw(_SEEDS[split])
    seen: set[tuple[Errand, ...]] = set()
    while len(seen) < SIZES[split]:
        turns = [draw.one(_KINDS)(draw, split) for _ in range(draw.one(_TURNS))]
        if len({turn[:2] for turn in turns}) < len(turns) or tuple(turns) in seen:
            continue
        seen.add(tuple(turns))
        yield tuple(
            message
            for instruction, about, answer in turns
            for message in (Message(USER, instruction, about), Message(ASSISTANT, answer))
        )
