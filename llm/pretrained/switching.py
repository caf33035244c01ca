"""Several adapters on one base, of which one is used at a time."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from torch import Tensor, nn

from llm.errors import CheckpointError, ConfigError
from llm.model import Network
from llm.model.lora import add_lora, changed_modules, is_added
from llm.model.networks import build_network
from llm.model.trained import Trained
from llm.pretrained.checkpoint import config_of, trained_of, weights_of
from llm.pretrained.formats import read_with_base


class Adapters:
    """Several adapters on one base, of which one is used at a time: the base is held once.

    Args:
        network: the base, such as `llm.load("base.ckpt").model`; it is changed in place.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.used: str | None = None
        self._known: dict[str, tuple[Trained, dict[str, Tensor]]] = {}
        self._layers: dict[str, nn.Module] = {}  # of the base, in whose place there are layers with an adapter
        self._tensors: dict[str, Tensor] = {}  # of the base, which an adapter replaces: a trained head

    def add(self, name: str, source: str | Path) -> None:
        """Read the adapters of a checkpoint, with whatever else was trained.

        Args:
            name: to use them by.
            source: a checkpoint that was trained on this base.

        Raises:
            CheckpointError: it can't be read, has no adapters, or those of another base.
        """
        checkpoint = read_with_base(source)
        trained, weights = trained_of(checkpoint), weights_of(checkpoint)
        if not trained.lora.rank:
            raise CheckpointError(f"{str(source)!r} has no adapters")
        config, n_tokens = config_of(checkpoint, source), self.network.config.vocab_size
        if config.vocab_size != n_tokens:
            raise CheckpointError(
                f"{str(source)!r} has {config.vocab_size:,} tokens, and the base {n_tokens:,}: adapters that add "
                "tokens can't be put on it and taken off; merge them (python -m llm merge)"
            )
        with torch.device("meta"):
            network = build_network(config)
            trained.apply_to(network)
        changed, before = trained.names_in(network), self.used
        base = self.use(None).state_dict()
        try:
            for key, tensor in weights.items():
                if key not in changed and not (key in base and _is_same(base[key], tensor)):
                    raise CheckpointError(f"{str(source)!r} holds adapters to another base: its {key} is another")
            self._known[name] = trained, {key: weights[key] for key in changed}
        finally:
            self.use(before)

    def use(self, name: str | None) -> Network:
        """Put adapters on the base, in place of those that are there; gives the network.

        Args:
            name: of those to use; None for the base alone.

        Raises:
            ConfigError: there are none of that name.
        """
        if name is not None and name not in self._known:
            near = difflib.get_close_matches(name, self._known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise ConfigError(f"there are no adapters {name!r}{hint} there are {', '.join(self._known) or 'none'}")
        self._take_off()
        if name is not None:
            trained, tensors = self._known[name]
            plain = dict(self.network.named_modules())
            add_lora(self.network, trained.lora)
            self._layers = {name: plain[name] for name in changed_modules(self.network)}
            state = self.network.state_dict()
            self._tensors = {key: state[key].clone() for key in tensors if key in state and not is_added(key)}
            self.network.load_state_dict(tensors, strict=False)
        self.used = name
        return self.network

    def _take_off(self) -> None:
        for name, layer in self._layers.items():
            parent, _, child = name.rpartition(".")
            setattr(self.network.get_submodule(parent), child, layer)
        self.network.load_state_dict(self._tensors, strict=False)
        self._layers, self._tensors = {}, {}


def _is_same(base: Tensor, tensor: Tensor) -> bool:
    """Whether a frozen tensor is the base's, or that in bfloat16."""
    return torch.equal(base.cpu().to(tensor.dtype), tensor)
