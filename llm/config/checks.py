"""Check that each field of a configuration has a value it may have, and report all that are wrong at once."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from llm.errors import ConfigError

_NOUNS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a list",
}


@contextlib.contextmanager
def checks(config: Any) -> Iterator[Callable[[bool, str], None]]:
    """Collects what is wrong with a dataclass while it is made: `with checks(self) as check: check(n > 0, "...")`.

    Types come first: with a wrong one, nothing else can be asked.

    Raises:
        ConfigError: of everything that was found, one argument each.
    """
    if problems := list(_wrong_types(config)):
        raise ConfigError(*problems)

    def check(is_right: bool, message: str) -> None:
        if not is_right:
            problems.append(message)

    yield check
    if problems:
        raise ConfigError(*problems)


def _wrong_types(config: Any) -> Iterator[str]:
    """What has the wrong type. Dataclasses alone don't check, and a file from elsewhere may hold anything."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):  # type: ignore[arg-type]
                yield f"{name} must be settings by name, got {value!r}"
        elif get_origin(hint) is Literal:
            choices = get_args(hint)
            if value not in choices:
                yield f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}"
        elif float in kinds and isinstance(value, float | int):
            if isinstance(value, bool) or not _is_finite(value):
                yield f"{name} must be a number, got {value}"
        else:
            plain = tuple(get_origin(kind) or kind for kind in kinds)
            is_right = isinstance(value, (*plain, list) if tuple in plain else plain)
            if not is_right or (isinstance(value, bool) and bool not in plain):
                expected = " or ".join("null" if kind is types.NoneType else _NOUNS[kind] for kind in plain)
                yield f"{name} must be {expected}, got {value!r}"


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is larger than any float
        return False
