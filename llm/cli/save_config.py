"""The configuration of a run, in its folder and in TensorBoard."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from llm.cli.settings import flatten
from llm.inspection.tags import CONFIGURATION
from llm.runs.checkpointing import BEST_LOSS
from llm.runs.recording import records_of
from llm.runtime.files import write_whole

_ALWAYS_FIRST = "model.optim.learning_rate"
_NO_HYPERPARAMETERS = (
    "data.allow_changed_data",
    "data.cache_dir",
    "data.num_workers",
    "data.prompts",
    "data.test_corpus",
    "model.compile",
    "model.sampling.",
)


def hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """What a run's result depends on, by dotted name: of model and data what is set, no paths, texts or speed."""
    found = flatten({key: value for key, value in settings.items() if key in ("model", "data")})
    return {
        name: value for name, value in found.items() if value != "None" and not name.startswith(_NO_HYPERPARAMETERS)
    }


class SaveConfig(SaveConfigCallback):
    """Writes the run's configuration to its folder, and to its loggers as text and as hyper-parameters.

    Args:
        parser: of the command.
        config: what it has read.
        flags: the settings that were given on the command line.
        options: those of Lightning's callback.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Any, flags: Collection[str] = (), **options: Any
    ) -> None:
        super().__init__(parser, config, **options)
        self.flags = flags

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
                for summary in self._summaries(settings):
                    logger.experiment.file_writer.add_summary(summary)
        for record in records_of(trainer):
            record.text(CONFIGURATION, text, 0)
            record.settings(settings)

    def _summaries(self, settings: dict[str, Any]) -> tuple[Summary, ...]:
        """What TensorBoard's HParams reads; Lightning's own way would log a value of the metrics, before there is one.

        It shows the first five settings and hides the others: first the learning rate and what flags have set, in
        which runs that are to be compared differ.
        """
        experiment, *others = hparams(settings, {BEST_LOSS: 0.0, "validation/loss": 0.0})
        data = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
        for info in data.experiment.hparam_infos:
            info.differs = info.name in (_ALWAYS_FIRST, *self.flags)  # TensorBoard sorts these first
        experiment.value[0].metadata.plugin_data.content = data.SerializeToString()
        return experiment, *others
