"""Where a translation looked: the attention of each token of the target to the tokens of its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from llm.errors import ConfigError
from llm.generation.translating import Translator
from llm.inspection.colours import scaled
from llm.inspection.figures import map_grid
from llm.inspection.page import STEPS, Page, compose, encode_weights
from llm.inspection.probe import capture
from llm.inspection.ticks import text_labels

_LONGEST_LABEL = 32
_AXES = ("target: what is written", "source: what is looked at")


@dataclass(frozen=True)
class Alignment:
    """The attention of one target to its source.

    Args:
        source: S labels, the tokens of the source and its end.
        target: T labels, each token that is written, its end too.
        layers: for each attention to the source its weights (H, T, S): where each head looked when it wrote a token.
        names: of these attentions, such as `block 0`.
        title: what it is of.
    """

    source: list[str]
    target: list[str]
    layers: list[Tensor]
    names: list[str]
    title: str = "Alignment"

    @property
    def mean(self) -> Tensor:
        """The mean over all heads of all layers, (T, S)."""
        return torch.cat(self.layers).mean(0)

    def figure(self, layer: int) -> Image.Image:
        """The heads of one layer, a row for each token that is written."""
        weights = self.layers[layer]
        heads = [f"head {head}" for head in range(len(weights))]
        return self._grid(weights, heads, f"{self.title}: {self.names[layer]}, attention to the source")

    def mean_figure(self) -> Image.Image:
        """The mean over all heads of all layers."""
        return self._grid(self.mean[None], ["mean of all heads"], f"{self.title}: attention to the source")

    def _grid(self, weights: Tensor, names: Sequence[str], title: str) -> Image.Image:
        values, legend = scaled(weights, causal=False, scale="sqrt")
        return map_grid(values, names, title, self.target, self.source, legend, _AXES, masked=False)

    def page(self, path: str | Path | None = None) -> Page:
        """A page to explore it, one HTML file that loads nothing: point at a word to see where it looked.

        Args:
            path: write it there, too.
        """
        heads = [
            {"name": f"{name}, head {head}", "weights": encode_weights(weights[head])}
            for name, weights in zip(self.names, self.layers, strict=True)
            for head in range(len(weights))
        ]
        data = {
            "title": self.title,
            "steps": STEPS,
            "source": self.source,
            "target": self.target,
            "heads": [{"name": "mean of all heads", "weights": encode_weights(self.mean)}, *heads],
        }
        page = compose("alignment.html", ["page.css", "alignment.css"], ["alignment.js"], data)
        if path is not None:
            page.save(path)
        return page


def align(translator: Translator, source: str, target: str | None = None, title: str = "Alignment") -> Alignment:
    """Run a network on one pair, and keep its attention to the source.

    Args:
        translator: any network that translates, and its tokenizers.
        source: the text to translate.
        target: its translation, which the network is shown. Default: what it makes of the source itself, greedily.
        title: what it is of.

    Raises:
        ConfigError: the network has no attention to the source, or one of the texts is longer than the context.
        TokenizerError: a text can't be encoded, or the source is empty.
    """
    model, tokenizer, source_tokenizer = translator
    if not model.attends_to_source:
        raise ConfigError("this network has no attention to the source, so there is no alignment to show")
    read, end_id = translator.encode(source), tokenizer.end_of_text_id
    assert end_id is not None
    if target is None:  # what has no end may fill the context, and its last token is never read
        written = translator.translate([source])[0].hypothesis.ids[: model.config.context_length - 1]
    else:
        written = tokenizer.encode(target)
    device = next(model.parameters()).device
    ids = torch.tensor([[end_id, *written]], device=device)  # (T) -> (1, T)
    found = capture(model, ids, source=torch.tensor([read], device=device))
    return Alignment(
        text_labels(source_tokenizer, read, _LONGEST_LABEL),
        text_labels(tokenizer, [*written, end_id], _LONGEST_LABEL),
        [weights[0].cpu() for weights in found.maps("cross")],
        [hook.name.removesuffix(" / cross") for hook in found.attentions if hook.kind == "cross"],
        title,
    )
