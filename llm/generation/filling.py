"""Fill in masked words: the most probable tokens at each mask of a text, by a network that sees both sides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm.errors import ConfigError, GenerationError, TokenizerError
from llm.model import Encoder
from llm.tokenizers import MASK, Tokenizer

MOST_JOINED = 1000
"""Words that are kept of several masks together: each is a text of its own for the network."""


class Candidate(NamedTuple):
    """A token that may stand at a mask."""

    token: str
    """Its text, with the white space that belongs to it."""
    id: int
    probability: float


class RankedWord(NamedTuple):
    """A word that may stand at a mask, be it one token or several."""

    word: str
    tokens: list[str]
    """The pieces that it consists of there."""
    log_probability: float
    """In nats: the sum over its pieces, see `rank_words`."""
    probability: float
    """Among the words that were given."""


class Joined(NamedTuple):
    """A word that may stand at several masks next to one another."""

    word: str
    """Its pieces, joined."""
    ids: list[int]
    probability: float
    """The product of those of its pieces, each given the pieces before it."""


class Span(NamedTuple):
    """Several masks next to one another, as those of a word of several pieces."""

    first: int
    """Which mask of the text is its first, from 0."""
    candidates: list[Joined]
    """What may stand there as a whole, the most probable first."""


class Filling(NamedTuple):
    """What may stand at the masks of one text."""

    masks: list[list[Candidate]]
    """For each mask, from left to right, its candidates, the most probable first."""
    ids: list[int]
    """The token ids of the text with the most probable candidate at each mask, or span of masks."""
    spans: list[Span]
    """Where masks stand next to one another, what they may hold together."""

    def to_dict(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """What is written of it as JSON, beside the text."""
        masks = [[candidate._asdict() for candidate in candidates] for candidates in self.masks]
        found: dict[str, Any] = {"filled": _decode(tokenizer, self.ids), "masks": masks}
        if self.spans:
            found["spans"] = [
                {"first": span.first, "candidates": [word._asdict() for word in span.candidates]} for span in self.spans
            ]
        return found


def encode_masked(tokenizer: Tokenizer, text: str) -> list[int]:
    """The token ids of a text with `[MASK]` in it, with what the network expects around a text, such as `[CLS]`.

    Where tokens begin with the space before a word (byte pairs), that before a mask belongs to what is hidden, as in
    the windows that the network was trained on.

    Raises:
        TokenizerError: there is no mask in the text, or no mask token in the vocabulary.
    """
    if tokenizer.mask_id is None:
        raise TokenizerError(f"this tokenizer has no token {MASK}: it is of no network for masked words")
    if MASK not in text:
        raise TokenizerError(f"nothing to fill in {text[:40]!r}: put {MASK} where a word is hidden")
    if _begins_words_with_spaces(tokenizer):
        text = text.replace(f" {MASK}", MASK)
    return tokenizer.encode_whole(text.replace(MASK, tokenizer.token_bytes(tokenizer.mask_id).decode()))


def fill_masks(
    model: Encoder, tokenizer: Tokenizer, texts: Sequence[Tensor | str], k: int | None = 5, batch_size: int = 8
) -> Iterator[Filling]:
    """What stands at the masks of texts, which are filled in batches; each mask on its own, given all that is shown.

    Masks next to one another also get words of as many pieces: the k best, filled from left to right, each piece given
    those before it (a beam of k, and of `MOST_JOINED` at most).

    Args:
        model: a network for masked words, in eval mode.
        tokenizer: the network's.
        texts: texts with `[MASK]` in them, or (T,) token ids.
        k: candidates for each mask; None for all tokens.
        batch_size: texts in a batch, padded on the right to the longest.

    Raises:
        ConfigError: `k` or `batch_size` is less than 1, or a text is longer than the context.
        TokenizerError: a text has no mask, or can't be encoded.
        GenerationError: the network's logits are NaN or infinite.
    """
    k = tokenizer.vocab_size if k is None else k
    for name, value in (("top_k", k), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    rows = [torch.tensor(encode_masked(tokenizer, text)) if isinstance(text, str) else text for text in texts]
    mask_id = tokenizer.mask_id
    assert mask_id is not None or not rows
    for row in rows:
        refuse_longer_text(row, model)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        for row, found in zip(batch, _probabilities(model, tokenizer, batch), strict=True):
            places = torch.eq(row, mask_id or 0).nonzero()[:, 0].tolist()
            filling = _filling(tokenizer, row, found, places, k)
            for span in _spans(model, tokenizer, row, found, places, min(k, MOST_JOINED), batch_size):
                filling.spans.append(span)
                best, place = span.candidates[0].ids, places[span.first]
                filling.ids[place : place + len(best)] = best
            yield filling


def rank_words(
    model: Encoder, tokenizer: Tokenizer, text: str, words: Sequence[str], batch_size: int = 8
) -> list[RankedWord]:
    """Words by how probable they are at the mask of a text, the most probable first.

    A word of n pieces stands at n masks, which are filled from left to right: its log-probability is the sum of those
    of its pieces, each given the text and the pieces before it (Kauf & Ivanova 2023,
    https://arxiv.org/abs/2305.10588).

    Args:
        model: a network for masked words, in eval mode.
        tokenizer: the network's.
        text: with one `[MASK]` in it.
        words: what may stand there.
        batch_size: texts in a batch.

    Raises:
        ConfigError: the text with a word in it is longer than the context, or `batch_size` is less than 1.
        TokenizerError: the text has not one mask, or a word is empty or not in the vocabulary.
        GenerationError: the network's logits are NaN or infinite.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    masked = encode_masked(tokenizer, text)
    if (count := text.count(MASK)) != 1 or masked.count(tokenizer.mask_id or 0) != 1:
        raise TokenizerError(f"candidates are ranked at one {MASK}, and {text[:40]!r} has {count}")
    place = masked.index(tokenizer.mask_id or 0)
    pieces = [_pieces(tokenizer, text, masked, word) for word in words]
    rows, targets = [], []  # a row for each piece: the pieces before it are shown, and those after it masked
    for of_word in pieces:
        for shown, target in enumerate(of_word):
            hidden = [tokenizer.mask_id or 0] * (len(of_word) - shown)
            rows.append(torch.tensor([*masked[:place], *of_word[:shown], *hidden, *masked[place + 1 :]]))
            targets.append((place + shown, target))
            refuse_longer_text(rows[-1], model)
    found: list[float] = []
    for start in range(0, len(rows), batch_size):
        probabilities = _probabilities(model, tokenizer, rows[start : start + batch_size])
        at = targets[start : start + batch_size]
        found += [float(row[where, token].log()) for row, (where, token) in zip(probabilities, at, strict=True)]
    numbers = iter(found)
    sums = torch.tensor([sum(next(numbers) for _ in of_word) for of_word in pieces])
    shares = sums.softmax(0).tolist()
    ranked = [
        RankedWord(word, [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in of_word], total, share)
        for word, of_word, total, share in zip(words, pieces, sums.tolist(), shares, strict=True)
    ]
    return sorted(ranked, key=lambda word: -word.log_probability)


def _pieces(tokenizer: Tokenizer, text: str, masked: Sequence[int], word: str) -> list[int]:
    """The token ids of a word where the mask stands.

    Raises:
        TokenizerError: it has none, or none but those of unknown words.
    """
    if not word.strip():
        raise TokenizerError("a candidate is empty: give words")
    place = masked.index(tokenizer.mask_id or 0)
    before, after = list(masked[:place]), list(masked[place + 1 :])
    whole = tokenizer.encode_whole(text.replace(MASK, word))
    found = whole[len(before) : len(whole) - len(after)]
    if not found or before + found + after != whole:  # it would be joined with its neighbours
        found = tokenizer.encode(f" {word}" if _hides_space(tokenizer, text) else word)
    if not found or set(found) & set(tokenizer.special_ids.values()):
        raise TokenizerError(f"the candidate {word!r} can't be written with this vocabulary")
    return found


def _hides_space(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the space before the mask belongs to what is hidden."""
    return f" {MASK}" in text and _begins_words_with_spaces(tokenizer)


def refuse_longer_text(ids: Tensor, model: Encoder) -> None:
    """Hold a text, (T,) token ids, to the context of a network.

    Raises:
        ConfigError: it is longer.
    """
    if len(ids) > (length := model.config.context_length):
        raise ConfigError(f"a text has {len(ids)} tokens, the model's context holds {length}: give a shorter one")


@torch.no_grad()
def _probabilities(model: Encoder, tokenizer: Tokenizer, batch: Sequence[Tensor]) -> list[Tensor]:
    """Of every ordinary token at every position of each text, (T, V), in float32 on the CPU; special ones have none."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(row) for row in batch], device=device)
    ids = torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True).to(device)  # B times (T) -> (B, T)
    logits = model(ids, lengths).float()  # (B, T) -> (B, T, V)
    logits[..., list(tokenizer.special_ids.values())] = -torch.inf  # none is ever hidden
    found = [row[: len(tokens)].softmax(-1).cpu() for row, tokens in zip(logits, batch, strict=True)]
    if not all(bool(row.isfinite().all()) for row in found):
        raise GenerationError("the model's logits are NaN or infinite: its weights contain NaN/Inf")
    return found


def _filling(tokenizer: Tokenizer, row: Tensor, probabilities: Tensor, places: Sequence[int], k: int) -> Filling:
    masks, ids = [], row.tolist()
    for place in places:
        best = probabilities[place].topk(min(k, probabilities.shape[1]))
        masks.append(
            [
                Candidate(tokenizer.token_bytes(token_id).decode("utf-8", "replace"), token_id, probability)
                for token_id, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                if probability > 0
            ]
        )
        ids[place] = masks[-1][0].id
    return Filling(masks, ids, [])


def _spans(
    model: Encoder,
    tokenizer: Tokenizer,
    row: Tensor,
    probabilities: Tensor,
    places: Sequence[int],
    k: int,
    batch_size: int,
) -> Iterator[Span]:
    """The best words at masks next to one another, all other masks being left as they are."""
    for first, place in enumerate(places):
        if place - 1 in places or place + 1 not in places:
            continue
        n = next(n for n in itertools.count(2) if place + n not in places)
        beam: list[tuple[list[int], float]] = [([], 0.0)]  # pieces and their log-probability: a product would underflow
        for shown in range(n):
            found = [probabilities]
            if shown:
                rows = [torch.cat([row[:place], torch.tensor(ids), row[place + shown :]]) for ids, _ in beam]
                batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
                found = [each for batch in batches for each in _probabilities(model, tokenizer, batch)]
            chances = torch.stack(
                [before + each[place + shown].double().log() for (_, before), each in zip(beam, found, strict=True)]
            )  # (k, V)
            best = chances.flatten().topk(min(k, int(chances.isfinite().sum())))
            pairs = [divmod(number, chances.shape[1]) for number in best.indices.tolist()]
            ids_of = [[*beam[before][0], token] for before, token in pairs]
            beam = list(zip(ids_of, best.values.tolist(), strict=True))
        words = [Joined(tokenizer.decode(ids), ids, math.exp(chance)) for ids, chance in beam]
        yield Span(first, words)


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of ids, without what stands around a whole text."""
    ids, prefix, suffix = list(ids), list(tokenizer.prefix_ids), list(tokenizer.suffix_ids)
    if ids[: len(prefix)] == prefix:
        ids = ids[len(prefix) :]
    return tokenizer.decode(ids[: -len(suffix)] if suffix and ids[-len(suffix) :] == suffix else ids)


def _begins_words_with_spaces(tokenizer: Tokenizer) -> bool:
    """Whether there is a token of a space and more, as byte pairs have them; special tokens hold no space."""
    tokens = (tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size))
    return any(token.startswith(b" ") and len(token) > 1 for token in tokens)
