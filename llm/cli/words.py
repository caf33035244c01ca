"""The words of a command line before there is a parser, and the YAML files that they name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from llm.errors import ConfigError
from llm.runtime.shipped import DEFAULT_CONFIG

CONFIG = ("-c", "--config")
TASK = "--task"
CONFIGS = DEFAULT_CONFIG.parent
_MOST_VALUES = 100_000


def take(words: Sequence[str], names: Collection[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Split words into some flags and all others.

    Args:
        words: of a command line.
        names: of the flags, such as `--config`; each takes one value, after `=` or as the next word.

    Returns:
        Name and value of each of these flags, and the words that are left.
    """
    taken: list[tuple[str, str]] = []
    others: list[str] = []
    following = iter(words)
    for word in following:
        name, equals, value = word.partition("=")
        if name in names:
            taken.append((name, value if equals else next(following, "")))
        else:
            others.append(word)
    return taken, others


def config_first(words: Sequence[str]) -> list[str]:
    """The words with `--config` and `--task` right behind the command, so that flags win wherever they stand.

    jsonargparse applies files and flags in the order of the words.
    """
    taken, others = take(words, (*CONFIG, TASK))
    return [*others[:1], *(f"{TASK if name == TASK else CONFIG[-1]}={value}" for name, value in taken), *others[1:]]


def settings_of_files(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The content of each YAML file that the command line names, in order.

    Raises:
        ConfigError: one is not YAML, or holds something other than settings by name.
    """
    found: dict[str, dict[str, Any]] = {}
    for _, path in take(words, CONFIG)[0]:
        if "://" in path:
            raise ConfigError(f"{path!r} is a URL: download the file yourself, read it, and give its path")
        found.pop(path, None)
        if not Path(path).is_file():
            raise ConfigError(f"there is no file {path!r}{_near_file(path)}")
        found[path] = read_settings(path)
    return found


def _near_file(path: str) -> str:
    """`; did you mean ...?` with a YAML file here or of those that come with the code."""
    shipped = {str(file.relative_to(CONFIGS.parent)): file.stem for file in CONFIGS.rglob("*.yaml")}
    here = {str(file): file.stem for file in (*Path().glob("*.yaml"), *Path().glob("configs/**/*.yaml"))}
    every = shipped | here
    near = difflib.get_close_matches(path, every, n=1)
    near = near or [file for file, stem in sorted(every.items()) if stem == Path(path).stem][:1]
    return f"; did you mean {near[0]}?" if near else ""


def read_settings(path: str) -> dict[str, Any]:
    """The content of a YAML file.

    Raises:
        ConfigError: it is not YAML, or holds something other than settings by name.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path!r} is not valid YAML: {error}") from error
    if _is_larger(content, _MOST_VALUES):
        raise ConfigError(f"{path!r} holds more than {_MOST_VALUES:,} values, as no configuration does")
    if not isinstance(content, dict):
        held = "nothing" if content is None else repr(content)
        raise ConfigError(f"{path!r} must hold settings by name, such as 'data: {{batch_size: 8}}'; it holds {held}")
    return content


def value_in_files(files: Iterable[dict[str, Any]], name: str) -> Any:
    """The value of a dotted name in the last of some files' contents that sets it; None where none does."""
    found = None
    for content in files:
        value: Any = content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found = found if value is None else value
    return found


def _is_larger(content: Any, most: int) -> bool:
    """Whether something read from YAML has more values in it than that; by aliases a few lines can have millions."""
    left = [content]
    for _ in range(most):
        if not left:
            return False
        value = left.pop()
        if isinstance(value, dict | list):
            left += [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return bool(left)
