"""Special tokens that stand in the text itself, counted before a run."""

from __future__ import annotations

from collections.abc import Iterator

from llm.data import TextDataModule
from llm.data.tokens.counting import count_tokens
from llm.errors import DataError
from llm.preflight.plan import Plan

_COUNTED = 100_000_000
"""Tokens of a corpus that can be counted in a moment."""


def special_tokens_in_the_text(plan: Plan) -> Iterator[str]:
    """`<|endoftext|>` in the text itself ends a document there, as it does between files."""
    if plan.corpus is None or not isinstance(plan.datamodule, TextDataModule) or plan.corpus.train > _COUNTED:
        return
    tokenizer, store = plan.datamodule.tokenizer, plan.datamodule.corpus_store
    end = tokenizer.end_of_text_id
    if end is None or store.n_bytes == 0:  # 0: a file of nothing but token ids
        return
    between = store.n_documents - 1
    try:
        found = int(count_tokens(store.tokens(), tokenizer.vocab_size)[end]) - between
    except DataError:  # where damaged token ids are used, their place is known
        return
    if found > 0:
        yield (
            f"{tokenizer.decode([end])} occurs {found:,} time(s) in the text itself, and each ends a document there; "
            "if that is not meant, write it differently in the text"
        )
