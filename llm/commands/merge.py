"""`python -m llm merge`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from llm.runtime.words import counted

if TYPE_CHECKING:
    from torch import Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--ckpt", required=True, help="a checkpoint with adapters (LoRA), best or last")
    parser.add_argument("--out", required=True, help="the checkpoint to write, without them")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights that are written: bfloat16 takes half the space, and rounds them (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")


def run(arguments: argparse.Namespace) -> None:
    """Write the checkpoint and say how many layers were merged.

    Raises:
        LLMError: the checkpoint can't be read, has no adapters, or the target is there already.
    """
    from pathlib import Path

    from llm.commands.targets import refuse_source
    from llm.model.lora import A
    from llm.pretrained import refuse_existing
    from llm.pretrained.adapters import merge
    from llm.pretrained.checkpoint import trained_of, write_checkpoint
    from llm.pretrained.formats import read_with_base

    refuse_source(arguments.ckpt, arguments.out)
    refuse_existing(Path(arguments.out), arguments.overwrite)
    checkpoint = read_with_base(arguments.ckpt)
    merged = merge(checkpoint, arguments.ckpt)
    lora, names = trained_of(checkpoint).lora, list(checkpoint["state_dict"])
    n_layers = sum(name.endswith(f".{A}") for name in names)
    merged_into = "merged into the weights beside them"
    print(f"{counted(n_layers, 'adapter')} of rank {lora.rank}, alpha {lora.alpha:g}, {merged_into}")
    if arguments.precision == "bfloat16":
        weights: dict[str, Tensor] = merged["state_dict"]
        each = {weight.data_ptr(): weight.bfloat16() for weight in weights.values()}  # shared ones stay shared
        rounded = {name: each[weight.data_ptr()] for name, weight in weights.items()}
        worst = max(_relative_error(weights[name], rounded[name]) for name in weights)
        print(f"note: rounded to bfloat16; of a matrix, that changes at most {worst:.2%} of its norm")
        merged["state_dict"] = rounded
    write_checkpoint(merged, arguments.out)
    print(f"written to {arguments.out}")


def _relative_error(exact: Tensor, rounded: Tensor) -> float:
    """The norm of the difference over the norm."""
    return float((exact - rounded.float()).norm() / exact.norm().clamp(min=1e-30))
