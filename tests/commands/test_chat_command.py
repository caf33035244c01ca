"""`python -m llm chat`, and the way of a template from a run to other programs."""

from __future__ import annotations

import io
import json
import sys

import pytest
import torch

from llm.__main__ import main
from llm.config import GPTConfig
from llm.data.chat.messages import Message
from llm.data.chat.templates import ChatTemplate
from llm.model import GPT
from llm.pretrained import read_pretrained
from llm.pretrained.checkpoint import checkpoint_of, write_checkpoint
from llm.tokenizers import BytePairTokenizer
from llm.tokenizers.learning import learn_byte_pairs

VOCABULARY = learn_byte_pairs(["one two three four five six"], 270, "gpt2", ["<|endoftext|>"], 2)
TEMPLATE = ChatTemplate.find("phi3")
TOKENIZER = TEMPLATE.prepare(BytePairTokenizer(*VOCABULARY))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that answers `one`, whatever it is asked."""
    path = tmp_path_factory.mktemp("chat") / "model.ckpt"
    torch.manual_seed(0)
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 96, n_layer=1, n_head=2, n_embd=32, dropout=0.0, tie_head=False))
    encode, end = TOKENIZER.encode, TEMPLATE.end_of_answer(TOKENIZER)
    answer = [*encode("one"), end]
    texts = [encode(f"<|user|>\n{text}<|end|>\n<|assistant|>\n") + answer for text in ("six", "two three", "five", "x")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        for ids in texts:
            logits = model(torch.tensor([ids[:-1]]))[0, -len(answer) :]
            torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).backward()
        optimizer.step()
        optimizer.zero_grad()
    template = {**TEMPLATE.to_dict(), "end": "<|end|>"}
    write_checkpoint(checkpoint_of(model.config, model.state_dict(), TOKENIZER, template), path)
    return str(path)


@pytest.fixture
def chat(trained, monkeypatch, capsys):
    def chat(*words, said="", terminal=False):
        monkeypatch.setattr(sys, "stdin", (Terminal if terminal else io.StringIO)(said))
        status = main(["chat", "--ckpt", trained, *words])
        return status, *capsys.readouterr()

    return chat


def test_one_message_is_answered(chat):
    assert chat("--prompt", "six") == (0, "one\n", "")
    assert chat("--prompt", "-", said="five\n") == (0, "one\n", "")


def test_a_message_that_is_longer_than_the_context_is_cut_and_that_is_said(chat):
    status, _, errors = chat("--prompt", "six " * 200)
    assert (status, errors) == (0, "(the message did not fit into the context: its end was not read)\n")
    _, _, errors = chat(said="six " * 200 + "\n/reset\nsix\n")
    assert errors.count("its end was not read") == 1


def test_a_conversation_line_by_line(chat):
    status, output, errors = chat(said="six\n\n/system Be brief.\n/system\n/reset\nfive\n/quit\nnever read\n")
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        "one",
        "(a new conversation, with this system message)",
        "(system: Be brief.)",
        "(a new conversation)",
        "one",
    ]


def test_at_a_terminal_it_says_what_can_be_said(chat):
    status, output, _ = chat(said="/what\n", terminal=True)
    assert status == 0, "the end of the input ends it"
    assert "/reset begins again" in output
    assert "there is no /what" in output


def test_what_can_not_be_encoded_is_said_and_the_chat_goes_on(chat):
    status, output, errors = chat(said="a <|end|> b\nsix\n")
    assert (status, output) == (0, "\none\n")
    assert errors.startswith("error: ")
    assert "holds the special token <|end|>" in errors


def test_an_interrupt_ends_the_answer_and_then_the_chat(chat, monkeypatch):
    from llm.generation.chat import Chat

    def interrupted(self, text):
        yield "on"
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "ask", interrupted)
    assert chat(said="six\nfive\n") == (0, "on\non\n", "")
    assert chat("--prompt", "six") == (130, "on\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", " "], "the prompt is empty"),
        (["--prompt", "a", "--template", "chatml"], "the template needs the token(s) <|im_start|>, <|im_end|>"),
        (["--prompt", "a", "--template", "nothing"], "there is no template 'nothing'"),
        (["--prompt", "a", "--temperature", "-1"], "temperature must be at least 0"),
        (["--prompt", "a <|end|>"], "holds the special token"),
    ],
)
def test_what_can_not_be_used_is_one_line(chat, words, said):
    status, _, errors = chat(*words)
    assert status == 1
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_a_model_that_was_not_trained_to_answer_is_refused(tmp_path, capsys):
    config = GPTConfig(TOKENIZER.vocab_size, 32, n_layer=1, n_head=1, n_embd=8)
    write_checkpoint(checkpoint_of(config, GPT(config).state_dict(), TOKENIZER), tmp_path / "plain.ckpt")
    assert main(["chat", "--ckpt", str(tmp_path / "plain.ckpt"), "--prompt", "a"]) == 1
    assert "has no chat template" in capsys.readouterr().err
    assert main(["chat", "--ckpt", str(tmp_path / "plain.ckpt"), "--prompt", "a", "--template", "phi3"]) == 0


def test_the_template_goes_with_an_export(trained, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "exported"
    assert main(["export", "--ckpt", trained, "--out", str(folder)]) == 0, capsys.readouterr().err
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    talk = [{"role": "user", "content": "two three"}]
    text = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    pieces = TEMPLATE.pieces([Message("user", "two three")], TOKENIZER, for_answer=True)
    assert text == "".join(piece.text for piece in pieces)
    ids = tokenizer(text, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=20, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(written) == "one<|end|>", "and it stops by itself"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == sorted(
        [TOKENIZER.end_of_text_id, TEMPLATE.end_of_answer(TOKENIZER)]
    )


def test_the_template_goes_with_a_shared_file_and_an_import(trained, tmp_path):
    shared, back = str(tmp_path / "shared.safetensors"), str(tmp_path / "back.ckpt")
    assert main(["export", "--ckpt", trained, "--out", shared, "--format", "safetensors"]) == 0
    assert main(["import", "--from", shared, "--out", back]) == 0
    assert read_pretrained(back).template == read_pretrained(trained).template
    assert main(["chat", "--ckpt", back, "--prompt", "six"]) == 0
