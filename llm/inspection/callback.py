"""Writes what the probe sees to TensorBoard and to the run folder while a model trains."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from llm.errors import ConfigError, LLMError, TrainingError
from llm.inspection import tags
from llm.inspection.apart import Apart, folder_for_files
from llm.inspection.attribution import confusion_figure
from llm.inspection.colours import Scale
from llm.inspection.features import DEFAULT_FEATURES, FEATURES, OF_A_STEP, SEES_THE_FUTURE, Feature
from llm.inspection.film import Film
from llm.inspection.gradients import GradientFlow, flow_table
from llm.inspection.heads import layer_and_head, refuse_missing_head
from llm.inspection.probe import capture
from llm.inspection.report import Report
from llm.inspection.subject import Subject, choose_subject, training_tokens
from llm.inspection.writers import TensorBoard, write_maps, write_shapes
from llm.runs.run_folder import experiments_of, goes_on_in_its_folder
from llm.runtime.files import write_whole
from llm.runtime.process import Interrupted
from llm.runtime.words import counted
from llm.tasks.base import TaskModule
from llm.tasks.classify import TextClassifier
from llm.training.schedule import Every

log = logging.getLogger(__name__)

_TIMES_IN_A_RUN = 3


class Inspection(L.Callback):
    """Shows what happens inside, of a fixed text, at the start, while training and at the end.

    It looks at one small batch in eval mode, apart from training: the run is bit for bit the same with it or without
    it. What goes wrong in it is a warning, never the end of a run.

    Args:
        text: what to look at. Default: the beginning of the validation text.
        tokens: how many tokens of it at most.
        every: optimizer steps between inspections; 0 for none at all. Default: about three times in a run.
        features: what to look at. `shapes`: the shape of every stage; `maps`: attention weights as pictures; `scores`:
            entropy, sink, previous-token, duplicate-token and induction score of every head as a picture, and
            their means over each layer as curves; `head_curves`: a curve for each head; `rollout`: attention
            through all layers; `lens`: what each layer would predict; of a classifier, `attribution`: which tokens its
            label rests on, and `confusion`: which labels are taken for which, after each validation; `positions`: how
            similar the positional embeddings are; `neighbours`: nearest token embeddings; `projector`: token
            embeddings in TensorBoard's projector; `gradients`: their norms, the size of steps, and how many values are
            NaN or infinite; `histograms` of weights and gradients; `film`: the maps over training as a GIF; `page`:
            attention to explore, as an HTML file. Default: all but `head_curves`.
        scale: how a weight becomes a colour of an attention map: `sqrt`, by its square root; `linear`; or `log`, which
            shows small ones.
        hide_first: omit the column of the first token from attention maps.
        head: one to show in a large picture, by layer and head as `0.1`.
        svg: write the attention maps of the run folder as SVG, too.
        words: whose neighbours to look for. Default: the longest words of the text.
        projector_tokens: how many tokens the projector shows: the most frequent ones of the training text.

    Raises:
        ConfigError: a setting that can't be.
    """

    def __init__(
        self,
        text: str | None = None,
        tokens: int = 32,
        every: int | None = None,
        features: list[Feature] | None = None,
        scale: Scale = "sqrt",
        hide_first: bool = False,
        head: str | None = None,
        svg: bool = False,
        words: list[str] | None = None,
        projector_tokens: int = 500,
    ) -> None:
        for name, value in (("tokens", tokens), ("projector_tokens", projector_tokens)):
            if value < 1:
                raise ConfigError(f"inspect.{name} must be at least 1, got {value}")
        if unknown := set(features or ()) - set(FEATURES):
            raise ConfigError(f"inspect.features has no {', '.join(sorted(unknown))}; there are {', '.join(FEATURES)}")
        self.text = text
        self.tokens = tokens
        self.every = Every(every, times=_TIMES_IN_A_RUN)
        self.features: set[str] = set(DEFAULT_FEATURES if features is None else features)
        self.scale: Scale = scale
        self.hide_first = hide_first
        self.head = None if head is None else layer_and_head(head)
        self.svg = svg
        self.words = words
        self.projector_tokens = projector_tokens
        self._subject = Subject()
        self._film = Film()
        self._flow: GradientFlow | None = None
        self._apart = Apart()

    # When it looks

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the shape table, and say so if the loss won't mean what it seems to.

        Raises:
            ConfigError: the model has no head of this number.
        """
        if self.head is not None:
            refuse_missing_head(self.head, _ours(pl_module).network.config)
        if not trainer.is_global_zero:
            return
        self._apart = Apart()
        module, writer = _ours(pl_module), TensorBoard.of(trainer, 0)
        batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", 1)
        self._try(
            "shapes",
            module,
            lambda: write_shapes(module.network, batch_size, trainer.precision, writer, folder_for_files(trainer)),
        )
        if not self.every.never and self.features & {"scores", "head_curves", "gradients"}:
            self._try("curves", module, writer.curves)
        if module.network.predicts_next and not module.network.config.is_causal:
            log.warning(SEES_THE_FUTURE)
            self._try("warning", module, lambda: writer.text(tags.WARNING, SEES_THE_FUTURE))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the model that the run begins with."""
        self._subject, self._film, self._flow = Subject(), Film(), None
        nowhere = not experiments_of(trainer) and folder_for_files(trainer) is None
        if not trainer.is_global_zero or self.every.never or nowhere or not self.features - OF_A_STEP:
            return
        module = _ours(pl_module)
        self._try("attention maps", module, lambda: self._choose(trainer, module))
        if not goes_on_in_its_folder(trainer):  # there, it was looked at
            self._look(trainer, module)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients of a step that will be looked at."""
        del optimizer
        if not self.features & OF_A_STEP or not trainer.is_global_zero or not self.every.is_next(trainer):
            return
        if not (experiments := experiments_of(trainer)):
            return
        module = _ours(pl_module)

        def measure() -> None:
            self._flow = GradientFlow(module.network)

        self._try("gradients", module, measure)
        writer = TensorBoard(experiments, trainer.global_step + 1)
        self._try("histograms", module, lambda: writer.histograms(module.network))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Look, when it is time to."""
        module = _ours(pl_module)
        if (flow := self._flow) is not None:
            self._flow = None
            writer = TensorBoard.of(trainer, trainer.global_step)
            self._try("gradients", module, lambda: writer.gradients(flow.after_step()))
        if self.every.is_due(trainer):
            self._look(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Of a classifier, show which labels are taken for which."""
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, TextClassifier):
            return
        writer = TensorBoard.of(trainer, trainer.global_step)
        if self.every.never or not writer.takes_texts:
            return

        def show() -> None:
            found = pl_module.class_metrics["validation"].confusion
            title = f"validation after {counted(trainer.global_step, 'step')}"
            writer.image(f"{tags.LABELS}/confusion matrix", confusion_figure(found, pl_module.labels, title))

        self._try("confusion", pl_module, show)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the trained model, and write what is there once: page, film, pictures, projector."""
        module = _ours(pl_module)
        if self._subject.ids and trainer.is_global_zero:
            self._look(trainer, module, last=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write what an interrupted run leaves; where gradients are NaN or infinite, say in which layers."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        if not isinstance(exception, LLMError | Interrupted | KeyboardInterrupt):
            return
        module = _ours(pl_module)

        def say() -> None:
            flows = GradientFlow(module.network, keep_weights=False).before
            if any(flow.non_finite for flow in flows):
                log.warning(f"gradients of step {trainer.global_step}:\n{flow_table(flows)}")
                TensorBoard.of(trainer, trainer.global_step + 1).gradients(flows)

        if isinstance(exception, TrainingError):
            self._try("gradients", module, say)
        self._look(trainer, module, last=True)

    # What it looks at

    def _look(self, trainer: L.Trainer, module: TaskModule, last: bool = False) -> None:
        """Capture once, and give the capture to every feature."""
        due = self.every.is_due_at_end(trainer) if last else True
        subject = self._subject
        if not subject.ids or not trainer.is_global_zero or not (due or last):
            return
        reports: list[Report] = []

        def take() -> None:
            ids = torch.tensor([subject.ids], device=module.device)
            title = f"Attention after {counted(trainer.global_step, 'step')}"
            found = capture(module.network, ids)
            reports.append(Report(module.network, found, module.tokenizer, title, subject.notes, subject.originals))

        self._try("attention maps", module, take)
        if not reports:
            return
        report, step = reports[0], trainer.global_step
        tokens = functools.cache(lambda: training_tokens(trainer, subject))
        writer = TensorBoard.of(trainer, step)
        works: list[tuple[Feature, Callable[[], None]]] = []
        if due:
            works += [
                ("maps", lambda: writer.maps(report, self.scale, self.hide_first, self.head)),
                ("scores", lambda: writer.scores(report)),
                ("head_curves", lambda: writer.head_curves(report)),
                ("rollout", lambda: writer.rollout(report)),
                ("lens", lambda: writer.lens(report)),
                ("attribution", lambda: writer.attribution(report)),
                ("positions", lambda: writer.positions(report)),
                ("neighbours", lambda: writer.neighbours(report, self.words, tokens().unique())),
                ("film", lambda: self._film.add(report.montage(f"step {step:,}", self.scale))),
            ]
        if last:
            works.append(("projector", lambda: writer.projector(report, tokens(), self.projector_tokens)))
            if (folder := folder_for_files(trainer)) is not None:
                works += [
                    ("maps", lambda: write_maps(report, folder, self.scale, self.hide_first, self.head, self.svg)),
                    ("film", lambda: write_whole(folder / "attention.gif", self._film.to_gif())),
                    ("page", lambda: self._write_page(report, folder)),
                ]
        for feature, work in works:
            self._try(feature, module, work)

    def _choose(self, trainer: L.Trainer, module: TaskModule) -> None:
        self._subject = choose_subject(trainer, module, self.text, self.tokens)
        for note in self._subject.notes:
            log.warning(f"inspection: {note}")

    def _write_page(self, report: Report, folder: Path) -> None:
        report.page(folder / "attention.html")
        log.info("attention:   %s", folder / "attention.html")

    def _try(self, what: str, module: TaskModule, work: Callable[[], None]) -> None:
        """Do one thing if it is wanted, apart from the run."""
        if what not in FEATURES or what in self.features:
            self._apart.do(what, module, work)


def _ours(module: L.LightningModule) -> TaskModule:
    assert isinstance(module, TaskModule)
    return module
