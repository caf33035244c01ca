"""The angles of rotary positions in a `config.json`: `rope_theta` with `rope_scaling`, or `rope_parameters`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.config import GPTConfig, RopeScaling
from llm.errors import ConfigError

_NAMES: dict[str, dict[str, str]] = {
    "none": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_context": "original_max_position_embeddings",
        "low_frequency": "low_freq_factor",
        "high_frequency": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_context": "original_max_position_embeddings",
        "slow": "beta_slow",
        "fast": "beta_fast",
        "length": "attention_factor",
    },
}
"""For each kind of scaling, our settings and theirs."""

_KIND = ("rope_type", "type")
_ONLY = {"partial_rotary_factor": 1.0, "truncate": True}


def rope_from_json(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings for what a `config.json` says, in the form of `transformers` 4 or 5.

    Raises:
        ConfigError: it has a kind of scaling, or a setting of one, that has no counterpart here.
    """
    group = "rope_parameters" if theirs.get("rope_parameters") else "rope_scaling"
    stated = theirs.get(group) or {}
    if not isinstance(stated, dict):
        raise ConfigError(f"{group} must be settings by name, got {stated!r}")
    kind = stated.get("rope_type", stated.get("type", "default"))
    kind = "none" if kind == "default" else kind
    if kind not in _NAMES:
        raise ConfigError(f"{group} is of the type {kind!r}; those that can be read are default, linear, llama3, yarn")
    names = _NAMES[kind]
    settings = {name: value for name, value in stated.items() if name not in (*_KIND, "rope_theta")}
    settings.setdefault("partial_rotary_factor", theirs.get("partial_rotary_factor", 1.0))
    if "original_context" in names:
        before = settings.get("original_max_position_embeddings", theirs.get("max_position_embeddings"))
        settings["original_max_position_embeddings"] = theirs.get("original_max_position_embeddings", before)
    for name, value in settings.items():
        if value is not None and name not in names.values() and value != _ONLY.get(name):
            raise ConfigError(f"{group} has {name} {value!r}, which this package has no counterpart for")
    ours = {our: settings[their] for our, their in names.items() if settings.get(their) is not None}
    theta = stated.get("rope_theta", theirs.get("rope_theta", 10_000.0))
    return {"rope_theta": theta, "rope_scaling": RopeScaling(**{"kind": kind, **ours})}


def rope_to_json(config: GPTConfig) -> dict[str, Any]:
    """What `config.json` says about rotary positions, in the form that `transformers` 4 and 5 both read."""
    scaling = config.rope_scaling
    if scaling.kind == "none":
        return {"rope_theta": config.rope_theta, "rope_scaling": None}
    values = {their: getattr(scaling, our) for our, their in _NAMES[scaling.kind].items()}
    stated = {their: value for their, value in values.items() if value is not None}
    return {"rope_theta": config.rope_theta, "rope_scaling": {"rope_type": scaling.kind, **stated}}
