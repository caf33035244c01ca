"""The story and the configurations are found from any folder."""

import sys

import pytest

from llm.runtime import shipped


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_in_a_clone_the_top_level_folders_are_shipped():
    assert (shipped.DATA / "story.txt").is_file()
    assert shipped.DEFAULT_CONFIG.is_file()


@pytest.mark.parametrize("option", ["-c", "--config"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_shipped_config_is_found_by_its_path_name(option, joined):
    path = shipped.DEFAULT_CONFIG.parent / "notes" / "dot.yaml"
    name = "configs/notes/dot.yaml"
    words = [f"{option}={name}"] if joined else [option, name]
    expected = [f"{option}={path}"] if joined else [option, str(path)]
    assert shipped.find_configs(["fit", *words, "--seed", "1"]) == (["fit", *expected, "--seed", "1"], [path])


def test_a_file_of_the_working_folder_comes_first(tmp_path):
    own = tmp_path / "configs" / "char.yaml"
    own.parent.mkdir()
    own.touch()
    words = ["fit", "--config", "configs/char.yaml"]
    assert shipped.find_configs(words) == (words, [])


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "char.yaml"],
        ["--config", "configs/none.yaml"],
        ["--config", "configs/../configs/char.yaml"],
        ["--config", "pyproject.toml"],
        ["--config", "configs"],
        ["--config", ""],
        ["--config="],
        ["--config"],
        ["--config", str(shipped.DEFAULT_CONFIG)],
        ["--data.corpus", "configs/char.yaml"],
        ["configs/char.yaml"],
    ],
)
def test_nothing_else_is_taken_for_a_shipped_config(words):
    assert shipped.find_configs(words) == (words, [])


@pytest.mark.parametrize(
    ("script", "command"),
    [("train.py", "python train.py"), ("/usr/bin/llm-train", "llm-train"), ("", "python train.py")],
)
def test_the_command_is_called_as_it_was_typed(monkeypatch, script, command):
    monkeypatch.setattr(sys, "argv", [script, "fit"])
    assert shipped.train_command() == command
