"""The Transformer that translates, against torch's own, and the laws of its masks and caches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llm.config import TransformerConfig
from llm.errors import ConfigError
from llm.inspection import capture
from llm.model import Transformer

V, SOURCE_V, T, S = 13, 11, 7, 6


def make(seed=0, std=0.3, **options):
    """A small Transformer in eval mode and float64, whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "source_vocab_size": SOURCE_V, "context_length": 8, "n_layer": 2, "n_head": 2}
    model = Transformer(TransformerConfig(**{**sizes, "n_embd": 8, "dropout": 0.0, **options})).eval().double()
    for parameter in model.requires_grad_(False).parameters():
        nn.init.normal_(parameter, std=std)
    return model


def batch(B=2, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(V, (B, T), generator=random), torch.randint(SOURCE_V, (B, S), generator=random)


kinds = pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_first": False},
        {"positions": "rotary", "n_kv_head": 1, "norm": "rms_norm"},
        {"attention": "causal"},
        {"attention": "dot", "causal": True},
        {"sliding_window": 3, "qk_norm": True, "qk_gain": "separate", "mlp": "gated"},
        {"qk_norm": True, "n_encoder_layer": 1, "bias": False, "qkv_bias": False},
    ],
    ids=["pre-norm", "post-norm", "rotary", "one head", "dot", "window", "qk_norm"],
)


def test_it_starts_from_the_weights_of_its_authors():
    """Glorot's weights, scaled embeddings of variance 1; a projection that is to begin at zero does."""
    sizes = {"context_length": 64, "n_layer": 1, "n_head": 4, "n_embd": 64, "dropout": 0.0}
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(500, source_vocab_size=400, **sizes)).requires_grad_(False)
    for embeddings in (model.embeddings, model.source_embeddings):
        tokens = embeddings.sum(torch.arange(64)[None]) - embeddings.position.weight
        assert tokens.std() == pytest.approx(1, abs=0.05)
        assert embeddings.position.weight.std() == pytest.approx(1, abs=0.05)
    for layer in (
        model.blocks[0].mlp.expand,
        model.blocks[0].cross_attention.query,
        model.encoder_blocks[0].attention.qkv,
    ):
        assert layer.weight.std() == pytest.approx((2 / sum(layer.weight.shape)) ** 0.5, rel=0.05)
        assert not layer.bias.any()
    zero = Transformer(TransformerConfig(500, source_vocab_size=400, projection_init="zero", **sizes))
    assert not zero.blocks[0].cross_attention.projection.weight.any()


# Against torch.nn.Transformer


def theirs_of(ours):
    """A `torch.nn.Transformer` with the weights of ours."""
    c = ours.config
    options = {
        "dim_feedforward": c.hidden_size,
        "dropout": 0.0,
        "activation": nn.functional.relu,
        "batch_first": True,
        "norm_first": c.norm_first,
        "layer_norm_eps": c.norm_epsilon,
    }
    theirs = nn.Transformer(c.n_embd, c.n_head, c.encoder_layers, c.n_layer, **options).double().eval()
    for layer, block in zip(theirs.encoder.layers, ours.encoder_blocks, strict=True):
        copy_block(layer, block, layer.norm2)
    for layer, block in zip(theirs.decoder.layers, ours.blocks, strict=True):
        copy_block(layer, block, layer.norm3)
        cross = block.cross_attention
        layer.multihead_attn.in_proj_weight.data = torch.cat([cross.query.weight, cross.key_value.weight])
        layer.multihead_attn.in_proj_bias.data = torch.cat([cross.query.bias, cross.key_value.bias])
        layer.multihead_attn.out_proj.load_state_dict(cross.projection.state_dict())
        layer.norm2.load_state_dict(block.cross_norm.state_dict())
    if c.norm_first:
        theirs.encoder.norm.load_state_dict(ours.encoder_norm.state_dict())
        theirs.decoder.norm.load_state_dict(ours.final_norm.state_dict())
    else:  # their last norm would be one more than in the paper
        theirs.encoder.norm = theirs.decoder.norm = None
    return theirs


def copy_block(layer, block, mlp_norm):
    layer.self_attn.in_proj_weight.data = block.attention.qkv.weight.data
    layer.self_attn.in_proj_bias.data = block.attention.qkv.bias.data
    layer.self_attn.out_proj.load_state_dict(block.attention.projection.state_dict())
    layer.linear1.load_state_dict(block.mlp.expand.state_dict())
    layer.linear2.load_state_dict(block.mlp.projection.state_dict())
    layer.norm1.load_state_dict(block.attention_norm.state_dict())
    mlp_norm.load_state_dict(block.mlp_norm.state_dict())


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("lengths", [None, [S, 2]])
def test_equals_torch_nn_transformer(norm_first, lengths):
    ours = make(norm_first=norm_first, activation="relu", n_encoder_layer=1)
    theirs, (ids, source) = theirs_of(ours), batch()
    source_lengths = None if lengths is None else torch.tensor(lengths)
    pads = None if lengths is None else torch.arange(S) >= source_lengths[:, None]
    with torch.no_grad():
        hidden_states = theirs(
            ours.source_embeddings(source),
            ours.embeddings(ids),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64),
            src_key_padding_mask=pads,
            memory_key_padding_mask=pads,
        )
    torch.testing.assert_close(ours.hidden_states(ids, None, source, source_lengths), hidden_states)


