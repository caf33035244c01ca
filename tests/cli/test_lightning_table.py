"""docs/lightning.md: every flag of the Trainer, every callback and logger of Lightning's does what its row says."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch import callbacks, loggers

from llm.cli.main import main
from llm.pretrained.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "lightning.md").read_text(encoding="utf-8")
TINY = [
    *("--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--model.optim.warmup_steps=0"),
    *("--data.context_length=16", "--data.stride=16", "--data.batch_size=2", "--data.tokenizer.kind=char"),
    *("--data.corpus=small.txt", "--inspect.every=0", "--samples.every=0"),
    *("--trainer.limit_val_batches=1", "--trainer.max_steps=4", "--trainer.val_check_interval=2"),
]
EPOCHS = ["--trainer.max_steps=-1", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"]
SPY = """
import lightning as L

trainers = []

class Spy(L.Callback):
    def on_train_end(self, trainer, pl_module):
        trainers.append(trainer)
"""


def rows(heading: str) -> dict[str, str]:
    """What a table of the page says, by name."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", part, re.MULTILINE))


FLAGS, CALLBACKS, LOGGERS = rows("Flags of the Trainer"), rows("Callbacks"), rows("Loggers")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("small.txt").write_text("the cat sat on the mat, and the dog sat by the door; " * 15)


@pytest.fixture
def fit(capfd):
    """Runs `fit`; gives the exit status and what was printed."""

    def run(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        status = main(["fit", *TINY, *words], default_config=REPOSITORY / "configs" / "default.yaml")
        out, err = capfd.readouterr()
        return status, out + err

    return run


def last_step() -> int:
    (last,) = Path().rglob("last.ckpt")
    return read_checkpoint(last)["global_step"]


def test_the_tables_have_all_that_lightning_ships():
    assert FLAGS.keys() == inspect.signature(L.Trainer).parameters.keys()
    assert CALLBACKS.keys() == set(callbacks.__all__)
    assert LOGGERS.keys() == set(loggers.__all__)


# Flags

PASSED_ON: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "accelerator": ("cpu", lambda trainer: type(trainer.accelerator).__name__ == "CPUAccelerator"),
    "accumulate_grad_batches": ("2", lambda trainer: trainer.accumulate_grad_batches == 2),
    "benchmark": ("true", lambda _: torch.backends.cudnn.benchmark),
    "detect_anomaly": ("true", lambda trainer: trainer._detect_anomaly),
    "deterministic": ("warn", lambda _: torch.is_deterministic_algorithms_warn_only_enabled()),
    "devices": ("1", lambda trainer: trainer.num_devices == 1),
    "enable_autolog_hparams": ("false", lambda trainer: not trainer.enable_autolog_hparams),
    "gradient_clip_algorithm": ("value", lambda trainer: trainer.gradient_clip_algorithm == "value"),
    "gradient_clip_val": ("0.25", lambda trainer: trainer.gradient_clip_val == 0.25),
    "inference_mode": ("false", lambda trainer: not trainer.validate_loop.inference_mode),
    "limit_predict_batches": ("1", lambda trainer: trainer.limit_predict_batches == 1),
    "limit_test_batches": ("1", lambda trainer: trainer.limit_test_batches == 1),
    "limit_train_batches": ("7", lambda trainer: trainer.num_training_batches == 7),
    "limit_val_batches": ("1", lambda trainer: trainer.num_val_batches == [1]),
    "log_every_n_steps": ("3", lambda trainer: trainer.log_every_n_steps == 3),
    "max_steps": ("5", lambda trainer: trainer.global_step == 5),
    "max_epochs": ("9", lambda trainer: trainer.max_epochs == 9),
    "min_epochs": ("1", lambda trainer: trainer.min_epochs == 1),
    "min_steps": ("3", lambda trainer: trainer.min_steps == 3),
    "model_registry": ("mine", lambda trainer: trainer._model_registry == "mine"),
    "num_nodes": ("1", lambda trainer: trainer.num_nodes == 1),
    "num_sanity_val_steps": ("1", lambda trainer: trainer.num_sanity_val_steps == 1),
    "precision": ("32-true", lambda trainer: trainer.precision == "32-true"),
    "reload_dataloaders_every_n_epochs": ("1", lambda trainer: trainer.reload_dataloaders_every_n_epochs == 1),
    "strategy": ("auto", lambda trainer: type(trainer.strategy).__name__ == "SingleDeviceStrategy"),
    "sync_batchnorm": ("true", lambda trainer: trainer._accelerator_connector._layer_sync is not None),
    "use_distributed_sampler": ("true", lambda t: t._accelerator_connector.use_distributed_sampler),
}
"""A value of each flag that Lightning alone acts upon, and how to see that it has it."""

