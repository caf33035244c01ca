"""Other people's weights in, ours out.

`read_pretrained` recognizes what a file or folder holds and reads it; `adapt` fits it to a run; `export` writes it for
other programs; `load` makes a model of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llm.errors import CheckpointError
from llm.model import Network, build_network
from llm.pretrained.adapting import adapt, grow_vocabulary
from llm.pretrained.base import AnyNetwork, Loaded, Pretrained
from llm.pretrained.checkpoint import (
    LANGUAGE,
    NEXT_TOKEN_TASKS,
    SOURCE_TOKENIZER,
    read_checkpoint,
    tokenizer_of,
)
from llm.pretrained.exporting import FORMATS, export, refuse_existing
from llm.pretrained.formats import read_pretrained
from llm.tokenizers import Tokenizer
from llm.tokenizers.files import read_tokenizer_file

__all__ = [
    "FORMATS",
    "Loaded",
    "Pretrained",
    "adapt",
    "begin_with",
    "build",
    "export",
    "grow_vocabulary",
    "load",
    "load_of_task",
    "read_pretrained",
    "read_source_tokenizer",
    "read_tokenizer",
    "refuse_existing",
]


def load(source: str | Path, device: str | torch.device = "cpu") -> Loaded[Network]:
    """The network, in eval mode, and the tokenizer of a checkpoint or of any other file that can be read.

    Args:
        source: what `read_pretrained` reads: a `.ckpt` of any task, a Hugging Face folder, `gpt2`, and others.
        device: where the weights go.

    Raises:
        CheckpointError: it can't be read, or has no tokenizer.
    """
    pretrained = read_pretrained(source, any_task=True)
    return Loaded(build(pretrained).to(device).eval(), _tokenizer(pretrained, source))


def load_of_task(
    source: str | Path, task: str, kind: type[AnyNetwork], device: str | torch.device = "cpu"
) -> Loaded[AnyNetwork]:
    """As `load`, where only one task will do.

    Args:
        source: what `read_pretrained` reads.
        task: its word.
        kind: the class of its network.
        device: where the weights go.

    Raises:
        CheckpointError: it can't be read, has no tokenizer, or is of another task.
    """
    pretrained = read_pretrained(source, any_task=True)
    network = build(pretrained)
    allowed = NEXT_TOKEN_TASKS if task == LANGUAGE else (task,)
    if pretrained.task not in allowed or not isinstance(network, kind):
        raise CheckpointError(
            f"{str(source)!r} is of the task {pretrained.task!r}, and this command is for those of the task {task!r}"
        )
    return Loaded(network.to(device).eval(), _tokenizer(pretrained, source))


def begin_with(
    network: Network, source: str | Path, tasks: Sequence[str] = NEXT_TOKEN_TASKS, grows_vocabulary: bool = False
) -> None:
    """Give a network the weights of a file or folder; a classifier's head stays new unless its labels are the same.

    Args:
        network: what a run begins with; changed in place.
        source: what `read_pretrained` reads.
        tasks: those whose checkpoints are taken.
        grows_vocabulary: whether the network may have more tokens, whose embeddings then begin as the others' mean.

    Raises:
        CheckpointError: it can't be read, or is of another task.
        ConfigError: the weights are of another architecture.
    """
    found = read_pretrained(source, {"n_head": network.config.n_head}, tasks=tasks)
    if grows_vocabulary:
        found = grow_vocabulary(found, network.config.vocab_size)
    weights = adapt(found, network.config).weights
    network.load_state_dict({**network.state_dict(), **weights})


def read_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint or of any other file that can be read; or that `write_tokenizer_file` wrote.

    Raises:
        CheckpointError: it can't be read, or has no tokenizer.
        TokenizerError: it is a `.json` file that describes none.
    """
    if Path(source).suffix == ".json":
        return read_tokenizer_file(Path(source))
    if Path(source).suffix == ".ckpt":  # of any task, whose network may be none that this package can build
        return tokenizer_of(read_checkpoint(source), source)
    return _tokenizer(read_pretrained(source, any_task=True), source)


def read_source_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer for sources of a checkpoint of the task `translate`.

    Raises:
        CheckpointError: it can't be read, or has none.
    """
    return tokenizer_of(read_checkpoint(source), source, SOURCE_TOKENIZER)


def build(pretrained: Pretrained) -> Network:
    """A network with these weights."""
    model = build_network(pretrained.config)
    model.load_state_dict(pretrained.weights)
    return model


def _tokenizer(pretrained: Pretrained, source: str | Path) -> Tokenizer:
    if pretrained.tokenizer is None:
        raise CheckpointError(f"{str(source)!r} has no tokenizer, so it can't read or write text")
    return pretrained.tokenizer
