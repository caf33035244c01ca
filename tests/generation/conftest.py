import pytest
import torch
from torch import nn

from llm.config import GPTConfig
from llm.model import GPT


def make(seed=0, std=0.3, **settings):
    torch.manual_seed(seed)
    config = {"vocab_size": 50, "context_length": 16, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.1}
    model = GPT(GPTConfig(**{**config, **settings})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


@pytest.fixture(scope="session")
def make_model():
    """A function that builds a small GPT whose weights are large enough for every part to matter."""
    return make


@pytest.fixture(scope="session")
def prompts():
    """Prompts of several lengths, one longer than the context."""
    torch.manual_seed(1)
    return [torch.randint(50, (length,)) for length in (3, 1, 16, 9, 25)]