TESTED_BELOW = {"plugins", "barebones", "val_check_interval", "check_val_every_n_epoch", "enable_checkpointing"}
TESTED_BELOW |= {"enable_model_summary", "enable_progress_bar", "fast_dev_run", "callbacks", "logger"}
TESTED_ELSEWHERE = {"max_time", "profiler", "default_root_dir", "overfit_batches"}
"""In test_trainer_flags.py, tests/runs/test_loggers.py, and tests/runs/test_overfitting.py."""


def test_every_flag_is_tested():
    assert PASSED_ON.keys() | TESTED_BELOW | TESTED_ELSEWHERE == FLAGS.keys()


def test_flags_reach_the_trainer(fit, monkeypatch, tmp_path):
    Path("spying.py").write_text(SPY)
    monkeypatch.syspath_prepend(tmp_path)
    spy = ["--allow_classes=spying", "--trainer.callbacks+=spying.Spy"]
    before = torch.backends.cudnn.benchmark
    try:
        status, err = fit(*spy, *(f"--trainer.{name}={value}" for name, (value, _) in PASSED_ON.items()))
        assert status == 0, err
        import spying  # type: ignore[import-not-found]

        (trainer,) = spying.trainers
        assert [name for name, (_, has_it) in PASSED_ON.items() if not has_it(trainer)] == []
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before
        torch.autograd.set_detect_anomaly(False)


@pytest.mark.parametrize(
    ("flag", "words", "reason"),
    [
        ("barebones", ["--trainer.barebones=true"], "--preflight measures the speed of a step"),
        ("plugins", ["--trainer.plugins=AsyncCheckpointIO"], "on the disk before the run goes on"),
        ("num_nodes", ["--trainer.num_nodes=2"], "start the command on each with torchrun"),
        ("strategy", ["--trainer.strategy=ddp_spawn"], "which is for notebooks; give ddp"),
        ("limit_train_batches", ["--trainer.limit_train_batches=1e-5"], "1e-05 is less than one batch"),
        ("limit_val_batches", ["--trainer.limit_val_batches=1e-5"], "1e-05 is less than one batch"),
    ],
)
def test_flags_that_are_refused(fit, flag, words, reason):
    status, err = fit(*words)
    assert status == 1
    assert reason in err.strip().splitlines()[-1]
    assert "refused" in FLAGS[flag]
    assert not Path("runs").exists()


def test_refusals_are_said_to_be_refusals():
    refused = {"barebones", "plugins", "num_nodes", "strategy", "limit_train_batches", "limit_val_batches"}
    assert {name for name, says in FLAGS.items() if "refused" in says} == refused


def test_a_fraction_of_an_epoch_and_a_number_of_epochs(fit):
    status, err = fit("--trainer.val_check_interval=0.5")
    assert status == 0, err
    assert "validation every 11" in err, "an epoch has 22 batches"
    status, err = fit(*EPOCHS, "--trainer.check_val_every_n_epoch=1", "--preflight")
    assert status == 0, err
    assert "validation every 2" in err
    assert fit("--trainer.val_check_interval=00:00:10:00", "--preflight")[0] == 0


def test_every_so_many_seconds(fit):
    status, err = fit("--trainer.val_check_interval=00:00:00:01")
    assert status == 0, err
    assert "validation every 00:00:00:01 (days:hours:minutes:seconds)" in err
    assert "no best.ckpt" not in err


def test_without_checkpoints(fit):
    assert fit("--trainer.enable_checkpointing=false")[0] == 0
    assert not list(Path().rglob("*.ckpt"))


def test_without_a_bar_the_losses_are_printed_at_the_end(fit):
    status, err = fit("--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1")
    assert status == 0
    assert re.search(r"^trained: +step 4, loss \d\.\d+, validation \d\.\d+", err, re.MULTILINE)
    assert "trained:" not in fit()[1], "where there is a bar, that has them"


