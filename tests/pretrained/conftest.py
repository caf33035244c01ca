"""Small random models of Hugging Face's, in folders."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test may ask the network

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()


@pytest.fixture
def hugging_face(tmp_path):
    """Makes a random GPT-2 in a folder, and gives the model and the folder."""

    def make(name="hf", seed=0, attention="eager", **settings):
        torch.manual_seed(seed)
        sizes = {"vocab_size": 61, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}
        ends = {"bos_token_id": None, "eos_token_id": None}
        config = transformers.GPT2Config(**(sizes | ends | settings))
        config._attn_implementation = attention
        model = transformers.GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():  # large enough for every part of the model to matter
            nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return make


@pytest.fixture
def gpt2_tokenizer():
    """Hugging Face's tokenizer from GPT-2's files."""
    from llm.tokenizers import gpt2_files

    merges, vocabulary = gpt2_files()
    return transformers.GPT2Tokenizer(vocab=str(vocabulary), merges=str(merges))
