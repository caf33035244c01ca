"""What `predict` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from llm.data.reading.prompts import Prompt
from llm.errors import ConfigError
from llm.generation import Continuation
from llm.runtime.files import make_folder, move_into_place, temporary_for
from llm.tasks.language import LanguageModel


class PredictionWriter(BasePredictionWriter):
    """Writes the model's continuation of each prompt, or its log-probabilities, as JSON lines, on screen or to a file.

    Args:
        output: the file; it is there only once it is complete. Default: standard output.
        kind: `continuations` continues each prompt as `model.sampling` says; `log_probabilities` says the
            log-probability, in nats, of each token of the prompt given those before it.
    """

    def __init__(
        self, output: str | None = None, kind: Literal["continuations", "log_probabilities"] = "continuations"
    ) -> None:
        super().__init__("batch")
        self.output = output
        self.kind = kind
        self._file: TextIO | None = None

    @property
    def _temporary(self) -> Path:
        return temporary_for(Path(self.output or ""))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tell the model what to predict, and begin the file.

        Raises:
            ConfigError: it can't be written.
        """
        if stage != "predict":
            return
        assert isinstance(pl_module, LanguageModel)
        pl_module.prediction = self.kind
        if self.output is not None and trainer.is_global_zero:
            if Path(self.output).is_dir():
                raise ConfigError(f"can't write predictions to {self.output!r}: it is a folder")
            try:
                make_folder(Path(self.output).parent)
                self._file = self._temporary.open("w", encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"can't write predictions to {self.output!r}: {error.strerror}") from error

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: list[Continuation | Tensor],
        batch_indices: Sequence[int] | None,
        batch: list[Prompt],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the lines of one batch."""
        del batch_indices, batch_idx, dataloader_idx
        assert isinstance(pl_module, LanguageModel)
        if not trainer.is_global_zero:
            return
        for record in _records(pl_module, prediction, batch):
            print(json.dumps(record, ensure_ascii=False), file=self._file, flush=True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the file to its place, in one go."""
        super().on_predict_end(trainer, pl_module)
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            move_into_place(self._temporary, Path(str(self.output)))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the unfinished file of a run that failed."""
        del trainer, pl_module, stage
        self._clean()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the unfinished file of a run that failed."""
        del trainer, pl_module, exception
        self._clean()

    def _clean(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._temporary.unlink(missing_ok=True)


def _records(
    module: LanguageModel, prediction: list[Continuation | Tensor], batch: list[Prompt]
) -> Iterator[dict[str, Any]]:
    for index, item in enumerate(prediction):
        if isinstance(item, Continuation):
            prompt = batch[item.prompt]
            yield {"line": prompt.line, "prompt": prompt.text, **item.to_dict()}
        else:
            prompt = batch[index]
            yield {
                "line": prompt.line,
                "prompt": prompt.text,
                "tokens": [module.tokenizer.decode([token_id]) for token_id in prompt.ids.tolist()],
                "ids": prompt.ids.tolist(),
                "log_probabilities": [None, *item.tolist()],  # nothing stands before the first
            }
