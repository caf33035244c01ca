"""The classifier: the last real token is found by length, whatever stands in the padding and however much there is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import ClassifierConfig
from llm.errors import ConfigError
from llm.model import GPT, Classifier, build_network, last_real


def make(config):
    torch.manual_seed(0)
    network = build_network(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@given(
    attention=st.sampled_from(["multi_head", "self", "causal"]),
    positions=st.sampled_from(["learned", "rotary"]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    pads=st.integers(0, 6),
    pad=st.integers(0, 16),
    side=st.sampled_from(["right", "left"]),
)
def test_neither_the_number_of_pads_nor_their_id_nor_their_side_matters(attention, positions, lengths, pads, pad, side):
    config = ClassifierConfig(17, 12, 2, 2, 8, attention=attention, positions=positions, labels=("a", "b", "c"))
    network = make(config)
    texts = [torch.randint(17, (n,)) for n in lengths]
    alone = torch.cat([network(text[None]) for text in texts])
    T = max(lengths) + pads
    rows = torch.full((len(texts), T), pad)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
        if side == "left":
            row[:] = torch.cat([row[len(text) :], text])
    torch.testing.assert_close(network(rows, torch.tensor(lengths), side), alone, atol=1e-5, rtol=1e-4)


def test_a_pad_id_within_a_text_is_a_token_like_any_other():
    network = make(ClassifierConfig(17, 8, 1, 2, 8))
    ids, ending = torch.tensor([[3, 0, 5, 0, 0]]), torch.tensor([4])
    assert torch.equal(network(ids, ending), network(ids[:, :4]))
    assert not torch.equal(network(ids, ending), network(ids[:, :3]))


def test_what_stands_at_the_last_token():
    values = torch.arange(12).view(3, 4)
    assert last_real(values).tolist() == [3, 7, 11]
    assert last_real(values, torch.tensor([1, 4, 2])).tolist() == [0, 7, 9]
    assert last_real(values, torch.tensor([1, 4, 2]), "left").tolist() == [3, 7, 11]
    assert last_real(values[..., None], torch.tensor([2, 2, 2])).shape == (3, 1)


def test_it_is_a_gpt_but_for_its_head():
    config = ClassifierConfig(17, 8, 2, 2, 8, tie_head=False, labels=("a", "b", "c"))
    classifier, gpt = Classifier(config).eval(), GPT(config).eval()
    theirs = gpt.state_dict()
    names = {name for name in classifier.state_dict() if not name.startswith("head.")}
    assert names == {name for name in theirs if not name.startswith("head.")}
    classifier.load_state_dict({**classifier.state_dict(), **{name: theirs[name] for name in names}})
    ids = torch.randint(17, (2, 8))
    assert torch.equal(classifier.hidden_states(ids), gpt.hidden_states(ids))
    assert classifier(ids).shape == (2, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("a",), "at least two, got 1"), (("a", "a"), "the same label twice"), ((0, 1), "labels must be strings")],
)
def test_labels_are_different_strings(labels, message):
    with pytest.raises(ConfigError, match=message):
        ClassifierConfig(labels=labels)


def test_its_settings_are_primitives():
    config = ClassifierConfig(17, 8, 1, 1, 4, labels=["x", "y"])
    assert config.to_dict()["labels"] == ["x", "y"]
    assert ClassifierConfig(**config.to_dict()) == config
    assert config.n_logits == 2
