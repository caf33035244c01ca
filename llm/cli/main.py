"""The command line of `train.py`: run it, with errors that fit on a line."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from llm.cli.console import Help, be_quiet, fail
from llm.cli.help import description
from llm.cli.parsing import explain, link_refusal
from llm.cli.refusals import reason_about
from llm.cli.save_config import SaveConfig
from llm.cli.settings import setting_names
from llm.cli.task import choose_task
from llm.cli.trainer import TRAINER_DEFAULTS
from llm.cli.training_cli import TrainingCLI
from llm.cli.words import CONFIG, config_first, take
from llm.config.tasks import LANGUAGE
from llm.errors import LLMError, reason_of
from llm.preflight import PreflightDone
from llm.runtime.process import Interrupted
from llm.runtime.shipped import train_command
from llm.runtime.trust import HELP, only_trusted_classes, take_allowed
from llm.tasks import TASKS

log = logging.getLogger("llm")


def main(args: Sequence[str] | None = None, default_config: Path | None = None) -> int:
    """Run the command line and give its exit status.

    Args:
        args: the words after `train.py`. Default: those of this process.
        default_config: the YAML file that is loaded when the words name none; below its folder are those of all tasks.
    """
    words = config_first(sys.argv[1:] if args is None else args)
    be_quiet()
    if words and words[0].startswith("--task"):
        return fail(f"give a command first: {train_command()} fit {' '.join(words)}", 2)
    parsers: list[LightningArgumentParser] = []
    task = LANGUAGE

    class Parser(LightningArgumentParser):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            parsers.append(self)

    try:
        allowed, words = take_allowed(words)
        task = choose_task(words)
        with only_trusted_classes(allowed):
            TrainingCLI(
                task,
                save_config_callback=SaveConfig,
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=123,
                parser_kwargs=_parser_kwargs(task, _default_files(words, task, default_config)),
                parser_class=Parser,
                args=words,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                allowed_classes=allowed,
            )
    except Interrupted as error:
        log.info(str(error))
        return 128 + error.signal_number
    except PreflightDone as done:
        return done.status
    except argparse.ArgumentError as error:
        return fail(_explain(str(error), set().union(*map(setting_names, parsers)), task), 2)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except Exception as error:
        if isinstance(error, LLMError):
            return max(fail(str(problem), 1) for problem in error.args)
        if (reason := reason_of(error)) is not None:
            return fail(reason, 1)
        if isinstance(error, MisconfigurationException) or _is_about_a_setting(error):
            return fail(explain(str(error), ()), 1)
        raise
    return 0


def _default_files(words: Sequence[str], task: str, default_config: Path | None) -> list[str]:
    """The YAML file of a task that is loaded where the words name none."""
    if default_config is None or take(words, CONFIG)[0]:
        return []
    file = default_config.parent / (TASKS[task].config or f"{task}.yaml")
    return [str(file)] if file.is_file() else []


def _parser_kwargs(task: str, default_files: list[str]) -> dict[str, Any]:
    """The options of the parser of `train.py`, and of that of each command."""
    each = {"exit_on_error": False, "allow_abbrev": False}
    parser_kwargs: dict[str, Any] = each | {"formatter_class": Help}
    for subcommand in TrainingCLI.subcommands():
        parser_kwargs[subcommand] = each | {
            "default_config_files": default_files,
            "usage": f"{train_command()} {subcommand} [options]",
            "description": description(subcommand, task),
            "epilog": HELP,
        }
    return parser_kwargs


def _explain(message: str, known: set[str], task: str) -> str:
    """The message of a parser, as a user can act on it."""
    for target, source in TASKS[task].sources.items():
        if f'Linked "{target}"' in message:
            return link_refusal(source, target, known)
    return reason_about(message) or explain(message, known)


def _is_about_a_setting(error: Exception) -> bool:
    """Whether Lightning or the parser raised an error: they do where a setting of theirs is invalid."""
    if not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").split(".")[0] in ("lightning", "jsonargparse")
