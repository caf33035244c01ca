"""Other people's weights in, ours out.

`read_pretrained` recognizes what a file or folder holds and reads it; `adapt` fits it to a run; `export` writes it for
other programs; `load` makes a model of it; `Adapters`
puts one of several adapters on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from llm.config import ClassifierConfig
from llm.config.tasks import NEXT_TOKEN_TASKS, tasks_like
from llm.errors import CheckpointError, OtherTaskError
from llm.model import Network, build_network
from llm.model.rotary import Rotary
from llm.pretrained.adapting import adapt, grow_vocabulary
from llm.pretrained.base import AnyNetwork, Loaded, Pretrained
from llm.pretrained.checkpoint import SOURCE_TOKENIZER, read_checkpoint, tokenizer_of
from llm.pretrained.exporting import FORMATS, export, export_adapters
from llm.pretrained.files import holds_weights
from llm.pretrained.formats import import_adapters, locate, read_pretrained
from llm.pretrained.peft import is_peft
from llm.pretrained.replacing import refuse_existing
from llm.pretrained.switching import Adapters
from llm.pretrained.vocabulary_files import VOCABULARIES, expected_files, read_vocabulary_file
from llm.tokenizers import IdTokenizer, Tokenizer

__all__ = [
    "FORMATS",
    "Adapters",
    "Begun",
    "Loaded",
    "Pretrained",
    "adapt",
    "begin_with",
    "build",
    "export",
    "export_adapters",
    "grow_vocabulary",
    "import_adapters",
    "is_peft",
    "load",
    "load_of_task",
    "read_pretrained",
    "read_source_tokenizer",
    "read_tokenizer",
    "refuse_existing",
]

_ALIGNMENT = 64
"""Bytes at whose multiples torch begins a tensor: products of one that begins elsewhere may have other last bits."""


class Begun(NamedTuple):
    """What a network began with.

    Args:
        n_new: how many tokens it has that the weights did not have.
        model_type: of the family that they were of; None if it is not known.
    """

    n_new: int
    model_type: str | None


def load(source: str | Path, device: str | torch.device = "cpu") -> Loaded[Network]:
    """The network, in eval mode, and the tokenizer of a checkpoint or of any other file that can be read.

    Args:
        source: what `read_pretrained` reads: a `.ckpt` of any task, a Hugging Face folder, `gpt2`, and others.
        device: where the weights go.

    Returns:
        Both; where the file says nothing of a tokenizer, texts are token ids written as numbers.

    Raises:
        CheckpointError: it can't be read.
    """
    pretrained = read_pretrained(source, any_task=True)
    return Loaded(build(pretrained).to(device).eval(), _tokenizer(pretrained))


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
        CheckpointError: it can't be read, or is of another task.
    """
    pretrained = read_pretrained(source, any_task=True)
    network = build(pretrained)
    if pretrained.task not in tasks_like(task) or not isinstance(network, kind):
        raise OtherTaskError(f"{str(source)!r} is of the task {pretrained.task!r}, not {task!r}", pretrained.task)
    return Loaded(network.to(device).eval(), _tokenizer(pretrained))


def begin_with(
    network: Network, source: str | Path, tasks: Sequence[str] = NEXT_TOKEN_TASKS, grows_vocabulary: bool = False
) -> Begun:
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
    names = _names(network)
    new = network.state_dict() if isinstance(network.config, ClassifierConfig) else {}
    new = {name: tensor for name, tensor in new.items() if name.startswith("head.")}
    _forget(network)  # the random weights, or those read would be there beside them
    found = read_pretrained(source, {"n_head": network.config.n_head}, tasks=tasks)
    n_new = max(0, network.config.vocab_size - found.config.vocab_size)
    if grows_vocabulary:
        found = grow_vocabulary(found, network.config.vocab_size)
    weights = new | adapt(found, network.config).weights
    model_type = found.model_type
    del found
    for first, *others in names:
        owner, attribute = _owner(network, first)
        tensor = weights.pop(first).to(torch.float32).contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes or tensor.data_ptr() % _ALIGNMENT:
            tensor = tensor.clone()  # a part of a file would be saved with the whole of it
        setattr(owner, attribute, nn.Parameter(tensor))
        for other in others:
            weights.pop(other, None)
        _share(network, first, others)
    return Begun(n_new if grows_vocabulary else 0, model_type)


def read_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint or of any other weights; or one that is alone in a file or folder.

    Raises:
        CheckpointError: it can't be read, or has no tokenizer.
        TokenizerError: it is a vocabulary or a `tokenizer.json` that can't be used.
    """
    path = Path(source).expanduser() if str(source).strip() else locate(source)  # which refuses an empty name
    if (alone := read_vocabulary_file(path)) is not None:
        return alone
    if path.is_dir() and not holds_weights(path):
        raise CheckpointError(f"the folder {str(path)!r} holds no tokenizer: {expected_files(path)}")
    if Path(source).suffix == ".ckpt":  # of any task, whose network may be none that this package can build
        return tokenizer_of(read_checkpoint(source), source)
    pretrained = read_pretrained(source, any_task=True)
    if pretrained.tokenizer is None:
        raise CheckpointError(f"{str(source)!r} has no tokenizer; what has one: {VOCABULARIES}")
    return pretrained.tokenizer


def read_source_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer for sources of a checkpoint of the task `translate`.

    Raises:
        CheckpointError: it can't be read, or has none.
    """
    return tokenizer_of(read_checkpoint(source), source, SOURCE_TOKENIZER)


def build(pretrained: Pretrained) -> Network:
    """A network of these weights: the very tensors and no copies of them, where their type can stay.

    bfloat16 stays, if all are; whatever else becomes float32.
    """
    with torch.device("meta"):  # no memory, and no random numbers, for what is replaced
        model = build_network(pretrained.config)
    names = _names(model)
    is_short = all(tensor.dtype == torch.bfloat16 for tensor in pretrained.weights.values())
    dtype = torch.bfloat16 if is_short else torch.float32
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in pretrained.weights.items()}
    model.load_state_dict(weights, assign=True)
    for first, *others in names:
        _share(model, first, others)
    for module in model.modules():
        if isinstance(module, Rotary):
            module.compute_tables()
    return model


def _names(network: Network) -> list[list[str]]:
    """The names of each parameter; one that is shared has several."""
    names = defaultdict(list)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return list(names.values())


def _forget(network: Network) -> None:
    """Leave of every parameter the shape alone."""
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        owner, attribute = _owner(network, name)
        setattr(owner, attribute, nn.Parameter(parameter.to("meta")))


def _share(network: Network, first: str, others: Sequence[str]) -> None:
    """Let a parameter be what others were that were one with it."""
    for other in others:
        owner, attribute = _owner(network, other)
        setattr(owner, attribute, network.get_parameter(first))


def _owner(network: Network, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter, and its name there."""
    owner, _, attribute = name.rpartition(".")
    return network.get_submodule(owner), attribute


def _tokenizer(pretrained: Pretrained) -> Tokenizer:
    if pretrained.tokenizer is not None:
        return pretrained.tokenizer
    return IdTokenizer(pretrained.config.vocab_size, pretrained.no_tokenizer or "")
