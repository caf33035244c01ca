"""The rows of new tokens, trained beside frozen tables."""

from dataclasses import replace

import pytest
import torch

from llm.config import ClassifierConfig, GPTConfig, LoRAConfig
from llm.errors import ConfigError
from llm.model import GPT, Classifier
from llm.model.lora import merged
from llm.model.trained import Trained
from llm.training.loss import head_loss, plain_loss

TINY = GPTConfig(vocab_size=17, context_length=8, n_layer=1, n_head=2, n_embd=8, vocab_multiple=8, dropout=0.0)
LORA = LoRAConfig(rank=2, token_rows=3)
SHAPES = {
    "tied": TINY,
    "a head of its own": replace(TINY, tie_head=False),
    "no padding": replace(TINY, vocab_multiple=1),
    "capped logits": replace(TINY, logit_softcap=0.1),
}


@pytest.fixture(params=SHAPES)
def pair(request):
    """A network whose last three rows are trained, and a plain one of the same weights."""
    torch.manual_seed(0)
    plain, network = GPT(SHAPES[request.param]), GPT(SHAPES[request.param])
    network.load_state_dict(plain.state_dict())
    Trained(lora=LORA).apply_to(network)
    return network, plain


def test_the_first_logits_are_those_of_the_weights(pair):
    network, plain = pair
    ids = torch.arange(17)[None, 9:]
    torch.testing.assert_close(network(ids), plain(ids))


def test_rows_and_adapters_are_trained_and_nothing_else(pair):
    network, _ = pair
    trained = {name.rpartition(".")[2] for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {"lora_a", "lora_b", "token_rows"}
    assert network.head.token_rows.shape == (3, 8)
    shared = network.head.weight is network.embeddings.token.weight
    assert (network.head.token_rows is network.embeddings.token.token_rows) == shared


def test_their_gradient_is_that_of_the_rows_of_the_table(pair):
    network, plain = pair
    ids, targets = torch.tensor([[1, 16, 14, 3, 15]]), torch.tensor([[16, 14, 3, 15, 2]])
    for one in (network, plain):
        plain_loss(one.head, one.hidden_states(ids).flatten(0, 1), targets.flatten())[0].backward()
    for ours, theirs in ((network.embeddings.token, plain.embeddings.token), (network.head, plain.head)):
        torch.testing.assert_close(ours.token_rows.grad, theirs.weight.grad[14:17])
        assert ours.weight.grad is None


def test_a_large_vocabulary_has_the_same_gradient():
    torch.manual_seed(0)
    network = GPT(replace(TINY, vocab_size=4100))
    Trained(lora=LORA).apply_to(network)
    with torch.no_grad():
        network.head.token_rows.normal_()
    ids, targets = torch.tensor([[1, 4098, 4099]]), torch.tensor([[4098, 4099, 5]])
    found = []
    for loss in (head_loss, plain_loss):
        states = network.hidden_states(ids).flatten(0, 1)
        value = loss(network.head, states, targets.flatten())[0]
        found.append(
            (value, *torch.autograd.grad(value, [network.head.token_rows, network.embeddings.token.token_rows]))
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_merged_they_are_in_their_place(pair):
    network, plain = pair
    with torch.no_grad():
        network.embeddings.token.token_rows.normal_()
        network.head.token_rows.normal_()
    weights = merged(network.state_dict(), LORA, 17)
    plain.load_state_dict(weights)
    ids = torch.arange(17)[None, 9:]
    torch.testing.assert_close(network(ids), plain(ids))
    assert (weights["head.weight"] is weights["embeddings.token.weight"]) == plain.config.tie_head


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: Trained(lora=replace(LORA, token_rows=18)).apply_to(GPT(TINY)), "at most the 17 tokens, got 18"),
        (lambda: Trained(lora=LORA).apply_to(Classifier(ClassifierConfig(17, 8, 1, 2, 8))), "the next token"),
        (lambda: LoRAConfig(token_rows=2), "needs adapters"),
        (lambda: LoRAConfig(2, token_rows=-1), "must not be negative"),
    ],
)
def test_what_can_not_be_is_refused(network, message):
    with pytest.raises(ConfigError, match=message):
        network()
