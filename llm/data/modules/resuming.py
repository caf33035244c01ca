"""Whether a resumed run has the data that it began with."""

from __future__ import annotations

from typing import Any

from llm.errors import CheckpointError

_DIGITS = 12
"""Digits of a hash that are shown, enough to distinguish two."""


def refuse_other_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what the order of the training batches depends on, which a checkpoint keeps.

    Args:
        before: from the checkpoint.
        now: of this run; what it does not have is not compared.

    Raises:
        CheckpointError: something differs; says both values.
    """
    if not isinstance(before, dict):
        raise CheckpointError(f"the checkpoint is damaged: what it says of the data is {str(before)[:80]!r}")
    changed = [
        f"{name} ({_shown(before, name)} in the checkpoint, {_shown(now, name)} now)"
        for name in now
        if not _is_same(before.get(name), now[name]) and not (name == "corpus_bytes" and name not in before)
    ]
    if changed:
        raise CheckpointError(
            f"the training data is not what the checkpoint was trained on: {', '.join(changed)}; restore it, "
            "or resume anyway with --data.allow_changed_data true"
        )


def _is_same(theirs: Any, ours: Any) -> bool:
    return type(theirs) is type(ours) and theirs == ours  # a damaged checkpoint may hold a tensor here


def _shown(state: dict[str, Any], name: str) -> str:
    value = str(state.get(name))
    return f"SHA-256 {value[:_DIGITS]}..." if name in ("corpus", "examples") else value
