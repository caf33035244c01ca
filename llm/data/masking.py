"""Masked tokens: some tokens of a row are hidden, and the network predicts them from both sides.

After BERT (Devlin et al. 2018, section 3.1, https://arxiv.org/abs/1810.04805).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from llm.data.batch import IGNORED, TokenBatch
from llm.data.loader import DerivedRows, RowSource
from llm.errors import ConfigError
from llm.tokenizers import Tokenizer

_MASKED, _RANDOM = 0.8, 0.1
"""Of the chosen tokens, the fractions that become the mask token and a random token."""
_STREAM = 1
"""Makes these random numbers independent of those of the order, which has the same seeds."""

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class WordEdges:
    """Which tokens begin and end inside a word, so that two neighbours may be parts of the same word.

    Args:
        begins_inside: (V) whether a token begins with a letter or a digit, so that it may go on with a word.
        ends_inside: (V) whether it ends with one, so that a word may go on after it.
    """

    begins_inside: Flags
    ends_inside: Flags

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordEdges:
        """Of each token in a vocabulary. Where tokens don't keep white space (words), each is a word of its own."""
        begins, ends = np.zeros((2, tokenizer.vocab_size), np.bool_)
        specials = set(tokenizer.special_ids.values())
        if prefix := tokenizer.continuing_prefix.encode():
            for token in set(range(tokenizer.vocab_size)) - specials:
                begins[token], ends[token] = tokenizer.token_bytes(token).startswith(prefix), True
        elif tokenizer.lossless:
            for token in range(tokenizer.vocab_size):
                if token not in specials and (content := tokenizer.token_bytes(token)):
                    begins[token], ends[token] = _is_inside(content[0]), _is_inside(content[-1])
        return cls(begins, ends)

    def words(self, ids: Ids) -> Ids:
        """(T) the number of the word that each of T tokens is a part of; white space and punctuation count as words."""
        goes_on = self.ends_inside[ids[:-1]] & self.begins_inside[ids[1:]]  # (T - 1)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(~goes_on)])


class Masking:
    """Corrupts rows of tokens: some are chosen, and of those 80 % become the mask token, 10 % a random token, and 10 %
    stay as they are.

    How a row is corrupted depends only on (seed, epoch, index of the row) and its tokens.

    Args:
        mask_id: the id of the mask token.
        special_ids: tokens that are never chosen, and that no token becomes by chance.
        vocab_size: V.
        fraction: of the tokens that may be chosen, how many are, rounded; at least one in each row that has any.
        seed: of the choice.
        words: choose whole words: all tokens of a word, or none. Default: tokens, each on its own.

    Raises:
        ConfigError: the fraction is not in (0, 1], or the vocabulary has no ordinary tokens.
    """

    def __init__(
        self,
        mask_id: int,
        special_ids: Sequence[int],
        vocab_size: int,
        fraction: float = 0.15,
        seed: int = 123,
        words: WordEdges | None = None,
    ) -> None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"masked_fraction must be in (0, 1], got {fraction}")
        self.mask_id = mask_id
        self.fraction = fraction
        self.seed = seed
        self.words = words
        self._is_ordinary = np.ones(vocab_size, np.bool_)
        self._is_ordinary[[mask_id, *special_ids]] = False
        self._ordinary = self._is_ordinary.nonzero()[0]
        if len(self._ordinary) == 0:
            raise ConfigError(f"the vocabulary of {vocab_size} has only special tokens, so there is nothing to predict")

    def __call__(self, batch: TokenBatch, indices: Sequence[int], epoch: int) -> TokenBatch:
        """Corrupt the inputs of a batch.

        Args:
            batch: whose inputs (B, T) are the tokens; its targets are not looked at.
            indices: (B) which rows of the data these are.
            epoch: each has masks of its own.

        Returns:
            The corrupted inputs (B, T); and as targets (B, T) the tokens that were chosen, `IGNORED` elsewhere.
        """
        ids = batch.inputs.numpy()
        lengths = [ids.shape[1]] * len(ids) if batch.lengths is None else batch.lengths.tolist()
        inputs, targets = ids.copy(), np.full_like(ids, IGNORED)
        key = np.random.SeedSequence([self.seed, epoch], spawn_key=(_STREAM,)).generate_state(2, np.uint64)
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            # Each row has a counter of its own, far from those of others.
            random = np.random.Generator(np.random.Philox(key=key, counter=[0, index, 0, 0]))
            chosen = self._choose(ids[row, :length], random)
            targets[row, chosen] = ids[row, chosen]
            inputs[row, chosen] = self._corrupt(ids[row, chosen], random)
        return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets), batch.lengths)

    def _choose(self, ids: Ids, random: np.random.Generator) -> Ids:
        """The positions that are to be predicted."""
        candidates = self._is_ordinary[ids].nonzero()[0]
        count = max(1, round(self.fraction * len(candidates)))
        if self.words is None:
            return random.permutation(candidates)[:count]
        word_of = self.words.words(ids)[candidates] if len(candidates) else candidates
        words, sizes = np.unique(word_of, return_counts=True)
        taken: list[int] = []
        left = count
        for word in random.permutation(len(words)):
            if sizes[word] <= left or not taken:  # the first always: something has to be predicted
                taken.append(int(words[word]))
                left -= int(sizes[word])
            if left <= 0:
                break
        return candidates[np.isin(word_of, taken)]

    def _corrupt(self, ids: Ids, random: np.random.Generator) -> Ids:
        """What replaces the chosen tokens in the inputs."""
        kind = random.random(len(ids))
        by_chance = random.choice(self._ordinary, len(ids))
        return np.where(kind < _MASKED, self.mask_id, np.where(kind < _MASKED + _RANDOM, by_chance, ids))


