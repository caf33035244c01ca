"""What the special tokens of a vocabulary are for, and how a conversation is written with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from llm.errors import TokenizerError


@dataclass(frozen=True)
class Roles:
    """What the files beside weights state of a tokenizer's special tokens, by id.

    Args:
        begin_id: stands before a text.
        end_ids: end a generated text; the first also stands between two documents.
        pad_id: fills up the shorter rows of a batch.
        unknown_id: what has no token of its own.
        mask_id: a token that is to be predicted from both sides.
        separator_id: stands after each of two texts.
        classifier_id: stands before a text, and what is read from it is a class.
        chat_template: a Jinja template that writes a conversation as one text.
    """

    begin_id: int | None = None
    end_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    unknown_id: int | None = None
    mask_id: int | None = None
    separator_id: int | None = None
    classifier_id: int | None = None
    chat_template: str | None = None

    @property
    def ids(self) -> dict[str, int]:
        """The ids of the roles that one token has, as far as they are stated."""
        return {name: token_id for name in ID_ROLES if (token_id := getattr(self, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """What is stated, as primitives."""
        stated = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {**stated, "end_ids": list(self.end_ids)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The roles that `to_dict` described.

        Raises:
            TokenizerError: it describes none.
        """
        template, ends = state.get("chat_template"), state.get("end_ids", ())
        ids = {name: state.get(name) for name in ID_ROLES}
        if not all(token_id is None or type(token_id) is int for token_id in (*ids.values(), *ends)):
            raise TokenizerError(f"the ids of special tokens should be integers, got {[*ids.values(), *ends]}")
        if not (template is None or isinstance(template, str)):
            raise TokenizerError(f"a chat template should be a string, got a {type(template).__name__}")
        return cls(**ids, end_ids=tuple(ends), chat_template=template)


ID_ROLES = ("begin_id", "pad_id", "unknown_id", "mask_id", "separator_id", "classifier_id")
"""The roles that one token has."""
