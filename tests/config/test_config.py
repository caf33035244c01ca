import dataclasses
import json
import math
from dataclasses import replace
from typing import get_args

import pytest

from llm.config import (
    GPT2_SIZES,
    AttentionKind,
    EncoderConfig,
    GPTConfig,
    OptimConfig,
    SamplingConfig,
    TokenizerConfig,
)
from llm.errors import ConfigError, LLMError

ALL = (GPTConfig, OptimConfig, SamplingConfig, TokenizerConfig)


@pytest.mark.parametrize("cls", ALL)
def test_settings_are_frozen_and_survive_json(cls):
    config = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, "other")
    assert cls(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_gpt_to_dict_builds_the_same_config(tiny):
    assert GPTConfig(**json.loads(json.dumps(tiny.to_dict()))) == tiny


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (GPTConfig, "vocab_size", 0),
        (GPTConfig, "context_length", 0),
        (GPTConfig, "n_layer", 0),
        (GPTConfig, "n_head", 0),
        (GPTConfig, "n_embd", -4),
        (GPTConfig, "n_embd", 10**21),
        (GPTConfig, "n_layer", 10**9),
        (GPTConfig, "n_layer", 1.5),
        (GPTConfig, "n_layer", True),
        (GPTConfig, "n_layer", None),
        (GPTConfig, "tie_head", "no"),
        (GPTConfig, "norm_epsilon", "small"),
        (GPTConfig, "dropout", 1.0),
        (GPTConfig, "dropout", -0.1),
        (GPTConfig, "dropout", math.nan),
        (GPTConfig, "attention", "linear"),
        (GPTConfig, "scale_scores", "yes"),
        (GPTConfig, "normalize_scores", "max"),
        (GPTConfig, "norm", "rms"),
        (GPTConfig, "mlp", "gelu"),
        (GPTConfig, "activation", "tanh"),
        (GPTConfig, "mlp_hidden", 0),
        (GPTConfig, "norm_epsilon", 0.0),
        (GPTConfig, "vocab_multiple", 0),
        (OptimConfig, "learning_rate", 0.0),
        (OptimConfig, "learning_rate", math.nan),
        (OptimConfig, "learning_rate", math.inf),
        (OptimConfig, "learning_rate", 10**400),
        (OptimConfig, "final_learning_rate_ratio", 1.1),
        (OptimConfig, "warmup_steps", -1),
        (OptimConfig, "weight_decay", -0.1),
        (OptimConfig, "beta1", 1.0),
        (OptimConfig, "beta2", -0.1),
        (OptimConfig, "epsilon", 0.0),
        (OptimConfig, "kind", "sgd"),
        (OptimConfig, "muon_learning_rate", 0.0),
        (OptimConfig, "muon_momentum", 1.0),
        (OptimConfig, "schedule", "linear"),
        (OptimConfig, "decay_fraction", 1.1),
        (SamplingConfig, "max_new_tokens", 0),
        (SamplingConfig, "temperature", -1.0),
        (SamplingConfig, "temperature", math.inf),
        (SamplingConfig, "top_k", 0),
        (SamplingConfig, "top_p", 0.0),
        (SamplingConfig, "top_p", 1.1),
        (SamplingConfig, "seed", -1),
        (SamplingConfig, "seed", 2**63),
        (TokenizerConfig, "pattern", "letters"),
    ],
)
def test_a_bad_value_is_named_with_its_setting(cls, name, value):
    with pytest.raises(ConfigError) as caught:
        cls(**{name: value})
    message = str(caught.value)
    assert name in message
    assert str(value) in message
    assert "\n" not in message
    assert isinstance(caught.value, LLMError)


@pytest.mark.parametrize(
    ("specials", "message"),
    [(("<a>", "<a>"), "twice"), (("<a>", ""), "empty")],
)
def test_special_tokens_must_be_distinct_and_not_empty(specials, message):
    with pytest.raises(ConfigError, match=message):
        TokenizerConfig("word", specials=specials)


