"""Writers of captures: to TensorBoard, and to files in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from llm.inspection import tags
from llm.inspection.attribution import last_token_figure
from llm.inspection.colours import Scale, scaled, to_png
from llm.inspection.embeddings import (
    choose_words,
    neighbours_table,
    positional_similarity,
    projector_sample,
    token_table,
    word_ids,
)
from llm.inspection.figures import map_grid, similarity_map
from llm.inspection.gradients import LayerFlow, layer_parameters
from llm.inspection.heads import SCORES
from llm.inspection.lens import lens_table, logit_lens
from llm.inspection.report import Report
from llm.inspection.shapes import legend, markdown_table, text_table, trace_shapes
from llm.inspection.ticks import markdown
from llm.model import Network
from llm.model.trained import count_trained
from llm.runs.recording import Record, records_of
from llm.runs.run_folder import experiments_of
from llm.runtime.files import write_whole

log = logging.getLogger(__name__)

_NOT_HELD = "Fused attention, which training runs on, never holds scores and weights: they are recomputed in float32."
_LENS = "What each layer would predict (its probability, and the rank of the true token)."
_LABEL_LENS = "Which label each layer would give, were it the last and read at this token (its probability)."
_LENS_POSITIONS = 6
_POSITIONS = 128
_HISTOGRAM_VALUES = 10_000


class TensorBoard:
    """Writes one step to TensorBoard: few tags, so that its slider goes through the steps.

    Args:
        experiments: SummaryWriters.
        step: the optimizer step.
        records: other loggers, which take texts and pictures too.
    """

    def __init__(self, experiments: Iterable[Any], step: int, records: Sequence[Record] = ()) -> None:
        self.experiments = list(experiments)
        self.step = step
        self.records = records

    @classmethod
    def of(cls, trainer: L.Trainer, step: int) -> TensorBoard:
        """What writes a step of a run, for all of its loggers."""
        return cls(experiments_of(trainer), step, records_of(trainer))

    @property
    def takes_texts(self) -> bool:
        """Whether there is any logger for texts and pictures."""
        return bool(self.experiments or self.records)

    def text(self, tag: str, text: str) -> None:
        """Markdown; TensorBoard strips HTML."""
        for experiment in self.experiments:
            experiment.add_text(tag, text, self.step)
        for record in self.records:
            record.text(tag, text, self.step)

    def image(self, tag: str, image: Image.Image) -> None:
        """A picture, with its own palette: `add_image` would make it three times as large, ten times as slowly."""
        for record in self.records:
            record.image(tag, image, self.step)
        if not self.experiments:
            return
        width, height = image.size
        png = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=to_png(image))
        summary = Summary(value=[Summary.Value(tag=tag, image=png)])
        for experiment in self.experiments:
            experiment._get_file_writer().add_summary(summary, self.step)

    def scalars(self, values: dict[str, float]) -> None:
        """Scalars by tag, all in one record."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        for experiment in self.experiments:
            experiment._get_file_writer().add_summary(summary, self.step)

    def curves(self, within: bool = True) -> None:
        """Charts of many curves each, under `Custom Scalars`.

        Args:
            within: below both losses, also a chart for each score, of all heads, and gradients, of all layers.
        """
        charts = {"loss": {"train and validation": ["train/loss", "validation/loss"]}}
        of_model = {
            "heads": {_words(name): [f"{tags.HEADS}/{_words(name)}/.*"] for name in SCORES},
            "gradients": {name: [f"{tags.GRADIENTS}/{name}/.*"] for name in ("norm", "update to weight ratio")},
        }
        charts |= of_model if within else {}
        layout = {group: {name: ["Multiline", tags] for name, tags in of.items()} for group, of in charts.items()}
        for experiment in self.experiments:
            experiment.add_custom_scalars(layout)

    def maps(self, report: Report, scale: Scale, hide_first: bool, large: tuple[int, int] | None = None) -> None:
        """The heads of every layer, and in large one of them, by layer and head."""
        for layer in range(report.model.config.n_layer):
            self.image(f"{tags.ATTENTION}/layer {layer}", report.figure(layer, scale, hide_first))
        if large is not None:
            layer, head = large
            self.image(f"{tags.ATTENTION}/layer {layer} head {head}", report.figure(layer, scale, hide_first, head))

    def scores(self, report: Report) -> None:
        """Five scores of every head, as a picture; their mean over the heads of each layer, as curves."""
        scores = scores_of(report)
        self.image(f"{tags.ATTENTION}/scores of all heads", scores_figure(scores))
        means = {name: values.mean(-1) for name, values in zip(SCORES, scores, strict=True)}  # (L, H) -> (L)
        self._curves(
            {f"{_words(name)}/layer {layer}": value for name, of in means.items() for layer, value in enumerate(of)}
        )

    def head_curves(self, report: Report) -> None:
        """Five scores of every head, a curve each."""
        self._curves(
            {
                f"{_words(name)}/layer {layer} head {head}": value
                for name, values in zip(SCORES, scores_of(report), strict=True)
                for (layer, head), value in np.ndenumerate(values)
            }
        )

    def _curves(self, values: dict[str, float]) -> None:
        self.scalars({f"{tags.HEADS}/{name}": float(value) for name, value in values.items() if np.isfinite(value)})

    def rollout(self, report: Report) -> None:
        """Attention rollout."""
        self.image(f"{tags.ATTENTION}/rollout", rollout_figure(report))

    def lens(self, report: Report) -> None:
        """The logit lens at the last positions of the text."""
        if report.tokenizer is not None:
            originals = report.originals and report.originals[-_LENS_POSITIONS:]
            layers = logit_lens(report.model, report.capture, 1, _LENS_POSITIONS, originals)
            table = lens_table(layers, report.ids[-_LENS_POSITIONS:], report.tokenizer, report.classes, originals)
            if report.predicts_hidden:
                table = f"{report.masked_note}\n\n{table}"
            self.text(tags.LENS, f"{_LENS if report.classes is None else _LABEL_LENS}\n\n{table}")

    def attribution(self, report: Report) -> None:
        """Of a classifier: which tokens its label rests on, and what its last token looks at."""
        if report.classes is not None:
            self.image(f"{tags.LABELS}/attribution", report.attribution())
            self.image(f"{tags.ATTENTION}/last token", last_token_figure(report.capture, report.labels))

    def positions(self, report: Report) -> None:
        """How similar the positional embeddings are."""
        if report.model.embeddings.position is None:
            return
        similarity, positions = positional_similarity(report.model, _POSITIONS)
        title = f"positional embeddings, {len(positions)} of {report.model.config.context_length} positions"
        self.image(f"{tags.EMBEDDINGS}/positions", similarity_map(similarity, positions, title))

    def neighbours(self, report: Report, words: Sequence[str] | None, trained: Tensor) -> None:
        """The nearest neighbours of some words, among the tokens that are trained."""
        if report.tokenizer is None:
            return
        ids, others = word_ids(report.tokenizer, words) if words else (choose_words(report.tokenizer, report.ids), [])
        table = "no word of the text is one token"
        if ids:
            table = neighbours_table(token_table(report.model), report.tokenizer, ids, trained)
        if others:
            table += f"\n\nnot one token in this vocabulary: {markdown(', '.join(others))}"
        self.text(tags.NEIGHBOURS, table)

    def projector(self, report: Report, frequent: Tensor, most: int) -> None:
        """The token embeddings, or the most frequent of them, one label each."""
        ids = projector_sample(report.model.config.vocab_size, frequent, most)
        table = token_table(report.model).cpu()
        size = len(table)
        # it becomes the name of a folder
        tag = f"token-embeddings-{len(ids)}-of-{size}"
        for experiment in self.experiments:
            experiment.add_embedding(table[ids], report.names(ids.tolist()), tag=tag, global_step=self.step)

    def gradients(self, flows: Iterable[LayerFlow]) -> None:
        """Norm and size of the step for every layer, and the number of non-finite values; if any, in which layers."""
        flows = list(flows)
        values: dict[str, float] = {f"{tags.GRADIENTS}/non-finite values": sum(flow.non_finite for flow in flows)}
        for flow in flows:
            values[f"{tags.GRADIENTS}/norm/{flow.name}"] = flow.norm
            if flow.non_finite:
                values[f"{tags.GRADIENTS}/non-finite values/{flow.name}"] = flow.non_finite
            if flow.update_ratio is not None:
                values[f"{tags.GRADIENTS}/update to weight ratio/{flow.name}"] = flow.update_ratio
        self.scalars(values)

    def histograms(self, model: Network) -> None:
        """Weights and gradients of every layer: ten thousand evenly picked values, without NaN and infinite ones."""
        for name, parameters in layer_parameters(model).items():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            for kind, tensors in ((tags.WEIGHTS, parameters), (tags.GRADIENTS, gradients)):
                values = _sample(tensors)
                if len(values):
                    for experiment in self.experiments:
                        experiment.add_histogram(f"{kind}/{name}", values, self.step, bins=64)


