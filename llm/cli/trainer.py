"""What the Trainer is set to where the user says nothing, and what the help says of its options."""

from __future__ import annotations

import argparse
from typing import Any

from llm.runs.newest import RUNS

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": {
        "class_path": "TensorBoardLogger",
        "init_args": {"save_dir": RUNS, "name": "gpt", "default_hp_metric": False},
    },
    "max_steps": 1000,
    "gradient_clip_val": 1.0,
    "val_check_interval": 100,
    "check_val_every_n_epoch": None,  # count steps, not epochs: with a small text these are short
    "num_sanity_val_steps": -1,  # a whole validation first: the loss that a run starts from
    "log_every_n_steps": 10,
    "enable_model_summary": False,  # the shape table says more
    "use_distributed_sampler": False,  # the data module divides the windows itself
}

HELP = {
    "config": "Take settings from a YAML file, in place of the default one. Of several files the last wins; "
    "flags win over files.",
    "ckpt_path": "The trained model: a checkpoint, or `last` or `best` of the newest run of any name.",
    "weights_only": argparse.SUPPRESS,  # checkpoints are read so, always
    "trainer.precision": "Data type of matrix products, such as 32-true or 16-mixed; by default bf16-mixed where the "
    "device supports it natively, else 32-true.",
    "trainer.barebones": argparse.SUPPRESS,  # refused
}
"""Where the words of Lightning and its parser are about other ways than ours."""

HELP_OF_FIT = HELP | {
    "ckpt_path": "Resume from this checkpoint; `last` is that of the newest run of this name. (A best.ckpt holds "
    "weights alone: --model.pretrained begins a run with them.)",
}
