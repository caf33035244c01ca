"""What word vectors predict with, against a loop."""

import pytest
import torch

from llm.config import WordVectorsConfig
from llm.data.contexts import contexts_of
from llm.errors import ConfigError
from llm.model import WordVectors


def test_a_bag_is_the_mean_of_its_context_and_a_skip_gram_the_word():
    torch.manual_seed(0)
    ids, reach, lengths = torch.randint(7, (2, 6)), torch.randint(1, 3, (2, 6)), torch.tensor([6, 4])
    others, sizes = (torch.from_numpy(part) for part in contexts_of(reach.numpy(), lengths.numpy()))
    contexts = others.split(sizes.flatten().tolist())
    skip_gram = WordVectors(WordVectorsConfig(7, 4))
    assert torch.equal(skip_gram(ids, others, sizes), skip_gram.token.weight[ids])
    bag = WordVectors(WordVectorsConfig(7, 4, "cbow"))
    found = bag(ids, others, sizes)
    for row in range(2):
        for place in range(6):
            words = ids.flatten()[contexts[6 * row + place]]
            expected = bag.token.weight[words].mean(0) if len(words) else torch.zeros(4)
            torch.testing.assert_close(found[row, place], expected)


def test_at_first_every_logit_is_zero():
    network = WordVectors(WordVectorsConfig(7, 4))
    assert not network.predicted.weight.any()
    assert network.token.weight.abs().max() <= 0.5 / 4
    assert network.n_parameters == 2 * 7 * 4


def test_settings_that_can_not_be():
    with pytest.raises(ConfigError, match=r"(?s)n_embd.*negatives"):
        WordVectorsConfig(n_embd=0, negatives=0)
