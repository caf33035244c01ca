"""Special tokens that stand in the text itself, counted before a run."""

from __future__ import annotations

from collections.abc import Iterator

from llm.data import TextDataModule
from llm.data.tokens.counting import count_tokens
from llm.errors import DataError
from llm.preflight.plan import Plan
from llm.runtime.words import counted
from llm.tokenizers.vocabulary import UNKNOWN_TOKENS

_COUNTED = 100_000_000
"""Tokens of a corpus that can be counted in a moment."""


def special_tokens_in_the_text(plan: Plan) -> Iterator[str]:
    """`<|endoftext|>` in the text itself ends a document there, as it does between files; others are themselves too."""
    if plan.corpus is None or not isinstance(plan.datamodule, TextDataModule) or plan.corpus.train > _COUNTED:
        return
    tokenizer, store = plan.datamodule.tokenizer, plan.datamodule.corpus_store
    if store.n_bytes == 0 or not tokenizer.special_ids:  # 0: a file of nothing but token ids
        return
    try:
        counts = count_tokens(store.tokens(), tokenizer.vocab_size)
    except DataError:  # where damaged token ids are used, their place is known
        return
    for token_id in tokenizer.document_start(is_first=True):
        counts[token_id] -= 1
    for token_id in tokenizer.document_start(is_first=False):
        counts[token_id] -= store.n_documents - 1
    for name, token_id in tokenizer.special_ids.items():
        unknown = name in UNKNOWN_TOKENS or token_id == tokenizer.roles.unknown_id  # what the text spells otherwise
        if (count := int(counts[token_id])) > 0 and (token_id == tokenizer.end_of_text_id or not unknown):
            does = "ends a document there" if token_id in tokenizer.end_ids else "is that token there"
            yield (
                f"{name} occurs {counted(count, 'time')} in the text itself, and each {does}; if that is not meant, "
                "--data.special_tokens as_text takes it for ordinary text"
            )
