"""A family of decoders: a table of the names that `transformers` has, and both ways between it and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from llm.config import GPTConfig
from llm.errors import CheckpointError, ConfigError
from llm.pretrained import huggingface
from llm.pretrained.base import Pretrained
from llm.pretrained.families.rope import rope_from_json, rope_to_json
from llm.pretrained.layout import Layout, Tensors

ACTIVATIONS = {**huggingface.ACTIVATIONS, "relu2": "squared_relu"}
"""Their names for what ours are; the first of several is the one that is written."""


@dataclass(frozen=True)
class Family:
    """How `transformers` names the settings and the tensors of a family of decoders.

    Args:
        name: as one says it, such as `Llama`.
        model_type: as `config.json` has it.
        model_class: of `transformers`, such as `LlamaForCausalLM`.
        layout: names of the tensors, without the prefix.
        settings: our settings and theirs, or several of theirs that must be the same.
        fixed: settings of ours that are the same in the whole family.
        defaults: theirs, where `config.json` does not say.
        only: theirs that change the network, and the one value that this package can build.
        window: which layers have a sliding window: none, all, those that `layer_types` lists if `use_sliding_window` is
            on, or those that it lists, every second one if there is no list.
        prefix: of the names of tensors, but the head's, in a whole model.
        activation: what they call the setting of the activation function.
        activations: their names for what ours are; the first of several is the one that is written.
        rope_names: what they call `rope_theta` and `partial_rotary_factor`; no part is left out where the latter has
            no name.
    """

    name: str
    model_type: str
    model_class: str
    layout: Layout
    settings: Mapping[str, str | tuple[str, ...]]
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any]
    only: Mapping[str, Any] = field(default_factory=dict)
    window: Literal["none", "all", "by layer", "alternating"] = "none"
    prefix: str = "model."
    activation: str = "hidden_act"
    activations: Mapping[str, str] = field(default_factory=lambda: ACTIVATIONS)
    rope_names: Mapping[str, str] = field(default_factory=lambda: {"rope_theta": "rope_theta"})

    def read(self, theirs: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Pretrained:
        """The model of a `config.json` and its tensors.

        Args:
            theirs: the content of `config.json`.
            tensors: by their names, without prefixes (`llm.pretrained.layout.clean_names`); each is looked up once.
            where: named in errors.

        Raises:
            CheckpointError: it is of no architecture that this package can build, or the tensors are not its own.
        """
        config = self.config_from_json(theirs, where)
        if config.tie_head and self.layout.names("embeddings.token.weight")[0] in tensors:  # else it will be named
            self.layout.refuse_other_head(tensors, where)
        weights = self.layout.to_ours(tensors, config)
        return Pretrained(f"Hugging Face ({self.name})", config, weights, model_type=self.model_type)

    def config_from_json(self, theirs: Mapping[str, Any], where: str) -> GPTConfig:
        """The architecture that a `config.json` describes.

        Raises:
            CheckpointError: it is none that this package can build; names the setting.
        """
        theirs = {**self.defaults, **theirs}
        what = f"{where!r} is {with_article(self.name)} (model_type {self.model_type!r})"
        for name, value in self.only.items():
            if theirs.get(name, value) != value:
                raise CheckpointError(f"{what} with {name} {theirs[name]!r}; only {value!r} can be read")
        ours: dict[str, Any] = dict(self.fixed)
        for name, names in self.settings.items():
            names = _as_tuple(names)
            values = [theirs.get(their) for their in names]
            values = [value for value in values if value is not None] or [None]
            if any(value != values[0] for value in values[1:]):
                listed = " and ".join(f"{their} {theirs.get(their)!r}" for their in names)
                raise CheckpointError(f"{what} with {listed}: only the same value for all of them can be read")
            ours[name] = values[0]
        activation = theirs.get(self.activation)
        if not isinstance(activation, str) or activation not in self.activations:
            known = ", ".join(self.activations)
            raise CheckpointError(f"{what} with {self.activation} {activation!r}; there are {known}")
        try:
            if self.fixed["positions"] == "rotary":
                ours |= rope_from_json(theirs, self.rope_names)
            C, H, D = ours["n_embd"], ours["n_head"], ours.get("head_size")
            if isinstance(C, int) and isinstance(H, int):  # what is as wide as it would be anyway is left to follow
                is_plain = {"n_kv_head": ours.get("n_kv_head") == H, "mlp_hidden": ours["mlp_hidden"] == 4 * C}
                is_plain["head_size"] = D is not None and H * D == C
                ours |= {name: None for name, plain in is_plain.items() if plain}
            config = GPTConfig(activation=self.activations[activation], dropout=0.0, **ours)  # type: ignore[arg-type]
            return replace(config, **self._window_from_json(theirs, config.n_layer))
        except (ConfigError, TypeError) as error:
            raise CheckpointError(f"{what} that can't be built: {error}{self._names_in(str(error))}") from error

    def _names_in(self, message: str) -> str:
        """What the settings that a message is about are called in `config.json`."""
        words = set(re.findall(r"\w+", message))
        theirs = {name: " and ".join(_as_tuple(names)) for name, names in self.settings.items() if name in words}
        named = [f"{name} is {their}" for name, their in theirs.items() if name != their]
        return f" (in config.json {', '.join(named)})" if named else ""

    def config_to_json(self, config: GPTConfig, end_of_text_id: int | None) -> dict[str, Any]:
        """The `config.json` of an architecture that has no obstacle."""
        theirs: dict[str, Any] = {"architectures": [self.model_class], "model_type": self.model_type}
        for name, names in self.settings.items():
            theirs |= dict.fromkeys(_as_tuple(names), _value(config, name))
        theirs[self.activation] = next(their for their, our in self.activations.items() if our == config.activation)
        if config.positions == "rotary":
            theirs |= rope_to_json(config, self.rope_names)
        theirs |= self._window_to_json(config)
        return theirs | dict.fromkeys(("bos_token_id", "eos_token_id"), end_of_text_id) | dict(self.only)

    def obstacles(self, config: GPTConfig) -> list[str]:
        """What this family has no place for, a few words each; nothing if it can hold the architecture."""
        needed = {name: value for name, value in {**COMMON, **self.fixed}.items() if name not in self.settings}
        if "partial_rotary_factor" in self.rope_names:
            del needed["partial_rotary_factor"]
        wrong = [name for name, value in needed.items() if getattr(config, name) != value]
        found = [f"{name} is {getattr(config, name)} ({needed[name]} there)" for name in wrong]
        if config.causal is False:
            found.append("causal is False")
        if config.activation not in self.activations.values():
            found.append(f"activation is {config.activation}")
        if "n_kv_head" not in self.settings and config.kv_heads != config.heads:
            found.append(f"n_kv_head is {config.n_kv_head}")
        if "head_size" not in self.settings and config.heads * config.head_dim != config.n_embd:
            found.append(f"head_size is {config.head_size}")
        theirs: dict[str, str] = {}
        for name, names in self.settings.items():
            for their in _as_tuple(names):
                first = theirs.setdefault(their, name)
                one, other = _value(config, first), _value(config, name)
                if one != other:
                    found.append(f"{first} is {one} and {name} {other} (the same there)")
        if self.window == "none" and config.sliding_window is not None:
            found.append(f"sliding_window is {config.sliding_window}")
        if self.window == "all" and config.full_attention_layers:
            found.append(f"full_attention_layers is {list(config.full_attention_layers)}")
        return found

    def _window_from_json(self, theirs: Mapping[str, Any], n_layer: int) -> dict[str, Any]:
        window = theirs.get("sliding_window")
        if self.window == "none" or window is None or (self.window == "by layer" and not theirs["use_sliding_window"]):
            return {}
        if self.window == "all":
            return {"sliding_window": window}
        kinds = theirs.get("layer_types")
        if kinds is None and self.window == "alternating":
            full = tuple(range(1, n_layer, 2))
        elif kinds is None:
            full = tuple(range(min(theirs["max_window_layers"], n_layer)))
        elif set(kinds) <= {"full_attention", "sliding_attention"} and len(kinds) == n_layer:
            full = tuple(layer for layer, kind in enumerate(kinds) if kind == "full_attention")
        else:
            raise ConfigError(
                f"layer_types must be full_attention or sliding_attention for each of {n_layer} layers, got {kinds}"
            )
        return {} if len(full) == n_layer else {"sliding_window": window, "full_attention_layers": full}

    def _window_to_json(self, config: GPTConfig) -> dict[str, Any]:
        if self.window == "none":
            return {}
        if self.window == "all":
            return {"sliding_window": config.sliding_window}
        windows = [config.window(layer) for layer in range(config.n_layer)]
        kinds = ["sliding_attention" if window else "full_attention" for window in windows]
        if self.window == "alternating":
            window = config.context_length if config.sliding_window is None else config.sliding_window
            return {"sliding_window": window, "layer_types": kinds}
        return {
            "use_sliding_window": config.sliding_window is not None,
            "sliding_window": config.sliding_window,
            "max_window_layers": next((layer for layer, window in enumerate(windows) if window), config.n_layer),
            "layer_types": kinds,
        }

    def whole_names(self, theirs: Tensors) -> Tensors:
        """Tensors by the names that they have in a whole model of theirs: all but the head's with a prefix."""
        (head,) = self.layout.names(self.layout.head)
        return {name if name == head else f"{self.prefix}{name}": tensor for name, tensor in theirs.items()}


COMMON: dict[str, Any] = {
    "attention": "multi_head",
    "normalize_scores": "softmax",
    "scale_scores": True,
    "norm_first": True,
    "residual": True,
    "partial_rotary_factor": 1.0,
    "attention_softcap": None,
    "sandwich_norm": False,
    "parallel_residual": False,
    "scale_embeddings": False,
    "logit_softcap": None,
}
"""Settings of ours that every family of `transformers` here has, as the defaults of `GPTConfig` are."""


def with_article(name: str) -> str:
    """`a Llama`, `an OPT`."""
    return f"{'an' if name[:1].upper() in 'AEIO' else 'a'} {name}"


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _value(config: GPTConfig, name: str) -> Any:
    """A setting, where it follows from others what follows."""
    worked_out = {"n_kv_head": config.kv_heads, "head_size": config.head_dim, "mlp_hidden": config.hidden_size}
    return worked_out.get(name, getattr(config, name))
