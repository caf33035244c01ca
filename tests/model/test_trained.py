"""Which parameters are trained."""

from __future__ import annotations

import dataclasses

import pytest
from torch import nn

from llm.config import EncoderConfig, GPTConfig, LoRAConfig
from llm.errors import ConfigError
from llm.model import GPT, build_network
from llm.model.trained import Trained, count_trained

TINY = GPTConfig(vocab_size=50, context_length=8, n_layer=3, n_head=2, n_embd=16)
UNTIED = dataclasses.replace(TINY, tie_head=False)
LORA = LoRAConfig(rank=2)


def trained_in(config: GPTConfig, trained: Trained) -> set[str]:
    """The names of what is trained, cut to the first two parts."""
    network = build_network(config)
    trained.apply_to(network)
    names = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    return {".".join(name.split(".")[:2]) for name in names}


def test_everything_is_trained_unless_said_otherwise() -> None:
    network = GPT(TINY)
    Trained().apply_to(network)
    assert count_trained(network) == network.n_parameters


@pytest.mark.parametrize(
    ("config", "train", "expected"),
    [
        (UNTIED, "head", {"head.weight"}),
        (TINY, "head", {"embeddings.token"}),  # the same weights, and the name that comes first
        (UNTIED, "last_block", {"blocks.2", "final_norm.weight", "final_norm.bias", "head.weight"}),
        (TINY, "last_block", {"blocks.2", "final_norm.weight", "final_norm.bias"}),
        (UNTIED, ["blocks.1", "final_norm.bias"], {"blocks.1", "final_norm.bias"}),
        (UNTIED, ["*.attention.*", "head"], {"blocks.0", "blocks.1", "blocks.2", "head.weight"}),
        (EncoderConfig(n_embd=16, vocab_size=50, tie_head=False), "head", {"head.dense", "head.norm", "head.output"}),
    ],
)
def test_words_and_patterns(config: GPTConfig, train: list[str] | str, expected: set[str]) -> None:
    assert trained_in(config, Trained(train)) == expected


def test_with_adapters_they_alone_are_trained() -> None:
    network = GPT(TINY)
    Trained(lora=LORA).apply_to(network)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert names
    assert all(name.endswith(("lora_a", "lora_b")) for name in names)
    assert count_trained(network) == 3 * 2 * ((16 + 48) + (16 + 16) + (64 + 16))


def test_adapters_and_a_head() -> None:
    assert "head.weight" in trained_in(UNTIED, Trained(["lora", "head"], LORA))


@pytest.mark.parametrize("train", ["lora", "last_block", "blocks.0"])
def test_new_parts_are_trained_whatever_is_said(train: str) -> None:
    assert "head.weight" in trained_in(UNTIED, Trained(train, LORA, new=("head.*",)))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("haed", "did you mean 'head'"),
        ("blocks.7", "no parameter is called 'blocks.7'"),
        ("attention", "there is all, head, last_block, lora, or names that begin with embeddings, blocks, final_norm"),
        ("lora", "give model.lora.rank"),
    ],
)
def test_what_names_nothing_is_refused_with_what_there_is(train: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trained(train).apply_to(GPT(TINY))


def test_to_train_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.train is empty"):
        Trained([]).apply_to(GPT(TINY))


def test_a_network_without_blocks_has_no_last_one() -> None:
    with pytest.raises(ConfigError, match="no blocks"):
        Trained("last_block").apply_to(nn.Sequential(nn.Linear(2, 3)))
