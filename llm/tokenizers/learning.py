"""Learn a byte-pair encoding from texts (Sennrich et al. 2016, algorithm 1; on bytes: Radford et al. 2019)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from llm.errors import TokenizerError
from llm.runtime.words import counted
from llm.tokenizers.base import check_specials
from llm.tokenizers.bpe import CUTS, SPLIT_PATTERNS

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

log = logging.getLogger(__name__)

BYTES = 256
"""Tokens that every vocabulary begins with, so that any text can be encoded."""

USUAL_SIZE = 2_000
"""Tokens of a vocabulary for which nothing else is asked, where so many pairs occur."""

_CUT = re.compile(rf"(?<=[^\W_])(?=[{CUTS}])")
_PART = 1 << 16
"""Characters that are counted at once: the library holds a few hundred such parts, with 16 bytes for each of theirs."""


def learn_byte_pairs(
    texts: Iterable[str], vocab_size: int | None, pattern: str, specials: Sequence[str], min_frequency: int
) -> tuple[dict[str, int], dict[str, int]]:
    """A vocabulary of the 256 bytes and the pairs of tokens that are the most frequent, one joined after the other.

    The same text gives the same vocabulary, whatever the number of threads: of pairs with the same count the one with
    the lower ids is joined first. Memory grows with the number of distinct pieces, not with the text.

    Args:
        texts: what is counted; special tokens in it are left out.
        vocab_size: V, tokens and special tokens together; None for `USUAL_SIZE` or fewer.
        pattern: how a text is split into pieces; one of `SPLIT_PATTERNS`.
        specials: special tokens, numbered after the others.
        min_frequency: how often a pair must occur to be joined.

    Returns:
        Tokens in GPT-2's printable form and their ids, and the special tokens and theirs.

    Raises:
        TokenizerError: there is no room for the bytes and the special tokens.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    specials = check_specials(specials)
    most = USUAL_SIZE if vocab_size is None else vocab_size
    if most < (least := BYTES + len(specials)):
        raise TokenizerError(
            f"vocab_size must be at least {least} ({BYTES} bytes and {len(specials)} special tokens), got {most}"
        )
    learning = Tokenizer(models.BPE())
    learning.pre_tokenizer = pre_tokenizer(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=most - len(specials),
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learning.train_from_iterator(_parts(texts, specials), trainer)
    vocabulary = dict(sorted(learning.get_vocab().items(), key=lambda item: item[1]))
    if vocab_size is not None and (found := len(vocabulary) + len(specials)) < vocab_size:
        log.warning(
            f"the vocabulary has {found:,} tokens, not {vocab_size:,}: no other pair occurs "
            f"{counted(min_frequency, 'time')}"
        )
    return vocabulary, {special: len(vocabulary) + number for number, special in enumerate(specials)}


def pre_tokenizer(pattern: str) -> PreTokenizer:
    """What splits a text by one of `SPLIT_PATTERNS`, and puts its bytes into printable form, in `tokenizers`."""
    from tokenizers import Regex, pre_tokenizers

    if pattern == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERNS[pattern]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _parts(texts: Iterable[str], specials: Sequence[str]) -> Iterator[str]:
    """The texts without special tokens, long ones in parts that no piece reaches over."""
    special = re.compile("|".join(map(re.escape, specials)) or "(?!)")
    for text in texts:
        for part in special.split(text):
            start = 0
            while (cut := _CUT.search(part, start + _PART)) is not None:
                yield part[start : cut.start()]
                start = cut.start()
            yield part[start:]