# Laws


@kinds
def test_step_by_step_is_all_at_once(options):
    model, (ids, source) = make(**options), batch()
    lengths = torch.tensor([S, 3])
    expected = model(ids, None, source, lengths)
    state = model.start(model.encode(source, lengths))
    for position in range(T):
        logits, state = model.step(ids[:, position], state)
        torch.testing.assert_close(logits, expected[:, position])


@kinds
def test_a_target_is_predicted_from_earlier_ones_alone(options):
    model, (ids, source) = make(**options), batch()
    logits = model(ids, None, source)
    for position in range(1, T):
        changed = ids.clone()
        changed[:, position] = (ids[:, position] + 1) % V
        after = model(changed, None, source)
        assert torch.equal(after[:, :position], logits[:, :position])
        assert not torch.allclose(after[:, position], logits[:, position])


@kinds
def test_every_token_of_the_source_matters(options):
    model, (ids, source) = make(**options), batch()
    logits = model(ids, None, source)
    for position in range(S):
        changed = source.clone()
        changed[:, position] = (source[:, position] + 1) % SOURCE_V
        assert not torch.allclose(model(ids, None, changed)[:, 0], logits[:, 0])


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, S), st.integers(1, T)), min_size=1, max_size=4), fill=st.integers(0, 10)
)
def test_a_batch_is_its_rows(lengths, fill):
    """Whatever stands in the padding, of source and of target."""
    model, (ids, source) = make(), batch(len(lengths))
    source_lengths, target_lengths = (torch.tensor(part) for part in zip(*lengths, strict=True))
    source = torch.where(torch.arange(S) < source_lengths[:, None], source, fill)
    ids = torch.where(torch.arange(T) < target_lengths[:, None], ids, fill)
    found = model(ids, target_lengths, source, source_lengths)
    for row, (s, t) in enumerate(lengths):
        alone = model(ids[row, None, :t], None, source[row, None, :s])
        torch.testing.assert_close(found[row, None, :t], alone)


def test_a_source_of_padding_alone_gives_no_nan():
    model, (ids, source) = make().train().requires_grad_(True), batch()
    logits = model(ids, None, source, torch.tensor([0, S]))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    alone = model(ids[1:], None, source[1:])
    torch.testing.assert_close(logits[1:], alone)


def test_no_weight_is_on_padding():
    model, (ids, source) = make(), batch()
    found = capture(model, ids, source=source, source_lengths=torch.tensor([S, 2]))
    for kind in ("cross", "source"):
        for weights in found.maps(kind):
            assert (weights[1, ..., 2:] == 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    assert [weights.shape for weights in found.maps("cross")] == [(2, 2, T, S)] * 2
    assert [weights.shape for weights in found.maps("self")] == [(2, 2, T, T)] * 2


def test_the_stages_have_all_parameters():
    model, (ids, source) = make(), batch()
    found = capture(model, ids, source=source)
    assert sum(stage.parameters for stage in found.values()) == model.n_parameters


def test_rows_of_a_state_are_selected_in_any_order():
    model, (ids, source) = make(), batch(3)
    lengths = torch.tensor([S, 3, 1])
    _, state = model.step(ids[:, 0], model.start(model.encode(source, lengths)))
    rows = torch.tensor([2, 0, 2, 1])
    found, _ = model.step(ids[rows, 1], state.select(rows))
    expected, _ = model.step(ids[:, 1], state)
    torch.testing.assert_close(found, expected[rows])


def test_the_keys_of_the_source_are_computed_once(monkeypatch):
    model, (ids, source) = make(), batch()
    state = model.start(model.encode(source))
    monkeypatch.setattr(type(model.blocks[0].cross_attention), "project_memory", None)
    model.step(ids[:, 0], state)


def test_embeddings_may_be_shared():
    assert make(share_embeddings=True, source_vocab_size=V).n_parameters < make(source_vocab_size=V).n_parameters


# Faults


def test_what_can_not_be():
    with pytest.raises(ConfigError, match="one vocabulary"):
        TransformerConfig(vocab_size=5, source_vocab_size=6, share_embeddings=True)
    with pytest.raises(ConfigError, match="causal must be true"):
        TransformerConfig(causal=False)
    with pytest.raises(ConfigError, match="context holds 8"):
        make().encode(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ConfigError, match="needs a source"):
        make()(torch.zeros(1, 2, dtype=torch.int64))


def test_a_full_context_is_said():
    model, (ids, source) = make(context_length=T), batch()
    state = model.start(model.encode(source))
    for position in range(T):
        _, state = model.step(ids[:, position], state)
    with pytest.raises(ConfigError, match="context of 7 tokens"):
        model.step(ids[:, 0], state)
