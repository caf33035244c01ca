"""Generate, classify, evaluate, inspect, convert and tokenize. To train: python train.py fit."""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import keyword
import sys
from collections.abc import Sequence
from types import ModuleType

from llm.cli.help import SUMMARIES as TRAINING_COMMANDS
from llm.commands.checkpoints import find_checkpoint
from llm.errors import OtherTaskError, reason_of
from llm.runtime.shell import command_line, train_command_line
from llm.tasks.table import TASKS

COMMANDS = {
    "attention": "write a page with the attention weights of every head",
    "chat": "talk with a model that was trained to answer",
    "classify": "say which label a text has",
    "compare": "compare runs: what differs, best loss, time",
    "import": "convert other people's weights to a checkpoint",
    "export": "write a checkpoint for other programs",
    "evaluate": "measure how well a model predicts a text",
    "fill": "fill in the masked words of a text",
    "neighbours": "find the words whose vectors are nearest to a word, or to an analogy",
    "generate": "continue a prompt with a trained model",
    "merge": "make the adapters of a checkpoint (LoRA) part of its weights",
    "tokenize": "turn text of any size into token ids to train on",
    "tokenizer": "learn a byte-pair encoding, and show the tokens of a text",
    "translate": "translate sentences with a trained model",
    "trace": "walk one text through the whole pipeline, with shapes and numbers",
}
"""Each is a module in `llm.commands` with `add_arguments` and `run`, imported only when it is called."""


def _module_of(command: str) -> ModuleType:
    """The module of a command; where its name is a keyword of Python, an underscore follows."""
    return importlib.import_module(f"llm.commands.{command}{'_' * keyword.iskeyword(command)}")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and give the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding has no character for
        sys.stdout.reconfigure(errors="backslashreplace")
    if words and words[0] in TRAINING_COMMANDS:
        print(f"error: {words[0]} is a command of training: use {train_command_line(*words)}", file=sys.stderr)
        return 2
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there is {', '.join(COMMANDS)}"
        print(f"error: there is no command {words[0]!r}; {meant}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser("python -m llm", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name in words[:1]:
            _module_of(name).add_arguments(subparser)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        chosen = subparsers.choices[arguments.command]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], _options(chosen), n=1)
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")
    module = _module_of(arguments.command)
    try:
        if "ckpt" in arguments:
            task, with_template = getattr(module, "TASK", None), getattr(module, "WITH_TEMPLATE", False)
            arguments.ckpt = find_checkpoint(arguments.ckpt, task, with_template)
        module.run(arguments)
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (reason := reason_of(error)) is None:
            raise
        from llm.cli.console import fail

        instead = _command_for(error.task) if isinstance(error, OtherTaskError) else None
        return fail(reason if instead is None else f"{reason}: use {instead}", 1)
    return 0


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a command, and of the commands below it."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            found += [option for below in action.choices.values() for option in _options(below)]
    return found


def _command_for(task: str) -> str | None:
    """The command that uses a trained model of a task, where there is one."""
    usage = TASKS[task].usage if task in TASKS else ()
    return command_line("python", "-m", "llm", usage[0]) if usage else None


if __name__ == "__main__":
    sys.exit(main())
