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

from llm.cli.console import KeepsLines, be_quiet, fail
from llm.cli.help import description
from llm.cli.parsing import explain
from llm.cli.save_config import SaveConfig
from llm.cli.settings import LINKS, refuse_link_targets
from llm.cli.training_cli import GPTCLI, TRAINER_DEFAULTS, setting_names
from llm.data import TextDataModule
from llm.errors import LLMError, reason_of
from llm.preflight import PreflightDone
from llm.runtime.process import Interrupted
from llm.runtime.shipped import train_command
from llm.runtime.trust import HELP, only_trusted_classes, take_allowed
from llm.tasks import LanguageModel

log = logging.getLogger("llm")


def main(args: Sequence[str] | None = None, default_config: Path | None = None) -> int:
    """Run the command line and give its exit status.

    Args:
        args: the words after `train.py`. Default: those of this process.
        default_config: the YAML file that is loaded when the words name none.
    """
    words = list(sys.argv[1:] if args is None else args)
    be_quiet()
    parser_kwargs: dict[str, Any] = {"exit_on_error": False, "formatter_class": KeepsLines}
    names_a_file = any(word.split("=")[0] in ("-c", "--config") for word in words)
    default_files = [] if default_config is None or names_a_file else [str(default_config)]
    for subcommand in GPTCLI.subcommands():
        parser_kwargs[subcommand] = {
            "default_config_files": default_files,
            "exit_on_error": False,
            "usage": f"{train_command()} {subcommand} [options]",
            "description": description(subcommand),
            "epilog": HELP,
        }
    parsers: list[LightningArgumentParser] = []

    class Parser(LightningArgumentParser):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            parsers.append(self)

    try:
        allowed, words = take_allowed(words)
        refuse_link_targets(words)
        with only_trusted_classes(allowed):
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
                load_from_checkpoint_support=False,
                allowed_classes=allowed,
            )
    except Interrupted as error:
        log.info(str(error))
        return 128 + error.signal_number
    except PreflightDone as done:
        return done.status
    except argparse.ArgumentError as error:
        return fail(_explain(str(error), setting_names(parsers)), 2)
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


def _explain(message: str, known: set[str]) -> str:
    """The message of a parser, as a user can act on it."""
    for source, target in LINKS.items():
        if f'Linked "{target}"' in message:
            advice = "leave it out" if source == "data.vocab_size" else f"set --{source} instead"
            return f"{target} follows from {source}: {advice}"
    return explain(message, known)


def _is_about_a_setting(error: Exception) -> bool:
    """Whether Lightning or the parser raised an error: they do where a setting of theirs has no sense."""
    if not isinstance(error, ValueError | TypeError | RuntimeError | ImportError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").split(".")[0] in ("lightning", "jsonargparse")
