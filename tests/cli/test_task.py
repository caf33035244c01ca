"""A task is a word: what belongs to it is found before the parser is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from one_line import error
from toy_task import ToyData, ToyModule

from llm.cli.help import overview
from llm.cli.main import main
from llm.cli.task import choose_task
from llm.config.tasks import LANGUAGE
from llm.pretrained.checkpoint import read_checkpoint
from llm.runtime.shipped import DEFAULT_CONFIG
from llm.tasks import TASKS, Task

REPOSITORY = Path(__file__).parents[2]
TOY = ["--task=toy", "--trainer.max_steps=20", "--trainer.val_check_interval=8"]
QUICK = ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=16"]
QUICK += ["--data.tokenizer.kind=char", "--data.batch_size=2", "--trainer.max_steps=2", "--inspect.every=0"]
QUICK += ["--trainer.limit_val_batches=1", "--samples.every=0"]


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    task = Task(
        module=f"{ToyModule.__module__}:ToyModule",
        datamodule=f"{ToyData.__module__}:ToyData",
        summary="a line through points",
        links={"data.n_features": "model.line.n_features"},
    )
    monkeypatch.setitem(TASKS, "toy", task)


def shell(words: list[str]) -> int:
    return main(words, default_config=REPOSITORY / "configs" / "default.yaml")


def run(*words: str) -> int:
    return shell(list(words))


@pytest.fixture
def trained():
    assert run("fit", *TOY) == 0
    return str(next(Path("runs").rglob("last.ckpt")))


def test_a_task_trains_with_what_its_row_says(trained, capsys):
    checkpoint = read_checkpoint(trained)
    assert checkpoint["global_step"] == 20
    assert checkpoint["state_dict"]["line.weight"].shape == (1, 3), "the width follows from the data"
    saved = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert saved["task"] == "toy"
    assert saved["data"]["width"] == 3
    assert not {"inspect", "samples", "predictions"} & set(saved)


def test_the_configuration_of_a_run_makes_it_again(trained):
    (config,) = Path("runs").rglob("config.yaml")
    assert run("fit", "--config", str(config)) == 0
    first, second = (read_checkpoint(path) for path in sorted(Path("runs").rglob("last.ckpt")))
    assert all(torch.equal(first["state_dict"][name], value) for name, value in second["state_dict"].items())
    assert first["global_step"] == second["global_step"]


def test_the_task_can_stand_in_a_file_and_the_command_line_beats_it(capsys):
    Path("toy.yaml").write_text("task: toy\ntrainer: {max_steps: 2}\n")
    assert run("fit", "--config=toy.yaml", "--data.width=2") == 0
    assert yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())["data"]["width"] == 2
    assert run("fit", "--config=toy.yaml", *QUICK, "--task=language") == 0
    assert read_checkpoint("runs/gpt/version_1/checkpoints/last.ckpt")["state_dict"].keys() > {"network.head.weight"}
    saved = yaml.safe_load(Path("runs/gpt/version_1/config.yaml").read_text())
    assert saved["task"] == "language"


def test_without_a_task_it_is_the_language_model():
    assert run("fit", *QUICK) == 0
    saved = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert saved["task"] == "language"
    assert saved["data"]["corpus"] == "story", "and its default file"


def test_a_task_has_a_default_file_of_its_own(capsys):
    with pytest.raises(SystemExit):
        run("fit", "--task", "masked", "--print_config")
    found = yaml.safe_load(capsys.readouterr().out)
    shipped = yaml.safe_load((REPOSITORY / "configs" / "contrasts" / "masked.yaml").read_text())
    assert found["model"]["encoder"].items() > shipped["model"]["encoder"].items()
    assert found["trainer"]["logger"]["init_args"]["name"] == "masked"
    assert found["trainer"]["max_steps"] == shipped["trainer"]["max_steps"]


@pytest.mark.parametrize("word", [word for word in TASKS if word != "toy"])
def test_the_default_file_of_a_task_is_shipped_and_names_the_task(word):
    settings = yaml.safe_load((DEFAULT_CONFIG.parent / (TASKS[word].config or f"{word}.yaml")).read_text())
    assert settings.get("task", LANGUAGE) == word


def test_help_lists_the_tasks_and_shows_the_options_of_one(capsys):
    assert re.search(r"^  toy +a line through points$", overview(), re.MULTILINE)
    assert re.search(r"^  language +a GPT", overview(), re.MULTILINE)
    with pytest.raises(SystemExit) as status:
        run("fit", "--task", "toy", "--help")
    assert status.value.code == 0
    output = capsys.readouterr().out
    assert "task toy: a line through points" in output
    for option in ("--model.learning_rate", "--data.width", "--task", "--trainer.max_steps"):
        assert re.search(rf"^  {option} .+\s+\S.{{9,}}", output, re.MULTILINE), option
    assert "--model.gpt" not in output
    assert "--samples" not in output
    assert "--model.line.n_features" not in output, "it follows from the data"


def test_a_printed_configuration_holds_the_task(capsys):
    with pytest.raises(SystemExit):
        run("fit", *TOY, "--data.width=5", "--print_config")
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert yaml.safe_load(Path("printed.yaml").read_text())["task"] == "toy"
    assert run("fit", "--config=printed.yaml") == 0
    assert read_checkpoint(next(Path("runs").rglob("last.ckpt")))["state_dict"]["line.weight"].shape == (1, 5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--task=toi"], "there is no task 'toi'; did you mean toy?"),
        (["--task"], "there is no task ''"),
        (["--task=poetry"], "there is no task 'poetry'; there is language, masked"),
        (["--task=toy", "--model.gpt.n_layer=2"], "unrecognized arguments: --model.gpt.n_layer=2"),
        (["--task=toy", "--samples.every=2"], "unrecognized arguments: --samples.every=2"),
        (["--model.learning_rate=2"], "did you mean --model.optim.learning_rate?"),
        (["--task=toy", "--data.widht=2"], "did you mean --data.width?"),
        (
            ["--task=toy", "--model.line.n_features=2"],
            "model.line.n_features, which follows from data.n_features: leave it out",
        ),
        (["--config=unknown.yaml"], "there is no task 'languag'; did you mean language?"),
        (["--config=odd.yaml"], "there is no task \"['toy']\""),
        (["--config=other.yaml"], "'other.yaml' sets model.gpt, which is not a setting"),
        (["--config=link.yaml"], "'link.yaml' sets model.line.n_features, which follows from data.n_features"),
    ],
)
def test_what_is_not_of_the_task_is_one_line(words, expected, capsys):
    Path("unknown.yaml").write_text("task: languag\n")
    Path("odd.yaml").write_text("task: [toy]\n")
    Path("other.yaml").write_text("task: toy\nmodel: {gpt: {n_layer: 2}}\n")
    Path("link.yaml").write_text("task: toy\nmodel: {line: {n_features: 2}}\n")
    assert expected in error(capsys, shell, "fit", *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize("which", ["path", "last", "best"])
def test_a_checkpoint_brings_its_task(trained, capsys, which):
    best = trained.replace("last", "best")
    capsys.readouterr()
    assert run("validate", "--ckpt_path", {"path": best}.get(which, which), "--data.batch_size=8") == 0
    assert "validation/loss" in capsys.readouterr().out
    words = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--ckpt_path"]
    assert run("validate", *words, {"path": best}.get(which, which)) == 0


def test_a_checkpoint_brings_the_architecture_of_its_task(capsys):
    assert run("fit", *TOY, "--model.line.bias=false", "--data.width=4") == 0
    assert run("validate", "--ckpt_path=last", "--data.width=4") == 0
    assert run("fit", *TOY, "--ckpt_path=last", "--data.width=4", "--trainer.max_steps=21") == 0
    saved = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert saved["model"]["line"]["bias"] is False


def test_another_task_than_the_checkpoint_is_refused(trained, capsys):
    for words in (["fit"], ["fit", "--task=language"], ["validate", "--task", "language"]):
        message = error(capsys, shell, *words, "--ckpt_path", trained)
        assert f"{trained!r} holds the task 'toy', not 'language': give --task toy" in message
    assert run("fit", *QUICK, "--trainer.logger.save_dir=others") == 0
    language = str(next(Path("others").rglob("last.ckpt")))
    assert "holds the task 'language', not 'toy'" in error(capsys, shell, "fit", *TOY, "--ckpt_path", language)
    assert run("validate", "--ckpt_path", language) == 0, "a checkpoint that names no task holds a language model"


def test_best_of_a_task_is_that_of_its_newest_run(trained, capsys):
    assert run("fit", *QUICK, "--name=later") == 0
    capsys.readouterr()
    assert run("validate", "--task=toy", "--ckpt_path=best") == 0
    assert run("validate", "--task=toy", "--ckpt_path=last") == 0
    assert run("validate", "--ckpt_path=last") == 0
    models = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model:")]
    assert [Path(line.split()[1].rstrip(",")).parts[1] for line in models] == ["gpt"] * 2 + ["later"]
    assert "there is no best.ckpt of the task masked" in error(
        capsys, shell, "validate", "--task=masked", "--ckpt_path=best"
    )


def test_a_run_goes_on_with_its_task(trained):
    assert run("fit", *TOY, "--ckpt_path=last", "--trainer.max_steps=24") == 0
    assert read_checkpoint(trained)["global_step"] == 24


def test_the_task_of_a_checkpoint_is_known_without_reading_its_tensors(trained, monkeypatch):
    def read(*_):
        raise AssertionError("checksums were compared, for which the whole file is read")

    monkeypatch.setattr("zipfile.ZipFile.testzip", read)
    assert choose_task(["validate", "--ckpt_path", trained]) == "toy"
