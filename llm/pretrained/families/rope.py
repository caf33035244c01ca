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
_PART = "partial_rotary_factor"
_ONLY = {_PART: 1.0, "truncate": True}


def rope_from_json(theirs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Our settings for what a `config.json` says, in the form of `transformers` 4 or 5.

    Args:
        theirs: its content.
        names: what they call `rope_theta`, and `partial_rotary_factor` if a head may be rotated in part.

    Raises:
        ConfigError: it has a kind of scaling, or a setting of one, that has no counterpart here; or no factor.
    """
    group = "rope_parameters" if theirs.get("rope_parameters") else "rope_scaling"
    stated = theirs.get(group) or {}
    if not isinstance(stated, dict):
        raise ConfigError(f"{group} must be settings by name, got {stated!r}")
    kind = stated.get("rope_type", stated.get("type", "default"))
    kind = "none" if kind == "default" else kind
    if kind not in _NAMES:
        raise ConfigError(f"{group} is of the type {kind!r}; those that can be read are default, linear, llama3, yarn")
    scaling = _NAMES[kind]
    settings = {name: value for name, value in stated.items() if name not in (*_KIND, "rope_theta")}
    settings.setdefault(_PART, theirs.get(names.get(_PART, _PART), 1.0))
    part = settings.pop(_PART) if _PART in names else 1.0
    if "original_context" in scaling:
        before = settings.get("original_max_position_embeddings", theirs.get("max_position_embeddings"))
        settings["original_max_position_embeddings"] = theirs.get("original_max_position_embeddings", before)
    for name, value in settings.items():
        if value is not None and name not in scaling.values() and value != _ONLY.get(name):
            raise ConfigError(f"{group} has {name} {value!r}, which this package has no counterpart for")
    if "factor" in scaling and settings.get("factor") is None:
        raise ConfigError(f"{group} is of the type {kind!r} and has no factor")
    ours = {our: settings[their] for our, their in scaling.items() if settings.get(their) is not None}
    theta = stated.get("rope_theta", theirs.get(names["rope_theta"], 10_000.0))
    scaled = RopeScaling(**{"kind": kind, **ours})
    return {"rope_theta": theta, "rope_scaling": scaled, "partial_rotary_factor": part}


def rope_to_json(config: GPTConfig, names: Mapping[str, str]) -> dict[str, Any]:
    """What `config.json` says about rotary positions, in the form that `transformers` 4 and 5 both read."""
    scaling, plain = config.rope_scaling, {their: getattr(config, our) for our, their in names.items()}
    if scaling.kind == "none":
        return {**plain, "rope_scaling": None}
    values = {their: getattr(scaling, our) for our, their in _NAMES[scaling.kind].items()}
    stated = {their: value for their, value in values.items() if value is not None}
    return {**plain, "rope_scaling": {"rope_type": scaling.kind, **stated}}
