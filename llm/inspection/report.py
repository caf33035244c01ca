"""`llm.inspect(model, text)`: everything that happened to one text, for a notebook or a script."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from llm.config import ClassifierConfig
from llm.errors import ConfigError
from llm.inspection.attribution import attribution_figure, leave_one_out
from llm.inspection.colours import Scale
from llm.inspection.figures import head_grid, head_maps, montage
from llm.inspection.heads import SCORES, HeadScores, head_scores, heads_table
from llm.inspection.lens import LensLayer, logit_lens
from llm.inspection.page import Page, attention_page
from llm.inspection.probe import Capture, capture, longest_window
from llm.inspection.rollout import attention_rollout
from llm.inspection.shapes import ShapeRow, html_table, shape_rows, text_table
from llm.inspection.svg import svg_grid
from llm.inspection.ticks import text_labels, tick_labels
from llm.model import Classifier, Network
from llm.tokenizers import Tokenizer

if TYPE_CHECKING:
    from llm.pretrained import Loaded
    from llm.tasks.base import TaskModule


class HeadTable(list[HeadScores]):
    """The scores of all heads; printed, a table, and in a notebook a table with colours."""

    def __repr__(self) -> str:
        return heads_table(self)

    def _repr_html_(self) -> str:
        header = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("head", *SCORES))
        rows = (
            f"<tr><td>{row.layer}.{row.head}</td>{''.join(_score_cell(getattr(row, name)) for name in SCORES)}</tr>"
            for row in self
        )
        return f"<table><tr>{header}</tr>{''.join(rows)}</table>"


def _score_cell(score: float | None) -> str:
    """A cell as dark as its score is high."""
    if score is None:
        return "<td>-</td>"
    colour = "white" if score > 0.6 else "inherit"
    return f'<td style="background: rgba(38, 84, 124, {max(0.0, score):.2f}); color: {colour}">{score:.3f}</td>'


class ShapeTable(str):
    """The shape of every stage: text, and in a notebook a table."""

    rows: Sequence[ShapeRow]

    def __new__(cls, rows: Sequence[ShapeRow]) -> ShapeTable:
        """The table of some rows."""
        table = super().__new__(cls, text_table(rows))
        table.rows = rows
        return table

    def _repr_html_(self) -> str:
        return html_table(self.rows)


class Report(Mapping[str, Tensor]):
    """What a capture found: the tensors by the names of their stages, and what can be made of them.

    Args:
        model: the model that was captured.
        found: the capture, of one text.
        tokenizer: names the tokens; without one they are numbers.
        title: of the page.
        notes: what the reader should know, such as that the text was cropped.
        originals: (T) of a text with masked tokens, what stood there before they were hidden.
    """

    def __init__(
        self,
        model: Network,
        found: Capture,
        tokenizer: Tokenizer | None = None,
        title: str = "Attention",
        notes: Sequence[str] = (),
        originals: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.capture = found
        self.tokenizer = tokenizer
        self.title = title
        self.notes = list(notes)
        self.ids: list[int] = found.tensor("token ids")[0].tolist()
        self.labels = self.text_labels()
        self.originals = None if originals is None else list(originals)
        if self.predicts_hidden:
            self.notes.append(self.masked_note)

    def __getitem__(self, name: str) -> Tensor:
        return self.capture[name].tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.capture)

    def __len__(self) -> int:
        return len(self.capture)

    def __repr__(self) -> str:
        return f"Report of {len(self.ids)} tokens: {len(self)} tensors, heads(), lens(), table(), figure(), page()"

    def names(self, ids: Sequence[int], longest: int = 14) -> list[str]:
        """A label for each token id."""
        return list(map(str, ids)) if self.tokenizer is None else tick_labels(self.tokenizer, ids, longest)

    def text_labels(self, longest: int = 14) -> list[str]:
        """A label for each token of the text."""
        return self.names(self.ids) if self.tokenizer is None else text_labels(self.tokenizer, self.ids, longest)

    @property
    def predicts_hidden(self) -> bool:
        """Whether the model predicts the token that belongs at a position itself, as one for masked words does."""
        return self.model.predicts_tokens and not self.model.predicts_next

    @property
    def masked_note(self) -> str:
        """What a model for masked words predicts here, and whether it is hidden from it."""
        if self.originals is not None:
            hidden = "some tokens are masked as in training, and their true ones are those from before"
        elif self.tokenizer is not None and self.tokenizer.mask_id in self.ids:
            hidden = "it is hidden where the text has a mask, and seen elsewhere"
        else:
            hidden = "nothing is masked, so that it sees what it predicts: put [MASK] where a token is to be hidden"
        return f"the logit lens says which token each layer would put at the position itself; {hidden}"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The labels, of a classifier."""
        config = self.model.config
        return config.labels if isinstance(config, ClassifierConfig) else None

    def guesses(self, ids: Sequence[int], longest: int = 14) -> list[str]:
        """The names of what is predicted: tokens, or labels."""
        return self.names(ids, longest) if self.classes is None else [self.classes[number] for number in ids]

    def attribution(self) -> Image.Image:
        """Which tokens speak for the label that a classifier gives, as a picture.

        Raises:
            ConfigError: the model is no classifier.
        """
        if not isinstance(self.model, Classifier):
            raise ConfigError("an attribution is for the label of a classifier, and this model gives none")
        logits = self["logits"][0].float()
        label = int(logits.argmax())
        ids = self["token ids"][0]
        values, name = leave_one_out(self.model, ids), self.model.config.labels[label]
        return attribution_figure(values, self.labels, name, float(logits.softmax(-1)[label]))

    @property
    def maps(self) -> list[Tensor]:
        """The attention weights of each layer, (H, T, T)."""
        return [weights[0] for weights in self.capture.maps()]

    def heads(self) -> HeadTable:
        """Entropy, sink, previous-token, duplicate-token and induction score of every head."""
        return self._heads

    @functools.cached_property
    def _heads(self) -> HeadTable:
        return HeadTable(head_scores(self.model, self.maps))

    def lens(self, k: int = 3) -> list[LensLayer]:
        """What each layer would predict."""
        return logit_lens(self.model, self.capture, k, originals=self.originals)

    def rollout(self) -> Tensor:
        """Attention rollout, (T, T)."""
        return attention_rollout(self.maps, self.model.config.residual)

    def table(self) -> ShapeTable:
        """The shape of every stage."""
        return ShapeTable(shape_rows(self.capture))

    def figure(
        self, layer: int = 0, scale: Scale = "sqrt", hide_first: bool = False, head: int | None = None
    ) -> Image.Image:
        """The attention maps of one layer, or of one of its heads in large, as a picture."""
        return head_grid(*self._of_layer(layer), scale, hide_first, head)

    def svg(self, layer: int = 0, scale: Scale = "sqrt", hide_first: bool = False, head: int | None = None) -> str:
        """The same picture as SVG: sharp at any size, its labels are text."""
        return svg_grid(*head_maps(*self._of_layer(layer), scale, hide_first, head))

    def _of_layer(self, layer: int) -> tuple[Tensor, Sequence[str], str, bool]:
        config = self.model.config
        return self.maps[layer], self.labels, f"{config.attention} attention, layer {layer}", config.is_causal

    def montage(self, title: str, scale: Scale = "sqrt") -> Image.Image:
        """Every head of every layer in one small picture."""
        return montage(self.maps, self.model.config.is_causal, title, scale)

    def page(self, path: str | Path | None = None) -> Page:
        """The attention page, one HTML file; in a notebook it shows itself.

        Args:
            path: write it there, too.
        """
        page = attention_page(self)
        if path is not None:
            page.save(path)
        return page


