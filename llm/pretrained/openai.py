"""OpenAI's original checkpoints: recognised, so that the way to convert them can be said."""

from __future__ import annotations

from pathlib import Path

from llm.errors import CheckpointError
from llm.pretrained.files import read_json
from llm.runtime.shell import command_line

_NAMES = {12: "gpt2", 24: "gpt2-medium", 36: "gpt2-large", 48: "gpt2-xl"}
_MARKS = ("hparams.json", "model.ckpt.index", "checkpoint")


def refuse(folder: Path) -> None:
    """Say how to convert the folder, if it is one of OpenAI's.

    Reading TensorFlow's format needs TensorFlow: the one reader without it, tensorflow-checkpoint-reader, is not kept
    up (its last release is of 2023).

    Raises:
        CheckpointError: it is.
    """
    if sum((folder / name).is_file() for name in _MARKS) < 2:
        return
    hparams = read_json(folder / "hparams.json") if (folder / "hparams.json").is_file() else {}
    name = _NAMES.get(hparams.get("n_layer", 12), "gpt2")
    script = "transformers.models.gpt2.convert_gpt2_original_tf_checkpoint_to_pytorch"
    paths: list[str | Path] = ["--gpt2_checkpoint_path", folder, "--pytorch_dump_folder_path", "converted"]
    convert = command_line("python", "-m", script, *paths)
    raise CheckpointError(
        f"{str(folder)!r} is OpenAI's TensorFlow checkpoint, which only TensorFlow reads. The same weights are "
        f"published as safetensors: use {name} in place of the folder. To convert your own: in another environment, "
        f"pip install 'transformers<5' tensorflow, then {convert}, and use the folder 'converted'"
    )
