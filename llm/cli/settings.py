"""What the user set, and what follows from it, from the data, or from trained weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llm.cli.parsing import settings_of_files
from llm.config import GPTConfig, OptimConfig
from llm.errors import ConfigError

LINKS = {"data.context_length": "model.gpt.context_length", "data.vocab_size": "model.gpt.vocab_size"}
"""Settings of the model that follow from the data; they can't be set on their own."""


def refuse_link_targets(words: Sequence[str]) -> None:
    """A YAML file that sets what follows from the data would be silently ignored there.

    Raises:
        ConfigError: one does.
    """
    for path, names in given_in_files(words).items():
        for source, target in LINKS.items():
            if target in names:
                advice = "leave it out" if source == "data.vocab_size" else f"set {source} instead"
                raise ConfigError(f"{path!r} sets {target}, which follows from {source}: {advice}")


def given_settings(words: Sequence[str]) -> set[str]:
    """The dotted names that the user set, by flags or in files, as opposed to defaults."""
    return given_by_flags(words).union(*given_in_files(words).values())


def given_by_flags(words: Sequence[str]) -> set[str]:
    """The dotted names that flags set."""
    given: set[str] = set()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            value = value if equals else following
            group = _mapping(value if value.startswith("{") else "")  # such as --model.gpt '{n_layer: 2}'
            given |= set(flatten(group, f"{name}.")) if group else {name}
    return given


def is_given(name: str, given: set[str]) -> bool:
    """Whether a setting, a part of it, or a group that it belongs to was set."""
    return any(f"{other}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other}.") for other in given)


def given_in_files(words: Sequence[str]) -> dict[str, set[str]]:
    """The dotted names that each configuration file sets."""
    return {path: set(flatten(settings)) for path, settings in settings_of_files(words).items()}


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:  # the parser will say so
        return {}
    return value if isinstance(value, dict) else {}


def adopt(config: Any, given: set[str], gpt: GPTConfig, tokenizer_state: dict[str, Any] | None) -> None:
    """Take architecture and tokenizer from trained weights, except for what the user set.

    If that does not fit, loading the weights will say what differs.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        gpt: the weights' architecture.
        tokenizer_state: their tokenizer as a dict, or None.

    Raises:
        ConfigError: the user set another tokenizer.
    """
    for name, value in gpt.to_dict().items():
        if name == "context_length":
            if not is_given("data.context_length", given):
                config.data.context_length = config.model.gpt.context_length = value
        elif name != "vocab_size" and not is_given(f"model.gpt.{name}", given):
            config.model.gpt[name] = value
    if tokenizer_state is None:
        return
    tokenizer, theirs = config.data.tokenizer, tokenizer_state.get("encoding", tokenizer_state["kind"])
    _refuse_other("kind", theirs, tokenizer.kind, given)
    if "pattern" in tokenizer_state:  # else the tokenizer is of a kind that has none
        _refuse_other("pattern", tokenizer_state["pattern"], tokenizer.pattern, given)
    specials = tokenizer_state.get("specials")
    _refuse_other("specials", specials and list(specials), tokenizer.specials and list(tokenizer.specials), given)
    if is_given("data.tokenizer.checkpoint", given):  # loading the weights will say if it is another
        return
    if tokenizer_state["kind"] == "bpe":  # the name says it all
        tokenizer.kind = theirs
    else:
        tokenizer.checkpoint = config.ckpt_path or config.model.pretrained


def _refuse_other(name: str, theirs: Any, given_value: Any, given: set[str]) -> None:
    """Hold what the user said of the tokenizer to the checkpoint's."""
    if is_given(f"data.tokenizer.{name}", given) and given_value is not None and given_value != theirs:
        raise ConfigError(
            f"data.tokenizer.{name} is {theirs!r} in the checkpoint, {given_value!r} is given: leave it out, so that "
            "the checkpoint's tokenizer is used"
        )


def adopt_optim(config: Any, given: set[str], optim: OptimConfig | None) -> None:
    """Take the settings of the optimizer from the checkpoint that a run goes on from, except for what the user set.

    If that differs, the checkpoint is refused when it is loaded.
    """
    for name, value in dataclasses.asdict(optim).items() if optim is not None else ():
        if not is_given(f"model.optim.{name}", given):
            config.model.optim[name] = value


def settings_of_run(folder: Path) -> dict[str, Any]:
    """What the configuration in a run's folder says; nothing where there is none that can be read."""
    path = str(folder / "config.yaml")
    try:
        return settings_of_files(["--config", path]).get(path, {})
    except (ConfigError, OSError):
        return {}


_OF_A_TEXT = ("corpus", "validation_corpus", "validation_fraction", "test_corpus")


def adopt_text(config: Any, given: set[str], run: dict[str, Any]) -> None:
    """Measure a trained model on the text of its own run, except for what the user set.

    Args:
        config: of `validate` or `test`; changed in place.
        given: the names that the user set.
        run: the settings of the run that the model comes from.
    """
    data = run.get("data")
    if isinstance(data, dict) and not any(is_given(f"data.{name}", given) for name in _OF_A_TEXT[:3]):
        for name in _OF_A_TEXT:
            if name in data and not is_given(f"data.{name}", given):
                config.data[name] = data[name]


_NO_HYPERPARAMETERS = (
    "data.allow_changed_data",
    "data.cache_dir",
    "data.num_workers",
    "data.prompts",
    "data.test_corpus",
    "model.compile",
    "model.sampling.",
)


def hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """What a run's result depends on, by dotted name: of model and data what is set, no paths, texts or speed."""
    found = flatten({key: value for key, value in settings.items() if key in ("model", "data")})
    return {
        name: value for name, value in found.items() if value != "None" and not name.startswith(_NO_HYPERPARAMETERS)
    }


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as primitives."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
