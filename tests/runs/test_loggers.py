"""No run overwrites another, whatever its logger; a run that is resumed goes on in its own folder."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm.cli.main import main
from llm.pretrained.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[2]
QUICK = [
    *("--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=16"),
    *("--data.batch_size=2", "--data.tokenizer.kind=char", "--trainer.max_steps=3", "--trainer.limit_val_batches=2"),
    *("--inspect.every=0", "--samples.every=0", "--trainer.val_check_interval=2"),
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def fit(*words: str) -> int:
    return main(["fit", *QUICK, *words], default_config=REPOSITORY / "configs" / "default.yaml")


def step_of(checkpoint: Path) -> int:
    return read_checkpoint(checkpoint)["global_step"]


def hashes(folder: str) -> dict[str, str]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


CSV = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--trainer.logger.name=table"]
NAMED = ["--name", "lr/0.003"]


@pytest.mark.parametrize("words", [NAMED, [*CSV, "--trainer.logger.version=one"], ["--checkpoint.folder=kept"]])
def test_a_folder_that_holds_a_run_is_refused(words, capsys):
    assert fit(*words) == 0
    before = hashes(".")
    for again in ([], ["--preflight"], ["--ckpt_path", str(next(Path().rglob("previous.ckpt")))]):
        capsys.readouterr()
        assert fit(*words, *again) == 1
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "holds a run already" in last
        assert "--ckpt_path last" in last
        assert ("another folder (--checkpoint.folder)" in last) == ("--checkpoint.folder=kept" in words)
        assert ("(--name NAME)" in last) == ("--checkpoint.folder=kept" not in words)
        assert hashes(".") == before
    assert fit(*words, "--ckpt_path=last", "--trainer.max_steps=5") == 0
    assert step_of(next(Path().rglob("last.ckpt"))) == 5


def test_a_run_without_a_logger_has_a_folder_of_its_own():
    for number in range(2):
        assert fit("--trainer.logger=false") == 0
        folder = Path(f"runs/unlogged/version_{number}")
        assert step_of(folder / "checkpoints" / "best.ckpt") in (2, 3)
        assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["logger"] is False
    before = hashes("runs/unlogged/version_0")
    assert fit("--trainer.logger=false", "--ckpt_path=last", "--trainer.max_steps=5") == 0
    assert step_of(Path("runs/unlogged/version_1/checkpoints/last.ckpt")) == 5
    assert hashes("runs/unlogged/version_0") == before
    assert len(list(Path("runs/unlogged").iterdir())) == 2


def test_a_logger_that_has_no_folder_does_not_make_runs_share_one(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    words = ["--allow_classes=loggers_of_others", "--trainer.logger=loggers_of_others.Elsewhere"]
    words += ["--trainer.logger.project=plans"]
    assert fit(*words) == 0
    assert fit(*words) == 0
    assert sorted(path.parts[:3] for path in Path().rglob("best.ckpt")) == [
        ("runs", "plans", "version_0"),
        ("runs", "plans", "version_1"),
    ]


def test_what_was_ended_before_its_first_checkpoint_may_be_begun_again(capsys):
    folder = Path("runs/lr/0.003")
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert fit(*NAMED) == 1
    assert fit(*NAMED, "--ckpt_path=last", "--fresh") == 0
    assert step_of(folder / "checkpoints" / "last.ckpt") == 3


def test_a_csv_file_goes_on_where_the_run_does(recwarn):
    assert fit(*CSV, "--trainer.log_every_n_steps=1") == 0
    folder = Path("runs/table/version_0")
    words = [*CSV, "--trainer.log_every_n_steps=1", "--ckpt_path=last", "--trainer.max_steps=5"]
    with (folder / "metrics.csv").open("a") as file:  # as if it had been killed some steps later
        file.write(file.name and ",".join(["4"] * len((folder / "metrics.csv").read_text().split("\n")[0].split(","))))
    assert fit(*words) == 0
    assert not [str(w.message) for w in recwarn if "will be deleted" in str(w.message)]
    assert [path.name for path in Path("runs/table").iterdir()] == ["version_0"]
    rows = list(csv.DictReader((folder / "metrics.csv").open(newline="")))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 2, 3, 4, 5]
    assert [int(row["step"]) for row in rows if row["validation/loss"]] == [0, 2, 4]
    assert float(rows[0]["validation/loss"]) < 10


def test_two_loggers_of_a_run_go_on_together():
    Path("loggers.yaml").write_text(
        "trainer: {logger: [{class_path: CSVLogger, init_args: {save_dir: runs, name: table}},"
        " {class_path: TensorBoardLogger, init_args: {save_dir: runs, name: board}}]}"
    )
    Path("runs/board/version_4").mkdir(parents=True)
    assert fit("--config=loggers.yaml") == 0
    assert fit("--config=loggers.yaml", "--ckpt_path=last", "--trainer.max_steps=5") == 0
    assert [path.name for path in Path("runs/table").iterdir()] == ["version_5"]
    steps = [event.step for event in EventAccumulator("runs/board/version_5").Reload().Scalars("validation/loss")]
    assert steps == [0, 2, 4]


@pytest.mark.parametrize("words", [[], ["--trainer.logger=false"], ["--trainer.logger=true"]])
def test_runs_go_to_default_root_dir(words):
    root = "--trainer.default_root_dir=elsewhere"
    assert fit(root, *words) == 0
    assert not Path("runs").exists()
    assert len(list(Path("elsewhere").rglob("best.ckpt"))) == 1
    assert fit(root, *words, "--ckpt_path=last", "--trainer.max_steps=5") == 0
    (last,) = Path().rglob("last.ckpt")
    assert step_of(last) == 5
    assert main(["validate", root, "--ckpt_path=best", *words]) == 0


def test_where_a_logger_says_so_runs_go_there():
    assert fit("--trainer.default_root_dir=elsewhere", "--trainer.logger.init_args.save_dir=there") == 0
    assert {path.parts[0] for path in Path().rglob("*.ckpt")} == {"there"}


@pytest.mark.parametrize(
    ("words", "folder"), [([], "runs/lr/3"), (CSV, "runs/lr/3"), (["--trainer.max_steps=1"], "runs/3")]
)
def test_a_run_is_kept_under_its_name(words, folder):
    assert fit("--name", folder.removeprefix("runs/"), *words) == 0
    assert step_of(Path(folder, "checkpoints", "last.ckpt")) >= 1
    saved = Path(folder, "config.yaml").read_text()
    assert yaml.safe_load(saved)["name"] == folder.removeprefix("runs/")
    assert fit("--config", f"{folder}/config.yaml", "--name", "again") == 0
    assert Path("runs/again/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("name", ["", "/tmp/x", "../x", "."])
def test_a_name_that_leads_elsewhere_is_refused(name, capsys):
    assert fit("--name", name) == 1
    assert "--name must be a name such as lr/0.003" in capsys.readouterr().err
    assert fit("--name", "x", "--trainer.logger=false") == 1
    assert "--name needs a logger with a folder" in capsys.readouterr().err