def write_shapes(
    model: Network, batch_size: int, precision: str, tensorboard: TensorBoard, folder: Path | None
) -> None:
    """The shape of every stage of a batch, in the log, in TensorBoard and in a run folder."""
    rows = trace_shapes(model.config, batch_size, precision=precision)
    letters = legend(model.config, batch_size)
    of = "" if count_trained(model) == model.n_parameters else f" of {model.n_parameters:,}"
    log.info(f"\n{text_table(rows)}\n{letters}\n{count_trained(model):,} trained parameters{of}\n")
    table = f"{letters}\n\n{markdown_table(rows)}\n\n{_NOT_HELD}\n"
    tensorboard.text(tags.SHAPES, table)
    if folder is not None:
        write_whole(folder / "shapes.md", table.encode())


def write_maps(
    report: Report,
    folder: Path,
    scale: Scale,
    hide_first: bool,
    large: tuple[int, int] | None = None,
    svg: bool = False,
) -> None:
    """The heads of every layer, and in large one of them, a PNG each and if wanted an SVG, in a run folder."""
    pictures: dict[str, tuple[int, int | None]] = {f"layer-{i}": (i, None) for i in range(report.model.config.n_layer)}
    if large is not None:
        pictures[f"layer-{large[0]}-head-{large[1]}"] = large
    for name, (layer, head) in pictures.items():
        path = folder / "attention" / f"{name}.png"
        write_whole(path, to_png(report.figure(layer, scale, hide_first, head)))
        if svg:
            write_whole(path.with_suffix(".svg"), report.svg(layer, scale, hide_first, head).encode())


