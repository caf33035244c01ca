"""What `predict` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from llm.data.prompts import Prompt
from llm.training.module import LanguageModel


class PredictionWriter(BasePredictionWriter):
    """Writes each continuation as a line of JSON, on screen or to a file.

    Args:
        output: the file. Default: standard output.
    """

    def __init__(self, output: str | None = None) -> None:
        super().__init__("batch")
        self.output = output
        self._lines: list[str] = []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: list[int],
        batch_indices: Sequence[int] | None,
        batch: Prompt,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Print one continuation, or keep it for the file."""
        del trainer, batch_indices, batch_idx, dataloader_idx
        assert isinstance(pl_module, LanguageModel)
        continuation = pl_module.tokenizer.decode(prediction)
        line = json.dumps(
            {"line": batch.line, "prompt": batch.text, "continuation": continuation, "tokens": len(prediction)},
            ensure_ascii=False,
        )
        if self.output is None:
            print(line, flush=True)
        else:
            self._lines.append(line)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, in one move."""
        super().on_predict_end(trainer, pl_module)
        if self.output is not None:
            target = Path(self.output)
            temporary = target.with_name(f".{target.name}.tmp")
            temporary.write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")
            temporary.replace(target)
