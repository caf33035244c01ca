"""Which tokens a classifier's label rests on: what it loses without each, and what the last token looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llm.inspection.colours import scaled
from llm.inspection.figures import map_grid
from llm.inspection.probe import Capture, eager
from llm.model import Classifier

_ROWS = 32
"""Texts that are read at once, each with one token less."""


@torch.no_grad()
def leave_one_out(model: Classifier, ids: Tensor, label: int | None = None) -> Tensor:
    """How much each token speaks for a label: what its log-odds lose if the token is left out (Li et al. 2016).

    The log-odds are the label's logit less the mean of the others'. The network is left as it was.

    Args:
        model: a classifier.
        ids: (T) token ids.
        label: which one. Default: the one that the model gives.

    Returns:
        (T), in nats, in float32 on the CPU; above 0 for, below 0 against the label. Of a single token: 0.
    """
    T = len(ids)
    if T == 1:
        return torch.zeros(1)
    kept = ~torch.eye(T, dtype=torch.bool, device=ids.device)
    rows = ids.expand(T, T)[kept].view(T, T - 1)  # (T) -> (T, T - 1), row t without token t
    with eager(model, ids):
        whole = model.forward(ids[None]).float()  # (1, T) -> (1, N)
        parts = torch.cat([model.forward(some).float() for some in rows.split(_ROWS)])  # (T, T - 1) -> (T, N)
    chosen = int(whole.argmax()) if label is None else label
    return (_log_odds(whole, chosen) - _log_odds(parts, chosen)).cpu()


def _log_odds(logits: Tensor, label: int) -> Tensor:
    """`(B, N)` -> `(B)`."""
    others = (logits.sum(-1) - logits[:, label]) / (logits.shape[1] - 1)
    return logits[:, label] - others


def attribution_figure(values: Tensor, tokens: Sequence[str], label: str, probability: float) -> Image.Image:
    """A row of coloured tokens: the strongest is at an end of the scale, what says nothing in the middle.

    Args:
        values: (T), as `leave_one_out` gives them.
        tokens: a name for each of the T tokens.
        label: that they are for or against.
        probability: of the label.
    """
    most = float(values.abs().max())
    scaled = (values / most if most > 0 else values) / 2 + 0.5  # -1 to 1 -> 0 to 1
    title = f"{label} ({probability:.1%}): what it would lose without each token"
    ends = (f"{-most:.1f} nats", f"{most:.1f} nats")
    picture = scaled.numpy().astype(np.float32)[None, None]  # (T) -> (1, 1, T)
    return map_grid(picture, [""], title, [label], list(tokens), ends, ("", "token"), masked=False)


def last_token_figure(found: Capture, tokens: Sequence[str]) -> Image.Image:
    """What the last token looks at: a row for each head of each layer.

    Args:
        found: the capture of one text.
        tokens: a name for each of its T tokens.
    """
    maps = [weights[0, :, -1].float().cpu() for weights in found.maps()]  # (1, H, T, T) -> (H, T)
    rows = [f"layer {layer} head {head}" for layer, weights in enumerate(maps) for head in range(len(weights))]
    values, legend = scaled(torch.cat(maps), causal=False, scale="sqrt")  # L times (H, T) -> (L H, T)
    title = f"what the last token, “{tokens[-1]}”, looks at"
    axes = ("", "key: what is looked at")
    return map_grid(values[None], [""], title, rows, list(tokens), legend, axes, masked=False)


def confusion_figure(confusion: Tensor, labels: Sequence[str], title: str) -> Image.Image:
    """How often which label was given: each row is a true label, and adds up to 1.

    Args:
        confusion: (N, N) counts.
        labels: N.
        title: above the picture.
    """
    counts = confusion.double()
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy().astype(np.float32)
    rows = [f"{label} ({int(n):,})" for label, n in zip(labels, counts.sum(1), strict=True)]
    axes = ("true label (texts)", "label given")
    return map_grid(share[None], [""], title, rows, list(labels), axes=axes, masked=False)
