"""Writes what the probe sees to TensorBoard while a model trains."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from llm.errors import LLMError
from llm.inspection.figures import attention_figure, to_array
from llm.inspection.probe import capture
from llm.inspection.shapes import legend, markdown_table, text_table, trace_shapes
from llm.inspection.ticks import tick_labels
from llm.training.module import LanguageModel
from llm.training.schedule import Every

log = logging.getLogger(__name__)

SEES_THE_FUTURE = (
    "this attention is not causal: every position sees the very token that it has to predict, so the loss is not "
    "comparable with that of a causal model"
)


class Inspection(L.Callback):
    """The shape of every stage once, and the attention maps of a fixed text at the start, while training, at the end.

    Args:
        text: what the maps are drawn of. Default: the beginning of the validation text.
        tokens: how many tokens of it at most.
        every: optimizer steps between maps; 0 for none at all. Default: about ten times in a run.
    """

    def __init__(self, text: str | None = None, tokens: int = 32, every: int | None = None) -> None:
        self.text = text
        self.tokens = tokens
        self.every = Every(every)
        self._ids: torch.Tensor | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the shape table, and say so if the loss won't mean what it seems to."""
        assert isinstance(pl_module, LanguageModel)
        log_dir = trainer.log_dir  # all processes have to ask for it together
        if not trainer.is_global_zero:
            return
        config = pl_module.gpt.config
        batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", 1)
        rows = trace_shapes(config, batch_size)
        letters = legend(config, batch_size)
        log.info(f"\n{text_table(rows)}\n{letters}\n{pl_module.gpt.n_parameters:,} trained parameters\n")
        table = f"{letters}\n\n{markdown_table(rows)}\n"
        for experiment in _experiments(trainer):
            experiment.add_text("shapes", table, 0)
        if log_dir is not None and trainer.loggers and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = Path(log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "shapes.md").write_text(table, encoding="utf-8")
        if not config.is_causal:
            log.warning(SEES_THE_FUTURE)
            for experiment in _experiments(trainer):
                experiment.add_text("warning", SEES_THE_FUTURE, 0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the untrained model."""
        assert isinstance(pl_module, LanguageModel)
        self._ids = self._choose_ids(trainer, pl_module)
        self._draw(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Draw, when it is time to."""
        if self.every.is_due(trainer):
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the trained model."""
        if self.every.is_due_at_end(trainer):
            self._draw(trainer, pl_module)

    def _choose_ids(self, trainer: L.Trainer, module: LanguageModel) -> torch.Tensor | None:
        """(T,) token ids of the text to draw, or None if there is none that can be."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        tokenizer = module.tokenizer
        if tokenizer is None or self.every.never:
            return None
        longest = min(self.tokens, module.gpt.config.context_length)
        try:
            if self.text is not None:
                ids = tokenizer.encode(self.text)
            else:
                tokens = datamodule.validation_tokens
                ids = (tokens if len(tokens) else datamodule.train_tokens)[:longest].tolist()
        except LLMError as error:
            log.warning(f"no attention maps: {error}")
            return None
        if not ids:
            log.warning("no attention maps: the text to inspect is empty")
            return None
        if len(ids) > longest:
            log.warning(f"attention maps show the first {longest} of {len(ids)} tokens")
        return torch.tensor(ids[:longest])

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._ids is None or not trainer.is_global_zero or not (experiments := _experiments(trainer)):
            return
        assert isinstance(pl_module, LanguageModel)
        with pl_module.side_work(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            found = capture(pl_module.gpt, self._ids.to(pl_module.device).unsqueeze(0))  # (T) -> (1, T)
            labels = tick_labels(pl_module.tokenizer, self._ids.tolist())
            config = pl_module.gpt.config
            for layer in range(config.n_layer):
                title = f"{config.attention} attention, layer {layer}, step {trainer.global_step}"
                figure = attention_figure(found.attention(layer)[0], labels, title, config.is_causal)
                pixels = to_array(figure)
                for experiment in experiments:
                    experiment.add_image(f"attention/layer {layer}", pixels, trainer.global_step, dataformats="HWC")


def _experiments(trainer: L.Trainer) -> list[Any]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