class WholeRows(DerivedRows):
    """Rows with what a network expects around a text, such as `[CLS]` and `[SEP]`, each once.

    A row that begins or ends with such tokens, as where a document does, has them once: it begins after them and is one
    token longer, as far as the token after a row allows; else it is padded.

    Args:
        rows: where the tokens are, all of them equally long, with the token after each as its last target.
        prefix: token ids before each row.
        suffix: token ids after it.
    """

    def __init__(self, rows: RowSource, prefix: Sequence[int], suffix: Sequence[int]) -> None:
        super().__init__(rows)
        self.prefix, self.suffix = list(prefix), list(suffix)

    def gather(self, indices: Sequence[int], epoch: int) -> TokenBatch:
        """The batch of these rows, without targets."""
        batch = self.rows.gather(indices, epoch)
        B, T = batch.inputs.shape
        rows = torch.cat([batch.inputs, batch.targets[:, -1:]], 1).tolist()  # (B, T + 1)
        whole = [[*self.prefix, *self._text_of(row, T), *self.suffix] for row in rows]
        lengths = torch.tensor([len(row) for row in whole])
        inputs = torch.zeros(B, T + len(self.prefix) + len(self.suffix), dtype=torch.int64)
        for row, ids in zip(inputs, whole, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        is_full = bool((lengths == inputs.shape[1]).all())
        return TokenBatch(inputs, torch.full_like(inputs, IGNORED), None if is_full else lengths)

    def _text_of(self, row: list[int], most: int) -> list[int]:
        """At most so many tokens, from the first on that is no prefix or suffix to the last."""
        around = {*self.prefix, *self.suffix}
        text = list(itertools.dropwhile(around.__contains__, row))[:most]
        while text and text[-1] in around:
            text.pop()
        return text


class MaskedRows(DerivedRows):
    """Rows whose tokens are masked when a batch is gathered: different ones in every epoch.

    Args:
        rows: where the tokens are.
        masking: hides some of them.
    """

    def __init__(self, rows: RowSource, masking: Masking) -> None:
        super().__init__(rows)
        self.masking = masking

    def gather(self, indices: Sequence[int], epoch: int) -> TokenBatch:
        """The batch of these rows, with the masks of this epoch."""
        return self.masking(self.rows.gather(indices, epoch), indices, epoch)


def _is_inside(byte: int) -> bool:
    """Whether a byte is (a part of) a letter or a digit; of other scripts, all bytes are taken for such."""
    return byte >= 0x80 or chr(byte).isalnum()
