"""What a newcomer types wrongly is answered with what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.__main__ import main as llm_main
from llm.cli.main import main

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def says(capsys, tmp_path, monkeypatch):
    """Runs a command that fails; gives its last lines."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        assert main(list(words), default_config=REPOSITORY / "configs" / "default.yaml") != 0
        return capsys.readouterr().err.strip()

    return run


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--data.validation_share=0.2", "--data.validation_fraction"),
        ("--model.optim.lr=0.1", "--model.optim.learning_rate"),
        ("--model.gpt.num_layers=2", "--model.gpt.n_layer"),
        ("--data.block_size=8", "--data.context_length"),
        ("--trainer.epochs=2", "--trainer.max_epochs"),
    ],
)
def test_a_setting_is_known_by_its_meaning(says, word, meant):
    assert f"did you mean {meant}?" in says("fit", word)


def test_a_setting_of_another_task_is_named_as_such(says):
    assert "it is a setting of the task masked, which --task chooses" in says("fit", "--model.encoder.n_layer=2")
    Path("other.yaml").write_text("model: {encoder: {n_layer: 2}}")
    assert "it is a setting of the task masked" in says("fit", "--config=other.yaml")


def test_all_wrong_names_of_a_file_are_said_at_once(says):
    Path("wrong.yaml").write_text("data: {validation_share: 0.2, batchsize: 4}\ntrainer: {epochs: 3}")
    lines = says("fit", "--config=wrong.yaml").splitlines()
    assert [line.partition("; did you mean ")[2] for line in lines] == [
        "data.validation_fraction?",
        "data.batch_size?",
        "trainer.max_epochs?",
    ]


@pytest.mark.parametrize("name", ["config/char.yaml", "char.yaml", "configs/chars.yaml"])
def test_a_file_that_is_not_there(says, name):
    assert says("fit", "--config", name).endswith(f"there is no file {name!r}; did you mean configs/char.yaml?")


def test_a_task_without_a_command(says):
    assert "give a command first: " in says("--task", "masked")
    assert "fit --task=masked" in says("--task", "masked")


def test_a_command_that_is_nearly_one(capsys):
    assert llm_main(["fil"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'fil'; did you mean fill?\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["neighbours", "--ckpt", "best", "--topk", "3", "word"], "--top_k"),
        (["tokenizer", "show", "--text", "a", "--tokenizr=b"], "--tokenizer"),
    ],
)
def test_an_option_that_is_nearly_one(capsys, words, meant):
    with pytest.raises(SystemExit, match="2"):
        llm_main(words)
    assert capsys.readouterr().err.endswith(f"; did you mean {meant}?\n")
