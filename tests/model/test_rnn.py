"""Recurrent networks that translate: padding, steps, Bahdanau's formula, and what the probe sees."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llm.config import RNNConfig
from llm.errors import ConfigError
from llm.inspection import capture
from llm.model import RNN

V, SOURCE_V, T, S = 13, 11, 7, 6


def make(seed=0, **options):
    """A small network in eval mode and float64, whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "source_vocab_size": SOURCE_V, "context_length": 8, "n_embd": 4, "hidden_size": 5}
    model = RNN(RNNConfig(**{**sizes, **options})).eval().double()
    for parameter in model.requires_grad_(False).parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def batch(B=2, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(V, (B, T), generator=random), torch.randint(SOURCE_V, (B, S), generator=random)


kinds = pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention": "none"},
        {"cell": "lstm", "n_layer": 2},
        {"cell": "lstm", "attention": "none", "bidirectional": False},
        {"n_layer": 2, "bidirectional": False, "attention_size": 3},
    ],
    ids=["bahdanau", "none", "lstm", "lstm, none", "one direction"],
)


@kinds
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, S), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_batch_gives_what_each_row_gives_alone(options, lengths, seed):
    model = make(**options)
    ids, source = batch(len(lengths), seed)
    together = model(ids, None, source, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = model(ids[row : row + 1], None, source[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone)


@kinds
def test_what_is_in_the_padding_of_a_source_is_never_read(options):
    model = make(**options)
    ids, source = batch()
    lengths = torch.tensor([S, 2])
    other = torch.where(torch.arange(S) < lengths[:, None], source, (source + 1) % SOURCE_V)
    assert torch.equal(model(ids, None, source, lengths), model(ids, None, other, lengths))
    assert not torch.allclose(model(ids, None, source), model(ids, None, other))


def test_a_source_without_a_token_is_said_before_its_weights_are_nan():
    ids, source = batch()
    with pytest.raises(ConfigError, match="source 1 of the batch has no token; give it at least one"):
        make()(ids, None, source, torch.tensor([3, 0]))


@kinds
def test_no_target_token_sees_later_ones(options):
    model = make(**options)
    ids, source = batch()
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % V
    first, second = model(ids, None, source), model(changed, None, source)
    assert torch.equal(first[:, :4], second[:, :4])
    assert not torch.allclose(first[:, 4:], second[:, 4:])


@kinds
def test_a_token_at_a_time_gives_the_same_logits_and_rows_can_be_chosen(options):
    model = make(**options)
    ids, source = batch(3)
    lengths = torch.tensor([S, 1, 4])
    expected = model(ids, None, source, lengths)
    state, rows = model.start(model.encode(source, lengths)), torch.arange(3)
    for place in range(T):
        if place == 3:
            rows = torch.tensor([2, 0, 0, 1])
            state = state.select(rows)
        logits, state = model.step(ids[rows, place], state)
        torch.testing.assert_close(logits, expected[rows, place])
    model.step(ids[rows, 0], state)  # the eighth
    with pytest.raises(ConfigError, match="context of 8"):
        model.step(ids[rows, 0], model.step(ids[rows, 0], state)[1])


def test_without_attention_only_the_last_hidden_state_gets_through():
    model = make(attention="none")
    ids, source = batch()
    memory = model.encode(source)
    inner = memory._replace(states=memory.states.clone())
    inner.states[:, 1:-1] += 1  # neither the last of the forward direction nor that of the backward one
    assert torch.equal(model.decoder(model.embedding(ids), memory), model.decoder(model.embedding(ids), inner))
    looking = make()
    x = looking.embedding(ids)
    assert not torch.allclose(looking.decoder(x, looking.encode(source)), looking.decoder(x, inner))


def test_alignments_are_those_of_the_paper():
    model = make()
    ids, source = batch()
    lengths = torch.tensor([S, 3])
    found = capture(model, ids, source=source, source_lengths=lengths)
    (weights,) = found.maps("cross")
    assert weights.shape == (2, 1, T, S)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, T, dtype=weights.dtype))
    assert not weights[1, :, :, 3:].any(), "padding has the weight 0"
    # appendix A.1.2, of the first token: e = v tanh(W s + U h), where s is the decoder's first state
    memory = model.encode(source, lengths)
    a = model.decoder.attention
    last = torch.cat([memory.states[[0, 1], lengths - 1, :5], memory.states[:, 0, 5:]], -1)
    first = torch.tanh(last @ model.decoder.initial.weight.mT + model.decoder.initial.bias)
    for row, length in enumerate(lengths.tolist()):
        hidden = a.query.weight @ first[row] + a.query.bias + memory.states[row, :length] @ a.key.weight.mT
        expected = (torch.tanh(hidden) @ a.score.weight[0]).softmax(0)
        torch.testing.assert_close(weights[row, 0, 0, :length].double(), expected, atol=1e-6, rtol=1e-5)
    assert sum(stage.parameters for stage in found.values()) == model.n_parameters


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_every_weight_gets_a_gradient(cell):
    torch.manual_seed(0)
    model = RNN(RNNConfig(V, 8, SOURCE_V, cell=cell, n_layer=2, n_embd=4, hidden_size=5, dropout=0.1))
    ids, source = batch()
    model(ids, None, source, torch.tensor([S, 3])).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_settings_that_can_not_be():
    with pytest.raises(ConfigError, match=r"(?s)hidden_size.*dropout"):
        RNNConfig(hidden_size=0, dropout=1.0)
    with pytest.raises(ConfigError, match="one vocabulary"):
        RNNConfig(5, source_vocab_size=6, share_embeddings=True)
    model, (ids, _) = make(), batch()
    with pytest.raises(ConfigError, match="needs a source"):
        model(ids)
    with pytest.raises(ConfigError, match="context"):
        model(ids, None, torch.zeros(2, 9, dtype=torch.int64))
