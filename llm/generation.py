"""Token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from llm.config import SamplingConfig
from llm.errors import ConfigError
from llm.model import GPT


@torch.no_grad()
def generate(
    model: GPT, prompt: Tensor, sampling: SamplingConfig | None = None, stop_id: int | None = None
) -> Iterator[int]:
    """Continue a prompt, one token at a time.

    The model sees the last `context_length` tokens: what is longer is cropped at its beginning. It is put into eval
    mode while it runs and back afterwards.

    Args:
        model: any GPT whose attention is causal.
        prompt: (T,) token ids, at least one.
        sampling: how to choose, and how many.
        stop_id: end as soon as this token comes; it is not yielded.

    Raises:
        ConfigError: the prompt is empty, or holds ids outside the vocabulary.
    """
    sampling = sampling or SamplingConfig()
    if prompt.ndim != 1 or len(prompt) == 0:
        raise ConfigError(f"the prompt must be at least one token, in one dimension; got shape {tuple(prompt.shape)}")
    vocab_size = model.config.vocab_size
    if not 0 <= int(prompt.min()) <= int(prompt.max()) < vocab_size:
        raise ConfigError(f"the prompt holds token ids outside the model's vocabulary of {vocab_size}")
    device = next(model.parameters()).device
    random = torch.Generator(device).manual_seed(sampling.seed)
    ids = prompt[-model.config.context_length :].to(device).unsqueeze(0)  # (T) -> (1, T)
    was_training = model.training
    model.eval()
    try:
        for _ in range(sampling.max_new_tokens):
            logits = model(ids)[0, -1]  # (1, T, V) -> (V)
            next_id = choose(logits, sampling, random)
            if next_id == stop_id:
                return
            yield next_id
            ids = torch.cat((ids, ids.new_tensor([[next_id]])), dim=1)[:, -model.config.context_length :]
    finally:
        model.train(was_training)


def choose(logits: Tensor, sampling: SamplingConfig, random: torch.Generator) -> int:
    """One token id from the scores (V,) of all.

    Args:
        logits: the model's scores for the next token.
        sampling: temperature and which tokens are left out.
        random: where the choice comes from; not touched when greedy.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores, ids = torch.sort(logits.float() / sampling.temperature, descending=True)
    if sampling.top_k is not None:
        scores = scores[: sampling.top_k]
    probabilities = torch.softmax(scores, dim=-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return int(ids[torch.multinomial(probabilities, 1, generator=random)])
