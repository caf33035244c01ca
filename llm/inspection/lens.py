"""The logit lens: what a network would predict after each block if it were the last.

nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.inspection.probe import Capture, eager
from llm.inspection.ticks import markdown, text_labels, tick_labels
from llm.model import Network
from llm.tokenizers import Tokenizer


@dataclass(frozen=True)
class LensLayer:
    """What one layer would predict at each position.

    Args:
        name: `embeddings`, or `block 0` and so on.
        top_ids: (T, k) the most likely tokens, most likely first.
        top_probabilities: (T, k) their probabilities.
        ranks: (T - 1,) the rank of the true next token, at each position but the last; 1 is the first.
            T is the number of positions that were asked for. Of a network that predicts the token at the position
            itself: (T,) its rank. Of a classifier: empty, and what is predicted is the label.
    """

    name: str
    top_ids: Tensor
    top_probabilities: Tensor
    ranks: Tensor


def lens_logits(model: Network, hidden: Tensor) -> Tensor:
    """The residual stream (B, T, C), read by the final norm and the head as if it were the last: (B, T, V)."""
    with eager(model, hidden), torch.no_grad():
        return model.logits_of(hidden)  # (B, T, C) -> (B, T, V)


def logit_lens(
    model: Network, found: Capture, k: int = 3, last: int = 0, originals: Sequence[int] | None = None
) -> list[LensLayer]:
    """The predictions after the embeddings and after each block, for the first text of a capture.

    One layer's logits are held at a time.

    Args:
        model: the model that was captured.
        found: the capture.
        k: how many predictions to keep.
        last: only so many positions at the end of the text; 0 for all.
        originals: (T) of a text with masked tokens, what stood there before they were hidden. Default: its own tokens.
    """
    ids = found.tensor("token ids")[:1, -last:]
    if originals is not None:
        ids = torch.tensor([list(originals)[-last:]], device=ids.device)
    stages = [("embeddings", found.tensor("input embeddings"))]
    stages += [(f"block {layer}", found.after_block(layer)) for layer in range(model.config.n_layer)]
    layers = []
    for name, hidden in stages:
        logits = lens_logits(model, hidden[:1, -last:])[0].float()  # (1, T, C) -> (T, V)
        top = logits.topk(min(k, logits.shape[-1]))
        probabilities = (top.values - logits.logsumexp(-1, keepdim=True)).exp()
        targets = ids[0, 1:] if model.predicts_next else ids[0]  # (T - 1) or (T)
        if not model.predicts_tokens:
            targets = targets[:0]
        true = logits[: len(targets)].gather(-1, targets[:, None])  # (T, V) -> (T - 1, 1)
        ranks = 1 + (logits[: len(targets)] > true).sum(-1)  # (T, V) -> (T - 1)
        layers.append(LensLayer(name, top.indices.cpu(), probabilities.cpu(), ranks.cpu()))
    return layers


def lens_table(
    layers: Sequence[LensLayer],
    ids: Sequence[int],
    tokenizer: Tokenizer,
    classes: Sequence[str] | None = None,
    originals: Sequence[int] | None = None,
) -> str:
    """A Markdown table: a row for each position, a column for each layer with its guess and the true token's rank.

    Args:
        layers: of the lens.
        ids: the tokens at its positions.
        tokenizer: names them.
        classes: the labels, if these are what is predicted.
        originals: the tokens at its positions before some were masked. Default: the same.
    """
    labels = [markdown(label) for label in text_labels(tokenizer, ids)]
    if classes is not None:
        return _label_table(layers, labels, classes)
    predicts_next = len(layers[0].ranks) < len(labels)
    head = ["token", "next" if predicts_next else "target", *(layer.name for layer in layers)]
    lines = [head, ["---"] * len(head)]
    guesses = [tick_labels(tokenizer, layer.top_ids[:, 0].tolist()) for layer in layers]
    hidden = ids if originals is None else originals
    wanted = [*labels[1:], "?"] if predicts_next else [markdown(label) for label in tick_labels(tokenizer, hidden)]
    for position, (label, following) in enumerate(zip(labels, wanted, strict=True)):
        cells = []
        for layer, guess in zip(layers, guesses, strict=True):
            rank = f", rank {int(layer.ranks[position])}" if position < len(layer.ranks) else ""
            probability = float(layer.top_probabilities[position, 0])
            cells.append(f"“{markdown(guess[position])}” ({probability:.0%}{rank})")
        lines.append([label, following, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _label_table(layers: Sequence[LensLayer], tokens: Sequence[str], classes: Sequence[str]) -> str:
    lines = [["token", *(layer.name for layer in layers)], ["---"] * (1 + len(layers))]
    for position, token in enumerate(tokens):
        best = [(layer.top_ids[position, 0], layer.top_probabilities[position, 0]) for layer in layers]
        lines.append([token, *(f"{markdown(classes[int(label)])} ({float(chance):.0%})" for label, chance in best)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
