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


@pytest.fixture(scope="session")
def hugging_face_twin():
    """A function that builds Hugging Face's GPT-2 with the weights of ours."""
    transformers = pytest.importorskip("transformers")
    parts = {
        "embeddings.token": "transformer.wte",
        "embeddings.position": "transformer.wpe",
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.projection": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.expand": "mlp.c_fc",
        "mlp.projection": "mlp.c_proj",
        "final_norm": "transformer.ln_f",
        "blocks": "transformer.h",
        "head": "lm_head",
    }

    def build(model):
        config = model.config
        twin = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=config.vocab_size,
                n_positions=config.context_length,
                n_embd=config.n_embd,
                n_layer=config.n_layer,
                n_head=config.n_head,
            )
        ).eval()
        state = {}
        for name, tensor in model.state_dict().items():
            for part, other in parts.items():
                name = name.replace(part, other)
            state[name] = tensor.T if name.endswith("weight") and ".c_" in name else tensor  # Conv1D is (in, out)
        twin.load_state_dict(state)
        return twin

    return build
