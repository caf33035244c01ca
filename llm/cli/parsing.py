"""What is said about mistakes on the command line of `train.py` and in YAML files."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import pydoc
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm.errors import ConfigError
from llm.runtime.trust import refusal
from llm.tasks import TASKS

_ALSO_CALLED = {
    "batch_size": {"bs", "batch", "micro_batch_size", "per_device_train_batch_size"},
    "context_length": {"block_size", "seq_len", "seq_length", "sequence_length", "max_length", "n_ctx", "n_positions"},
    "gradient_clip_val": {"grad_clip", "clip_grad", "max_grad_norm"},
    "accumulate_grad_batches": {"gradient_accumulation_steps", "grad_accum"},
    "learning_rate": {"lr", "rate", "max_lr"},
    "max_epochs": {"epochs", "n_epochs", "num_epochs", "num_train_epochs"},
    "max_steps": {"steps", "max_iters", "iterations", "n_steps"},
    "n_embd": {"d_model", "hidden_size", "dim", "emb_dim", "embedding_size", "n_embed", "width"},
    "n_head": {"heads", "num_heads", "n_heads", "num_attention_heads"},
    "n_layer": {"layers", "num_layers", "n_layers", "num_hidden_layers", "depth"},
    "validation_fraction": {"validation_share", "val_fraction", "val_split", "val_size", "validation_split"},
    "accelerator": {"gpus", "tpu_cores", "num_processes", "auto_select_gpus", "ipus"},
    "ckpt_path": {"resume_from_checkpoint", "resume", "load_from_checkpoint"},
    "callbacks": {"auto_lr_find", "auto_scale_batch_size", "checkpoint_callback", "stochastic_weight_avg"},
    "enable_model_summary": {"weights_summary"},
    "enable_progress_bar": {"progress_bar_refresh_rate"},
    "use_distributed_sampler": {"replace_sampler_ddp"},
    "default_root_dir": {"weights_save_path", "output_dir"},
    "corpus": {"text", "file", "dataset", "train_file", "data"},
}
"""What other programs, and earlier versions, call a setting."""


def suggestion(name: str, known: Collection[str]) -> str:
    """`; did you mean ...?` with the known name of the same meaning, or the nearest, whole or behind its last dot."""
    group, _, last = name.rpartition(".")
    endings = {key.rpartition(".")[2]: key for key in sorted(known)}
    meant = [word for word, others in _ALSO_CALLED.items() if last in others]
    of_meaning = [key for word in meant for key in sorted(known) if key.rpartition(".")[2] == word]
    of_meaning.sort(key=lambda key: not key.startswith(f"{group}."))
    near = of_meaning[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    near = near or [endings[end] for end in difflib.get_close_matches(last, endings, n=1)]
    return f"; did you mean {near[0]}?" if near else ""


def other_task(name: str, known: Collection[str]) -> str:
    """`, but a setting of ...` with the tasks that have a setting of this dotted name; empty where none has.

    Only the first two parts are looked at: these are arguments of a task's module, data module and callbacks.
    """
    parts = name.split(".")
    if any(f"{key}.".startswith(f"{'.'.join(parts[:2])}.") for key in known):
        return ""
    tasks = [word for word, task in TASKS.items() if len(parts) > 1 and tuple(parts[:2]) in _arguments_of(word)]
    if not tasks:
        return ""
    return f": it is a setting of the task {' or '.join(tasks)}, which --task chooses"


@functools.cache
def _arguments_of(word: str) -> frozenset[tuple[str, str]]:
    task = TASKS[word]
    made = {"model": task.module_class(), "data": task.datamodule_class(), **task.callback_classes()}
    return frozenset((group, name) for group, kind in made.items() for name in inspect.signature(kind).parameters)


def explain(message: str, known: Collection[str]) -> str:
    """The message of a parser as one that names the setting, what it may be, and what was probably meant.

    Args:
        message: with its line breaks.
        known: the dotted names of all settings.
    """
    if wrong := re.search(r"unrecognized arguments: --([\w.]+)|Subcommand .* option '([\w.]+)'", message):
        name = wrong[1] or wrong[2]
        if name in known:
            return f"{message}: that is an option of another command"
        other, near = other_task(name, known), suggestion(name, known)
        return f"{message}{other}{near.replace('mean ', 'mean --') or ('' if other else '; see --help')}"
    key = re.search(r'Parser key "([\w.]+)"', message)
    if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
        return f"{key[1] + ': ' if key else ''}{refusal(denied[1])}"
    if key is None:  # a class could not be made: there its name says where
        return _about_a_class(message) or message
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    shown = given[1] if given else ""
    if re.search(r"Unable to load config", message):
        return f"{key[1]} takes settings by name, such as {_example(key[1], known)}{_got(message)}"
    if about := _about_a_class(message):
        return f"{key[1]}: {about}"
    literals = re.findall(r"Literal\[([^\]]*)\]", message)
    if literals:
        choices = list(dict.fromkeys(str(choice) for part in literals for choice in ast.literal_eval(f"[{part}]")))
        listed = "a list of some of " if "list[typing.Literal" in message else "one of "
        wrong_values = [str(value) for value in _values(shown) if str(value) not in choices]
        near = suggestion(wrong_values[0], choices) if wrong_values else ""
        return f"{key[1]} must be {listed}{', '.join(choices)}; got {shown}{near}"
    kinds = re.findall(r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>|Not a valid (subclass of \w+)", message)
    nouns = dict.fromkeys(_NOUNS.get(kind, kind) or f"the class_path of a {other}" for kind, other in kinds)
    if nouns:
        return f"{key[1]} must be {' or '.join(nouns)}, got {shown}"
    return message


_NOUNS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "list": "a list",
    "tuple": "a list",
    "dict": "settings by name",
    "NoneType": "null",
}


def link_refusal(source: str, target: str, known: Collection[str]) -> str:
    """What is said to a user who sets what follows from another setting, or from the data."""
    return f"{target}, which follows from {source}: {f'set {source} instead' if source in known else 'leave it out'}"


def _example(group: str, known: Collection[str]) -> str:
    inside = sorted(name for name in known if name.startswith(f"{group}.") and name.count(".") == group.count(".") + 1)
    return f"--{inside[0]}" if inside else "in a YAML file"


def _got(message: str) -> str:
    found = re.search(r"Unable to load config '(.*)'", message)
    return f", or a file of them; got {found[1]!r}" if found else ""


def _about_a_class(message: str) -> str | None:
    """What is wrong with a `class_path` and its `init_args`, out of all that was tried in vain."""
    if wrong := re.search(r"Problem with given class_path '([\w.]+)':\s*(.*)", message):
        path, reason = wrong[1], wrong[2].strip()
        near = ""
        if option := re.search(r"Option '([\w.]+)' is not accepted", reason):
            made = pydoc.locate(path)
            names = list(inspect.signature(made).parameters) if callable(made) else []
            near = suggestion(option[1], names) or (f"; there are {', '.join(names)}" if names else "")
        elif option := re.fullmatch(r'Parser key "([\w.]+)":', reason):
            reason = f"{option[1]} can't have this value"
        return f"{path}: {reason}{near}"
    if wrong := re.search(r"Expected a dot import path string: (.*)", message):
        return f"there is no class {wrong[1]!r}"
    if wrong := re.search(r"Import path does not correspond to a subclass of ([\w.]+)", message):
        given = re.search(r"Given value: (.*)", message)
        return f"expected the class_path of a {wrong[1]}{f', got {given[1]}' if given else ''}"
    # In a union, what is about one of its classes says more than which types there are.
    errors = re.findall(r"^ *- (?!Expected a|Not a valid subclass|a class path|a dict)(.+)", message, re.MULTILINE)
    return errors[0] if errors else None


def _values(shown: str) -> list[Any]:
    try:
        values = ast.literal_eval(shown)
    except (ValueError, SyntaxError):
        values = shown
    return list(values) if isinstance(values, list | tuple) else [values]


def check_settings(
    path: str, settings: dict[Any, Any], known: Collection[str], sources: Mapping[str, str], prefix: str = ""
) -> None:
    """Refuse a file that sets what is not a setting, or what follows from another: the parser would ignore it silently.

    Args:
        path: of the file.
        settings: its content.
        known: the dotted names of all settings.
        sources: of settings that follow from others, by these.
        prefix: of the names, in a group.

    Raises:
        ConfigError: a name is unknown or can't be set, or a group holds something other than settings by name.
    """
    if problems := list(_problems_of(path, settings, known, sources, prefix)):
        raise ConfigError(*problems)


def _problems_of(
    path: str, settings: dict[Any, Any], known: Collection[str], sources: Mapping[str, str], prefix: str
) -> Iterator[str]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if source := sources.get(name):
            yield f"{path!r} sets {link_refusal(source, name, known)}"
            continue
        is_group = any(other.startswith(f"{name}.") for other in known)
        if not is_group and name not in known:
            yield f"{path!r} sets {name}, which is not a setting{other_task(name, known)}{suggestion(name, known)}"
            continue
        if not is_group or (isinstance(value, str) and Path(value).is_file()):
            continue
        if not isinstance(value, dict):
            held = "nothing" if value is None else repr(value)
            yield f"{path!r}: {name} must hold settings by name, such as {_example(name, known)[2:]}; it holds {held}"
            continue
        yield from _problems_of(path, value, known, sources, f"{name}.")
