"""A shorter context, other padding, a head of its own: what stays the same."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import GPTConfig, LoRAConfig
from llm.errors import ConfigError
from llm.model import GPT
from llm.model.trained import Trained
from llm.pretrained import Pretrained, adapt, begin_with, build, export
from llm.pretrained.written_tokenizer import write_tokenizer
from llm.tokenizers import CharTokenizer

CONFIG = GPTConfig(vocab_size=17, context_length=8, n_layer=2, n_head=2, n_embd=8, dropout=0.0)


def pretrained(config=CONFIG):
    torch.manual_seed(0)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Pretrained("llm", config, model.state_dict()), model


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(ids)


@given(T=st.integers(1, 8), multiple=st.integers(1, 70), before=st.integers(1, 70), tied=st.booleans())
def test_no_logit_of_a_real_token_changes(T, multiple, before, tied):
    found, ours = pretrained(replace(CONFIG, vocab_multiple=before, tie_head=tied))
    adapted = adapt(found, replace(found.config, context_length=T, vocab_multiple=multiple))
    model = build(adapted)
    ids = torch.randint(17, (3, T))
    assert logits(model, ids).shape == (3, T, 17)
    assert torch.allclose(logits(model, ids), logits(ours, ids), atol=1e-6)
    assert len(model.head.weight) % multiple == 0
    assert model.embeddings.position.weight.shape == (T, 8)
    assert found.weights["embeddings.position.weight"].shape == (8, 8)


def test_the_first_positions_are_kept():
    found, _ = pretrained()
    positions = adapt(found, replace(CONFIG, context_length=5)).weights["embeddings.position.weight"]
    assert torch.equal(positions, found.weights["embeddings.position.weight"][:5])


def test_padding_learns_nothing():
    found, _ = pretrained()
    model = build(adapt(found, replace(CONFIG, vocab_multiple=64)))
    model(torch.randint(17, (2, 8))).logsumexp(-1).sum().backward()
    assert model.head.weight.grad[:17].abs().sum() > 0
    assert model.head.weight.grad[17:].abs().sum() == 0


def test_a_shared_head_may_get_its_own_copy():
    found, ours = pretrained()
    model = build(adapt(found, replace(CONFIG, tie_head=False)))
    assert model.head.weight.data_ptr() != model.embeddings.token.weight.data_ptr()
    ids = torch.randint(17, (2, 8))
    assert torch.equal(logits(model, ids), logits(ours, ids))


def test_what_differs_otherwise_is_listed():
    found, _ = pretrained(replace(CONFIG, tie_head=False))
    with pytest.raises(ConfigError) as caught:
        adapt(found, replace(CONFIG, n_layer=3, activation="relu", context_length=9, vocab_size=18))
    message = str(caught.value)
    for part in (
        "n_layer (2 in the weights, 3 requested)",
        "activation (gelu in the weights, relu requested)",
        "vocab_size (17 in the weights, 18 requested)",
        "the weights have 8 positions, 9 requested",
        "tie_head",
    ):
        assert part in message


def test_a_new_token_in_the_place_of_a_row_that_no_token_had_is_trained(tmp_path):
    found, _ = pretrained(replace(CONFIG, vocab_size=32))
    export(found, tmp_path / "base")
    write_tokenizer(CharTokenizer("abcdefghijklmnopq"), tmp_path / "base", 8)  # 17 of 32 rows
    network = GPT(replace(CONFIG, vocab_size=19, vocab_multiple=32))
    begun = begin_with(network, tmp_path / "base", grows_vocabulary=True)
    assert begun == (2, "gpt2")
    Trained(lora=LoRAConfig(rank=1).with_new_tokens(begun.n_new)).apply_to(network)
    rows = network.embeddings.token.token_rows
    assert rows.requires_grad
    assert torch.equal(rows, network.head.weight[17:19])
    assert not torch.equal(rows, found.weights["head.weight"][17:19]), "they begin as the mean of the others"
    network(torch.tensor([[0, 17, 18]])).logsumexp(-1).sum().backward()
    assert rows.grad.abs().sum(1).all()
    assert torch.equal(network.head.weight[:17], found.weights["head.weight"][:17])
