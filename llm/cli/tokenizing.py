"""Which tokenizer and chat template a run has, where the user did not say: those of its weights or token ids."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from llm.cli.settings import is_given
from llm.data.tokens.opening import find_token_ids
from llm.errors import ConfigError, DataError
from llm.pretrained import read_tokenizer
from llm.runtime.shell import command_line

log = logging.getLogger("llm")


def leave_tokenizer_to_token_ids(config: Any, given: set[str]) -> None:
    """Take no tokenizer by default where the corpus is token ids, which have one or say nothing of it.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
    """
    if "tokenizer" not in config.data or "corpus" not in config.data or is_given("data.tokenizer", given):
        return
    with contextlib.suppress(DataError):  # the preflight says what is wrong with the corpus
        if find_token_ids(config.data.corpus) is not None:
            config.data.tokenizer.kind = None


def refuse_unknown_padding(weights: str, n_rows: int, tokenizer: str) -> None:
    """Refuse a tokenizer with fewer tokens than there are rows in weights that state none.

    The rows without a token are padding, which the weights have to say: a token that the run adds would else be taken
    for one that they have learned.

    Args:
        weights: their name.
        n_rows: of their token embedding.
        tokenizer: where the run's is.

    Raises:
        ConfigError: it has fewer.
        LLMError: it can't be read.
    """
    if (n_tokens := read_tokenizer(tokenizer).vocab_size) < n_rows:
        words = ("import", "--from", weights, "--tokenizer", tokenizer, "--out", "base.ckpt")
        raise ConfigError(
            f"{weights!r} states no tokenizer, and has {n_rows:,} rows where {tokenizer!r} has {n_tokens:,} tokens: "
            f"join them first ({command_line('python', '-m', 'llm', *words)}), then --model.pretrained base.ckpt"
        )


def adopt_tokenizer(config: Any, given: set[str], state: dict[str, Any] | None, name: str = "tokenizer") -> None:
    """Take the tokenizer from trained weights.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        state: their tokenizer as a dict, or None.
        name: of its setting.

    Raises:
        ConfigError: the user set another tokenizer.
    """
    if name not in config.data:
        return
    if state is None:
        if not is_given(f"data.{name}.kind", given):
            config.data[name].kind = None  # one that a default names would be learned anew
        taken = config.data[name].checkpoint or config.data[name].kind or "gpt2"
        log.warning(
            "the weights state no tokenizer: %s is taken, and if they were trained with another, the loss means "
            "nothing; give theirs with --data.%s.checkpoint (a checkpoint, tokenizer.json, vocab.txt, meta.pkl)",
            taken,
            name,
        )
        return
    tokenizer, theirs, group = config.data[name], state.get("encoding", state["kind"]), f"data.{name}"
    _refuse_other(f"{group}.kind", theirs, tokenizer.kind, given)
    if "pattern" in state:  # else the tokenizer is of a kind that has none
        _refuse_other(f"{group}.pattern", state["pattern"], tokenizer.pattern, given)
    specials, ours = (None if names is None else list(names) for names in (state.get("specials"), tokenizer.specials))
    _refuse_other(f"{group}.specials", specials, ours, given)
    if is_given(f"{group}.checkpoint", given):  # loading the weights will say if it is another
        return
    if state["kind"] == "bpe" and "roles" not in state:  # the name says it all
        tokenizer.kind = theirs
    else:
        tokenizer.checkpoint = config.ckpt_path or config.model.pretrained


def adopt_source_tokenizer(
    config: Any, given: set[str], state: dict[str, Any], of_targets: dict[str, Any] | None
) -> None:
    """As `adopt_tokenizer`, for that of the sources; it may be the same as that of the targets."""
    if not is_given("data.share_tokenizer", given):
        config.data.share_tokenizer = state == of_targets
    if not config.data.share_tokenizer:
        adopt_tokenizer(config, given, state, "source_tokenizer")


def adopt_template(config: Any, given: set[str], template: dict[str, Any] | None) -> None:
    """Take the chat template from trained weights, unless the user set one.

    Args:
        config: of the run; changed in place.
        given: the names that the user set.
        template: theirs as a dict, or None.
    """
    if template is not None and "template" in config.data and not is_given("data.template", given):
        config.data.template = template.get("source")
        config.data.special_tokens = template.get("special_tokens")


def _refuse_other(name: str, theirs: Any, given_value: Any, given: set[str]) -> None:
    """Hold what the user said of the tokenizer to the checkpoint's."""
    if is_given(name, given) and given_value is not None and given_value != theirs:
        raise ConfigError(
            f"{name} is {theirs!r} in the checkpoint, {given_value!r} is given: omit it, as a flag and in YAML "
            "files alike, so that the checkpoint's tokenizer is used"
        )
