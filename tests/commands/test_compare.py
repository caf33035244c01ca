import json

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from llm.__main__ import main


@pytest.fixture
def write(tmp_path):
    """Writes the folder of a run: its configuration, and what was logged in each step."""

    def write(name, settings, losses, kind=TensorBoardLogger):
        logger = kind(str(tmp_path), name="lr", version=name)
        for step, (train, validation) in losses.items():
            values = {"train/loss": train, "train/tokens_per_second": 100.0 * step}
            logger.log_metrics(values | ({} if validation is None else {"validation/loss": validation}), step)
        logger.save()
        folder = tmp_path / "lr" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        return str(folder)

    return write


def settings(rate, **others):
    logger = {"class_path": "TensorBoardLogger", "init_args": {"version": str(rate)}}
    return {"model": {"optim": {"learning_rate": rate}}, "trainer": {"logger": logger, "max_steps": 20}, **others}


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_the_best_run_comes_first_with_what_differs(write, capsys, kind):
    worse = write("a", settings(0.001), {10: (3.0, 3.5), 20: (2.0, 3.25)}, kind)
    better = write("b", settings(0.003), {10: (2.5, 2.75), 20: (1.0, float("inf"))}, kind)
    assert main(["compare", worse, better]) == 0
    header, first, second, _, best = capsys.readouterr().out.splitlines()
    assert "model.optim.learning_rate" in header
    assert "max_steps" not in header  # the same in both
    assert "version" not in header  # no result depends on it
    assert first.split()[:6] == [better, "0.003", "2.7500", "10", "20", "1.0000"]
    assert second.split()[:6] == [worse, "0.001", "3.2500", "20", "20", "2.0000"]
    assert first.split()[-1] == "1,500"
    assert best == f"best: {better}, validation loss 2.7500 at step 10"


def test_a_folder_of_runs_stands_for_all_of_them(write, tmp_path, capsys):
    for name, rate in (("a", 0.1), ("b", 0.2)):
        write(name, settings(rate), {1: (1.0, rate)})
    assert main(["compare", "--json", str(tmp_path)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [run["best_loss"] for run in found] == pytest.approx([0.1, 0.2])
    assert [run["settings"] for run in found] == [{"model.optim.learning_rate": rate} for rate in (0.1, 0.2)]


def test_each_task_has_a_table_of_its_own(write, tmp_path, capsys):
    for name, rate, task in (("a", 0.1, "language"), ("b", 0.2, "language"), ("c", 0.3, "masked")):
        write(name, settings(rate, task=task, data={f"of_{task}": rate}), {1: (1.0, rate)})
    assert main(["compare", str(tmp_path)]) == 0
    language, best, masked = capsys.readouterr().out.split("\n\n")
    assert language.startswith("task language\n")
    assert masked.startswith("task masked\n")
    assert "data.of_language" in language
    assert "of_masked" not in language
    assert best.startswith(f"best: {tmp_path / 'lr' / 'a'}")
    assert "best:" not in masked  # there is one run of it
    assert main(["compare", "--json", str(tmp_path)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [run["task"] for run in found] == ["language", "language", "masked"]
    assert found[2]["settings"] == {}


def test_a_run_without_a_validation_is_last(write, tmp_path, capsys):
    never = write("a", settings(0.1), {1: (1.0, None)})
    write("b", settings(0.2), {1: (9.0, 9.0)})
    assert main(["compare", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith(never)


def test_what_is_no_run_is_said(write, tmp_path, capsys):
    assert main(["compare", str(tmp_path / "nothing")]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err
    empty = write("a", settings(0.1), {})
    assert main(["compare", empty]) == 1
    assert "nothing was logged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", b""),
        ("config.yaml", b"[1, 2]"),
        ("config.yaml", b"a: [1,\n b: {"),
        ("config.yaml", b"\xff\xfe\x00"),
        ("config.yaml", b"a: !!python/object/apply:os.getcwd []"),
        ("metrics.csv", b"step,train/loss\nx,1\n"),
        ("metrics.csv", b"step,train/loss\n1,\xff\n"),
        ("metrics.csv", b"train/loss\n1\n"),
    ],
)
def test_a_damaged_run_is_left_out(write, tmp_path, capsys, caplog, file, content):
    whole = write("a", settings(0.1), {1: (1.0, 2.0)}, CSVLogger)
    damaged = write("b", settings(0.2), {1: (0.5, 1.0)}, CSVLogger)
    (tmp_path / "lr" / "b" / file).write_bytes(content)
    assert main(["compare", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(whole)
    assert f"left out: {damaged}" in caplog.text.replace("'", "").replace("what was logged in ", "")
    assert main(["compare", damaged]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_setting_of_several_lines_takes_one(write, tmp_path, capsys):
    for name, template in (("a", "{%- for message in messages -%}\n" * 9), ("b", "chatml")):
        write(name, settings(0.1, data={"template": template}), {1: (1.0, 2.0)})
    assert main(["compare", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert max(map(len, lines[:3])) < 300
