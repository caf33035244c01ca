"""What Lightning's users do with flags of the Trainer and with Lightning's callbacks, from the command line."""

from __future__ import annotations

import gc
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import yaml

from llm.cli.main import main
from llm.pretrained.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[2]
TINY = [
    *("--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=16"),
    *("--data.batch_size=2", "--data.tokenizer.kind=char", "--trainer.limit_val_batches=2"),
    *("--inspect.every=0", "--samples.every=0"),
]
STEPS = "--trainer.max_steps=3"
SHORT_EPOCH = "--trainer.limit_train_batches=4"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def fit(capsys):
    """Runs `fit`; gives the exit status and what was printed."""

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["fit", *TINY, *words], default_config=REPOSITORY / "configs" / "default.yaml")
        return status, capsys.readouterr().err

    return run


def last_step(folder: str = "runs/gpt/version_0") -> int:
    return read_checkpoint(Path(folder, "checkpoints", "last.ckpt"))["global_step"]


def test_epochs_that_were_given_beat_steps_that_were_not(fit):
    status, err = fit("--trainer.max_epochs=2", "--trainer.limit_train_batches=200", "--trainer.val_check_interval=300")
    assert status == 0
    assert last_step() == 400, "the default file says 360"
    assert "trainer.max_epochs 2, in place of the default" in err
    saved = yaml.safe_load(Path("runs/gpt/version_0/config.yaml").read_text())["trainer"]
    assert (saved["max_steps"], saved["max_epochs"]) == (-1, 2)


def test_of_two_lengths_that_were_given_the_shorter_is_said(fit):
    assert fit("--trainer.max_epochs=2", STEPS, SHORT_EPOCH, "--preflight")[1].count("ends the run after 0.8 of 2") == 1
    assert "ends the run" not in fit("--trainer.max_epochs=2", "--trainer.max_steps=9", SHORT_EPOCH, "--preflight")[1]


@pytest.mark.parametrize("interval", [[], ["--trainer.check_val_every_n_epoch=5", "--trainer.val_check_interval=1.0"]])
def test_epochs_end_with_a_validation(fit, interval):
    status, err = fit("--trainer.max_epochs=2", SHORT_EPOCH, *interval)
    assert status == 0
    assert "validation comes at the end only" in err
    assert read_checkpoint("runs/gpt/version_0/checkpoints/best.ckpt")["global_step"] == 8


def test_a_time_limit_is_named_and_so_is_the_way_on(fit):
    limit = ["--trainer.max_time=00:00:00:01", "--trainer.max_steps=1000000", "--trainer.val_check_interval=1000000"]
    status, err = fit(*limit)
    assert status == 0
    step = last_step()
    (line,) = [line for line in err.splitlines() if line.startswith("stopped at step")]
    assert f"stopped at step {step}: the time for training (trainer.max_time)" in line
    assert re.search(r"resume with: .*--trainer.max_time \S+ --ckpt_path \S+last.ckpt", line)
    assert read_checkpoint("runs/gpt/version_0/checkpoints/best.ckpt")["global_step"] == step, "it was validated"
    status, err = fit(*limit, "--ckpt_path=last")
    assert status == 0
    assert "set a longer --trainer.max_time" in err
    assert "max_steps above" not in err
    assert last_step() == step
    assert fit(*limit[1:], "--trainer.max_time=00:00:00:02", "--ckpt_path=last")[0] == 0
    assert last_step() > step


def test_epochs_that_are_over_are_named(fit):
    words = ["--trainer.max_epochs=1", SHORT_EPOCH]
    assert fit(*words)[0] == 0
    status, err = fit(*words, "--ckpt_path=last")
    assert status == 0
    assert "set --trainer.max_epochs above 1" in err


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_a_profiler_reports(profiler, capfd):
    words = ["fit", *TINY, STEPS, f"--trainer.profiler={profiler}"]
    assert main(words, default_config=REPOSITORY / "configs" / "default.yaml") == 0
    out, err = capfd.readouterr()
    assert "run_training_batch" in out + err


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_the_bar_of_the_user_takes_the_place_of_ours(fit, bar):
    status, err = fit(STEPS, f"--trainer.callbacks+={bar}")
    assert status == 0
    assert last_step() == 3
    assert "step 3/3" not in err


FAILING = """
import lightning as L
from llm.errors import TrainingError

class Fail(L.Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.at:
            raise TrainingError("it failed")
"""
ON_EXCEPTION = ["--trainer.callbacks+=OnExceptionCheckpoint", "--trainer.callbacks.dirpath=oe"]


def test_what_an_error_left_is_only_used_where_it_is_named(fit, tmp_path, monkeypatch):
    Path("failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    fail = ["--allow_classes=failing", "--trainer.callbacks+=failing.Fail", "--trainer.callbacks.at=2"]
    words = [*ON_EXCEPTION, "--trainer.max_steps=4"]
    assert fit(*words, *fail)[0] == 1
    kept = Path("oe/on_exception.ckpt")
    content = kept.read_bytes()
    assert read_checkpoint(kept)["global_step"] == 2
    assert fit(*words, f"--ckpt_path={kept}", "--model.optim.learning_rate=0.1")[0] == 1, "another setting"
    assert kept.read_bytes() == content, "a start that is refused leaves it as it is"
    assert main(["validate", *TINY, "--ckpt_path", str(kept)]) == 0
    assert kept.read_bytes() == content

    assert fit(STEPS, *ON_EXCEPTION, f"--ckpt_path={kept}")[0] == 0
    assert not kept.is_file(), "as Lightning has it: removed by a run that ends well"
    kept.write_bytes(content)
    status, err = fit("--trainer.max_steps=4", *ON_EXCEPTION)
    assert status == 0
    assert f"To go on from it: --ckpt_path {kept}" in err
    assert "resuming after" not in err
    weights = [read_checkpoint(path)["state_dict"] for path in sorted(Path("runs").rglob("last.ckpt"))]
    assert len(weights) == 2


def test_after_an_error_within_a_step_its_batch_comes_again(fit, tmp_path, monkeypatch):
    Path("failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    fail = ["--allow_classes=failing", "--trainer.callbacks+=failing.Fail", "--trainer.callbacks.at=2"]
    steps = "--trainer.max_steps=4"
    assert fit(steps, "--trainer.logger.init_args.version=whole")[0] == 0
    assert fit(steps, *ON_EXCEPTION, *fail, "--trainer.logger.init_args.version=cut")[0] == 1
    assert fit(steps, "--ckpt_path=oe/on_exception.ckpt", "--trainer.logger.init_args.version=again")[0] == 0
    whole, again = (
        read_checkpoint(f"runs/gpt/{name}/checkpoints/last.ckpt")["state_dict"] for name in ("whole", "again")
    )
    assert all(value.equal(again[name]) for name, value in whole.items())


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_runs_in_one_process_leave_nothing_open(fit):
    def held() -> tuple[int, int, list[object]]:
        gc.collect()
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), handlers

    assert fit(STEPS)[0] == 0
    after_the_first = held()
    for _ in range(2):
        assert fit(STEPS)[0] == 0
        assert held() == after_the_first
