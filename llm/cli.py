"""The command line of `train.py`: LightningCLI with links, defaults, and errors that fit on a line."""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from llm.checkpoint import ENTRY, config_of, read_checkpoint
from llm.data import TextDataModule
from llm.errors import ConfigError, LLMError
from llm.inspection import Inspection
from llm.training import (
    AtomicCheckpointIO,
    BestAndLast,
    Interrupted,
    LanguageModel,
    PredictionWriter,
    RunProgress,
    StopSafely,
    TextSamples,
    Throughput,
    newest_checkpoint,
)

log = logging.getLogger("llm")

RUNS = "runs"
"""The folder in which every run gets a folder of its own."""

LINKS = {"data.context_length": "model.gpt.context_length", "data.vocab_size": "model.gpt.vocab_size"}
"""Settings of the model that follow from the data; they can't be set on their own."""

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": {
        "class_path": "TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "", "default_hp_metric": False},
    },
    "max_steps": 1000,
    "gradient_clip_val": 1.0,
    "val_check_interval": 100,
    "check_val_every_n_epoch": None,  # count steps, not epochs: with a small text these are short
    "num_sanity_val_steps": -1,  # a whole validation first: the loss that a run starts from
    "log_every_n_steps": 10,
    "enable_model_summary": False,  # the shape table says more
    "use_distributed_sampler": False,  # the data module shares the windows out itself
}


class GPTCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` with a `LanguageModel` on a `TextDataModule`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of every run under names of their own, and the links."""
        parser.add_lightning_class_args(Inspection, "inspect")
        parser.add_lightning_class_args(TextSamples, "samples")
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.link_arguments("data.context_length", LINKS["data.context_length"])
        parser.link_arguments("data.vocab_size", LINKS["data.vocab_size"], apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then let a checkpoint decide what it already knows: architecture and tokenizer."""
        super().parse_arguments(parser, args)
        subcommand = self.config.subcommand
        config = self.config[subcommand]
        given = _given(args)
        if subcommand != "fit" and not _is_given("trainer.logger", given):
            config.trainer.logger = False
        if config.ckpt_path in ("last", "best"):
            config.ckpt_path = str(newest_checkpoint(_runs_folder(config), config.ckpt_path))
        if config.ckpt_path is not None:
            _adopt(config, given)
        elif subcommand != "fit":
            raise ConfigError(f"{subcommand} needs a trained model: give --ckpt_path FILE, or --ckpt_path last")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add what every run has: safe checkpoints, throughput, a progress bar, a safe stop."""
        config = self._get(self.config_init, "trainer")
        kwargs["plugins"] = [*_as_list(config.get("plugins")), AtomicCheckpointIO()]
        if 0 < config["max_steps"] < (config["val_check_interval"] or 0):
            kwargs["val_check_interval"] = config["max_steps"]  # a short run is validated too, at its end
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, BestAndLast)]
        always: list[L.Callback] = [Throughput(), StopSafely()]
        if config.get("enable_progress_bar") is not False:
            always.append(RunProgress())
        return super()._instantiate_trainer(config, [*callbacks, *always])

    def before_fit(self) -> None:
        """Say where the run is."""
        if self.trainer.log_dir is not None and self.trainer.is_global_zero:
            log.info("run folder: %s", self.trainer.log_dir)

    def after_fit(self) -> None:
        """Say where the checkpoint is, how to look at the run, and how to use it."""
        checkpoint = self.trainer.checkpoint_callback
        if not self.trainer.is_global_zero or not isinstance(checkpoint, BestAndLast):
            return
        path = checkpoint.best_model_path or checkpoint.last_model_path
        if path:
            log.info("checkpoint:  %s", path)
            if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
                log.info(
                    "look inside: tensorboard --logdir %s --samples_per_plugin images=100,text=100",
                    self.trainer.log_dir,
                )
            log.info('generate:    python -m llm generate --ckpt %s --prompt "Once"', path)


class SaveConfig(SaveConfigCallback):
    """Writes the run's configuration to its folder, and to TensorBoard as text and as hyper-parameters."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write `config.yaml` where a run has a folder: the others would leave it in the working directory."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write to TensorBoard what went into `config.yaml`."""
        del pl_module, stage
        text = self.parser.dump(self.config, skip_none=False)
        settings = _flatten({key: value for key, value in yaml.safe_load(text).items() if key in ("model", "data")})
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()), 0)
                logger.log_hyperparams(settings, {"validation/loss": float("nan")})


def main(args: Sequence[str] | None = None, default_config: Path | None = None) -> int:
    """Run the command line and give its exit status.

    Args:
        args: the words after `train.py`. Default: those of this process.
        default_config: the YAML file that is loaded when the words name none.
    """
    words = list(sys.argv[1:] if args is None else args)
    _be_quiet()
    parser_kwargs: dict[str, Any] = {"exit_on_error": False}
    if default_config is not None and not any(word.split("=")[0] in ("-c", "--config") for word in words):
        for subcommand in GPTCLI.subcommands():
            parser_kwargs[subcommand] = {"default_config_files": [str(default_config)], "exit_on_error": False}
    parsers: list[LightningArgumentParser] = []

    class Parser(LightningArgumentParser):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            parsers.append(self)

    try:
        _refuse_link_targets(words)
        GPTCLI(
            LanguageModel,
            TextDataModule,
            save_config_callback=SaveConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=123,
            parser_kwargs=parser_kwargs,
            parser_class=Parser,
            args=words,
            auto_configure_optimizers=False,
        )
    except Interrupted as error:
        return _fail(str(error), 128 + error.signal_number)
    except (LLMError, MisconfigurationException) as error:
        return _fail(str(error), 1)
    except argparse.ArgumentError as error:
        return _fail(_suggest(str(error), parsers), 2)
    except torch.OutOfMemoryError:
        return _fail("the device has not enough memory; use a smaller batch_size or context_length", 1)
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _suggest(message: str, parsers: Sequence[LightningArgumentParser]) -> str:
    """The message of a parser, with the option or key that was probably meant."""
    for word in message.replace("'", " ").replace('"', " ").replace("=", " ").split():
        name = word.lstrip("-").rstrip(":,.")
        known = {action.dest for parser in parsers for action in parser._actions}
        if name in known or not (word.startswith("--") or "." in name):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or difflib.get_close_matches(
            name.split(".")[-1], {key.split(".")[-1] for key in known}, n=1
        )
        if near:
            full = near[0] if near[0] in known else next(key for key in sorted(known) if key.endswith(f".{near[0]}"))
            return f"{message}; did you mean --{full}?"
    return message


def _refuse_link_targets(words: Sequence[str]) -> None:
    """A YAML file that sets what follows from the data would be silently ignored there.

    Raises:
        ConfigError: one does.
    """
    for path, names in _given_in_files(words).items():
        for source, target in LINKS.items():
            if target in names:
                advice = "leave it out" if source == "data.vocab_size" else f"set {source} instead"
                raise ConfigError(f"{path!r} sets {target}, which follows from {source}: {advice}")


def _given(words: Sequence[str]) -> set[str]:
    """The dotted names that the user set, by flags or in files, as opposed to defaults."""
    flags = {word.lstrip("-").partition("=")[0] for word in words if word.startswith("--")}
    return flags.union(*_given_in_files(words).values())


def _is_given(name: str, given: set[str]) -> bool:
    """Whether a setting, a part of it, or a group that it belongs to was set."""
    return any(f"{other}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other}.") for other in given)


def _given_in_files(words: Sequence[str]) -> dict[str, set[str]]:
    """The dotted names that each configuration file sets."""
    found = {}
    for index, word in enumerate(words):
        name, equals, path = word.partition("=")
        if name not in ("-c", "--config"):
            continue
        if not equals:
            path = words[index + 1] if index + 1 < len(words) else ""
        if not Path(path).is_file():
            continue  # the parser will say so
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path!r} is not valid YAML: {error}") from error
        found[path] = set(_flatten(content)) if isinstance(content, dict) else set()
    return found


def _adopt(config: Any, given: set[str]) -> None:
    """Take architecture and tokenizer from the checkpoint, except for what the user set.

    If that does not fit, loading the weights will say what differs.

    Raises:
        ConfigError: the user set another tokenizer.
    """
    path, checkpoint = config.ckpt_path, read_checkpoint(config.ckpt_path)
    for name, value in config_of(checkpoint, path).to_dict().items():
        if name == "context_length":
            if not _is_given("data.context_length", given):
                config.data.context_length = config.model.gpt.context_length = value
        elif name != "vocab_size" and not _is_given(f"model.gpt.{name}", given):
            config.model.gpt[name] = value
    state, tokenizer = checkpoint[ENTRY]["tokenizer"], config.data.tokenizer
    if state is None:
        return
    theirs = state.get("encoding", state["kind"])
    if _is_given("data.tokenizer.kind", given) and tokenizer.kind != theirs:
        raise ConfigError(f"the checkpoint has the tokenizer {theirs!r}; leave data.tokenizer {tokenizer.kind!r} out")
    tokenizer.checkpoint = path


def _runs_folder(config: Any) -> str:
    logger = config.trainer.logger
    return (
        logger.init_args.save_dir
        if hasattr(logger, "init_args")
        else TRAINER_DEFAULTS["logger"]["init_args"]["save_dir"]
    )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as primitives."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat


def _be_quiet() -> None:
    """Leave out what a user can do nothing about."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*is smaller than the logging interval.*",
        ".*args parameter is intended to run from within Python.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*`isinstance\\(treespec.*",
        ".*does not support bf16.*",
    ):
        warnings.filterwarnings("ignore", message)
