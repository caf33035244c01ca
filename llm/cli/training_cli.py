"""LightningCLI with the options and links of a task: from the words of a command line to a run."""

from __future__ import annotations

import argparse
import contextlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from llm.cli.ending import say_how_to_use
from llm.cli.every_run import as_list, begin_and_end_safely, callbacks_of_run
from llm.cli.measured import say_what_is_measured
from llm.cli.parsing import check_settings
from llm.cli.refusals import (
    refuse_loading_code,
    refuse_monitors,
    refuse_of_lightning,
    refuse_other_networks,
    refuse_seed,
)
from llm.cli.settings import given_by_flags, given_settings, plain_values, setting_names
from llm.cli.settling import settle
from llm.cli.task import refuse_without_predictions
from llm.cli.trainer import HELP, HELP_OF_FIT
from llm.cli.tuning import ON_ONE_DEVICE, tune
from llm.cli.words import settings_of_files
from llm.errors import ConfigError
from llm.preflight import Plan, PreflightDone, can_be_planned, possible_plan, preflight
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.runs.choosing import loggers_of_run
from llm.runs.recording import end_records
from llm.runs.run_folder import folders_of, locked, refuse_to_overwrite
from llm.runtime.files import remove_stale
from llm.runtime.randomness import preserve_rng_state
from llm.runtime.trust import refuse_functions
from llm.tasks import TASKS

log = logging.getLogger("llm")


class TrainingCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` with the module and the data module of a task.

    Args:
        task: its word in `TASKS`.
        allowed_classes: whose code a configuration may name, besides the trusted packages; see `llm.runtime.trust`.
    """

    def __init__(self, task: str, *, allowed_classes: Sequence[str] = (), **kwargs: Any) -> None:
        self.word, self.task = task, TASKS[task]
        self.allowed_classes = allowed_classes
        words = kwargs.get("args")
        self._chosen = words[0] if words and words[0] in self.subcommands() else None
        super().__init__(self.task.module_class(), self.task.datamodule_class(), **kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--task`, which is chosen already and is kept in the run's configuration."""
        summary = "What is trained, on what: the options are those of the task."
        parser.add_argument("--task", default=self.word, choices=list(TASKS), help=summary)
        super().add_default_arguments_to_parser(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of every run under names of their own, and the links.

        Links apply when classes are instantiated: on parsing, jsonargparse 4.53 could not tell what the user gave
        (`parse_args(defaults=False)`) where the source of a link is a default.
        """
        for group, callback in self.task.callback_classes().items():
            parser.add_lightning_class_args(callback, group)
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        for target, source in self.task.sources.items():
            parser.link_arguments(source, target, apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if self._chosen not in (None, subcommand):  # only named; three more parsers would take half of the start
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        fresh = "With --ckpt_path last: if there is no checkpoint yet, start at step 0."
        name = "Where the run is kept: in runs/NAME, such as runs/lr/0.003 for lr/0.003."
        visible = name if subcommand == "fit" else argparse.SUPPRESS
        parser.add_argument("--name", type=str | None, default=None, help=visible)
        alone = "Check the run without starting it: its plan, what it needs, and every problem."
        for name, help in (("--fresh", fresh), ("--preflight", alone)):
            # The other commands take them too, so that they can read the configuration of a run.
            visible = help if subcommand == "fit" else argparse.SUPPRESS
            parser.add_argument(name, type=bool, default=False, nargs="?", const=True, help=visible)
        for action in parser._actions:
            action.help = (HELP_OF_FIT if subcommand == "fit" else HELP).get(action.dest, action.help)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then let a checkpoint decide what it already knows: architecture and tokenizer."""
        names = set().union(*map(setting_names, self._subcommand_parsers.values()))
        for path, settings in settings_of_files(args).items():
            check_settings(path, settings, names, self.task.sources)
        super().parse_arguments(parser, args)
        subcommand = self.config.subcommand
        config = self.config[subcommand]
        if subcommand == "predict":
            refuse_without_predictions(self.word)
        self._refuse_settings(config)
        command, words = self._parser(subcommand), args[args.index(subcommand) + 1 :]
        given, by_flags = given_settings(command, words), given_by_flags(command, words)
        self.save_config_kwargs = {**self.save_config_kwargs, "flags": by_flags}
        if subcommand != "fit":
            self.save_config_callback = None  # there is no folder of this run
        self.settled = settle(config, subcommand, self.word, given, by_flags)
        networks = getattr(self.task.module_class(), "architectures", {})
        refuse_other_networks(config.model.get("kind"), by_flags, networks)

    def _refuse_settings(self, config: Any) -> None:
        """Refuse what no run may have; changes enumerations to their values, which YAML can hold."""
        refuse_of_lightning(config.trainer)
        refuse_seed(config.seed_everything)
        refuse_loading_code(config.get("weights_only"))
        if not self.allowed_classes:  # whose code may log metrics of its own
            refuse_monitors(config.trainer)
        config.trainer.callbacks = plain_values(config.trainer.callbacks)
        refuse_functions(config, self.allowed_classes)

    def before_instantiate_classes(self) -> None:
        """Find out what is wrong, all of it, before there is a model or a run folder; the first process does."""
        self.plan: Plan | None = None
        is_first = getattr(rank_zero_only, "rank", 0) == 0
        if self.subcommand != "fit":
            if self.subcommand != "predict" and is_first:
                command, kind = str(self.subcommand), self.task.datamodule_class()
                say_what_is_measured(self.config[command], command, self.settled.start, kind)
            return
        config = self.config.fit
        if not is_first:
            if self.settled.finders:
                raise ConfigError(ON_ONE_DEVICE)
            if config.preflight:
                raise PreflightDone(0)
            return
        self._tune(config)
        if not can_be_planned(self.task):
            if config.preflight:
                raise ConfigError(f"--preflight can't tell what a run of the task {self.word} needs")
            return
        if "cache_dir" in config.data:
            remove_stale(Path(config.data.cache_dir))
        settings = config.clone().as_dict()
        self.plan = preflight(settings, self.settled.start, config.preflight, self.settled.keeps_interval)
        config.trainer.val_check_interval = self.plan.settings["trainer"]["val_check_interval"]

    def instantiate_classes(self) -> None:
        """Make module, data module and Trainer; where the run was planned, with the plan's data module, so that the
        tokenizer is learned and the text is read once."""
        plan = self.plan
        known = [] if plan is None else [(lambda *_, **__: plan.datamodule, self.datamodule_class, False)]
        self.config_init = self.parser.instantiate(self.config, instantiators=known)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self.trainer = self.instantiate_trainer()

    def _tune(self, config: Any) -> None:
        """Search for what the finders are to find, once it is certain that the run can be."""
        if not self.settled.finders or config.trainer.fast_dev_run:
            return

        def make(settings: Any) -> tuple[L.LightningModule, L.LightningDataModule]:
            whole = self.config.clone()
            whole.fit = settings
            made = self.parser.instantiate(whole).fit
            return made.model, made.data

        known = can_be_planned(self.task)
        plan = possible_plan(config.clone().as_dict(), self.settled.start) if known else None
        with preserve_rng_state(torch.device("cpu")):
            tune(self.settled.finders, config, make, plan)

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let a checkpoint's hyper-parameters replace settings, and ours has none."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add what every run has: safe checkpoints, throughput, a progress bar, a safe stop."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand == "fit":
            kwargs["logger"] = loggers_of_run(self.config["fit"], config.get("logger"))
        kwargs["plugins"] = [*as_list(config.get("plugins")), AtomicCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        looks = tuple(self.task.callback_classes().values())
        trainer = super()._instantiate_trainer(config, callbacks_of_run(config, callbacks, looks, self.plan))
        begin_and_end_safely(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Train with the run's folders in hand: a run that could not be saved does not begin."""
        with contextlib.ExitStack() as stack:
            if subcommand == "fit" and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                folders, config = folders_of(self.trainer), self.config["fit"]
                refuse_to_overwrite(folders, config.ckpt_path, config.fresh, config.checkpoint.folder)
                stack.enter_context(locked(folders))
            status = 1
            stack.enter_context(warnings.catch_warnings())
            if subcommand != "fit":  # a callback that averages weights has put the average into the checkpoint
                warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
            try:
                super()._run_subcommand(subcommand)
                status = 0
            finally:
                end_records(self.trainer, status)

    def after_fit(self) -> None:
        """Say where the checkpoint is, how to look at the run, and how to use it."""
        if self.trainer.is_global_zero:
            say_how_to_use(self.trainer, self.datamodule, self.settled.start.step, self.task.usage)
