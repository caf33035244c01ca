"""What of Lightning's is refused before a run, with the reason."""

from __future__ import annotations

import pytest
from jsonargparse import Namespace

from llm.cli.parsing import explain, suggestion
from llm.cli.refusals import (
    reason_about,
    refuse_loading_code,
    refuse_monitors,
    refuse_of_lightning,
    refuse_other_networks,
    refuse_seed,
)
from llm.errors import ConfigError


def trainer(callback: str = "Timer", strategy: str = "auto", max_epochs: int | None = None, **arguments) -> Namespace:
    listed = [Namespace(class_path=f"lightning.pytorch.callbacks.{callback}", init_args=Namespace(**arguments))]
    return Namespace(callbacks=listed, plugins=None, barebones=False, strategy=strategy, max_epochs=max_epochs)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook", "ddp_fork_find_unused_parameters_true"])
def test_strategies_whose_processes_are_copies(strategy):
    with pytest.raises(ConfigError, match=f"strategy {strategy} is refused: .* give ddp"):
        refuse_of_lightning(trainer(strategy=strategy))
    refuse_of_lightning(trainer(strategy="ddp_find_unused_parameters_true"))


def test_an_average_that_begins_after_a_fraction_of_epochs_needs_a_number_of_them():
    average = {"callback": "StochasticWeightAveraging", "swa_lrs": 0.1}
    for options in ({"swa_epoch_start": 0.8}, {}, {"max_epochs": -1}):
        with pytest.raises(ConfigError, match=r"give --trainer\.max_epochs, or an epoch as"):
            refuse_of_lightning(trainer(**average, **options))
    refuse_of_lightning(trainer(**average, swa_epoch_start=1))
    refuse_of_lightning(trainer(**average, max_epochs=3))


@pytest.mark.parametrize("name", ["val_loss", "val/loss", "valid_loss", "train_loss", "train/loss", "validation_loss"])
def test_a_metric_of_another_name(name):
    with pytest.raises(ConfigError, match=f"EarlyStopping monitors '{name}'; .* such as validation/loss"):
        refuse_monitors(trainer("EarlyStopping", monitor=name))


@pytest.mark.parametrize("name", ["validation/loss", "validation/token_accuracy", None, "step", "value"])
def test_a_metric_of_ours(name):
    refuse_monitors(trainer("ModelCheckpoint", monitor=name))


@pytest.mark.parametrize("seed", [0, 123, 2**32 - 1, True, False])
def test_seeds(seed):
    refuse_seed(seed)
    for wrong in (-1, 2**32):
        with pytest.raises(ConfigError, match="seed_everything must be 0 to 4294967295"):
            refuse_seed(wrong)


def test_a_setting_of_a_network_that_the_run_does_not_have():
    kinds = ("transformer", "rnn")
    refuse_other_networks("rnn", {"model.rnn.attention", "model.kind", "data.rnn", "model.optim.learning_rate"}, kinds)
    refuse_other_networks(None, {"model.rnn.attention"}, ())
    said = "--model.rnn.attention is a setting of the network 'rnn', and that of this run is 'transformer': give"
    with pytest.raises(ConfigError, match=said):
        refuse_other_networks("transformer", {"model.rnn.attention", "model.transformer.n_layer"}, kinds)


def test_code_in_checkpoints_is_never_run():
    refuse_loading_code(None)
    refuse_loading_code(True)
    with pytest.raises(ConfigError, match="weights_only false is refused"):
        refuse_loading_code(False)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trainer.gpus", "trainer.accelerator"),
        ("trainer.resume_from_checkpoint", "ckpt_path"),
        ("trainer.auto_lr_find", "trainer.callbacks"),
        ("trainer.replace_sampler_ddp", "trainer.use_distributed_sampler"),
    ],
)
def test_flags_of_earlier_versions_of_lightning(name, meant):
    known = {"ckpt_path", *(f"trainer.{flag}" for flag in ("accelerator", "callbacks", "use_distributed_sampler"))}
    assert suggestion(name, known) == f"; did you mean {meant}?"


def test_an_option_of_another_command():
    said = explain("unrecognized arguments: --verbose=true", {"verbose"})
    assert said.endswith("that is an option of another command")


def test_the_command_tune_of_earlier_versions():
    assert "--trainer.callbacks+=LearningRateFinder" in reason_about("invalid choice: 'tune' (choose from 'fit')")
