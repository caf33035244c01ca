"""Which parameters of a network are trained, and which are frozen."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from llm.config import GPTConfig, LoRAConfig
from llm.errors import ConfigError
from llm.model.base import Network
from llm.model.lora import A, B, add_lora, lora_layers
from llm.model.networks import build_network
from llm.model.token_rows import ROWS

WORDS = ("all", "head", "last_block", "lora")
"""The words of `train`, beside patterns of parameter names."""

_LORA = LoRAConfig()


@dataclass(frozen=True)
class Trained:
    """What of a network is trained.

    Args:
        train: `all`, `head`, `last_block` (with the norm and the head that follow it, unless that head shares the token
            embedding), `lora`, or patterns of parameter names such as `blocks.3.*`; several add up. Default: `lora`
            where there are adapters, else `all`.
        lora: the adapters.
        new: patterns of names of what no pre-training knows, such as a head for labels: trained in any case.
    """

    train: Sequence[str] | str | None = None
    lora: LoRAConfig = _LORA
    new: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The settings as primitives, as checkpoints store them."""
        return {"train": list(self.words), "lora": dataclasses.asdict(self.lora), "new": list(self.new)}

    @property
    def words(self) -> tuple[str, ...]:
        """What is trained, a word or a pattern each."""
        if self.train is None:
            return ("lora",) if self.lora.rank else ("all",)
        return (self.train,) if isinstance(self.train, str) else tuple(self.train)

    def names_in(self, network: nn.Module) -> set[str]:
        """The names of the trained parameters in a network that has its adapters; a shared one has several.

        Raises:
            ConfigError: a word or a pattern names nothing in this network, or there is none; says what there is.
        """
        names = dict(network.named_parameters(remove_duplicate=False))
        chosen = {name for word in self.words for name in _chosen(word, network, names)}
        chosen |= {name for pattern in self.new for name in _matching(pattern, names)}
        if not chosen:
            raise ConfigError(f"model.train is empty, so that nothing would be trained: {_what_there_is(names)}")
        trained = {id(names[name]) for name in chosen}
        return {name for name, parameter in names.items() if id(parameter) in trained}

    @property
    def is_all(self) -> bool:
        """Whether the network is trained as it is: every parameter, without adapters."""
        return self.words == ("all",) and not self.lora.rank

    def apply_to(self, network: nn.Module) -> None:
        """Add the adapters, and freeze what is not trained.

        Raises:
            ConfigError: a word or a pattern names nothing in this network, and says what there is; or it names a weight
                that has `base_precision`, which only frozen ones can have.
        """
        add_lora(network, self.lora)
        trained = self.names_in(network)
        if self.lora.base_precision == "bfloat16":
            rounded = (f"{name}.weight" for name, _ in lora_layers(network))
            if (wrong := next((name for name in rounded if name in trained), None)) is not None:
                raise ConfigError(
                    f"model.lora.base_precision bfloat16 is for frozen weights, and model.train names {wrong}: leave "
                    "base_precision out, or train the adapters alone"
                )
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)


ALL = Trained()
"""Every parameter, without adapters."""


def trained_network(config: GPTConfig, trained: Trained) -> Network:
    """The network that a configuration is of, with adapters and frozen parameters, its weights new."""
    network = build_network(config)
    trained.apply_to(network)
    return network


def count_trained(network: nn.Module) -> int:
    """How many values are trained, shared ones counted once."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _chosen(word: str, network: nn.Module, names: dict[str, nn.Parameter]) -> list[str]:
    """The names of the parameters that a word of `train` means."""
    if word == "all":
        return list(names)
    if word == "lora":
        found = [f"{name}.{matrix}" for name, _ in lora_layers(network) for matrix in (A, B)]
        if not found:
            raise ConfigError("model.train lora needs adapters: give model.lora.rank, such as 8")
        return [*found, *(name for name in names if name.endswith(f".{ROWS}"))]
    if word == "last_block":
        found = _from_last_block(network, names)
        if not found:
            raise ConfigError(f"model.train last_block: this network has no blocks; {_what_there_is(names)}")
        return found
    if found := _matching("head.*" if word == "head" else word, names):
        return found
    known = [*WORDS, *names, *_modules_of(names)]
    near = difflib.get_close_matches(word, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    raise ConfigError(f"model.train: no parameter is called {word!r}{hint} {_what_there_is(names)}")


def _matching(pattern: str, names: Collection[str]) -> list[str]:
    """The names that a pattern fits; the name of a module means all in it."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]


def _from_last_block(network: nn.Module, names: dict[str, nn.Parameter]) -> list[str]:
    """The last block, and what comes after it."""
    lists = [name for name, module in network.named_modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        return []
    blocks = network.get_submodule(lists[-1])
    assert isinstance(blocks, nn.ModuleList)
    children = [name for name, _ in network.named_children()]
    after = children[children.index(lists[-1].partition(".")[0]) + 1 :]
    found = [*_matching(f"{lists[-1]}.{len(blocks) - 1}", names)]
    found += [name for child in after for name in _matching(child, names)]
    before = {id(parameter) for name, parameter in names.items() if name not in found}
    return [name for name in found if id(names[name]) not in before]


def _modules_of(names: Collection[str]) -> list[str]:
    """The names of the modules that have parameters."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _what_there_is(names: Collection[str]) -> str:
    parts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    some = next((name for name in names if name.count(".") > 1), next(iter(names)))
    return f"there is {', '.join(WORDS)}, or names that begin with {', '.join(parts)} (such as {some})"
