"""The configuration of a run, in its folder and in TensorBoard."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from llm.cli.settings import hyperparameters
from llm.inspection.tags import CONFIGURATION
from llm.runs.checkpointing import BEST_LOSS
from llm.runs.recording import records_of
from llm.runtime.files import write_whole


class SaveConfig(SaveConfigCallback):
    """Writes the run's configuration to its folder, and to its loggers as text and as hyper-parameters."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet: a checkpoint that is refused leaves the `config.yaml` that is there as it is."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write `config.yaml` to the run's folder, and the same to the loggers."""
        del pl_module, stage
        text = self.parser.dump(self.config, skip_unset=False)
        settings = hyperparameters(yaml.safe_load(text))
        for logger in trainer.loggers:
            if folder := getattr(logger, "log_dir", None):
                Path(folder).mkdir(parents=True, exist_ok=True)
                write_whole(Path(folder, self.config_filename), text.encode())
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(CONFIGURATION, "\n".join(f"    {line}" for line in text.splitlines()), 0)
                # Lightning's own way would log a first value of the metric, before there is one.
                for summary in hparams(settings, {BEST_LOSS: 0.0, "validation/loss": 0.0}):
                    logger.experiment.file_writer.add_summary(summary)
        for record in records_of(trainer):
            record.text(CONFIGURATION, text, 0)
            record.settings(settings)
