"""Whose code a setting or a file may name: that of this package, Lightning, torch and torchmetrics.

Importing a module runs it, and making an object calls it. So a configuration, which may come from somebody else, names
classes of these packages only; the user allows others on the command line, where no file can do it for them.
"""

from __future__ import annotations

import contextlib
import os
import pydoc
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from llm.errors import CheckpointError, ConfigError

TRUSTED = ("llm", "lightning", "torch", "torchmetrics")
FLAG = "--allow_classes"
HELP = (
    f"{FLAG} PACKAGE[,PACKAGE]: let a class_path name classes of these packages too, besides those of "
    f"{', '.join(TRUSTED)}. On the command line only: to name a class is to run its code."
)

_HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "module_arguments")
"""The entries in which Lightning stores what a module was made from."""
_NAMES_OF_CODE = ("_instantiator", "_class_path", "class_path")


def take_allowed(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the packages that it allows and the words that are left.

    Raises:
        ConfigError: one is not a name of a package or class.
    """
    allowed: list[str] = []
    rest: list[str] = []
    following = iter(words)
    for word in following:
        name, equals, value = word.partition("=")
        if name != FLAG:
            rest.append(word)
            continue
        value = value if equals else next(following, "")
        names = [part.strip() for part in value.strip("[]").split(",")]
        for part in names:
            if not all(piece.isidentifier() for piece in part.split(".")):
                raise ConfigError(f"{FLAG} takes names of packages or classes, such as my_callbacks; got {value!r}")
        allowed += names
    return allowed, rest


@contextlib.contextmanager
def only_trusted_classes(allowed: Sequence[str]) -> Iterator[None]:
    """Hold the parser to classes of trusted packages: it asks before it imports, by every way to name one.

    What was allowed is forgotten afterwards; the rest stays for the process, and so do configurations by URL, refused.

    Args:
        allowed: packages or classes that the user trusts besides.

    Raises:
        ConfigError: the parser itself is among them, with which a file could allow anything.
    """
    from jsonargparse import set_parsing_settings

    try:
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=[*TRUSTED, *allowed],
            instantiate_subclass_spec_in_any=False,
            config_read_mode_fsspec_enabled=False,
        )
    except ValueError as error:
        raise ConfigError(f"{FLAG} {','.join(allowed)}: {error}") from error
    try:
        yield
    finally:
        set_parsing_settings(import_path_denylist=[name for name in allowed if not _is_within(name, TRUSTED)])


def refusal(path: str) -> str:
    """What to say about code that is not trusted."""
    package = path.split(".")[0]
    advice = "" if package in sys.stdlib_module_names else f"; if you trust it: {FLAG} {package}"
    return f"{path!r} is code of another package than {', '.join(TRUSTED)}, and is not imported{advice}"


def refuse_functions(config: Any, allowed: Sequence[str], name: str = "") -> None:
    """A setting that makes an object names a class, never a function, which could do anything when it is called.

    Args:
        config: parsed settings.
        allowed: packages or classes that the user trusts.
        name: of the settings, in what they belong to.

    Raises:
        ConfigError: one names something else.
    """
    from jsonargparse import Namespace

    if isinstance(config, list | tuple):
        for number, value in enumerate(config):
            refuse_functions(value, allowed, f"{name}[{number}]")
        return
    if not isinstance(config, dict | Namespace):
        return
    items = config if isinstance(config, dict) else vars(config)
    path = items.get("class_path")
    if isinstance(path, str) and not isinstance(pydoc.locate(path), type) and not _is_within(path, allowed):
        raise ConfigError(f"{name}: class_path must name a class, and {path!r} is none")
    for key, value in items.items():
        inner = f"{name}.{key}" if name else str(key)
        if callable(value) and not isinstance(value, type | os.PathLike):
            path = f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', '?')}"
            if not _is_within(path, allowed):
                raise ConfigError(f"{inner} names the function {path!r}; only classes can be named in a configuration")
        refuse_functions(value, allowed, inner)


def _is_within(path: str, packages: Sequence[str]) -> bool:
    return any(f"{path}.".startswith(f"{package}.") for package in packages)


def refuse_named_code(checkpoint: dict[str, Any], shown: str) -> None:
    """This package never writes the name of a class or function into a checkpoint, and Lightning would act on it.

    Args:
        checkpoint: as it was read.
        shown: its path, as it is shown to a user.

    Raises:
        CheckpointError: one is there.
    """
    for entry in _HYPER_PARAMETERS:
        held = checkpoint.get(entry)
        for name in _NAMES_OF_CODE:
            if isinstance(held, dict) and name in held:
                raise CheckpointError(
                    f"{shown} names code to run ({entry}: {name} {str(held[name])[:80]!r}), which no checkpoint of "
                    "this package does: it is not opened"
                )
