import math
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm.config import AttentionKind, GPTConfig
from llm.errors import ConfigError
from llm.model import GPT, MLP, Block
from llm.pretrained.twin import hugging_face_twin

KINDS = get_args(AttentionKind)


def make(config, seed=0):
    """A GPT in eval mode whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


# The reference


@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_embd", "T"), [(1, 1, 4, 1), (2, 2, 8, 7), (3, 4, 32, 16), (2, 3, 24, 16)]
)
def test_logits_are_those_of_hugging_face(n_layer, n_head, n_embd, T):
    config = GPTConfig(vocab_size=50, context_length=16, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    pytest.importorskip("transformers")
    model = make(config)
    twin = hugging_face_twin(model)
    ids = torch.randint(50, (3, T))
    with torch.no_grad():
        ours, theirs = model(ids), twin(ids).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert model.n_parameters == twin.num_parameters()


@pytest.mark.parametrize(
    ("size", "n_parameters"),
    [("124m", 124_439_808), ("355m", 354_823_168), ("774m", 774_030_080), ("1558m", 1_557_611_200)],
)
def test_published_sizes(size, n_parameters):
    with torch.device("meta"):
        assert GPT(GPTConfig.gpt2(size)).n_parameters == n_parameters


# Every choice


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("norm", "mlp", "residual"), list(product(("layer_norm", "none"), ("plain", "none"), (True, False)))
)
def test_every_choice_gives_logits(tiny, kind, norm, mlp, residual):
    model = GPT(replace(tiny, attention=kind, norm=norm, mlp=mlp, residual=residual))
    for T in (1, 5, 8):
        logits = model(torch.randint(17, (2, T)))
        assert logits.shape == (2, T, 17)
        assert logits.isfinite().all()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@given(kind=st.sampled_from(["causal", "multi_head"]), seed=st.integers(0, 1000), data=st.data())
def test_later_tokens_do_not_change_earlier_logits(tiny, kind, seed, data):
    model = make(replace(tiny, attention=kind), seed)
    T = data.draw(st.integers(2, 8))
    t = data.draw(st.integers(1, T - 1))
    ids = torch.randint(17, (2, T))
    changed = ids.clone()
    changed[:, t:] = (ids[:, t:] + torch.randint(1, 17, (2, T - t))) % 17
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :t], before[:, :t])
    assert not torch.allclose(after[:, t:], before[:, t:])


@pytest.mark.parametrize("kind", ["dot", "self"])
def test_kinds_without_a_mask_see_later_tokens(tiny, kind):
    model = make(replace(tiny, attention=kind))
    ids = torch.arange(8)[None]
    changed = torch.cat([ids[:, :4], ids[:, 4:] + 5], dim=1)
    assert not torch.allclose(model(changed)[:, :4], model(ids)[:, :4], atol=1e-3)


def test_rows_of_a_batch_do_not_see_each_other(tiny):
    model = make(tiny)
    ids = torch.randint(17, (3, 6))
    torch.testing.assert_close(model(ids)[1:2], model(ids[1:2]))


def test_logits_are_the_head_of_the_hidden_states(tiny):
    model = make(tiny)
    ids = torch.randint(17, (2, 6))
    assert model.hidden_states(ids).shape == (2, 6, 8)
    torch.testing.assert_close(model(ids), model.hidden_states(ids) @ model.head.weight.T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_without_its_additions_is_the_bare_attention(tiny, kind):
    bare = Block(replace(tiny, attention=kind, norm="none", mlp="none", residual=False)).eval()
    x = torch.randn(2, 5, 8)
    assert torch.equal(bare(x), bare.attention(x))


def test_a_block_adds_normalized_attention_and_then_perceptron(tiny):
    torch.manual_seed(0)
    block = Block(tiny).eval()
    x = torch.randn(2, 5, 8)
    middle = x + block.attention(block.attention_norm(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.mlp_norm(middle)))
    torch.testing.assert_close(block.attention_norm(x).std(-1, correction=0), torch.ones(2, 5), atol=1e-3, rtol=0)


def test_a_block_without_residual_replaces(tiny):
    torch.manual_seed(0)
    block = Block(replace(tiny, residual=False)).eval()
    x = torch.randn(2, 5, 8)
    middle = block.attention(block.attention_norm(x))
    torch.testing.assert_close(block(x), block.mlp(block.mlp_norm(middle)))


def test_the_perceptron_uses_gelu_in_its_tanh_form(tiny):
    torch.manual_seed(0)
    mlp = MLP(tiny)
    x = torch.randn(2, 5, 8)
    h = mlp.expand(x)
    assert h.shape == (2, 5, 32)
    gelu = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(mlp(x), mlp.projection(gelu))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu_exact", lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        ("relu", lambda x: x.clamp(min=0)),
        ("silu", lambda x: x / (1 + torch.exp(-x))),
    ],
)
def test_other_activations_and_hidden_sizes(tiny, name, function):
    torch.manual_seed(0)
    mlp = MLP(replace(tiny, activation=name, mlp_hidden=5))
    x = torch.randn(2, 5, 8)
    assert mlp.expand(x).shape == (2, 5, 5)
    torch.testing.assert_close(mlp(x), mlp.projection(function(mlp.expand(x))))


def test_the_epsilon_of_the_norms(tiny):
    block, x = Block(replace(tiny, norm_epsilon=0.5)), torch.randn(2, 5, 8)
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 0.5).sqrt()
    for norm in (block.attention_norm, block.mlp_norm, GPT(replace(tiny, norm_epsilon=0.5)).final_norm):
        torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("multiple", [1, 5, 17, 64])
def test_a_padded_vocabulary_gives_the_logits_of_real_tokens_alone(tiny, multiple, tied):
    model = make(replace(tiny, vocab_multiple=multiple, tie_head=tied))
    rows = model.head.weight.shape[0]
    assert rows % multiple == 0
    assert 17 <= rows < 17 + multiple
    assert len(model.embeddings.token.weight) == rows
    ids = torch.randint(17, (2, 6))
    assert model(ids).shape == (2, 6, 17)
    torch.testing.assert_close(model(ids), model.hidden_states(ids) @ model.head.weight[:17].T)


def test_dropout_is_for_training_only(tiny):
    model = make(replace(tiny, dropout=0.5))
    ids = torch.randint(17, (2, 6))
    torch.testing.assert_close(model(ids), make(replace(tiny, dropout=0.0))(ids))
    model.train()
    assert not torch.allclose(model(ids), model(ids))


def test_more_tokens_than_the_context_holds(tiny):
    model = GPT(tiny)
    assert model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 17)
    with pytest.raises(ConfigError, match="input has 9 tokens, the model's context holds 8"):
        model(torch.zeros(1, 9, dtype=torch.long))


# How it begins


def test_weights_begin_as_those_of_gpt2():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=500, context_length=128, n_layer=3, n_head=2, n_embd=64))
    checked = set()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            residual = name.endswith("projection.weight")
            expected = 0.02 / math.sqrt(2 * 3) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert parameter.mean().item() == pytest.approx(0, abs=expected / 10), name
            checked.add((name.split(".")[-2], residual))
    assert checked == {
        ("token", False),
        ("position", False),
        ("qkv", False),
        ("expand", False),
        ("projection", True),
    }


def test_an_untrained_model_knows_nothing(tiny):
    torch.manual_seed(0)
    model = GPT(tiny).eval()
    ids, targets = torch.randint(17, (2, 64, 8))
    loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).item()
    assert loss == pytest.approx(math.log(17), abs=0.05)


def test_a_tied_head_shares_the_token_embedding(tiny):
    model = GPT(tiny)
    assert model.head.weight.data_ptr() == model.embeddings.token.weight.data_ptr()
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= parameter.grad
    assert torch.equal(model.head.weight, model.embeddings.token.weight)
    assert len({id(parameter) for parameter in model.parameters()}) == len(list(model.parameters()))


def test_an_untied_head_has_its_own_weights(tiny):
    tied, untied = GPT(tiny), GPT(replace(tiny, tie_head=False))
    assert untied.head.weight.data_ptr() != untied.embeddings.token.weight.data_ptr()
    assert untied.n_parameters == tied.n_parameters + 17 * 8


def test_biases_are_optional(tiny):
    names = [name for name, _ in GPT(replace(tiny, bias=False, qkv_bias=False)).named_parameters()]
    assert names
    assert not [name for name in names if "bias" in name]


def test_the_same_seed_makes_the_same_model(tiny):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([parameter.flatten() for parameter in GPT(tiny).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
