"""nanoGPT's `ckpt.pt`, and minGPT's `model.pt` in its newer and its older form."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from llm.config import GPTConfig
from llm.errors import CheckpointError, ConfigError
from llm.pretrained import huggingface
from llm.pretrained.base import Pretrained, Told
from llm.pretrained.files import read_json
from llm.pretrained.layout import Layout, Tensors, clean_names

# The names that Hugging Face has, but nn.Linear: (out, in).
LAYOUT = dataclasses.replace(huggingface.LAYOUT, transposed=frozenset(), buffers=r"h\.\d+\.attn\.bias")

OLD_MINGPT_LAYOUT = Layout(
    modules={
        "embeddings.token": "tok_emb",
        "embeddings.position": "pos_emb",
        "blocks.*.attention_norm": "blocks.*.ln1",
        "blocks.*.attention.qkv": ("blocks.*.attn.query", "blocks.*.attn.key", "blocks.*.attn.value"),
        "blocks.*.attention.projection": "blocks.*.attn.proj",
        "blocks.*.mlp_norm": "blocks.*.ln2",
        "blocks.*.mlp.expand": "blocks.*.mlp.0",
        "blocks.*.mlp.projection": "blocks.*.mlp.2",
        "final_norm": "ln_f",
        "head": "head",
    },
    buffers=r"blocks\.\d+\.attn\.mask",
)

_MINGPT_HEADS = {"openai-gpt": 12, "gopher-44m": 16, "gpt-mini": 6, "gpt-micro": 4, "gpt-nano": 3}
"""Heads of the sizes that minGPT has names for, besides GPT-2's."""


def read_nanogpt(checkpoint: dict[str, Any], told: Told) -> Pretrained:
    """The model of a nanoGPT checkpoint: `model` is its state dict, `model_args` its architecture.

    Its GELU is exact since 2023; before, it was the tanh approximation, which can be set with `activation`.

    Raises:
        CheckpointError: one of them is not what nanoGPT writes.
    """
    args = checkpoint["model_args"]
    try:
        config = GPTConfig(
            vocab_size=args["vocab_size"],
            context_length=args["block_size"],
            n_layer=args["n_layer"],
            n_head=args["n_head"],
            n_embd=args["n_embd"],
            activation=told.get("activation", "gelu_exact"),
            dropout=args.get("dropout", 0.0),
            bias=args.get("bias", True),
            qkv_bias=args.get("bias", True),
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"nanoGPT's model_args describe no model that can be built: {error}") from error
    return Pretrained("nanoGPT", config, LAYOUT.to_ours(clean_names(checkpoint["model"]), config))


def read_mingpt(tensors: Tensors, folder: Path, told: Told) -> Pretrained:
    """The model of a minGPT state dict; the number of heads comes from the `config.json` beside it, or is given.

    Raises:
        CheckpointError: the tensors are not minGPT's, or the number of heads is needed.
    """
    config = LAYOUT.infer(tensors, **({"activation": "gelu", "n_head": _heads(folder)} | told))
    return Pretrained("minGPT", config, LAYOUT.to_ours(tensors, config))


def read_old_mingpt(tensors: Tensors, told: Told) -> Pretrained:
    """The same for minGPT as it was before 2022: other names, GELU in its exact form.

    Raises:
        CheckpointError: the tensors are not minGPT's, or the number of heads is needed.
    """
    position = tensors["pos_emb"]  # a bare parameter (1, T, C)
    tensors = {name: tensor for name, tensor in tensors.items() if name != "pos_emb"}
    tensors["pos_emb.weight"] = position[0] if position.ndim == 3 and len(position) == 1 else position
    config = OLD_MINGPT_LAYOUT.infer(tensors, **({"activation": "gelu_exact", "tie_head": False} | told))
    return Pretrained("minGPT", config, OLD_MINGPT_LAYOUT.to_ours(tensors, config))


def _heads(folder: Path) -> int | None:
    """The number of heads in the `config.json` that minGPT writes beside its weights, or None."""
    if not (path := folder / "config.json").is_file():
        return None
    settings = read_json(path).get("model")
    if not isinstance(settings, dict):
        return None
    return settings.get("n_head") or _MINGPT_HEADS.get(str(settings.get("model_type")))
