"""`LearningRateFinder` and `BatchSizeFinder`: they search before the run, which is the one with what they found."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from tiny_runs import Curve, Kill, fit

from llm.cli.main import main
from llm.config import ClassifierConfig, GPTConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.errors import ConfigError
from llm.preflight import Plan
from llm.preflight.making import costs_of_step
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.finding import find_batch_size
from llm.tasks import LanguageModel

REPOSITORY = Path(__file__).parents[2]
TINY = [
    *("--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=16"),
    *("--data.tokenizer.kind=char", "--data.corpus=small.txt", "--trainer.limit_val_batches=1"),
    *("--data.batch_size=2", "--data.stride=16", "--model.optim.warmup_steps=0"),
    *("--inspect.every=0", "--samples.every=0", "--trainer.max_steps=3"),
]
RATE = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=30"]
SIZE = ["--trainer.callbacks+=BatchSizeFinder", "--trainer.callbacks.steps_per_trial=1"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("small.txt").write_text("the cat sat on the mat, and the dog sat by the door; " * 15)


@pytest.fixture
def train(capsys):
    """Runs `fit`; gives the exit status and what was printed."""

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["fit", *TINY, *words], default_config=REPOSITORY / "configs" / "default.yaml")
        return status, capsys.readouterr().err

    return run


def weights(run: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(f"runs/gpt/{run}/checkpoints/last.ckpt")["state_dict"]


def settings(run: str) -> dict:
    return yaml.safe_load(Path(f"runs/gpt/{run}/config.yaml").read_text())


def files() -> set[str]:
    return {path.parts[0] for path in Path().rglob("*") if path.is_file()}


def test_the_rate_is_said_set_and_trained_with(train):
    status, err = train(*RATE)
    assert status == 0
    rate = settings("version_0")["model"]["optim"]["learning_rate"]
    assert f"LearningRateFinder: model.optim.learning_rate {rate}, was 0.001" in err
    assert rate != 0.001
    assert settings("version_0")["trainer"]["callbacks"] is None, (
        "the configuration makes the run again, without a search"
    )
    assert files() == {"small.txt", "data", "runs"}
    assert train(f"--model.optim.learning_rate={rate}")[0] == 0
    assert all(torch.equal(value, weights("version_1")[name]) for name, value in weights("version_0").items())


def test_a_run_resumes_with_what_was_found(train):
    words = [*SIZE, "--trainer.callbacks.max_val=8", *RATE, "--model.optim.learning_rate=0.002"]
    words += ["--model.optim.final_learning_rate_ratio=1"]
    assert train(*words, "--trainer.max_steps=6")[0] == 0
    assert train(*words, "--trainer.max_steps=4", "--trainer.logger.init_args.version=cut")[0] == 0
    status, err = train(*words, "--trainer.max_steps=6", "--ckpt_path=runs/gpt/cut/checkpoints/last.ckpt")
    assert status == 0, err
    assert "resuming with what BatchSizeFinder and LearningRateFinder found before" in err
    assert "LearningRateFinder: model" not in err
    assert (
        settings("cut")["model"]["optim"]["learning_rate"] == settings("version_0")["model"]["optim"]["learning_rate"]
    )
    assert settings("cut")["data"]["batch_size"] == settings("version_0")["data"]["batch_size"] == 8
    assert all(torch.equal(value, weights("cut")[name]) for name, value in weights("version_0").items())


@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_the_largest_batch_of_a_small_text(train, mode):
    status, err = train(*SIZE, f"--trainer.callbacks.mode={mode}")
    assert status == 0, err
    (windows,) = re.findall(r"windows +(\d+) of 16 tokens", err)
    assert f"BatchSizeFinder: data.batch_size {windows}, was 2" in err
    assert settings("version_0")["data"]["batch_size"] == int(windows)
    assert files() == {"small.txt", "data", "runs"}


def test_the_preflight_alone_searches_too_and_leaves_no_run(train):
    status, err = train(*SIZE, "--trainer.callbacks.max_val=16", *RATE, "--preflight")
    assert status == 0
    assert "BatchSizeFinder: data.batch_size 16" in err
    assert "LearningRateFinder: model.optim.learning_rate" in err
    assert "batches of 16" in err
    assert files() == {"small.txt", "data"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([*RATE, "--model.optim.kind=muon"], "Muon has two"),
        ([*RATE, "--trainer.callbacks.attr_name=lr_of_mine"], "leave attr_name out"),
        ([*RATE, "--trainer.devices=2", "--trainer.accelerator=cpu"], "search on one device"),
        ([*SIZE, "--trainer.callbacks.init_val=4000"], "set a smaller init_val"),
        ([*RATE, "--trainer.callbacks.num_training_steps=5"], "more trainer.callbacks.num_training_steps"),
        ([*RATE, "--data.context_length=5000"], "the text is too short"),
        (
            [*RATE, "--trainer.callbacks.min_lr=1e-9", "--trainer.callbacks.max_lr=1e-7"],
            "set a higher trainer.callbacks.min",
        ),
    ],
)
def test_refusals_in_a_line(train, words, reason):
    status, err = train(*words)
    assert status == 1
    assert reason in err.strip().splitlines()[-1]
    assert not Path("runs").exists()


def test_a_rate_that_only_is_to_be_said(train):
    status, err = train(*RATE, "--trainer.callbacks.update_attr=false")
    assert status == 0
    assert "is 0.001: update_attr false" in err
    assert settings("version_0")["model"]["optim"]["learning_rate"] == 0.001


def test_other_commands_have_no_search(train, capsys):
    assert train()[0] == 0
    assert main(["validate", "--ckpt_path=last", *SIZE]) == 1
    assert "BatchSizeFinder is for fit; validate takes --data.batch_size" in capsys.readouterr().err


def small_model() -> tuple[LanguageModel, TextDataModule]:
    data = TextDataModule("small.txt", TokenizerConfig("char"), context_length=8, stride=8, cache_dir="cache")
    return LanguageModel(GPTConfig(data.vocab_size, 8, n_layer=1, n_head=2, n_embd=8)), data


@pytest.mark.parametrize(("mode", "found"), [("power", 16), ("binsearch", 28)])
def test_what_does_not_fit_is_not_taken(monkeypatch, mode, found):
    module, data = small_model()
    finder = BatchSizeFinder(mode, steps_per_trial=1)
    tried = []

    def step(self, batch, batch_idx):
        tried.append(len(batch.inputs))
        if len(batch.inputs) > 30:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return original(self, batch, batch_idx)

    original = LanguageModel.training_step
    monkeypatch.setattr(LanguageModel, "training_step", step)
    assert find_batch_size(finder, module, data, {"accelerator": "cpu"}) == found
    assert max(tried) == 32
    tried.clear()
    assert find_batch_size(BatchSizeFinder(), *small_model(), {"accelerator": "cpu"}, lambda size: size < 8) == 4
    assert max(tried) == 4, "what can't fit is not even tried"


@pytest.mark.filterwarnings("ignore")
def test_in_python_lightning_searches_and_the_run_is_that_with_the_rate(tmp_path):
    finder = LearningRateFinder(num_training_steps=20)
    found, trainer = fit(tmp_path, finder, curve=(curve := Curve()))
    rate = trainer.lightning_module.optim.learning_rate
    assert rate == finder.optimal_lr.suggestion()
    given, _ = fit(tmp_path, curve=(plain := Curve()), optim={"learning_rate": rate})
    assert curve.values == plain.values
    assert all(torch.equal(value, given[name]) for name, value in found.items())
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Kill(5), optim={"learning_rate": rate})
    last = tmp_path / "checkpoints" / "last.ckpt"
    resumed, _ = fit(tmp_path, LearningRateFinder(num_training_steps=20), ckpt=last, optim={"learning_rate": rate})
    assert all(torch.equal(value, resumed[name]) for name, value in given.items())
    assert not list(tmp_path.glob(".lr_find*"))


def test_in_python_a_batch_size_is_found_before_the_run(tmp_path):
    with pytest.raises(ConfigError, match="would change the batches of a run that has begun"):
        fit(tmp_path, BatchSizeFinder())
    assert not list(tmp_path.glob(".scale*"))


@pytest.mark.filterwarnings("ignore")
def test_lightnings_tuner_sets_the_rate_of_the_fit_after_it():
    module, data = small_model()
    trainer = L.Trainer(accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=".")
    found = Tuner(trainer).lr_find(module, datamodule=data, num_training=20).suggestion()
    assert module.optim.learning_rate == found
    assert not list(Path().glob(".lr_find*"))


def test_a_batch_is_as_wide_as_the_longest_sample():
    network = ClassifierConfig(50, 512, 1, 2, 16, labels=("x", "y"))
    corpus = SimpleNamespace(longest=3)
    short, whole = (Plan({"data": {}}, corpus=found) for found in (corpus, None))
    cost, most = (costs_of_step(plan, network, 64, 1.0, "cpu").forward_peak for plan in (short, whole))
    assert cost < most / 50
