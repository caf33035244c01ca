"""Files and folders that hold weights in formats that are not read: what they are, and what to do with them."""

from __future__ import annotations

import struct
from pathlib import Path

_WITH_TRANSFORMERS = "open it with the version of transformers that wrote it, and save it there as safetensors"

_MAGICS = {
    b"lmgg": "a GGML file, llama.cpp's format before GGUF",
    b"tjgg": "a GGML file, llama.cpp's format before GGUF",
    struct.pack("<i", 20240326): "a checkpoint of llm.c",
    struct.pack("<i", 20240327): "the optimizer state of llm.c, which holds no weights",
    struct.pack("<i", 20240520): "token ids of llm.c, which are no weights",
    struct.pack("<i", 20240801): "token ids of llm.c, which are no weights",
    struct.pack("<I", 0x616B3432): "a model of llama2.c, of a later version than the one that is read",
    b"\x89HDF": "an HDF5 file, Keras' and TensorFlow's format",
    b"%PDF": "a PDF",
}
"""How files begin."""

_SUFFIXES = {
    ".msgpack": f"weights of Flax: {_WITH_TRANSFORMERS}",
    ".onnx": "an ONNX graph",
    ".tflite": "a TensorFlow Lite graph",
    ".npz": "an archive of NumPy's",
    ".index": "a part of a TensorFlow checkpoint: give the folder",
    ".meta": "a part of a TensorFlow checkpoint: give the folder",
    ".model": "a vocabulary of SentencePiece's",
    ".txt": "a text",
}

_ADVICE = "convert it to a Hugging Face folder with safetensors, by the tools of the program that wrote it"


def kind_of_file(path: Path) -> str | None:
    """What a file is that is not read, and what to do with it; None if it is none of those that are known."""
    with path.open("rb") as file:
        start = file.read(16)
    if path.suffix == ".json" or start[:1] in (b"{", b"["):
        return "a JSON file, such as a configuration: give the folder that it is in, or the weights beside it"
    if (kind := _MAGICS.get(start[:4])) is not None:
        return f"{kind}: {_ADVICE}"
    if ".data-0000" in path.name:
        return _SUFFIXES[".index"]
    return _SUFFIXES.get(path.suffix)


def kind_of_folder(folder: Path) -> str | None:
    """What a folder without weights that are read is, and what to do with it; None if it is none of the known."""
    names = sorted(file.name for file in folder.iterdir())

    def first(*patterns: str) -> str | None:
        return next((found.name for pattern in patterns for found in sorted(folder.glob(pattern))), None)

    if "tf_model.h5" in names or first("*.h5"):
        return f"holds weights of TensorFlow ({first('*.h5')}): {_WITH_TRANSFORMERS} (from_tf=True)"
    if found := first("flax_model*.msgpack", "*.msgpack"):
        return f"holds weights of Flax ({found}): {_WITH_TRANSFORMERS} (from_flax=True)"
    if first("*.index") and first("*.data-0000*"):
        return f"holds a TensorFlow checkpoint ({first('*.index')}): {_WITH_TRANSFORMERS} (from_tf=True)"
    if checkpoints := [name for name in names if name.startswith("checkpoint-") and (folder / name).is_dir()]:
        last = max(checkpoints, key=lambda name: int(name[11:]) if name[11:].isdigit() else -1)
        return f"is the folder of a Trainer: give one of its checkpoints, such as {str(folder / last)!r}"
    if found := first("*.gguf"):
        return f"holds a GGUF file: give {str(folder / found)!r} itself"
    if found := first("*-of-*.safetensors", "*-of-*.bin"):
        return f"holds a part of the weights ({found}) without the index that names all parts (*.index.json)"
    if found := first("consolidated.*.pth"):
        return f"holds weights as Meta publishes them ({found}): {_ADVICE}"
    if found := first("*.distcp", "global_step*", "pytorch_model_fsdp_0"):
        return f"holds a checkpoint in shards, one for each process ({found}): join them with the tools that wrote it"
    if {"optimizer.pt", "trainer_state.json"} & set(names):
        return "holds the state of a Trainer, without its weights"
    return None