def rollout_figure(report: Report) -> Image.Image:
    """Attention rollout as a picture."""
    values, legend = scaled(report.rollout(), report.model.config.is_causal, "sqrt")
    title = "attention rollout through all layers (heads averaged; values and MLPs ignored): a rough picture"
    axes = ("position", "input that could have reached it")
    return map_grid(values[None], ["rollout"], title, report.labels, report.labels, legend, axes)


def scores_of(report: Report) -> npt.NDArray[np.float32]:
    """The scores of every head, (5, L, H) in the order of `SCORES`; NaN where the text is too short for one."""
    rows = report.heads()
    values = np.full((len(SCORES), *(max(getattr(row, of) for row in rows) + 1 for of in ("layer", "head"))), np.nan)
    for row in rows:
        for index, name in enumerate(SCORES):
            if (value := getattr(row, name)) is not None:
                values[index, row.layer, row.head] = value
    return values.astype(np.float32)


def scores_figure(scores: npt.NDArray[np.float32]) -> Image.Image:
    """Five small maps, one for each score: a row for each layer, a column for each head."""
    _, layers, heads = scores.shape
    rows, columns = ([f"{name} {index}" for index in range(n)] for name, n in (("layer", layers), ("head", heads)))
    names = [_words(name) for name in SCORES]
    return map_grid(scores, names, "scores of every head", rows, columns, axes=("", ""), masked=False)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sample(tensors: Sequence[Tensor]) -> npt.NDArray[np.float32]:
    total = sum(tensor.numel() for tensor in tensors)
    step = max(1, total // _HISTOGRAM_VALUES)
    picked = [tensor.detach().flatten()[::step].float() for tensor in tensors]
    values = (torch.cat(picked) if picked else torch.empty(0)).cpu().numpy()
    return values[np.isfinite(values)]
