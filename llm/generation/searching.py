"""Write the most probable translation of a source that can be found: greedily, or by beam search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llm.errors import ConfigError, GenerationError
from llm.model import EncoderDecoder

LENGTH_PENALTY = 0.6
"""As Wu et al. 2016 and Vaswani et al. 2017 have it."""
MOST_HYPOTHESES = 1000
"""Side by side, each with log-probabilities of a whole vocabulary. Translations are best with a beam of 4 to 30, and
worse from there on (Koehn & Knowles 2017, section 3.6)."""


class Hypothesis(NamedTuple):
    """A translation.

    Args:
        ids: the token ids, without the end token.
        log_probability: of all of them and the end token, in nats.
        ended: whether it ends with the end token; else the context was full.
    """

    ids: list[int]
    log_probability: float
    ended: bool

    def score(self, length_penalty: float) -> float:
        """The log-probability, divided by ((5 + length) / 6) to the power of the penalty (Wu et al. 2016, eq. 14)."""
        return self.log_probability / _penalty(len(self.ids) + self.ended, length_penalty)


def search(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    begin_id: int,
    end_id: int,
    beam: int = 1,
    length_penalty: float = LENGTH_PENALTY,
    batch_size: int = 64,
) -> list[Hypothesis]:
    """The best translation found of each source, in their order. How they are batched has no effect.

    Args:
        model: in eval mode.
        sources: token ids of each, as the encoder was trained on them.
        begin_id: the token that every target begins with.
        end_id: the token that ends it.
        beam: hypotheses that are kept of each source; 1 is greedy, and `MOST_HYPOTHESES` the widest.
        length_penalty: 0 compares hypotheses by their probability, of which longer ones have less; 1 nearly by that
            of a token.
        batch_size: sources side by side; those of similar length, so that little is padding. Fewer where they would
            have more than `MOST_HYPOTHESES`.

    Raises:
        ConfigError: `beam` is below 1 or too wide, `batch_size` below 1, the penalty below 0, or a source is empty or
            longer than the context.
        GenerationError: the network's logits are NaN or infinite.
    """
    if not 1 <= beam <= MOST_HYPOTHESES:
        raise ConfigError(f"beam must be at least 1 and at most {MOST_HYPOTHESES:,}, got {beam}")
    for name, value, least in (("batch_size", batch_size, 1), ("length_penalty", length_penalty, 0)):
        if not value >= least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    batch_size = min(batch_size, MOST_HYPOTHESES // beam)
    for source in sources:
        refuse_unfit_source(model, source)
    by_length = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    found: dict[int, Hypothesis] = {}
    for start in range(0, len(by_length), batch_size):
        numbers = by_length[start : start + batch_size]
        batch = [sources[number] for number in numbers]
        found |= zip(numbers, _search(model, batch, begin_id, end_id, beam, length_penalty), strict=True)
    return [found[number] for number in range(len(sources))]


def refuse_unfit_source(model: EncoderDecoder, source: Sequence[int]) -> None:
    """Hold a source to the context of a network.

    Raises:
        ConfigError: it is empty or longer.
    """
    if not 1 <= len(source) <= (longest := model.config.context_length):
        raise ConfigError(
            f"a source has {len(source):,} tokens with its end token, the model's context holds {longest:,}: "
            "give a shorter one, such as one sentence at a time"
        )


@torch.no_grad()
def _search(
    model: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    begin_id: int,
    end_id: int,
    beam: int,
    length_penalty: float,
) -> list[Hypothesis]:
    device, B, K = next(model.parameters()).device, len(sources), beam
    lengths = torch.tensor([len(source) for source in sources], device=device)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(source) for source in sources], batch_first=True)  # (B, S)
    state = model.start(model.encode(padded.to(device), lengths))
    state = state.select(torch.arange(B, device=device).repeat_interleave(K))  # B rows -> B K rows
    ids = torch.full((B, K, 1), begin_id, device=device)
    totals = torch.full((B, K), -torch.inf, device=device)
    totals[:, 0] = 0.0  # all hypotheses of a source begin alike: one of them is enough
    ended: list[list[Hypothesis]] = [[] for _ in sources]
    rows = list(range(B))  # those that are not done yet
    for length in range(1, model.config.context_length + 1):
        logits, state = model.step(ids[:, :, -1].flatten(), state)  # (R K) -> (R K, V)
        logs = logits.float().log_softmax(-1).unflatten(0, (-1, K))  # (R K, V) -> (R, K, V)
        if not bool(logs.isfinite().all()):
            raise GenerationError("the model's logits are NaN or infinite: its weights contain NaN/Inf")
        # Each hypothesis can end in one way only, so that of twice as many enough go on.
        candidates = (totals[..., None] + logs).flatten(1)  # (R, K, V) -> (R, K V)
        best, places = candidates.topk(min(2 * K, candidates.shape[1]))  # (R, 2 K)
        parents, tokens = places // logs.shape[-1], places % logs.shape[-1]
        is_end = tokens == end_id
        for row, rank in is_end[:, :K].nonzero().tolist():
            hypothesis = ids[row, parents[row, rank], 1:].tolist()
            ended[rows[row]].append(Hypothesis(hypothesis, float(best[row, rank]), True))
        on = (is_end.long() * is_end.shape[1] + torch.arange(is_end.shape[1], device=device)).argsort(-1)[:, :K]
        totals, parents, tokens = best.gather(1, on), parents.gather(1, on), tokens.gather(1, on)  # (R, K)
        totals = totals.masked_fill(tokens == end_id, -torch.inf)  # of a vocabulary too small for K that go on
        ids = torch.cat([ids.gather(1, parents[..., None].expand(-1, -1, length)), tokens[..., None]], -1)
        left = [
            row for row in range(len(rows)) if not _is_done(ended[rows[row]], totals[row], K, length_penalty, model)
        ]
        if not left or length == model.config.context_length:
            break
        keep = torch.tensor(left, device=device)
        state = state.select((keep[:, None] * K + parents[keep]).flatten())
        ids, totals, rows = ids[keep], totals[keep], [rows[row] for row in left]
    for row, number in enumerate(rows):
        if not ended[number]:
            k = int(totals[row].argmax())
            ended[number].append(Hypothesis(ids[row, k, 1:].tolist(), float(totals[row, k]), False))
    return [max(hypotheses, key=lambda found: found.score(length_penalty)) for hypotheses in ended]


def _is_done(ended: list[Hypothesis], totals: Tensor, beam: int, length_penalty: float, model: EncoderDecoder) -> bool:
    """Whether as many hypotheses have ended as are kept, or none that goes on can become the best."""
    if not ended:
        return False
    best = max(hypothesis.score(length_penalty) for hypothesis in ended)
    # A log-probability only falls; it counts the least at the greatest length.
    bound = float(totals.max()) / _penalty(model.config.context_length, length_penalty)
    return len(ended) >= beam or best >= bound


def _penalty(length: int, length_penalty: float) -> float:
    return ((5 + length) / 6) ** length_penalty
