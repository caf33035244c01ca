"""What the settings of a run come to: what follows from those that the user gave, and from trained weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm.cli.adopting import adopt_checkpoint, adopt_pretrained
from llm.cli.settings import adopt_interval, adopt_length, adopt_root, is_given, name_run, sets_interval
from llm.cli.tokenizing import leave_tokenizer_to_token_ids
from llm.cli.tuning import refuse_batch_size_finder, settings_found_before, take_finders
from llm.errors import ConfigError
from llm.preflight import Start
from llm.runs.choosing import choose_checkpoint
from llm.runs.processes import adopt_launcher, refuse_more_processes_than_cores, refuse_nodes_that_nobody_starts
from llm.runtime.hardware import has_native_bfloat16
from llm.tasks import TASKS


@dataclass
class Settled:
    """What is known of a run besides its settings, before anything of it is made.

    Args:
        keeps_interval: whether the interval between validations is one that somebody set.
        finders: what is to be searched for first, such as a learning rate; see `llm.cli.tuning`.
        start: where it begins.
    """

    keeps_interval: bool
    finders: dict[str, Any] = field(default_factory=dict)
    start: Start = field(default_factory=Start)


def settle(config: Any, subcommand: str, word: str, given: set[str], by_flags: set[str]) -> Settled:
    """Set what the user did not: from what they did, and from trained weights, which know architecture and tokenizer.

    Args:
        config: of the run; changed in place.
        subcommand: `fit` or another.
        word: of the task.
        given: the names that the user set.
        by_flags: those set by flags, which win over what is set in files.

    Raises:
        ConfigError: settings contradict each other, or the command lacks trained weights.
        CheckpointError: these can't be read, or do not go with the run.
    """
    trainer = config.trainer
    if subcommand == "fit":
        _choose_precision(trainer)
    else:
        _refuse_what_is_for_fit(by_flags)
    adopt_launcher(trainer, is_given("trainer.devices", given), is_given("trainer.strategy", given))
    refuse_more_processes_than_cores(trainer)
    refuse_nodes_that_nobody_starts(trainer)
    adopt_root(trainer, given, by_flags)
    if subcommand == "fit":
        if config.name is not None:
            name_run(trainer, config.name)
        adopt_length(trainer, given)
        adopt_interval(trainer, given)
    leave_tokenizer_to_token_ids(config, given)
    settled = Settled(sets_interval(trainer, given))
    config.ckpt_path = choose_checkpoint(config, subcommand, word)
    if subcommand == "fit":
        settled.finders = take_finders(config)
    else:
        refuse_batch_size_finder(config, subcommand)
        if not is_given("trainer.logger", by_flags):
            trainer.logger = False
    if config.ckpt_path is not None:
        given = given - settings_found_before(settled.finders)
        settled.start = adopt_checkpoint(config, subcommand, given, word, settled.finders)
    elif config.model.get("pretrained") is not None:
        settled.start = adopt_pretrained(config, given, TASKS[word])
    elif subcommand != "fit":
        raise ConfigError(
            f"{subcommand} needs a trained model: give --ckpt_path FILE, --ckpt_path last, or --model.pretrained PATH"
        )
    return settled


def _refuse_what_is_for_fit(given: set[str]) -> None:
    for name in ("fresh", "preflight"):
        if name in given:
            raise ConfigError(f"--{name} is for fit")


def _choose_precision(trainer: Any) -> None:
    """Multiply in bfloat16 where the device does so natively; weights and optimizer stay in float32."""
    if trainer.precision is None and has_native_bfloat16(str(trainer.accelerator)):
        trainer.precision = "bf16-mixed"