def inspect(
    model: Network | Loaded[Any] | TaskModule | str | Path,
    text: str | Sequence[int] | Tensor,
    tokenizer: Tokenizer | None = None,
    tokens: int = 64,
) -> Report:
    """Run a model on one text and keep every stage.

    Args:
        model: a GPT or another network, what `llm.load` gives, a task's module with a trainer, or the path of a
            checkpoint or of anything else that `llm.load` reads.
        text: the text; or (T,) token ids.
        tokenizer: the model's, where the model does not bring it along.
        tokens: the most tokens to inspect; the rest is cropped, and `notes` says so.

    Raises:
        ConfigError: there is no tokenizer for a text, the text is empty, or holds ids outside the vocabulary.
        LLMError: the checkpoint can't be read, or the text can't be encoded.
    """
    gpt, own = _parts(model)
    tokenizer = tokenizer or own
    if isinstance(text, str):
        if tokenizer is None:
            raise ConfigError(
                "a network alone can't read text: give tokenizer=..., or token ids, or inspect what llm.load gives"
            )
        ids = (tokenizer.encode_prompt if gpt.predicts_next else tokenizer.encode_whole)(text)
    else:
        ids = [int(i) for i in text]
    chosen, notes = choose_window(ids, gpt, tokens)
    device = next(gpt.parameters()).device
    row = torch.tensor([chosen], device=device)  # (T) -> (1, T)
    return Report(gpt, capture(gpt, row), tokenizer, notes=notes)


def choose_window(ids: Sequence[int], model: Network, tokens: int) -> tuple[list[int], list[str]]:
    """The tokens of a text that can be inspected, and notes about the rest.

    Raises:
        ConfigError: the text is empty, or an id is outside the vocabulary.
    """
    vocab_size = model.config.vocab_size
    if not len(ids):
        raise ConfigError("the text to inspect is empty; give at least one word")
    if outside := [i for i in ids if not 0 <= i < vocab_size]:
        raise ConfigError(
            f"the text to inspect holds token id {outside[0]}, outside the model's vocabulary of {vocab_size}: "
            "it was encoded with another tokenizer"
        )
    if tokens < 1:
        raise ConfigError(f"tokens must be at least 1, got {tokens}")
    shown = min(tokens, longest_window(model.config))
    notes = [f"the first {shown} of {len(ids)} tokens are shown"] if shown < len(ids) else []
    return list(ids[:shown]), notes


def _parts(model: Any) -> tuple[Network, Tokenizer | None]:
    if isinstance(model, str | Path):
        from llm.pretrained import load

        model = load(model)
    if isinstance(model, Network):
        return model, None
    if isinstance(model, tuple):  # Loaded
        return model[0], model[1]
    return model.network, model.tokenizer
