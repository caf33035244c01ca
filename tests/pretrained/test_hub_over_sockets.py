"""Published weights by name, fetched by huggingface_hub from a server on this machine."""

import socket

import pytest
import torch
from hub_server import HubServer

from llm.cli.main import main
from llm.errors import CheckpointError
from llm.pretrained import load

constants = pytest.importorskip("huggingface_hub.constants")
transformers = pytest.importorskip("transformers")
NAME = "tiny-lab/tiny-llama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama, and a tokenizer with a token for each letter."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=27, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ")}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub that has it, an empty cache, and a directory where no folder is in the way."""
    monkeypatch.chdir(tmp_path)
    with HubServer(NAME, folder) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        point_to(monkeypatch, server.url)
        yield server


def point_to(monkeypatch, url):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


def asked(hub, name):
    return [request for request in hub.requests if request[0] == "GET" and request[1].endswith(name)]


def test_fit_begins_with_a_name_of_the_hub(hub, folder, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the cat sat on the mat and the dog sat on the cat " * 20)
    words = ["fit", "--model.pretrained", NAME, "--data.corpus", str(corpus), "--data.context_length", "8"]
    words += ["--data.batch_size=2", "--trainer.max_steps=1", "--trainer.accelerator=cpu"]
    assert main(words) == 0
    found = load(NAME)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([found.tokenizer.encode("the cat")])
    with torch.no_grad():
        assert torch.allclose(found.model(ids), theirs(ids).logits, atol=1e-5)
    assert len(asked(hub, "model.safetensors")) == 1, "the second time it was here"


def test_sentencepieces_file_is_fetched_and_the_weights_only_once(hub):
    hub.files |= {"tokenizer.model": b"pieces", "consolidated.safetensors": hub.files["model.safetensors"]}
    load(NAME)
    assert len(asked(hub, "tokenizer.model")) == len(asked(hub, "/model.safetensors")) == 1
    assert not asked(hub, "consolidated.safetensors")


def test_a_download_that_breaks_off_goes_on_where_it_was(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what has come in whole chunks is kept
    hub.breaks["model.safetensors"] = 5_000
    load(NAME)
    assert [request[2] for request in asked(hub, "model.safetensors")] == [None, "bytes=4096-"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_what_the_hub_states_is_refused_and_fetched_again(hub, name):
    hub.damaged[name] = hub.files[name][:-1] + b"!"
    with pytest.raises(CheckpointError, match=rf"{name}' came damaged: expected .*, got .*start again") as caught:
        load(NAME)
    assert "\n" not in str(caught.value)
    hub.damaged = {}
    assert load(NAME).model.config.n_embd == 16


def test_a_file_of_another_size_is_refused(hub):
    hub.damaged["model.safetensors"] = hub.files["model.safetensors"][:-9]
    with pytest.raises(CheckpointError, match=r"the download of tiny-lab/tiny-llama stopped .*start again"):
        load(NAME)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "RepoNotFound"), "the hub has no tiny-lab/tiny-llama, or it is private: check the name, or sign in"),
        ((404, "RepoNotFound"), "the hub has no tiny-lab/tiny-llama, or it is private: check the name, or sign in"),
        ((403, "GatedRepo"), "tiny-lab/tiny-llama is gated: ask for access"),
    ],
)
def test_what_the_hub_does_not_give(hub, refusal, message):
    hub.refusal = refusal
    with pytest.raises(CheckpointError, match=message) as caught:
        load(NAME)
    assert "into a folder 'tiny-lab/tiny-llama' here" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_network(hub, monkeypatch):
    with socket.socket() as unheard:  # bound and not listening: connections are refused
        unheard.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        point_to(monkeypatch, nowhere)
        with pytest.raises(CheckpointError, match=r"no network.*into a folder 'tiny-lab/tiny-llama' here"):
            load(NAME)
        point_to(monkeypatch, hub.url)
        load(NAME)
        point_to(monkeypatch, nowhere)
        assert load(NAME).model.config.n_embd == 16, "an earlier download has to do"
