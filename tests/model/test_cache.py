import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import make
from torch.nn.utils.rnn import pad_sequence

from llm.config import GPTConfig
from llm.errors import ConfigError
from llm.model import KeyValueCache, decode, prefill

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def logits_step_by_step(model, ids, lengths, n_slots):
    """Prefill each row up to its length, then decode the rest of `ids` (B, T); yields (positions, logits)."""
    cache = KeyValueCache(model, len(ids), n_slots)
    prompts = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    positions = torch.tensor(lengths) - 1
    yield positions, prefill(model, cache, pad_sequence(prompts, batch_first=True), torch.tensor(lengths))
    while int(positions.max()) + 1 < ids.shape[1]:
        positions = positions + 1
        tokens = ids[torch.arange(len(ids)), positions]
        yield positions, decode(model, cache, tokens[:, None], positions[:, None])[:, 0]


@given(
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    attention=st.sampled_from(["causal", "multi_head"]),
    norm=st.sampled_from(["layer_norm", "none"]),
    mlp=st.sampled_from(["plain", "none"]),
    residual=st.booleans(),
    bias=st.booleans(),
)
def test_every_step_gives_the_logits_of_the_whole_model(tiny, seed, lengths, attention, norm, mlp, residual, bias):
    config = replace(
        tiny, attention=attention, norm=norm, mlp=mlp, residual=residual, bias=bias, qkv_bias=bias, tie_head=bias
    )
    model = make(config, seed)
    ids = torch.randint(17, (len(lengths), 8))
    whole = model(ids)
    n_steps = 0
    for positions, logits in logits_step_by_step(model, ids, lengths, 8):
        torch.testing.assert_close(logits, whole[torch.arange(len(ids)), positions], **CLOSE)
        n_steps += 1
    assert n_steps == 9 - max(lengths)


@pytest.mark.parametrize("scale_scores", [False, True])
def test_scores_over_their_sum_are_cached_too(tiny, scale_scores):
    model = make(replace(tiny, normalize_scores="sum", scale_scores=scale_scores)).double()
    ids = torch.randint(17, (2, 8))
    whole = model(ids)
    for positions, logits in logits_step_by_step(model, ids, [1, 4], 8):
        torch.testing.assert_close(logits, whole[torch.arange(2), positions])


@given(seed=st.integers(0, 1000), n_read=st.integers(1, 4), kept=st.integers(0, 4))
def test_several_tokens_in_one_step(tiny, seed, n_read, kept):
    model = make(tiny, seed)
    ids = torch.randint(17, (2, 8))
    lengths, cache = torch.tensor([1, 3]), KeyValueCache(model, 2, 8)
    prefill(model, cache, ids[:, :3], lengths)
    positions = lengths[:, None] + torch.arange(n_read)  # (B, T)
    guesses = ids.gather(1, positions)
    guesses[:, kept:] = torch.randint(17, guesses[:, kept:].shape)  # some turn out to be wrong, and are overwritten
    decode(model, cache, guesses, positions)
    right = min(kept, n_read)
    later = lengths[:, None] + torch.arange(right, 5)
    found, whole = decode(model, cache, ids.gather(1, later), later), model(ids)
    torch.testing.assert_close(found, whole.gather(1, later[..., None].expand_as(found)), **CLOSE)


def test_the_shape_of_gpt2(tiny):
    model = make(replace(tiny, n_embd=64, n_head=4, n_layer=4, vocab_size=300, context_length=64), std=0.1)
    ids = torch.randint(300, (2, 64))
    whole = model(ids)
    for positions, logits in logits_step_by_step(model, ids, [10, 3], 64):
        torch.testing.assert_close(logits, whole[torch.arange(2), positions], **CLOSE)


def test_padding_is_never_seen(tiny):
    model = make(tiny)
    ids = torch.randint(17, (2, 6))
    padded = ids.clone()
    padded[1, 2:] = (ids[1, 2:] + 1) % 17
    lengths, cache, other = torch.tensor([6, 2]), KeyValueCache(model, 2, 8), KeyValueCache(model, 2, 8)
    assert torch.equal(prefill(model, cache, ids, lengths), prefill(model, other, padded, lengths))
    for token in (3, 5):
        tokens, lengths = torch.tensor([[token], [token]]), lengths + 1
        step, same = (decode(model, held, tokens, lengths[:, None] - 1) for held in (cache, other))
        torch.testing.assert_close(step, same)


def test_slots_beyond_a_position_do_not_matter(tiny):
    model = make(tiny)
    cache = KeyValueCache(model, 1, 8)
    prefill(model, cache, torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    before = decode(model, cache, torch.tensor([[4]]), torch.tensor([[3]]))
    for tensor in (*cache.keys, *cache.values):
        assert (tensor[:, :, 4:] == 0).all()
        assert (tensor[:, :, :4] != 0).any()
        tensor[:, :, 4:] = 1e3
    torch.testing.assert_close(decode(model, cache, torch.tensor([[4]]), torch.tensor([[3]])), before)


def test_the_cache_is_as_large_as_it_says(tiny):
    cache = KeyValueCache(make(tiny), 3, 5)
    assert [tensor.shape for tensor in cache.keys + cache.values] == [(3, 2, 5, 4)] * 4
    assert KeyValueCache(make(replace(tiny, attention="causal")), 3, 5).keys[0].shape == (3, 1, 5, 8)
    assert KeyValueCache(make(tiny).to(torch.bfloat16), 1, 1).keys[0].dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["dot", "self"])
def test_attention_that_sees_the_future_has_no_cache(tiny, attention):
    with pytest.raises(ConfigError, match=f"{attention} attention sees later tokens"):
        KeyValueCache(make(replace(tiny, attention=attention)), 1, 8)


def test_a_cache_is_not_longer_than_the_context(tiny):
    with pytest.raises(ConfigError, match="a cache of 9 tokens is longer than the context of 8"):
        KeyValueCache(make(tiny), 1, 9)


def test_the_whole_step_is_one_graph_for_all_positions(tiny):
    model = make(tiny)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(decode, fullgraph=True, dynamic=False, backend=backend)
    cache, other = KeyValueCache(model, 2, 8), KeyValueCache(model, 2, 8)
    for position in range(8):
        ids, positions = torch.randint(17, (2, 1)), torch.tensor([[position], [position]])
        torch.testing.assert_close(compiled(model, cache, ids, positions), decode(model, other, ids, positions))
    assert len(graphs) == 1


@pytest.mark.gpu
def test_on_a_gpu():
    model = make(GPTConfig(vocab_size=300, context_length=64, n_layer=4, n_embd=64), std=0.1).cuda()
    ids = torch.randint(300, (2, 64), device="cuda")
    whole = model(ids)
    cache = KeyValueCache(model, 2, 64)
    logits = prefill(model, cache, ids[:, :10], torch.tensor([10, 3], device="cuda"))
    torch.testing.assert_close(logits, torch.stack([whole[0, 9], whole[1, 2]]), atol=1e-3, rtol=1e-3)
    assert math.isfinite(float(logits.sum()))
