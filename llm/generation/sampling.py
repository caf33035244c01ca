"""From logits to the next token."""

from __future__ import annotations

import torch
from torch import Tensor

from llm.config import SamplingConfig
from llm.errors import GenerationError


def choose(logits: Tensor, sampling: SamplingConfig, draws: Tensor, seen: Tensor | None = None) -> list[int]:
    """The next token of each row.

    Args:
        logits: (B, V) what the head gives for the next token.
        sampling: which tokens are left out, and how likely the others are.
        draws: (B) random numbers from 0 up to but not including 1, on the CPU, one for each row; not used when
            greedy. The same draw makes the same choice on every device.
        seen: (B, V) True for the tokens that are already in a row's text; needed with a repetition penalty.

    Raises:
        GenerationError: the logits of a row are NaN or infinite.
    """
    logits = logits.float()
    if seen is not None:
        logits = penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        best, ids = logits.max(dim=-1)
        _check_finite(best)
        return ids.tolist()
    probabilities, ids = distribution(logits, sampling)
    cumulative = probabilities.cpu().double().cumsum(dim=-1)  # (B, K); not every device has float64
    _check_finite(cumulative[:, -1])
    # The first token whose cumulative probability is above the draw; one with probability 0 never is the first.
    places = torch.searchsorted(cumulative, draws.double()[:, None] * cumulative[:, -1:], right=True)  # (B, 1)
    return ids.cpu().gather(1, places)[:, 0].tolist()


def distribution(logits: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The probabilities (B, K) among which to choose, and whose they are, (B, K) token ids.

    The probabilities of tokens that are left out are 0; the others need not sum to 1.
    """
    V = logits.shape[-1]
    logits = logits / sampling.temperature
    if sampling.top_k is not None or sampling.top_p is not None:
        logits, ids = logits.topk(min(sampling.top_k or V, V), dim=-1)  # (B, V) -> (B, K), most likely first
    else:
        ids = torch.arange(V, device=logits.device).expand_as(logits)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:  # 1 is all, whatever the sum is rounded to
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    if sampling.min_p is not None:
        least = sampling.min_p * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities, ids


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Lower the logits (B, V) of the tokens already seen (B, V): Keskar et al. 2019, section 4.1.

    The paper divides, which would raise a negative logit; as elsewhere, these are multiplied.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise GenerationError(
            "the model's logits are NaN or infinite: its weights are damaged, or they overflow in this precision or at "
            "this temperature"
        )