def test_special_tokens_are_for_learned_vocabularies():
    assert TokenizerConfig("char", specials=["<a>"]).specials == ("<a>",)
    with pytest.raises(ConfigError, match="gpt2"):
        TokenizerConfig("gpt2", specials=("<a>",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "gpt2", "vocab_size": 300}, "vocab_size is for bpe; 'gpt2' has its own"),
        ({"kind": "bpe", "vocab_size": 300, "pattern": "with_colon"}, "must be one of gpt2, gpt4; got 'with_colon'"),
        ({"kind": "word", "pattern": "gpt2"}, "must be one of with_colon, without_colon, lowercase; got 'gpt2'"),
        ({"kind": "char", "pattern": "gpt2"}, "must be left out; got 'gpt2'"),
        ({"kind": "bpe", "vocab_size": 300, "min_frequency": 0}, "min_frequency must be at least 1, got 0"),
    ],
)
def test_settings_of_a_tokenizer_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        TokenizerConfig(**settings)


def test_embedding_size_must_be_divisible_by_the_number_of_heads():
    with pytest.raises(ConfigError, match=r"n_embd must be divisible by n_head.*10 / 4 leaves 2"):
        GPTConfig(n_embd=10, n_head=4)


@pytest.mark.parametrize("attention", ["dot", "self", "causal"])
def test_kinds_with_one_head_take_any_embedding_size(attention):
    config = GPTConfig(n_embd=10, n_head=4, attention=attention)
    assert (config.heads, config.head_dim) == (1, 10)


def test_heads_share_the_embedding_evenly():
    config = GPTConfig(n_embd=12, n_head=4)
    assert (config.heads, config.head_dim) == (4, 3)


def test_the_size_of_a_head_may_be_given():
    config = GPTConfig(n_embd=10, n_head=4, head_size=6)
    assert (config.heads, config.head_dim) == (4, 6)
    assert replace(config, head_size=None, n_embd=12).head_dim == 3


def test_key_and_value_heads_are_as_many_as_query_heads_unless_given():
    assert GPTConfig(n_embd=12, n_head=4).kv_heads == 4
    assert GPTConfig(n_embd=12, n_head=4, n_kv_head=2).kv_heads == 2
    assert GPTConfig(n_embd=12, n_head=4, attention="causal").kv_heads == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_head": 4, "n_kv_head": 3}, "n_head must be divisible by n_kv_head.*4 / 3 leaves 1"),
        ({"n_kv_head": 0}, "n_kv_head must be at least 1, got 0"),
        ({"head_size": 0}, "head_size must be at least 1, got 0"),
        ({"attention": "causal", "n_kv_head": 1}, "n_kv_head 1 needs attention multi_head, got attention causal"),
        ({"attention": "dot", "head_size": 4}, "head_size 4 needs attention multi_head, got attention dot"),
        ({"attention": "causal", "causal": False}, "the same attention that sees the whole text is called self"),
        ({"positions": "rotary", "head_size": 5}, "head size must be even, got head_size = 5"),
    ],
)
def test_heads_that_can_not_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GPTConfig(**settings)


def test_causality_is_a_value():
    assert GPTConfig().is_causal
    assert not GPTConfig(causal=False).is_causal
    assert GPTConfig(attention="dot", causal=True).is_causal
    assert not EncoderConfig().is_causal


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"causal": True}, "causal must be false"),
        ({"causal": None}, "causal must be false"),
        ({"n_segments": -1}, "n_segments must be from 0"),
        ({"attention": "causal"}, "is called self"),
        ({"n_layer": 0}, "n_layer must be at least 1"),
    ],
)
def test_what_an_encoder_can_not_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        EncoderConfig(**settings)


def test_an_encoder_is_stored_as_primitives():
    config = EncoderConfig(vocab_size=9, n_segments=2)
    assert EncoderConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_which_kinds_see_only_the_past():
    causal = {kind for kind in get_args(AttentionKind) if GPTConfig(attention=kind).is_causal}
    assert causal == {"causal", "multi_head"}


@pytest.mark.parametrize("size", GPT2_SIZES)
def test_gpt2_presets(size):
    config = GPTConfig.gpt2(size)
    assert (config.vocab_size, config.context_length, config.head_dim) == (50257, 1024, 64)
    assert config.to_dict().items() >= GPT2_SIZES[size].items()
    assert config.tie_head


def test_gpt2_preset_takes_overrides_and_names_the_sizes():
    config = GPTConfig.gpt2("124m", context_length=64, n_layer=2)
    assert (config.context_length, config.n_layer, config.n_embd) == (64, 2, 768)
    with pytest.raises(ConfigError, match=r"'7b'.*124m, 355m, 774m, 1558m"):
        GPTConfig.gpt2("7b")
