"""The encoder: BERT's numbers, and nothing that padding or direction could change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm.config import EncoderConfig
from llm.errors import ConfigError
from llm.model import GPT, Block, Encoder, build_network

CONFIG = EncoderConfig(vocab_size=17, context_length=8, n_layer=2, n_head=2, n_embd=8, n_segments=2)
BERT = {"norm_first": False, "activation": "gelu_exact", "norm_epsilon": 1e-12}
CLOSE = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 6e-2, "rtol": 6e-2}}


def make(config=CONFIG, seed=0, std=0.2):
    torch.manual_seed(seed)
    model = Encoder(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def weights_of_bert(theirs, n_layer):
    """The weights of a `BertForMaskedLM` by our names."""
    names = {
        "embeddings.token": "bert.embeddings.word_embeddings",
        "embeddings.position": "bert.embeddings.position_embeddings",
        "embeddings.segment": "bert.embeddings.token_type_embeddings",
        "embeddings.norm": "bert.embeddings.LayerNorm",
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.output": "cls.predictions.decoder",
    }
    for layer in range(n_layer):
        block, their = f"blocks.{layer}", f"bert.encoder.layer.{layer}"
        names |= {
            f"{block}.attention.qkv": tuple(f"{their}.attention.self.{part}" for part in ("query", "key", "value")),
            f"{block}.attention.projection": f"{their}.attention.output.dense",
            f"{block}.attention_norm": f"{their}.attention.output.LayerNorm",
            f"{block}.mlp.expand": f"{their}.intermediate.dense",
            f"{block}.mlp.projection": f"{their}.output.dense",
            f"{block}.mlp_norm": f"{their}.output.LayerNorm",
        }
    state = theirs.state_dict()
    ours = {}
    for name, of_them in names.items():
        for kind in ("weight", "bias"):
            parts = [state.get(f"{part}.{kind}") for part in ([of_them] if isinstance(of_them, str) else of_them)]
            if parts[0] is not None:
                ours[f"{name}.{kind}"] = torch.cat(parts)
    return ours


@pytest.mark.parametrize("padded", [False, True])
def test_it_is_bert(padded):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 32}
    theirs = transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=17, max_position_embeddings=8, **settings)
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = Encoder(replace(CONFIG, **BERT)).eval()
    ours.load_state_dict(weights_of_bert(theirs, 2))  # every tensor of ours is one of theirs
    assert ours.n_parameters == sum(p.numel() for n, p in theirs.named_parameters() if "pooler" not in n)

    ids, segments = torch.randint(17, (3, 7)), torch.randint(2, (3, 7))
    lengths = torch.tensor([7, 2, 5]) if padded else torch.tensor([7, 7, 7])
    real = torch.arange(7) < lengths[:, None]
    with torch.no_grad():
        expected = theirs(ids, attention_mask=real.long(), token_type_ids=segments).logits
        logits = ours(ids, lengths if padded else None, segments)
        hidden = theirs.bert(ids, attention_mask=real.long(), token_type_ids=segments).last_hidden_state
    torch.testing.assert_close(logits[real], expected[real], atol=1e-4, rtol=1e-4)
    found = ours.hidden_states(ids, lengths if padded else None, segments)
    torch.testing.assert_close(found[real], hidden[real], atol=1e-4, rtol=1e-4)


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    more=st.integers(0, 1),
    side=st.sampled_from(["left", "right"]),
    norm_first=st.booleans(),
    positions=st.sampled_from(["learned", "rotary"]),
    n_kv_head=st.sampled_from([1, 2]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_padding_changes_nothing(lengths, more, side, norm_first, positions, n_kv_head, dtype):
    config = replace(CONFIG, norm_first=norm_first, positions=positions, n_kv_head=n_kv_head)
    model = make(config, std=0.1).to(dtype)
    T = max(lengths) + more
    ids, segments = torch.randint(17, (len(lengths), T)), torch.randint(2, (len(lengths), T))
    together = model(ids, torch.tensor(lengths), segments, side)
    assert together.isfinite().all()
    for row, n in enumerate(lengths):
        real = slice(0, n) if side == "right" else slice(T - n, T)
        alone = model(ids[row, None, real], segments=segments[row, None, real])
        torch.testing.assert_close(together[row, None, real], alone, **CLOSE[dtype])


@pytest.mark.parametrize("norm_first", [True, False])
def test_every_position_sees_the_whole_text(norm_first):
    model = make(replace(CONFIG, norm_first=norm_first))
    ids = torch.randint(17, (1, 8))
    for place in (0, 7):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % 17
        assert ((model(changed) - model(ids)).abs().amax(-1) > 1e-5).all()


def test_segments_matter_and_are_0_where_none_are_given():
    model = make()
    ids = torch.randint(17, (2, 8))
    assert torch.equal(model(ids), model(ids, segments=torch.zeros_like(ids)))
    assert not torch.allclose(model(ids), model(ids, segments=torch.ones_like(ids)))
    assert make(replace(CONFIG, n_segments=0)).embeddings.segment is None


@pytest.mark.parametrize("vocab_multiple", [1, 64])
def test_the_head_is_tied_and_has_a_bias_for_every_token(vocab_multiple):
    model = make(replace(CONFIG, vocab_multiple=vocab_multiple))
    assert model.head.output.weight is model.embeddings.token.weight
    ids = torch.randint(17, (2, 8))
    logits = model(ids)
    assert logits.shape == (2, 8, 17)
    model.head.output.bias[3] += 2
    torch.testing.assert_close(model(ids) - logits, 2.0 * (torch.arange(17) == 3).expand_as(logits))
    torch.testing.assert_close(model.head(model.hidden_states(ids)), model(ids))


def test_its_blocks_are_those_of_a_gpt():
    config = replace(CONFIG, n_segments=0)
    assert all(type(block) is Block for block in Encoder(config).blocks)
    assert type(build_network(config)) is Encoder
    model = make(config)
    gpt = GPT(config).eval()
    gpt.load_state_dict(
        {name: tensor for name, tensor in model.state_dict().items() if name in gpt.state_dict()}, False
    )
    ids = torch.randint(17, (2, 8))
    torch.testing.assert_close(gpt.hidden_states(ids), model.hidden_states(ids))


def test_weights_start_small_and_every_one_is_trained():
    torch.manual_seed(0)
    model = Encoder(CONFIG)
    assert model.embeddings.segment.weight.std() < 0.04
    assert model(torch.randint(17, (2, 8))).abs().max() < 1
    model(torch.randint(17, (2, 8)), segments=torch.randint(2, (2, 8))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ConfigError, match="the input has 9 tokens, the model's context holds 8"):
        make()(torch.zeros(1, 9, dtype=torch.int64))
