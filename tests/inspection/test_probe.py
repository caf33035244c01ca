"""The probe sees what happened, and leaves no trace."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from llm.config import GPTConfig
from llm.inspection import attention_maps, capture
from llm.inspection.probe import longest_window
from llm.model import GPT


def make(config, seed=0):
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():  # GPT-2's small first values make every weight nearly the same
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model


configs = st.builds(
    lambda n_head, head_size, **rest: GPTConfig(n_head=n_head, n_embd=n_head * head_size, **rest),
    n_head=st.integers(1, 3),
    head_size=st.integers(1, 6),
    vocab_size=st.integers(2, 40),
    context_length=st.integers(1, 12),
    n_layer=st.integers(1, 3),
    attention=st.sampled_from(["dot", "self", "causal", "multi_head"]),
    scale_scores=st.booleans(),
    norm=st.sampled_from(["layer_norm", "none"]),
    mlp=st.sampled_from(["plain", "none"]),
    residual=st.booleans(),
    bias=st.booleans(),
    qkv_bias=st.booleans(),
    tie_head=st.booleans(),
)


@given(config=configs, seed=st.integers(0, 99))
def test_weights_times_values_are_what_the_fused_kernel_gives(config, seed):
    model = make(config, seed)
    ids = torch.randint(config.vocab_size, (2, config.context_length))
    fused = {}
    for layer, block in enumerate(model.blocks):
        attention = block.attention

        def spy(query, key, value, mask=None, attention=attention, layer=layer):
            fused[layer] = type(attention).context(attention, query, key, value, mask)
            return fused[layer]

        attention.context = spy
    found = capture(model, ids)
    for layer in range(config.n_layer):
        torch.testing.assert_close(found.tensor(f"block {layer} / context"), fused[layer], atol=1e-5, rtol=1e-5)
        rows = found.attention(layer).sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


def test_weights_are_float32_under_half_precision(tiny):
    model = make(tiny).bfloat16()
    found = capture(model, torch.arange(8)[None])
    assert found.attention(0).dtype == torch.float32
    assert found.tensor("logits").dtype == torch.bfloat16


def test_causal_weights_never_reach_the_future(tiny):
    weights = capture(make(tiny), torch.arange(8)[None]).attention(1)
    assert weights.triu(1).count_nonzero() == 0
    assert weights[:, :, 0, 0].eq(1).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_capture_leaves_no_trace(tiny, training):
    model = make(GPTConfig(**{**tiny.to_dict(), "dropout": 0.5})).train(training)
    state, before = torch.get_rng_state(), {name: p.clone() for name, p in model.named_parameters()}
    first = capture(model, torch.arange(8)[None], torch.arange(8)[None])
    attention_maps(model, torch.arange(8)[None])
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    again = capture(model, torch.arange(8)[None], torch.arange(8)[None])
    assert all(torch.equal(first.tensor(name), again.tensor(name)) for name in first)  # no dropout in it
    assert not any(tensor.tensor.requires_grad for tensor in first.values())


def test_a_capture_that_fails_leaves_no_trace_either(tiny):
    model = make(tiny).train()
    with pytest.raises(IndexError):
        capture(model, torch.full((1, 4), tiny.vocab_size))
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attention_maps_are_those_of_a_capture(tiny):
    model, ids = make(tiny), torch.arange(8)[None]
    found = capture(model, ids)
    for layer, weights in enumerate(attention_maps(model, ids)):
        assert torch.equal(weights, found.attention(layer))


def test_no_compiled_graph_more_and_no_step_slower(tiny):
    """Captures between compiled steps add no graph, break none, and force no recompilation."""

    def losses(with_captures):
        torch._dynamo.reset()
        model = make(GPTConfig(**{**tiny.to_dict(), "dropout": 0.0})).train()
        counter = CompileCounterWithBackend("eager")
        model.compile(backend=counter)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        values, graphs = [], []
        if with_captures:
            capture(model, torch.arange(8)[None])  # before anything is compiled
        for step in range(4):
            ids = torch.arange(step, step + 8)[None] % tiny.vocab_size
            loss = model(ids).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            values.append(loss.item())
            if with_captures:
                capture(model, ids[:, :5])
                attention_maps(model, ids)
            graphs.append(counter.frame_count)
        return values, graphs

    plain, watched = losses(False), losses(True)
    assert watched == plain
    assert plain[1][0] == plain[1][-1] == 1  # one graph, from the first step to the last


@given(n_layer=st.integers(1, 96), n_head=st.integers(1, 128), context=st.integers(1, 1 << 20))
def test_a_window_never_holds_more_than_a_quarter_of_a_gibibyte(n_layer, n_head, context):
    config = GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_head, context_length=context)
    longest = longest_window(config)
    assert 1 <= longest <= context
    assert 2 * 4 * n_layer * n_head * longest**2 <= 2**28
    assert longest == context or longest == math.isqrt(2**28 // (8 * n_layer * n_head))


@pytest.mark.gpu
def test_a_capture_on_a_gpu_is_that_of_the_cpu(tiny):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    model, ids = make(tiny), torch.arange(8)[None]
    here = capture(model, ids, ids)
    state = torch.cuda.get_rng_state()
    there = capture(model.cuda(), ids.cuda(), ids.cuda())
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for name in here:
        assert there.tensor(name).is_cuda
        torch.testing.assert_close(there.tensor(name).cpu(), here.tensor(name), atol=1e-3, rtol=1e-3)
