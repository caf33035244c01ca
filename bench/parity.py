"""Whether a model means the same here and in `transformers`: logits, greedy text, and the way there and back.

`python -m bench.parity` makes a small random model of each family and shape with `transformers`, reads its folder,
writes it again, and prints a table: the largest difference of a logit in float32, and in bfloat16 beside that of
`transformers` itself between its two precisions; whether the greedy text is the same token for token, with the cache
and without; whether what is written has the same bytes, and the same logits once `transformers` has opened it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llm.config import SamplingConfig
from llm.generation import generate
from llm.model import GPT
from llm.pretrained import build, export, read_pretrained

V, T, PROMPT = 97, 48, 8
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2 * T,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
BY_LAYER = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
GEMMA2 = {"head_dim": 16, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("GPT2", "biases, tied", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 2 * T, "vocab_size": V}),
    ("Llama", "grouped queries", {}),
    ("Llama", "head size 16, tied, theta 500,000", {"head_dim": 16, "tie_word_embeddings": True, "rope_theta": 5e5}),
    ("Llama", "biases everywhere", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    ("Llama", "linear scaling", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("Llama", "llama3 scaling", {"rope_scaling": LLAMA3, "head_dim": 16}),
    ("Llama", "yarn scaling", {"rope_scaling": YARN, "head_dim": 16}),
    ("Mistral", "window of 6", {"sliding_window": 6}),
    ("Mistral", "no window, head size 12", {"sliding_window": None, "head_dim": 12}),
    ("Qwen2", "biases on q, k, v, tied", {"tie_word_embeddings": True}),
    ("Qwen2", "window of 6 from layer 1", BY_LAYER),
    ("Qwen3", "head size 16, tied", {"head_dim": 16, "tie_word_embeddings": True}),
    ("Qwen3", "window of 6 on layer 1, one key head", {**BY_LAYER, "max_window_layers": 2, "num_key_value_heads": 1}),
    ("Gemma", "head size 16, one key head", {"head_dim": 16, "num_key_value_heads": 1}),
    ("Gemma2", "window of 6 on every second layer, soft caps of 2 and 3", {**GEMMA2, "sliding_window": 6}),
    ("GPTNeoX", "parallel residual, a quarter of each head rotated", {}),
    ("GPTNeoX", "one after the other, all rotated", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    ("OPT", "positions from row 2, ReLU, tied", {"ffn_dim": 56}),
]
"""The class of `transformers`, the shape in words, and what it sets."""


class Parity(NamedTuple):
    """What was found for one model.

    Args:
        family: of `transformers`.
        shape: in words.
        logits: largest difference of a logit in float32.
        bfloat16: the same in bfloat16, our logits against theirs.
        own_bfloat16: their logits in bfloat16 against theirs in float32.
        greedy: whether our greedy text is theirs, with the cache and without.
        bytes: whether every tensor that is read and written again has the same bytes.
        reopened: largest difference of a logit after `transformers` opened what was written.
    """

    family: str
    shape: str
    logits: float
    bfloat16: float
    own_bfloat16: float
    greedy: bool
    bytes: bool
    reopened: float


def measure(family: str, shape: str, settings: dict[str, Any], seed: int = 0) -> Parity:
    """Make a random model of a family, and compare."""
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**(SIZES if family != "GPT2" else {}) | copy.deepcopy(settings))
    theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in theirs.parameters():  # large enough for every part of the model to matter
        nn.init.normal_(parameter, std=0.3)
    if family == "OPT":  # no token uses these two rows, which are written as zeros
        theirs.model.decoder.embed_positions.weight[:2] = 0
    ids = torch.randint(V, (2, T))
    expected = theirs(ids).logits
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs.save_pretrained(folder / "theirs")
        found = read_pretrained(folder / "theirs")
        ours = build(found).eval()
        assert isinstance(ours, GPT)
        logits = _largest(ours(ids), expected)
        greedy = all(text == _greedy_of(theirs, ids[0, :PROMPT]) for text in _greedy(ours, ids[0, :PROMPT]))
        export(found, folder / "ours")
        same = _tensors(folder / "theirs") == _tensors(folder / "ours")
        again = transformers.AutoModelForCausalLM.from_pretrained(folder / "ours", dtype=torch.float32).eval()
        reopened = _largest(again(ids).logits, expected)
    short = theirs.to(torch.bfloat16)(ids).logits.float()
    bfloat16 = _largest(ours.to(torch.bfloat16)(ids).float(), short)
    return Parity(family, shape, logits, bfloat16, _largest(short, expected), greedy, same, reopened)


def _largest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def _greedy(model: GPT, prompt: Tensor) -> Iterator[list[int]]:
    """Our greedy text: with the cache, and from the whole text at each step."""
    yield list(generate(model, prompt, SamplingConfig(temperature=0.0, max_new_tokens=T - PROMPT)))
    text = prompt.tolist()
    while len(text) < T:
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    yield text[PROMPT:]


def _greedy_of(model: Any, prompt: Tensor) -> list[int]:
    text = model.generate(
        prompt[None], do_sample=False, max_new_tokens=T - PROMPT, pad_token_id=0, attention_mask=torch.ones(1, PROMPT)
    )
    return text[0, PROMPT:].tolist()


def _tensors(folder: Path) -> dict[str, tuple[torch.dtype, bytes]]:
    """Type and bytes of every tensor of a folder."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    return {name: (tensor.dtype, tensor.view(torch.uint8).numpy().tobytes()) for name, tensor in tensors.items()}


def table(rows: list[Parity]) -> str:
    """The rows as Markdown."""
    names = ("family", "shape", "logits, float32", "bfloat16 (theirs)", "greedy text", "written again", "reopened")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        logits, short = f"{row.logits:.0e}", f"{row.bfloat16:.2f} ({row.own_bfloat16:.2f})"
        greedy, same = "equal" if row.greedy else "DIFFERENT", "same bytes" if row.bytes else "OTHER BYTES"
        lines.append(f"| {' | '.join((row.family, row.shape, logits, short, greedy, same, f'{row.reopened:.0e}'))} |")
    return "\n".join(lines)


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the first shape of each family only")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--seed", type=int, default=0, help="of weights and tokens (%(default)s)")
    options = parser.parse_args()
    try:
        import transformers
    except ImportError:
        parser.exit(1, "this compares with transformers, which is not installed: pip install transformers\n")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cases = (
        list({family: (family, *rest) for family, *rest in reversed(CASES)}.values())[::-1] if options.tiny else CASES
    )
    with torch.no_grad():
        rows = [measure(family, shape, settings, options.seed) for family, shape, settings in cases]
    print(json.dumps([row._asdict() for row in rows]) if options.json else table(rows))


if __name__ == "__main__":
    main()
