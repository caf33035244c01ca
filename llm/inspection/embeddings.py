"""What the two embedding tables have learned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.errors import LLMError
from llm.inspection.ticks import markdown, tick_labels
from llm.model import Network
from llm.tokenizers import Tokenizer


def cosine_similarity(vectors: Tensor) -> Tensor:
    """The cosine of the angle between every two vectors: (N, C) -> (N, N), the diagonal 1."""
    unit = F.normalize(vectors.detach().cpu().double(), dim=-1)
    return (unit @ unit.mT).clamp(-1, 1).fill_diagonal_(1.0)


def positional_similarity(model: Network, longest: int) -> tuple[Tensor, list[int]]:
    """How similar the vectors of the positions are, `(N, N)`, and which N positions: all, or evenly spaced ones.

    The model must have a table of them: rotary positions have none.
    """
    assert model.embeddings.position is not None
    table = model.embeddings.position.weight
    step = -(-len(table) // longest)
    positions = list(range(0, len(table), step))
    return cosine_similarity(table[::step]), positions


def token_table(model: Network) -> Tensor:
    """The embedding of each token, (V, C) in float32, without the rows of padding."""
    return model.embeddings.token.weight.detach()[: model.config.vocab_size].float()


def nearest(table: Tensor, ids: Sequence[int], k: int = 6, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The tokens whose embeddings have the highest cosine similarity: ids and cosines, both `(len(ids), k)`.

    Args:
        table: (V, C), an embedding for each token.
        ids: tokens to find neighbours of; a token is not its own neighbour.
        k: how many, or fewer where there are no more.
        among: (N,) the tokens that may be neighbours, such as those that the training text has: the embedding of
            any other is as it began. Default: all.
    """
    asked = torch.tensor(ids, device=table.device)
    return nearest_to(table, table[asked], asked[:, None], k, among)


def nearest_to(
    table: Tensor, vectors: Tensor, left_out: Tensor, k: int = 6, among: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The tokens whose embeddings have the highest cosine similarity with some vectors: ids and cosines, both `(N, k)`.

    Args:
        table: (V, C), an embedding for each token.
        vectors: (N, C).
        left_out: (N, M) int64, tokens that are no neighbours of each vector.
        k: how many, or fewer where there are no more.
        among: as for `nearest`.
    """
    # (N, C) x (C, V) over the norms, so that no second table is made
    cosines = F.normalize(vectors, dim=-1) @ table.mT / table.norm(dim=-1).clamp_min(1e-12)
    hidden = torch.zeros(len(table), dtype=torch.bool, device=table.device)
    if among is not None:
        hidden = ~hidden.index_fill(0, among.to(table.device).long(), True)
    cosines = cosines.masked_fill(hidden, -torch.inf).scatter(1, left_out, -torch.inf)
    best = cosines.topk(min(k, int((cosines > -torch.inf).sum(-1).min()), len(table) - 1))
    return best.indices.cpu(), best.values.cpu()


def choose_words(tokenizer: Tokenizer, ids: Iterable[int], most: int = 8) -> list[int]:
    """Tokens of a text whose neighbours are worth a look: those with the most letters, in the order of the text."""
    distinct = list(dict.fromkeys(ids))
    letters = {i: len(re.findall(r"[^\W\d_]", tokenizer.token_bytes(i).decode("utf-8", "ignore"))) for i in distinct}
    longest = sorted(distinct, key=lambda token_id: -letters[token_id])[:most]
    return [token_id for token_id in distinct if token_id in longest and letters[token_id]]


def word_ids(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[list[int], list[str]]:
    """The token of each word, with the space before it if only so it is one token; and the words that are none."""
    ids, others = [], []
    for word in words:
        for spelling in (f" {word}", word):
            try:
                encoded = tokenizer.encode(spelling)
            except LLMError:
                continue
            if len(encoded) == 1:
                ids.append(encoded[0])
                break
        else:
            others.append(word)
    return ids, others


def neighbours_table(table: Tensor, tokenizer: Tokenizer, ids: Sequence[int], among: Tensor | None = None) -> str:
    """A Markdown table: each token and its nearest neighbours with their cosines; see `nearest`."""
    found, cosines = nearest(table, ids, among=among)
    lines = [["token", "nearest, with the cosine"], ["---", "---"]]
    for label, row, values in zip(tick_labels(tokenizer, ids), found.tolist(), cosines.tolist(), strict=True):
        names = tick_labels(tokenizer, row)
        cell = ", ".join(f"“{markdown(name)}” {value:.2f}" for name, value in zip(names, values, strict=True))
        lines.append([markdown(label), cell])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def projector_sample(vocab_size: int, tokens: Tensor, most: int) -> Tensor:
    """Token ids for the projector, in ascending order: those that `tokens` has, or the most frequent of them.

    Args:
        vocab_size: V.
        tokens: (N,) ids of a text.
        most: at most this many.
    """
    counts = torch.bincount(tokens.long(), minlength=vocab_size)
    most = min(most, int(counts.count_nonzero()))
    # a stable sort, so that equally frequent tokens come in the order of their ids
    return counts.argsort(descending=True, stable=True)[:most].sort().values
