"""What a test writes for each of its samples."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from llm.errors import ConfigError
from llm.runs.newest import run_folder_of
from llm.runtime.files import write_whole

log = logging.getLogger("llm")


def write_results(
    trainer: L.Trainer, name: str, records: Sequence[Mapping[str, Any]], output: str | None, setting: str
) -> None:
    """Write records as JSON lines, on one process of a run, and say where.

    Args:
        trainer: of the run.
        name: what the records are: the file is `NAME.jsonl` in the folder of the run whose checkpoint is tested.
        records: a line each.
        output: a file in place of that one.
        setting: by which the user says so, for errors.

    Raises:
        ConfigError: the file can't be written.
    """
    if not trainer.is_global_zero:
        return
    folder = Path() if trainer.ckpt_path is None else run_folder_of(Path(trainer.ckpt_path))
    path = folder / f"{name}.jsonl" if output is None else Path(output)
    lines = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    try:
        write_whole(path, lines.encode())
    except OSError as error:
        raise ConfigError(f"can't write {str(path)!r}: {error.strerror}; set another {setting}") from error
    log.info("%-12s %s", f"{name}:", path)
