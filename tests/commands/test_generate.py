import io
import json
import sys

import pytest
import torch
from torch import nn

from llm.__main__ import main
from llm.config import GPTConfig, SamplingConfig
from llm.generation import stream_text
from llm.model import GPT
from llm.pretrained import load
from llm.pretrained.checkpoint import ENTRY, WEIGHTS_PREFIX, describe
from llm.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer.from_text("abcdefghij .", ("<|endoftext|>",))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A trained model's file, as far as this command can tell."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=TOKENIZER.vocab_size, context_length=16, n_layer=1, n_head=2, n_embd=8))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    state = {f"{WEIGHTS_PREFIX}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({ENTRY: describe(model.config, TOKENIZER), "state_dict": state}, path)
    return str(path)


@pytest.fixture
def generate(checkpoint, capsys, monkeypatch):
    """Run the command; gives exit status, output and errors."""

    def run(*words, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main(["generate", "--ckpt", checkpoint, "--max_new_tokens", "10", *words])
        return status, *capsys.readouterr()

    return run


def records(output):
    return [json.loads(line) for line in output.splitlines()]


def test_one_prompt_is_printed_with_its_continuation(generate):
    status, output, errors = generate("--prompt", "abc")
    assert status == 0
    assert output.startswith("abc")
    assert 3 < len(output.rstrip("\n")) <= 13
    assert not errors
    assert generate("--prompt", "abc") == (status, output, errors)
    assert generate("--prompt", "abc", "--seed", "5")[1] != output


def test_json_says_the_same(generate):
    _, output, _ = generate("--prompt", "abc")
    status, lines, _ = generate("--prompt", "abc", "--json")
    (record,) = records(lines)
    assert status == 0
    assert record["prompt"] + record["continuation"] == output.rstrip("\n")
    assert list(record) == ["prompt", "sample", "continuation", "tokens", "end"]
    assert record["end"] == ("length" if record["tokens"] == 10 else "stop")


def test_prompts_come_from_arguments_a_file_or_standard_input(generate, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("abc\n\nj d.\n", encoding="utf-8")
    _, expected, _ = generate("--prompt", "abc", "--prompt", "j d.", "--json")
    assert [record["prompt"] for record in records(expected)] == ["abc", "j d."]
    assert generate("--prompt_file", str(path), "--json")[1] == expected
    assert generate("--json", stdin=b"abc\r\n\r\nj d.")[1] == expected
    assert generate("--prompt", "-", "--json", stdin=b"abc\r\n\r\nj d.")[1] == expected
    assert generate("--json", "--batch_size", "1", stdin=b"abc\nj d.")[1] == expected


def test_several_samples(generate):
    _, lines, _ = generate("--prompt", "abc", "--n", "3", "--json")
    found = records(lines)
    assert [record["sample"] for record in found] == [0, 1, 2]
    assert len({record["continuation"] for record in found}) == 3
    _, output, _ = generate("--prompt", "abc", "--n", "3")
    assert output == "\n---\n".join(f"abc{record['continuation']}\n" for record in found)


def test_every_option_reaches_the_sampling(generate):
    _, lines, _ = generate("--prompt", "abc", "--json")
    (free,) = records(lines)
    stop = free["continuation"][3]
    _, lines, _ = generate("--prompt", "abc", "--json", "--stop", stop)
    assert records(lines)[0]["continuation"] == free["continuation"].split(stop)[0]
    _, lines, _ = generate("--prompt", "abc", "--json", "--stop_id", str(TOKENIZER.encode(stop)[0]))
    assert records(lines)[0]["continuation"] == free["continuation"].split(stop)[0]
    greedy = generate("--prompt", "abc", "--temperature", "0")[1]
    assert generate("--prompt", "abc", "--top_k", "1")[1] == greedy
    assert generate("--prompt", "abc", "--top_p", "1e-6")[1] == greedy
    assert generate("--prompt", "abc", "--min_p", "1")[1] == greedy
    penalised = generate("--prompt", "abc", "--temperature", "0", "--repetition_penalty", "1e6")[1]
    assert len(set(penalised)) > len(set(greedy))
    assert generate("--prompt", "abc", "--precision", "bfloat16")[0] == 0


def test_an_empty_prompt_begins_from_the_end_of_text(generate, checkpoint):
    status, text, _ = generate("--prompt", "", "--temperature", "0")
    assert status == 0
    end = torch.tensor([TOKENIZER.end_of_text_id])
    sampling = SamplingConfig(temperature=0, max_new_tokens=10)
    assert text == "".join(stream_text(*load(checkpoint), end, sampling)) + "\n"


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["--prompt", "xyz"], None, "unknown character 'x'"),
        (["--prompt_file", "gone.txt"], None, "can't read 'gone.txt'"),
        ([], b"", "standard input is empty"),
        ([], b"abc\nxyz", "standard input, prompt on line 2: unknown character 'x'"),
        ([], b"\xff", "standard input is not UTF-8 text at byte 0"),
        (["--prompt", "a", "--min_p", "2"], None, "min_p must be from 0 to 1"),
        (["--prompt", "a", "--n", "0"], None, "n_samples must be at least 1"),
        (["--prompt", "a", "--stop", ""], None, "stop holds an empty string"),
        (["--prompt", "a", "--batch_size", "0"], None, "batch_size must be at least 1"),
    ],
)
def test_one_line_for_what_can_not_be(generate, words, stdin, message):
    status, output, errors = generate(*words, stdin=stdin)
    assert status == 1
    assert not output
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_no_prompt_at_a_terminal(generate, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    status, _, errors = generate()
    assert status == 1
    assert "nothing to continue: give --prompt TEXT" in errors


def test_a_prompt_longer_than_the_context_is_said_to_be(generate):
    status, output, errors = generate("--prompt", "abcdefghij" * 2, "--prompt", "a")
    assert status == 0
    assert "warning: prompt 1 has 20 tokens; the model sees the last 16" in errors
    assert output.startswith("abcdefghij" * 2)
