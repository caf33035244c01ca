import logging
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llm.config import SamplingConfig
from llm.generation import CompiledStep, generate_batch
from llm.generation.compiled import RowLinear, is_worth_it, row_attention
from llm.model import KeyValueCache, decode

MODERN = {"positions": "rotary", "qk_norm": True, "norm": "rms_norm", "activation": "squared_relu", "bias": False}
GREEDY = SamplingConfig(max_new_tokens=12, temperature=0.0, compile="never")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_row_linear_is_a_linear_layer(dtype, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 10, bias=bias, dtype=dtype)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    for shape in ((24,), (1, 24), (3, 24), (2, 1, 24)):
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(RowLinear(linear)(x.view(-1, 24)), linear(x).view(-1, 10), **close)
    assert RowLinear(linear).weight is linear.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_kv_head", [1, 2, 6])
def test_row_attention_is_the_fused_one(dtype, n_kv_head):
    torch.manual_seed(0)
    query = torch.randn(2, 3, 6, 8).to(dtype).transpose(1, 2)  # (B, H, T, D), as projections give it
    key, value = (torch.randn(2, n_kv_head, 5, 8).to(dtype) for _ in range(2))  # (B, K, S, D)
    mask = torch.arange(5) <= torch.tensor([[0, 1, 2], [2, 3, 4]])[:, None, :, None]  # (B, 1, T, S)
    expected = scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(row_attention(query, key, value, mask, 0.0, 0.3), expected, **close)


@pytest.mark.slow
@pytest.mark.parametrize(("n_rows", "n_tokens"), [(1, 1), (3, 1), (13, 1), (1, 4)])
@pytest.mark.parametrize("n_kv_head", [None, 1])
def test_compiled_logits_are_the_plain_ones(make_model, n_rows, n_tokens, n_kv_head):
    model = make_model(n_kv_head=n_kv_head).requires_grad_(False)
    torch.compiler.reset()
    step = CompiledStep(model, n_rows * n_tokens)
    plain, compiled = KeyValueCache(model, n_rows, 16), KeyValueCache(model, n_rows, 16)
    starts = torch.arange(n_rows)[:, None] % 3 + torch.arange(n_tokens)  # unequal positions
    for position in range(0, 12, n_tokens):
        ids, positions = torch.randint(50, (n_rows, n_tokens)), starts + position
        expected = decode(model, plain, ids, positions)
        torch.testing.assert_close(step(model, compiled, ids, positions), expected, atol=1e-4, rtol=1e-4)
    assert step.is_compiled


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, MODERN, {"n_kv_head": 1}], ids=["gpt2", "modern", "grouped"])
def test_compiled_text_is_the_plain_one(make_model, prompts, caplog, settings):
    model = make_model(context_length=64, **settings).train()  # dropout must be off all the same
    torch.compiler.reset()
    for sampling in (replace(GREEDY, max_new_tokens=20), replace(GREEDY, temperature=1.0)):
        expected = generate_batch(model, prompts, sampling)
        assert generate_batch(model, prompts, replace(sampling, compile="always")) == expected
    assert not [record for record in caplog.records if record.name.startswith("llm")]


@pytest.mark.parametrize("n_rows", [1, 13])
def test_padding_of_the_vocabulary_is_left_out(make_model, monkeypatch, n_rows):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = make_model(vocab_multiple=64).requires_grad_(False)
    plain, other = KeyValueCache(model, n_rows, 16), KeyValueCache(model, n_rows, 16)
    ids, positions = torch.randint(50, (n_rows, 1)), torch.zeros(n_rows, 1, dtype=torch.int64)
    expected = decode(model, plain, ids, positions)
    assert expected.shape == (n_rows, 1, 50)
    torch.testing.assert_close(CompiledStep(model, n_rows)(model, other, ids, positions), expected)


def test_new_weights_are_used(make_model, prompts, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = make_model(context_length=64)
    sampling = replace(GREEDY, compile="always")
    before = generate_batch(model, prompts, sampling)
    with torch.no_grad():
        model.embeddings.token.weight.add_(torch.randn(50, 16))
    after = generate_batch(model, prompts, sampling)
    assert after != before
    assert after == generate_batch(model, prompts, GREEDY)


def test_without_a_compiler_the_text_is_the_same(make_model, prompts, monkeypatch, caplog):
    def broken(function, **_):
        def call(*_):
            raise RuntimeError("no compiler found\nfind one")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model = make_model(context_length=64)
    with caplog.at_level(logging.WARNING):
        found = generate_batch(model, prompts, replace(GREEDY, compile="always"))
    assert found == generate_batch(model, prompts, GREEDY)
    assert [record.getMessage() for record in caplog.records] == [
        "decoding is not compiled, and slower: no compiler found"
    ]


def test_compiling_is_for_much_work(make_model):
    model = make_model()
    assert not is_worth_it(model, SamplingConfig(10_000))
    assert is_worth_it(model, SamplingConfig(10, compile="always"))
    assert not is_worth_it(model, SamplingConfig(10**9, compile="never"))
    assert is_worth_it(model, SamplingConfig(10**9))


@pytest.mark.gpu
@pytest.mark.parametrize("n_rows", [1, 3])
def test_graphs_on_a_gpu_give_the_same_text(make_model, prompts, n_rows):
    model = make_model(context_length=32).cuda()
    expected = generate_batch(model, prompts[:n_rows], GREEDY)
    step = CompiledStep(model, n_rows)
    cache = KeyValueCache(model, n_rows, 32)
    for position in range(6):
        ids, positions = (torch.full((n_rows, 1), value, device="cuda") for value in (position, position))
        with torch.no_grad():
            step(model, cache, ids, positions)
    assert step.is_compiled
    assert generate_batch(model, prompts[:n_rows], replace(GREEDY, compile="always")) == expected
