"""Greedy and beam search against an exhaustive one, and the same in batches of any size."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llm.config import TransformerConfig
from llm.errors import ConfigError, GenerationError
from llm.generation.searching import search
from llm.model import Transformer

BEGIN = END = 0


def make(V=4, T=4, seed=0, std=0.8):
    torch.manual_seed(seed)
    config = TransformerConfig(V, T, n_layer=1, n_head=2, n_embd=8, source_vocab_size=6, dropout=0.0, tie_head=False)
    model = Transformer(config).eval().double().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def log_probability(model, source, ids):
    """Of the tokens, by one pass over all of them."""
    logits = model(torch.tensor([[BEGIN, *ids[:-1]]]), None, torch.tensor([source]))
    return float(logits[0].log_softmax(-1)[range(len(ids)), ids].sum())


def everything(model, source):
    """Every translation that can be written, with the end token where it ends."""
    V, T = model.config.vocab_size, model.config.context_length
    for n in range(T):
        for ids in itertools.product(range(1, V), repeat=n):
            yield (*ids, END)
    yield from itertools.product(range(1, V), repeat=T)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_the_best_there_is(seed, penalty):
    model, source = make(seed=seed), [1, 2, 3]
    ends = [ids for ids in everything(model, source) if ids[-1] == END]
    scores = {ids: log_probability(model, source, ids) / ((5 + len(ids)) / 6) ** penalty for ids in ends}
    best = max(scores, key=scores.__getitem__)
    (found,) = search(model, [source], BEGIN, END, beam=200, length_penalty=penalty)
    assert (*found.ids, END) == best
    assert found.ended
    assert found.score(penalty) == pytest.approx(scores[best], abs=1e-5)
    assert found.log_probability == pytest.approx(log_probability(model, source, best), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_takes_the_most_probable_token_at_each_place(seed):
    model, source = make(V=7, T=6, seed=seed), [5, 1]
    ids = []
    while len(ids) < 6 and (not ids or ids[-1] != END):
        logits = model(torch.tensor([[BEGIN, *ids]]), None, torch.tensor([source]))
        ids.append(int(logits[0, -1].argmax()))
    (found,) = search(model, [source], BEGIN, END, beam=1)
    assert found.ids == (ids[:-1] if ids[-1] == END else ids)
    assert found.ended == (ids[-1] == END)
    assert found.log_probability == pytest.approx(log_probability(model, source, ids), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    sources=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=5),
    beam=st.integers(1, 5),
    batch_size=st.integers(1, 5),
    penalty=st.sampled_from([0.0, 0.6]),
)
def test_a_batch_is_its_sources_one_by_one(sources, beam, batch_size, penalty):
    model = make(V=5)
    together = search(model, sources, BEGIN, END, beam, penalty, batch_size)
    for source, found in zip(sources, together, strict=True):
        (alone,) = search(model, [source], BEGIN, END, beam, penalty)
        assert found.ids == alone.ids
        assert found.ended == alone.ended
        assert found.log_probability == pytest.approx(alone.log_probability, abs=1e-5)


def test_a_beam_is_at_least_as_good_as_greedy():
    better = 0
    for seed in range(10):
        model = make(V=6, T=4, seed=seed, std=0.4)
        (greedy,), (beam,) = (search(model, [[1, 4]], BEGIN, END, k, 0.0) for k in (1, 6))
        if greedy.ended:
            assert beam.score(0.0) >= greedy.score(0.0) - 1e-5
            better += beam.score(0.0) > greedy.score(0.0) + 1e-6
    assert better, "else this could not fail"


def test_a_longer_penalty_favours_length():
    lengths = [
        sum(len(search(make(seed=seed), [[1]], BEGIN, END, 50, penalty)[0].ids) for seed in range(10))
        for penalty in (0.0, 1.0, 3.0)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_what_can_not_be():
    model = make()
    for beam in (0, 100_000):
        with pytest.raises(ConfigError, match=f"beam must be at least 1 and at most 1,000, got {beam}"):
            search(model, [[1]], BEGIN, END, beam=beam)
    with pytest.raises(ConfigError, match="length_penalty must be at least 0, got nan"):
        search(model, [[1]], BEGIN, END, length_penalty=math.nan)
    with pytest.raises(ConfigError, match="a source has 5 tokens with its end token, the model's context holds 4"):
        search(model, [[1] * 5], BEGIN, END)
    model.head.weight.fill_(math.nan)
    with pytest.raises(GenerationError, match="NaN or infinite"):
        search(model, [[1]], BEGIN, END)
