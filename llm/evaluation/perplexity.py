"""How well a model predicts a text: perplexity over sliding windows, bits per byte and per character."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llm.data.reading.corpus import resolve_corpus
from llm.data.reading.sources import read_chunks
from llm.data.tokens.counting import text_size
from llm.data.tokens.mapped import TokenArray
from llm.data.tokens.opening import find_token_ids, open_corpus
from llm.data.tokens.store import TokenStore
from llm.data.tokens.tokenize import SpecialTokens
from llm.errors import ConfigError, DataError
from llm.model import GPT
from llm.tokenizers import IdTokenizer, Tokenizer
from llm.training.loss import token_losses


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicted a text.

    Args:
        n_tokens: tokens that were predicted; the first of a text has nothing before it and is not.
        nats: sum of their losses.
        n_bytes: their size in UTF-8 bytes, special tokens not counted.
        n_characters: their size in Unicode code points, special tokens not counted.
    """

    n_tokens: int
    nats: float
    n_bytes: float
    n_characters: float

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a token in nats."""
        return self.nats / self.n_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens among which a choice would be as uncertain."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits for a byte of text: does not depend on the tokenizer."""
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else math.nan

    @property
    def bits_per_character(self) -> float:
        """The loss in bits for a character (code point) of text."""
        return self.nats / math.log(2) / self.n_characters if self.n_characters else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The measures by name, without those that are unknown."""
        names = ("n_tokens", "loss", "perplexity", "bits_per_byte", "bits_per_character")
        return {name: value for name in names if not math.isnan(value := getattr(self, name))}


class Window(NamedTuple):
    """A stretch of the text that the model sees at once, of which the last tokens are scored.

    Args:
        begin: first token of the window.
        scored: first token whose prediction counts; the ones before are context for it.
        end: where it ends.
    """

    begin: int
    scored: int
    end: int


def sliding_windows(n_tokens: int, context_length: int, stride: int) -> Iterator[Window]:
    """Windows shifted by `stride`, each scored on the tokens that no window before it had.

    The windows of Hugging Face's guide (https://huggingface.co/docs/transformers/perplexity), which averages over
    windows; here the losses of the tokens are summed, so that each has the same weight. A small stride gives every
    token a long context and costs time; with a stride of a whole window, the first token of each is never scored.
    """
    seen = 0
    for begin in range(0, n_tokens, stride):
        end = min(begin + context_length, n_tokens)
        scored = max(seen, begin + 1)  # the first token of a window has nothing before it to be predicted from
        if scored < end:
            yield Window(begin, scored, end)
        seen = end
        if end == n_tokens:
            return


@torch.no_grad()
def losses(
    model: GPT, tokens: TokenArray, stride: int | None = None, batch_size: int = 8, show_progress: bool = False
) -> Iterator[tuple[np.ndarray[Any, Any], Tensor]]:
    """The loss of every predicted token, in the order of the text.

    Args:
        model: in eval mode; its attention is causal.
        tokens: (N,) token ids.
        stride: tokens from one window to the next, from 1 to the context length. Default: half of it.
        batch_size: windows at once.
        show_progress: draw a bar.

    Yields:
        For each batch, the predicted tokens (M,) and their losses in nats (M,), float64.

    Raises:
        ConfigError: an option or the kind of attention makes no sense here.
        DataError: there are fewer than two tokens, or ids outside the model's vocabulary.
    """
    from tqdm import tqdm

    T = model.config.context_length
    stride = max(1, T // 2) if stride is None else stride
    if not 1 <= stride <= T:
        raise ConfigError(f"stride must be from 1 to the context length, {T}; got {stride}")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if not model.config.is_causal:
        raise ConfigError(
            f"attention {model.config.attention!r} sees the tokens that it should predict: it has no perplexity"
        )
    if len(tokens) < 2 or T < 2:
        raise DataError(f"there is nothing to predict: {len(tokens)} tokens, in a context of {T}")
    device = next(model.parameters()).device
    windows = list(sliding_windows(len(tokens), T, stride))
    with tqdm(total=len(windows), unit="window", disable=not show_progress, leave=False) as bar:
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            ids = torch.zeros(len(batch), max(window.end - window.begin for window in batch), dtype=torch.int64)
            is_scored = torch.zeros(ids.shape, dtype=torch.bool)
            for row, (begin, scored, end) in enumerate(batch):  # the last may be shorter; it is filled up at its end
                ids[row, : end - begin] = torch.from_numpy(tokens[begin:end].astype(np.int64))
                is_scored[row, scored - begin : end - begin] = True
            if int(ids.max()) >= model.config.vocab_size:
                raise DataError(f"the text has token id {int(ids.max())}, the model {model.config.vocab_size} tokens")
            ids, is_scored = ids.to(device), is_scored.to(device)
            hidden_states = model.hidden_states(ids[:, :-1])[is_scored[:, 1:]]  # (B, T - 1, C) -> (M, C)
            targets = ids[:, 1:][is_scored[:, 1:]]  # (B, T - 1) -> (M)
            yield targets.cpu().numpy(), token_losses(model.head, hidden_states, targets).cpu().double()
            bar.update(len(batch))


def evaluate_text(
    model: GPT,
    tokenizer: Tokenizer,
    corpus: str | Sequence[str],
    cache_dir: str | Path,
    stride: int | None = None,
    batch_size: int = 8,
    show_progress: bool = False,
    special_tokens: SpecialTokens = "as_tokens",
) -> Evaluation:
    """Measure a model on a corpus; documents are joined by the end-of-text token where the tokenizer has one.

    Bytes and characters are counted token by token. Where tokens don't keep white space (words), they are the mean
    over the whole text; for token ids alone they are then unknown.

    Args:
        model: in eval mode; its attention is causal.
        tokenizer: the model's.
        corpus: what a run takes: text, a folder of token ids, or nanoGPT's `.bin`; see `open_corpus`.
        cache_dir: where token ids are kept, as in training.
        stride: see `losses`.
        batch_size: see `losses`.
        show_progress: draw a bar.
        special_tokens: what those in a text are, as in training.

    Raises:
        LLMError: the text, an option or the kind of attention can't be used.
    """
    path = find_token_ids(corpus)
    if isinstance(tokenizer, IdTokenizer) and path is not None and path.is_dir():
        tokenizer = TokenStore.open(path).make_tokenizer()  # the ids are the model's, if anything is
    store = open_corpus(corpus, tokenizer, cache_dir, special_tokens)
    n_tokens, nats = 0, 0.0
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for targets, lost in losses(model, store.tokens(), stride, batch_size, show_progress):
        n_tokens += len(targets)
        nats += float(lost.sum())
        counts += np.bincount(targets, minlength=len(counts))
    if tokenizer.lossless:
        return Evaluation(n_tokens, nats, *text_size(counts, tokenizer))
    share, n_characters = n_tokens / store.n_tokens, 0
    if path is None:
        chunks = read_chunks(resolve_corpus(corpus), tokenizer.cuts)
        n_characters = sum(len(text) for chunk in chunks for text in chunk.texts)
    return Evaluation(n_tokens, nats, store.n_bytes * share, n_characters * share)
