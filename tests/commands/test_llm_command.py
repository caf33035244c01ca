import importlib
import os
import shlex

import pytest
import torch

from llm.__main__ import main
from llm.config import EncoderConfig, GPTConfig
from llm.data.chat.templates import ChatTemplate
from llm.model.networks import build_network
from llm.pretrained.checkpoint import ENTRY, checkpoint_of
from llm.tasks import TASKS
from llm.tokenizers import MASK, CharTokenizer, Roles

TEMPLATE = "{% for message in messages %}{{ message.content + '[MASK]' }}{% endfor %}"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_commands_of_training_are_named_with_their_script(command, capsys):
    assert main([command, "--data.corpus", "my text.txt"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    told = shlex.split(err.rpartition(": use ")[2])
    assert told == ["python", "train.py", command, "--data.corpus", "my text.txt"]


def test_help_names_what_trains(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python train.py fit" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs, the newest last: two of the task `language`, one of `masked`."""
    monkeypatch.chdir(tmp_path)
    tokenizer = CharTokenizer.from_text("the cat").with_special(MASK)
    for when, (name, task, kind) in enumerate(
        (("old", "language", GPTConfig), ("new", "language", GPTConfig), ("masked", "masked", EncoderConfig)), start=1
    ):
        model = build_network(kind(tokenizer.vocab_size, 16, n_layer=1, n_head=2, n_embd=8))
        folder = tmp_path / "runs" / name / "checkpoints"
        folder.mkdir(parents=True)
        for file in ("best.ckpt", "last.ckpt"):
            content = checkpoint_of(model.config, model.state_dict(), tokenizer)
            content[ENTRY]["task"] = task
            torch.save(content, folder / file)
            os.utime(folder / file, (when, when))
    return tmp_path / "runs"


@pytest.mark.parametrize("name", ["best", "last"])
@pytest.mark.parametrize(
    ("words", "run"),
    [
        (["generate", "--prompt=the", "--max_new_tokens=2"], "new"),
        (["trace", "--text=the"], "new"),
        (["fill", "--text=t[MASK]e"], "masked"),
        (["export", "--out=out.safetensors", "--format=safetensors"], "masked"),
        (["neighbours", "t"], "masked"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_best_and_last_are_of_the_newest_run_of_a_fitting_task(runs, capsys, words, name, run):
    status = main([*words, "--ckpt", name])
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == f"checkpoint: runs/{run}/checkpoints/{name}.ckpt"
    assert status == 0 or words[0] == "export"  # there is no format for an encoder


@pytest.mark.parametrize("stated", ["by its tokenizer", "by itself", "nowhere"])
def test_chat_uses_the_newest_run_with_a_chat_template(runs, capsys, stated):
    """Such as a published assistant that was tuned on plain text."""
    path = runs / "old" / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    if stated == "by its tokenizer":
        content[ENTRY]["tokenizer"]["roles"] = Roles(chat_template=TEMPLATE).to_dict()
    elif stated == "by itself":
        content[ENTRY] |= {"task": "instruct", "template": ChatTemplate.find(TEMPLATE).to_dict()}
    torch.save(content, path)
    os.utime(path, (1, 1))
    status, said = main(["chat", "--ckpt=best", "--prompt=cat", "--max_new_tokens=2"]), capsys.readouterr().err
    if stated == "nowhere":
        assert (status, said.startswith("error: there is no best.ckpt of the task language or")) == (1, True)
        assert "with a chat template" in said
    else:
        assert (status, said.splitlines()[0]) == (0, "checkpoint: runs/old/checkpoints/best.ckpt"), said


def test_where_no_run_fits_the_task_is_named(runs, capsys):
    assert main(["classify", "--ckpt=best", "--text=the"]) == 1
    message = "there is no best.ckpt of the task classify in 'runs' and below; name a checkpoint by its file"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_command_is_for_the_task_that_is_used_with_it():
    for word, task in TASKS.items():
        used = importlib.import_module(f"llm.commands.{task.usage[0]}")
        assert getattr(used, "TASK", word) == word
