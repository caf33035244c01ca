"""Families of decoders from the Hugging Face hub: which there are, and the one that a model is of.

A family is a table of names and values (`llm.pretrained.families.base`); `read` is all that another format needs, once
it has a `config.json` in their terms and tensors by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llm.config import GPTConfig
from llm.errors import CheckpointError, ConfigError
from llm.pretrained import huggingface
from llm.pretrained.base import Pretrained
from llm.pretrained.families import gemma, gpt_neox, llama, mistral, opt, qwen
from llm.pretrained.families.base import Family, with_article

FAMILIES = {
    family.model_type: family
    for family in (
        llama.FAMILY,
        mistral.FAMILY,
        qwen.QWEN2,
        qwen.QWEN3,
        gemma.GEMMA,
        gemma.GEMMA2,
        gpt_neox.FAMILY,
        opt.FAMILY,
    )
}
"""By `model_type`; where several can hold an architecture, the first is written."""

MODEL_TYPES = ("gpt2", *FAMILIES, "bert")


def read(theirs: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Pretrained:
    """The model of a `config.json` and its tensors; `model_type` decides which family it is of.

    Args:
        theirs: the content of `config.json`.
        tensors: by the names of `transformers`, without the prefix `model.`; each is looked up once, so a mapping may
            make them one at a time.
        where: the file or folder, named in errors.

    Raises:
        CheckpointError: the type is none of `FAMILIES`, this package can't build it, or the tensors do not fit.
    """
    kind = theirs.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(
            f"{where!r} is {with_article(_name(theirs))} (model_type {kind!r}), which this package has no architecture "
            f"for; those that can be read are {', '.join(MODEL_TYPES)}"
        )
    if theirs.get("quantization_config"):
        raise CheckpointError(
            f"{where!r} is {with_article(FAMILIES[kind].name)} (model_type {kind!r}) with quantization_config: its "
            "weights are quantized; take those in bfloat16 or float32"
        )
    return FAMILIES[kind].read(theirs, tensors, where)


def family_of(config: GPTConfig, model_type: str | None = None) -> Family | None:
    """The family that an architecture is written as; None for GPT-2's.

    Args:
        config: the architecture.
        model_type: what it was read as, which it stays if that has a place for it.

    Raises:
        ConfigError: none has a place for it; says which settings stand in the way of the nearest.
    """
    if model_type in FAMILIES and not FAMILIES[model_type].obstacles(config):
        return FAMILIES[model_type]
    obstacles = {"GPT-2": huggingface.obstacles(config)}
    obstacles |= {family.name: family.obstacles(config) for family in FAMILIES.values()}
    name = min(obstacles, key=lambda name: len(obstacles[name]))  # the first of several
    if wrong := obstacles[name]:
        raise ConfigError(
            f"{name}'s format has no place for this architecture: {', '.join(wrong)}; use --format safetensors"
        )
    return next((family for family in FAMILIES.values() if family.name == name), None)


def _name(theirs: Mapping[str, Any]) -> str:
    """What a model is called: by its class, such as `MambaForCausalLM`, or else its type."""
    classes = theirs.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else str(theirs.get("model_type"))
    for ending in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "Model"):
        name = name.removesuffix(ending)
    return name[:80]