def test_lightnings_model_summary(fit):
    assert "Params" in fit("--trainer.enable_model_summary=true")[1]


def test_a_run_for_debugging_leaves_nothing(fit):
    assert fit("--trainer.fast_dev_run=2")[0] == 0
    assert not Path("runs").exists()


# Callbacks

ARGUMENTS = {
    "BatchSizeFinder": ["max_val=4", "steps_per_trial=1"],
    "EarlyStopping": ["monitor=validation/loss", "verbose=true"],
    "GradientAccumulationScheduler": ["scheduling={0: 2}"],
    "LearningRateFinder": ["num_training_steps=15"],
    "ModelCheckpoint": ["every_n_train_steps=2", "save_top_k=-1", "filename={step}"],
    "ModelPruning": ["pruning_fn=l1_unstructured", "amount=0.5"],
    "OnExceptionCheckpoint": ["dirpath=elsewhere"],
    "StochasticWeightAveraging": ["swa_lrs=0.01", "swa_epoch_start=1"],
    "ThroughputMonitor": ["batch_size_fn=len"],
    "Timer": ["duration=00:00:10:00"],
}
SAYS = {
    "BatchSizeFinder": "data.batch_size 4, was 2",
    "EarlyStopping": "validation/loss improved",
    "LearningRateFinder": "LearningRateFinder: model.optim.learning_rate",
    "ModelSummary": "Params",
    "RichModelSummary": "Params",
    "GradientAccumulationScheduler": "4 of 2 batches",
}
"""What a callback prints, or what the preflight knows of it."""
NEEDS = {"DeviceStatsMonitor": "psutil", "RichModelSummary": "rich", "RichProgressBar": "rich"}
BARS = {"ProgressBar", "RichProgressBar", "TQDMProgressBar"}


@pytest.mark.parametrize("name", callbacks.__all__)
def test_each_callback(fit, name):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    given = [f"--trainer.callbacks.{argument}" for argument in ARGUMENTS.get(name, [])]
    length = EPOCHS if name in ("ModelPruning", "StochasticWeightAveraging") else []
    status, err = fit(f"--trainer.callbacks+={name}", *given, *length)
    if CALLBACKS[name].startswith("refused"):
        assert status != 0
        assert f"{name} is refused: " in err.strip().splitlines()[-1]
        assert not Path("runs").exists()
        return
    assert status == 0, err
    assert CALLBACKS[name].startswith("works")
    assert last_step() == 4
    assert SAYS.get(name, "") in err
    assert ("step 4/4" in err) == (name not in BARS)
    (folder,) = Path("runs/gpt").iterdir()
    assert {path.name for path in folder.glob("checkpoints/step=*")} == (
        {"step=2.ckpt", "step=4.ckpt"} if name == "ModelCheckpoint" else set()
    )
    left = {path.parts[0] for path in Path().rglob("*") if path.is_file()}
    assert left <= {"small.txt", "data", "runs"}


def test_pruned_weights_are_zero_in_the_checkpoint(fit):
    words = [f"--trainer.callbacks.{argument}" for argument in ARGUMENTS["ModelPruning"]]
    assert fit("--trainer.callbacks+=ModelPruning", *words, *EPOCHS)[0] == 0
    weights = read_checkpoint("runs/gpt/version_0/checkpoints/last.ckpt")["state_dict"]
    values = torch.cat([value.flatten() for value in weights.values()])
    assert (values == 0).float().mean() >= 0.5


