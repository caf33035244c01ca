"""Fill in masked words: the most probable tokens at each mask of a text, by a network that sees both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm.errors import ConfigError, GenerationError, TokenizerError
from llm.model import Encoder
from llm.tokenizers import MASK, Tokenizer


class Candidate(NamedTuple):
    """A token that may stand at a mask."""

    token: str
    """Its text, with the white space that belongs to it."""
    id: int
    probability: float


class Filling(NamedTuple):
    """What may stand at the masks of one text."""

    masks: list[list[Candidate]]
    """For each mask, from left to right, its candidates, the most probable first."""
    ids: list[int]
    """The token ids of the text with the most probable candidate at each mask."""

    def to_dict(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """What is written of it as JSON, beside the text."""
        masks = [[candidate._asdict() for candidate in candidates] for candidates in self.masks]
        return {"filled": _decode(tokenizer, self.ids), "masks": masks}


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
    model: Encoder, tokenizer: Tokenizer, texts: Sequence[Tensor | str], k: int = 5, batch_size: int = 8
) -> Iterator[Filling]:
    """What stands at the masks of texts, which are filled in batches; each mask on its own, given all that is shown.

    Args:
        model: a network for masked words, in eval mode.
        tokenizer: the network's.
        texts: texts with `[MASK]` in them, or (T,) token ids.
        k: candidates for each mask.
        batch_size: texts in a batch, padded on the right to the longest.

    Raises:
        ConfigError: `k` or `batch_size` is less than 1, or a text is longer than the context.
        TokenizerError: a text has no mask, or can't be encoded.
        GenerationError: the network's logits are NaN or infinite.
    """
    for name, value in (("top_k", k), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    rows = [torch.tensor(encode_masked(tokenizer, text)) if isinstance(text, str) else text for text in texts]
    mask_id = tokenizer.mask_id
    for row in rows:
        _refuse_too_long(row, model)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        for row, found in zip(batch, _probabilities(model, tokenizer, batch), strict=True):
            yield _filling(tokenizer, row, found, (row == mask_id).nonzero()[:, 0].tolist(), k)


def _refuse_too_long(ids: Tensor, model: Encoder) -> None:
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
    return Filling(masks, ids)


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
