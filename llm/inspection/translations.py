"""Writes what a network that translates looks at to the loggers and to the run folder while it trains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L

from llm.errors import ConfigError
from llm.generation.translating import Translator
from llm.inspection import tags
from llm.inspection.alignment import Alignment, align
from llm.inspection.apart import Apart, folder_for_files
from llm.inspection.colours import to_png
from llm.inspection.ticks import markdown
from llm.inspection.writers import TensorBoard, write_shapes
from llm.model.eval_mode import eval_mode
from llm.runtime.files import write_whole
from llm.runtime.words import counted
from llm.tasks.translate import TranslationModel
from llm.training.schedule import Every

log = logging.getLogger(__name__)

_TIMES_IN_A_RUN = 3
_SAMPLES = 8


class TranslationInspection(L.Callback):
    """Shows what happens inside a translation, of one fixed pair, and what some sentences are translated to.

    The shapes of every stage; the attention of each token of the target to its source, as pictures and at the end as a
    page to explore, `attention.html`; and translations beside their references. The run is bit for bit the same with it
    or without it, and what goes wrong in it is a warning.

    Args:
        source: the sentence to look at. Default: a validation pair of medium length.
        target: its translation, which the network is shown while it is looked at. Default: what the network itself
            makes of `source`.
        every: optimizer steps between inspections; 0 for none at all. Default: about three times in a run.

    Raises:
        ConfigError: a setting that can't be.
    """

    def __init__(self, source: str | None = None, target: str | None = None, every: int | None = None) -> None:
        if target is not None and source is None:
            raise ConfigError("inspect.target is the translation of inspect.source: give that, too")
        self.source = source
        self.target = target
        self.every = Every(every, times=_TIMES_IN_A_RUN)
        self._apart = Apart()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the shape table."""
        if trainer.is_global_zero:
            self._apart = Apart()
            network, writer = _ours(pl_module).network, TensorBoard.of(trainer, 0)
            size = getattr(getattr(trainer, "datamodule", None), "batch_size", 1)
            precision, folder = str(trainer.precision), folder_for_files(trainer)
            self._apart.do("shapes", pl_module, lambda: write_shapes(network, size, precision, writer, folder))
            self._apart.do("curves", pl_module, lambda: writer.curves(within=False))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Look, when it is time to."""
        if self.every.is_due(trainer) and trainer.is_global_zero:
            self._look(trainer, _ours(pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the trained model, and write its page."""
        if self.every.never or not trainer.is_global_zero:
            return
        module = _ours(pl_module)
        if self.every.is_due_at_end(trainer):
            self._look(trainer, module)
        if (folder := folder_for_files(trainer)) is not None and module.translator.attends_to_source:
            self._apart.do("page", module, lambda: self._write_page(trainer, module, folder))

    def _look(self, trainer: L.Trainer, module: TranslationModel) -> None:
        writer = TensorBoard.of(trainer, trainer.global_step)
        self._apart.do("samples", module, lambda: writer.text(tags.SAMPLES, self._samples(trainer, module)))
        if module.translator.attends_to_source:
            self._apart.do("alignment", module, lambda: self._write_maps(trainer, module, writer))

    def _samples(self, trainer: L.Trainer, module: TranslationModel) -> str:
        """Some validation sentences, their translations and references, as a table."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        pairs = datamodule.sentences("validation", _SAMPLES) or datamodule.sentences("train", _SAMPLES)
        with eval_mode(module):
            found = _translator(module).translate([pair.source for pair in pairs])
        lines = ["| source | translation | reference |", "| --- | --- | --- |"]
        for pair, translation in zip(pairs, found, strict=True):
            cells = (markdown(text) for text in (pair.source, translation.text, pair.target))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _alignment(self, trainer: L.Trainer, module: TranslationModel) -> Alignment:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        source, target = self.source, self.target
        if source is None:
            pairs = datamodule.sentences("validation", 100) or datamodule.sentences("train", 100)
            source, target = sorted(pairs, key=lambda pair: len(pair.source))[len(pairs) // 2]
        title = f"Alignment after {counted(trainer.global_step, 'step')}"
        with eval_mode(module):
            return align(_translator(module), source, target, title)

    def _write_maps(self, trainer: L.Trainer, module: TranslationModel, writer: TensorBoard) -> None:
        alignment = self._alignment(trainer, module)
        for layer in range(len(alignment.layers)):
            writer.image(f"{tags.ATTENTION}/to the source, {alignment.names[layer]}", alignment.figure(layer))

    def _write_page(self, trainer: L.Trainer, module: TranslationModel, folder: Path) -> None:
        alignment = self._alignment(trainer, module)
        alignment.page(folder / "attention.html")
        write_whole(folder / "alignment.png", to_png(alignment.mean_figure()))
        log.info("attention:   %s", folder / "attention.html")


def _translator(module: TranslationModel) -> Translator:
    return Translator(module.translator, module.tokenizer, module.source_tokenizer)


def _ours(module: L.LightningModule) -> TranslationModel:
    assert isinstance(module, TranslationModel)
    return module