def test_what_has_begun_to_average_is_not_resumed_otherwise(fit):
    words = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
    words += ["--trainer.callbacks.swa_epoch_start=1"]
    assert fit(*words, *EPOCHS)[0] == 0
    status, err = fit(*words, *EPOCHS, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert status == 1
    assert "EMAWeightAveraging" in err.strip().splitlines()[-1]


# Loggers


@pytest.mark.parametrize("name", ["CSVLogger", "TensorBoardLogger", "Logger"])
def test_each_logger(fit, name):
    words = [] if name == "Logger" else ["--trainer.logger.save_dir=kept"]
    status, err = fit(f"--trainer.logger={name}", *words)
    if LOGGERS[name].startswith("refused"):
        assert status != 0
        assert "error: " in err
        return
    assert status == 0, err
    assert last_step() == 4
    assert Path("kept").is_dir()


@pytest.mark.parametrize(
    ("name", "package"), [("CometLogger", "comet"), ("LitLogger", "litlogger"), ("MLFlowLogger", "mlflow")]
)
def test_loggers_that_need_a_package_name_it(fit, name, package):
    if importlib.util.find_spec({"comet": "comet_ml"}.get(package, package)) is not None:
        pytest.skip(f"{package} is installed")
    status, err = fit(f"--trainer.logger={name}")
    assert status != 0
    assert package in err.strip().splitlines()[-1]
    assert f"where {package}" in LOGGERS[name]


# What else the documentation suggests

SUGGESTED = [
    ("python train.py tune", ["tune"], "fit --trainer.callbacks+=LearningRateFinder finds a learning rate"),
    ("--seed_everything", ["--seed_everything=-1"], "seed_everything must be 0 to"),
    ("--ckpt_path", ["--ckpt_path=https://there/a.ckpt"], "is a URL: download the file yourself"),
    ("--ckpt_path", ["--ckpt_path=empty"], "'empty' is a folder"),
    ("--ckpt_path", ["--ckpt_path=hub"], "there is no checkpoint 'hub'"),
    ("--ckpt_path", ["--ckpt_path=registry"], "there is no checkpoint 'registry'"),
    ("--weights_only false", ["--weights_only=false"], "weights_only false is refused"),
    ("--optimizer", ["--optimizer=Adam"], "did you mean --model.optim?"),
    ("--optimizer", ["--lr_scheduler=StepLR"], "did you mean --model.optim.schedule?"),
    ("monitor: val_loss", ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"], "/loss"),
]
"""The first words of a row, those of a command, and what its one line says."""


@pytest.mark.parametrize(("row", "words", "reason"), SUGGESTED)
def test_what_is_suggested_and_refused(capsys, row, words, reason):
    assert f"\n| `{row}" in PAGE
    Path("empty").mkdir()
    words = words if words == ["tune"] else ["fit", *TINY, *words]
    assert main(words, default_config=REPOSITORY / "configs" / "default.yaml") != 0
    assert reason in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("runs").exists()


def test_settings_of_files_and_variables_and_seeds(fit, monkeypatch, capfd):
    """The rows of `--seed_everything`, `--config` given twice, `--trainer FILE.yaml`, variables, `--print_config`."""
    Path("trainer.yaml").write_text("{log_every_n_steps: 7, gradient_clip_val: 3.0}")
    for name, value in (("first", 5), ("second", 6)):
        Path(f"{name}.yaml").write_text(f"seed_everything: {value}\ntrainer: {{accumulate_grad_batches: {value}}}")
    monkeypatch.setenv("PL_FIT__TRAINER__MAX_STEPS", "9")

    def printed(*words: str) -> dict[str, Any]:
        with pytest.raises(SystemExit, match=r"^0$"):
            fit(*words, "--print_config")
        return yaml.safe_load(capfd.readouterr().out)

    two = printed("--config=first.yaml", "--config=second.yaml", "--trainer=trainer.yaml")
    assert (two["seed_everything"], two["trainer"]["accumulate_grad_batches"]) == (6, 6)
    assert (two["trainer"]["log_every_n_steps"], two["trainer"]["max_steps"]) == (7, 4)
    flag = printed("--trainer=trainer.yaml", "--trainer.log_every_n_steps=8", "--seed_everything=true")
    assert (flag["trainer"]["log_every_n_steps"], flag["trainer"]["gradient_clip_val"]) == (8, 3.0)
    assert flag["seed_everything"] is True
    for seed in ("true", "false"):
        assert fit(f"--seed_everything={seed}", "--preflight")[0] == 0


def test_every_suggestion_is_tested():
    """A Trainer of one's own is in tests/tasks."""
    part = PAGE.partition("suggests\n")[2].partition("\n## ")[0]
    first = re.findall(r"^\| (.+?) \|", part, re.MULTILINE)[2:]
    others = ("`--config` given", "variables such as `PL_FIT__", "`--print_config`", "`Trainer(...)` in Python")
    begins = [*(f"`{row}" for row, _, _ in SUGGESTED), *others]
    assert [row for row in first if not row.startswith(tuple(begins))] == []
