"""Dates as people write them in English and Chinese, and their ISO form: a translation that is generated."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from llm.data.order import KeyedPermutation
from llm.data.reading.pairs import Pair

DATES = "dates"
"""The name of these pairs as a corpus."""

_FIRST, _LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
"""A year of two digits is one of these hundred."""
_SEED = 0
_HELD_OUT = 0.05
"""The fraction of the dates that is kept for validation, and again for test."""

_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]  # not the locale's, which may be any
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_DIGITS, _WEEK = "〇一二三四五六七八九", "一二三四五六日"

Date = datetime.date
Form = Callable[[Date], str]


def _month(date: Date) -> str:
    return _MONTHS[date.month - 1]


def _weekday(date: Date) -> str:
    return _DAYS[date.weekday()]


def _ordinal(date: Date) -> str:
    day = date.day
    return f"{day}{'th' if day in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def _chinese(number: int) -> str:
    """A number up to 99 in Chinese, such as 二十三."""
    tens, ones = divmod(number, 10)
    return f"{'' if tens < 2 else _DIGITS[tens]}{'十' if tens else ''}{_DIGITS[ones] if ones else ''}"


def _chinese_date(date: Date) -> str:
    year = "".join(_DIGITS[int(digit)] for digit in str(date.year))
    return f"{year}年{_chinese(date.month)}月{_chinese(date.day)}日"


FORMS: tuple[Form, ...] = (
    lambda d: f"{_month(d)} {d.day}, {d.year}",
    lambda d: f"{d.day} {_month(d)} {d.year}",
    lambda d: f"the {_ordinal(d)} of {_month(d)} {d.year}",
    lambda d: f"{_month(d)} {_ordinal(d)}, {d.year}",
    lambda d: f"{_month(d)} {d.day}, '{d.year % 100:02}",
    lambda d: f"{d.day} {_month(d)[:3]} '{d.year % 100:02}",
    lambda d: f"{_weekday(d)}, {_month(d)} {d.day}, {d.year}",
    lambda d: f"{_weekday(d)} the {_ordinal(d)} of {_month(d)}, {d.year}",
    lambda d: f"{_weekday(d)[:3]} {d.day} {_month(d)[:3]} {d.year}",
    lambda d: f"{_month(d)[:3]}. {d.day}, {d.year}",
    lambda d: f"{d.year}年{d.month}月{d.day}日",
    lambda d: f"{d.year}年{d.month:02}月{d.day:02}日",
    lambda d: f"{d.year % 100:02}年{d.month}月{d.day}日",
    lambda d: f"{d.year}年{d.month}月{d.day}日星期{_WEEK[d.weekday()]}",
    _chinese_date,
    lambda d: f"{d.year}年{d.month}月{d.day}号",
)
"""How the dates to train on are written, such as `the 3rd of May 1979`."""

HELD_OUT_FORMS: tuple[Form, ...] = (
    lambda d: f"the {_ordinal(d)} of {_month(d)}, '{d.year % 100:02}",
    lambda d: f"{_weekday(d)}, {d.day} {_month(d)} {d.year}",
    lambda d: f"{_month(d)[:3]}. {_ordinal(d)}, {d.year}",
    lambda d: f"{_chinese_date(d)}星期{_WEEK[d.weekday()]}",
    lambda d: f"{d.year % 100:02}年{d.month}月{d.day}号",
)
"""How only those to test on are written: new combinations of what the others are made of."""


def date_pairs(split: Literal["train", "validation", "test"]) -> Iterator[Pair]:
    """The pairs of a split, the same ones always. No date is in two splits.

    Those to train on are written in two of `FORMS` each, those for validation in one; of those to test on, each is
    written in one of `FORMS` and in one of `HELD_OUT_FORMS`.
    """
    n_dates = (_LAST - _FIRST).days + 1
    n_held_out = round(_HELD_OUT * n_dates)
    shuffled = KeyedPermutation(n_dates, _SEED, 0)(np.arange(n_dates))
    parts = dict(zip(("validation", "test", "train"), np.split(shuffled, [n_held_out, 2 * n_held_out]), strict=True))
    for number, day in enumerate(parts[split].tolist()):
        date = _FIRST + datetime.timedelta(days=day)
        first = number % len(FORMS)
        forms = [FORMS[first]]
        if split == "train":
            # The second is another distance away in every round, so that dates meet all pairs of forms.
            away = 1 + number // len(FORMS) % (len(FORMS) - 1)
            forms.append(FORMS[(first + away) % len(FORMS)])
        elif split == "test":
            forms.append(HELD_OUT_FORMS[number % len(HELD_OUT_FORMS)])
        for form in forms:
            yield Pair(form(date), date.isoformat())
