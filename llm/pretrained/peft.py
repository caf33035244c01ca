"""Adapters as `peft`, the library, stores them: a folder with `adapter_config.json` and `adapter_model.safetensors`.

Its A and B are ours, a pair for each module of `transformers`. Where those have queries, keys and values apart and we
have one matrix for all three, they share our A, and each has its rows of our B. The other way round, three different A
below each other are ours, and their B make the blocks of a diagonal: the same product, at three times the rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llm.config import GPTConfig, LoRAConfig
from llm.errors import CheckpointError, ConfigError
from llm.model import build_network
from llm.model.lora import A, B, is_lora
from llm.model.trained import Trained, trained_network
from llm.pretrained import huggingface
from llm.pretrained.families import family_of
from llm.pretrained.files import read_content, read_json
from llm.pretrained.layout import Layout, Tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WHOLE = "base_model.model."
_UNKNOWN = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
"""What changes the product B A, or adds something to it, and has no place here."""


class _Factors(NamedTuple):
    """The adapter of one module: A (r, in), B (out, r), and what their product is multiplied by."""

    a: Tensor
    b: Tensor
    scale: float


def is_peft(path: str | Path) -> bool:
    """Whether a path is a folder of adapters."""
    return (Path(path) / CONFIG).is_file()


def to_peft(
    config: GPTConfig, trained: Trained, weights: Tensors, base: str | None, model_type: str | None = None
) -> tuple[dict[str, Any], Tensors]:
    """The content of `adapter_config.json`, and the tensors.

    Args:
        config: the architecture.
        trained: what of it is trained, and its adapters.
        weights: of the network with its adapters.
        base: name or folder of the base, for `transformers`; None if it has to be told.
        model_type: of the base, if it is known.

    Raises:
        ConfigError: there are no adapters, more than they is trained, or no family of `transformers` has a place for
            the architecture.
    """
    if not trained.lora.rank:
        raise ConfigError("there are no adapters: a whole model is exported with --format hf")
    layout, prefix = _layout(config, model_type)
    with torch.device("meta"):
        names = trained.names_in(trained_network(config, trained))
    if others := sorted(name for name in names if not is_lora(name)):
        raise ConfigError(
            f"beside the adapters, {', '.join(others[:3])}{' and others are' if len(others) > 3 else ' is'} trained: "
            "merge them (python -m llm merge), and export with --format hf"
        )
    tensors: Tensors = {}
    targets = []
    for name in sorted(name for name in names if name.endswith(f".{A}")):
        weight = f"{name.removesuffix(A)}weight"
        lora_b = weights[f"{name.removesuffix(A)}{B}"]
        for their, part in layout.to_theirs({weight: lora_b}, config).items():
            module = f"{prefix}{their.removesuffix('.weight')}"
            targets.append(module)
            tensors[f"{_WHOLE}{module}.lora_A.weight"] = weights[name].clone()
            tensors[f"{_WHOLE}{module}.lora_B.weight"] = (part.T if layout.is_transposed(weight) else part).contiguous()
    alpha = trained.lora.alpha
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": trained.lora.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "fan_in_fan_out": bool(layout.transposed),
        "bias": "none",
        "inference_mode": True,
    }
    return settings, tensors


def from_peft(folder: Path, config: GPTConfig, model_type: str | None = None) -> tuple[LoRAConfig, Tensors]:
    """The adapters in a folder, for a base of this architecture: their settings, and A and B by our names.

    Args:
        folder: with the adapters.
        config: of the base.
        model_type: of the base, if it is known.

    Raises:
        CheckpointError: the folder can't be read, or holds what has no place here; names it.
        ConfigError: `config` is of no family of `transformers`.
    """
    settings = read_json(folder / CONFIG)
    _refuse_unknown(settings, folder)
    tensors = {name.removeprefix(_WHOLE): tensor.float() for name, tensor in _read_tensors(folder).items()}
    layout, prefix = _layout(config, model_type)
    with torch.device("meta"):
        layers = {n: layer for n, layer in build_network(config).named_modules() if type(layer) is nn.Linear}
    found: dict[str, _Factors] = {}
    for name, layer in layers.items():
        weight = f"{name}.weight"
        parts = layout.to_theirs({weight: layer.weight}, config)
        rows = [part.shape[1 if layout.is_transposed(weight) else 0] for part in parts.values()]
        modules = [f"{prefix}{their.removesuffix('.weight')}" for their in parts]
        sizes = [(n, layer.in_features) for n in rows]
        factors = [_take(tensors, *part, settings, folder) for part in zip(modules, sizes, strict=True)]
        if any(len(part.a) for part in factors):
            whole = _together(factors)
            found[name] = whole._replace(b=layout.from_heads(weight, whole.b, config))
    if tensors:
        raise CheckpointError(
            f"{str(folder)!r} holds tensors that belong to no layer: {', '.join(sorted(tensors)[:3])}"
        )
    if not found:
        raise CheckpointError(f"{str(folder)!r} holds no adapters")
    return _of_one_rank(found, layers)


def _layout(config: GPTConfig, model_type: str | None) -> tuple[Layout, str]:
    """Their names of modules, and what stands before them in a whole model."""
    family = family_of(config, model_type)
    return (huggingface.LAYOUT, "transformer.") if family is None else (family.layout, family.prefix)


def _refuse_unknown(settings: Mapping[str, Any], folder: Path) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{str(folder)!r} holds adapters of the kind {str(kind)[:40]!r}; LORA can be read")
    wrong = [f"{name} is {str(settings[name])[:40]}" for name in _UNKNOWN if settings.get(name)]
    if settings.get("bias", "none") != "none":
        wrong.append(f"bias is {str(settings['bias'])[:40]}")
    patterns = settings.get("alpha_pattern") or {}
    alphas = [settings.get("lora_alpha", 8), *(patterns.values() if isinstance(patterns, dict) else [str(patterns)])]
    wrong += [f"an alpha is {str(alpha)[:40]!r}" for alpha in alphas if type(alpha) not in (int, float) or not alpha]
    if wrong:
        raise CheckpointError(f"{str(folder)!r} has adapters that have no place here: {', '.join(wrong)}")


def _read_tensors(folder: Path) -> Tensors:
    path = folder / WEIGHTS
    if not path.is_file() and path.with_suffix(".bin").is_file():
        path = path.with_suffix(".bin")
    content, _ = read_content(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{str(path)!r} holds something other than tensors")
    return content


def _take(tensors: Tensors, module: str, size: tuple[int, int], settings: Mapping[str, Any], folder: Path) -> _Factors:
    """Take the adapter of one of their modules, a matrix of (out, in), out of the tensors; of rank 0 if it has none."""
    n_out, n_in = size
    a = tensors.pop(f"{module}.lora_A.weight", torch.zeros(0, n_in))
    b = tensors.pop(f"{module}.lora_B.weight", torch.zeros(n_out, 0))
    if a.ndim != 2 or a.shape[1] != n_in or b.shape != (n_out, len(a)):
        raise CheckpointError(
            f"{str(folder)!r}: the adapter of {module} is {tuple(a.shape)} and {tuple(b.shape)}, expected (r, {n_in}) "
            f"and ({n_out}, r): it belongs to another base"
        )
    patterns: Mapping[str, Any] = settings.get("alpha_pattern") or {}
    try:  # as PEFT matches them
        fitting = (alpha for name, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({name})", module))
        alpha = next(fitting, settings.get("lora_alpha", 8))
    except re.error as error:
        raise CheckpointError(f"{str(folder)!r} has an alpha_pattern that is no regular expression: {error}") from error
    rank = max(1, len(a))
    return _Factors(a, b, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _together(parts: list[_Factors]) -> _Factors:
    """The adapter of a matrix whose rows are those of several modules, one after the other."""
    first = parts[0]
    if all(torch.equal(part.a, first.a) and part.scale == first.scale for part in parts):
        return _Factors(first.a, torch.cat([part.b for part in parts]), first.scale)
    scale = next(part.scale for part in parts if len(part.a))
    blocks = torch.block_diag(*(part.b * (part.scale / scale) for part in parts))  # (sum of out, sum of r)
    return _Factors(torch.cat([part.a for part in parts]), blocks, scale)


def _of_one_rank(found: dict[str, _Factors], layers: Mapping[str, nn.Linear]) -> tuple[LoRAConfig, Tensors]:
    """Adapters of the largest rank, the others padded with zeros, and of one scale."""
    rank, scale = max(len(part.a) for part in found.values()), next(iter(found.values())).scale
    tensors: Tensors = {}
    for name, part in found.items():
        more = rank - len(part.a)
        tensors[f"{name}.{A}"] = torch.nn.functional.pad(part.a, (0, 0, 0, more))  # (r, in)
        tensors[f"{name}.{B}"] = torch.nn.functional.pad(part.b * (part.scale / scale), (0, more))  # (out, r)
    words = []
    for word in dict.fromkeys(name.rpartition(".")[2] for name in found):
        all_of_it = [name for name in layers if name.rpartition(".")[2] == word]
        words += [word] if all(name in found for name in all_of_it) else [name for name in all_of_it if name in found]
    return LoRAConfig(rank=rank, alpha=scale * rank, modules=tuple(words)), tensors
