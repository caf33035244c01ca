"""What is not read is named."""

import struct

import pytest

from llm.__main__ import main
from llm.errors import CheckpointError
from llm.pretrained import read_pretrained


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (
            "gpt2_124M.bin",
            struct.pack("<256i", 20240326, 3, 1024, 50257, 12, 12, 768, *[0] * 249),
            "checkpoint of llm.c",
        ),
        ("val.bin", struct.pack("<256i", 20240520, *[0] * 255), "token ids of llm.c"),
        ("model_v1.bin", struct.pack("<I", 0x616B3432) + bytes(252), "llama2.c, of a later version"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "git lfs pull"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5 file"),
        ("flax_model.msgpack", b"\x82\xa1a", "weights of Flax"),
        ("model.onnx", b"\x08\x07", "an ONNX graph"),
        ("config.json", b'{"model_type": "gpt2"}', "give the folder that it is in"),
        ("model.ckpt.data-00000-of-00001", bytes(99), "part of a TensorFlow checkpoint"),
        ("notes.txt", b"a text", "is a text"),
        ("weights.npz", b"PK\x03\x04" + bytes(30), "archive of NumPy's"),
    ],
)
def test_a_file_of_another_kind(tmp_path, capsys, name, content, what):
    (tmp_path / name).write_bytes(content)
    assert main(["import", "--from", str(tmp_path / name), "--out", str(tmp_path / "out.ckpt")]) == 1
    error = capsys.readouterr().err
    assert what in error
    assert "could run code" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["config.json", "tf_model.h5"], "weights of TensorFlow (tf_model.h5)"),
        (["config.json", "flax_model.msgpack"], "weights of Flax"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter"),
        (["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"], "checkpoint-1000"),
        (["model-00001-of-00002.safetensors"], "without the index"),
        (["config.json", "model.Q4_1.gguf"], "holds a GGUF file: give"),
        (["params.json", "consolidated.00.pth"], "as Meta publishes them"),
        (["__0_0.distcp"], "in shards"),
        (["trainer_state.json", "scheduler.pt"], "state of a Trainer"),
        (["readme.txt"], "holds no weights"),
    ],
)
def test_a_folder_of_another_kind(tmp_path, names, what):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError) as error:
        read_pretrained(tmp_path)
    assert what in str(error.value)


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model"])
def test_vocabularies_beside_weights_are_named_and_gpt2s_is_not_taken(hugging_face, name):
    _, folder = hugging_face(vocab_size=60_000)
    (folder / name).write_text("[UNK]\n[CLS]\n[SEP]\ncat\n")
    found = read_pretrained(folder)
    if name == "vocab.txt":
        assert found.tokenizer.encode("cat") == [3]
    else:
        assert found.tokenizer is None
        assert "SentencePiece's format" in found.no_tokenizer
    (folder / name).unlink()
    assert read_pretrained(folder).tokenizer is None, "60,000 rows are not GPT-2's 50,257 and padding"
