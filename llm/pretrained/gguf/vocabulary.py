"""The tokenizer and the chat template in the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.errors import TokenizerError
from llm.pretrained.definitions import SPLITS, added_token, around, byte_pairs, scored_pieces
from llm.pretrained.roles import as_template
from llm.pretrained.tokenizer_files import from_definition
from llm.tokenizers import Roles, Tokenizer

NORMAL, UNKNOWN, CONTROL, OF_THE_USER, UNUSED = 1, 2, 3, 4, 5
"""What llama.cpp says that a token is."""

PREFIX = "tokenizer.ggml."
_BEGINS = ("llama", "llama-bpe")
"""Where a text begins with a token of its own if the file does not say, as llama.cpp has it."""


def tokenizer_of(metadata: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer, with what its special tokens are for and the chat template; None if the file has none.

    Raises:
        TokenizerError: it is of a kind that is not read, or damaged.
    """
    own = {name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)}
    kind, split = own.get("model"), own.get("pre")
    if kind in (None, "none", "no_vocab") or "tokens" not in own:
        return None
    names: list[str] = own["tokens"]
    kinds: list[int] = own.get("token_type", [NORMAL] * len(names))
    while kinds and kinds[-1] == UNUSED:  # rows of the tables that no token belongs to
        names, kinds = names[:-1], kinds[:-1]
    if kind == "gpt2" and split in SPLITS:
        vocabulary = {name: token_id for token_id, name in enumerate(names)}
        definition = byte_pairs(vocabulary, own.get("merges", []), split)
    elif kind == "llama" and len(own.get("scores", [])) >= len(names):
        unknown = next((name for name, kind in zip(names, kinds, strict=True) if kind == UNKNOWN), None)
        definition = scored_pieces(names, own["scores"], unknown, own.get("add_space_prefix", True))
    else:
        raise TokenizerError(
            f"{PREFIX}model is {kind!r} and {PREFIX}pre {split!r}; those that can be read are 'llama', and 'gpt2' "
            f"with {', '.join(SPLITS)}"
        )
    special = [CONTROL, UNKNOWN] if kind == "llama" else [CONTROL]
    definition["added_tokens"] = [
        added_token(names[token_id], token_id, kind in special)
        for token_id, kind in enumerate(kinds)
        if kind in (*special, OF_THE_USER)
    ]

    def token(role: str) -> int | None:
        token_id = own.get(f"{role}_token_id")
        return token_id if type(token_id) is int and token_id in range(len(names)) else None

    def named(token_id: int | None, is_put: bool) -> tuple[str, int] | None:
        return (names[token_id], token_id) if token_id is not None and is_put else None

    begin, end, others = token("bos"), token("eos"), (token("eot"), token("eom"))
    begins = own.get("add_bos_token", str(split if kind == "gpt2" else kind) in _BEGINS)
    definition["post_processor"] = around(named(begin, begins), named(end, own.get("add_eos_token", False)))
    ends = tuple(dict.fromkeys(token_id for token_id in (end, *others) if token_id is not None))
    roles = Roles(
        begin_id=begin,
        end_ids=ends,
        pad_id=token("padding"),
        unknown_id=token("unknown"),
        mask_id=token("mask"),
        separator_id=token("seperator"),  # as the format spells it
        classifier_id=token("cls"),
        chat_template=as_template(metadata.get("tokenizer.chat_template")),
    )
    return from_definition(definition).with_roles(roles)
