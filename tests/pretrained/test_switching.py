"""Several adapters on one base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from adapted import EVERYWHERE, TINY, adapted, base, write

import llm
from llm.config import LoRAConfig
from llm.errors import CheckpointError, ConfigError
from llm.model.trained import Trained

UNTIED = dataclasses.replace(TINY, tie_head=False)
IDS = torch.arange(8)[None]
KINDS = {
    "everywhere": Trained(lora=EVERYWHERE),
    "one layer": Trained(lora=LoRAConfig(rank=1, modules=("blocks.1.mlp.expand",))),
    "with head": Trained(["lora", "head"], EVERYWHERE),
    "bfloat16": Trained(lora=dataclasses.replace(EVERYWHERE, base_precision="bfloat16")),
}


@torch.no_grad()
def test_each_gives_its_own_logits_in_any_order_and_none_gives_those_of_the_base(tmp_path: Path) -> None:
    adapters = llm.Adapters(llm.load(base(tmp_path / "base.ckpt", UNTIED)).model)
    expected = {None: adapters.network(IDS)}
    before = {name: tensor.clone() for name, tensor in adapters.network.state_dict().items()}
    for seed, (name, trained) in enumerate(KINDS.items()):
        network = adapted(trained, UNTIED, seed + 1)
        adapters.add(name, write(network, trained, tmp_path / f"{seed}.ckpt"))
        expected[name] = network(IDS)  # type: ignore[index]
    for name in ("with head", "everywhere", None, "bfloat16", "with head", "one layer", "one layer", None):
        assert torch.equal(adapters.use(name)(IDS), expected[name])  # type: ignore[index]
        assert adapters.used == name
    after = adapters.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_does_not_belong_is_refused_and_what_was_used_still_is(tmp_path: Path) -> None:
    trained = KINDS["everywhere"]
    adapters = llm.Adapters(llm.load(base(tmp_path / "base.ckpt")).model)
    adapters.add("first", write(adapted(trained), trained, tmp_path / "first.ckpt"))
    logits = adapters.use("first")(IDS)
    other = adapted(trained)
    with torch.no_grad():
        other.final_norm.bias += 1  # type: ignore[operator, union-attr]
    with pytest.raises(CheckpointError, match=r"another base: its final_norm\.bias"):
        adapters.add("other", write(other, trained, tmp_path / "other.ckpt"))
    more = dataclasses.replace(TINY, vocab_size=50259)
    with pytest.raises(CheckpointError, match=r"has 50,259 tokens, and the base 50,257: .*merge them"):
        adapters.add("more", write(adapted(trained, more), trained, tmp_path / "more.ckpt"))
    with pytest.raises(CheckpointError, match="has no adapters"):
        adapters.add("base", tmp_path / "base.ckpt")
    with pytest.raises(ConfigError, match=r"no adapters 'frist', did you mean 'first'\? there are first"):
        adapters.use("frist")
    assert torch.equal(adapters.network(IDS), logits)
