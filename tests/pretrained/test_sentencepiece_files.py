"""Folders with SentencePiece's own file and no `tokenizer.json`: the ids are those of `transformers`."""

import io
import json
import sys

import pytest

from llm.errors import TokenizerError
from llm.pretrained import read_pretrained, read_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")
transformers = pytest.importorskip("transformers")

CORPUS = ["The cat sat on the mat, and 12345 cats sat there too.", "It's here's: what isn't there?"] * 20
TEXTS = ["the cat's  12\n\n on É", " ?\n\n a  b", "</s> the<s>cat", ""]


def pieces(kind):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        vocab_size=340 if kind == "bpe" else 50,
        model_type=kind,
        byte_fallback=kind == "bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "model_type", "settings"),
    [
        ("tokenizer.model", "bpe", "llama", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}),
        ("tokenizer.model", "bpe", "mistral", None),
        ("tokenizer.model", "bpe", "gemma", {"tokenizer_class": "GemmaTokenizer", "eos_token": "</s>"}),
        ("spiece.model", "unigram", "t5", None),
    ],
)
def test_the_ids_are_those_of_transformers(tmp_path, name, kind, model_type, settings):
    (tmp_path / name).write_bytes(pieces(kind))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
        assert [*ours.prefix_ids, *ours.encode(text), *ours.suffix_ids] == theirs(text).input_ids


def test_a_file_of_any_name_gives_the_ids_of_the_library(tmp_path):
    path = tmp_path / "m.model"
    path.write_bytes(pieces("bpe"))
    ours, theirs = read_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in ("the cat's 12 on É", "a  b"):
        assert ours.encode(text) == theirs.encode(text)


def test_beside_weights(hugging_face):
    _, folder = hugging_face(vocab_size=400)
    (folder / "tokenizer.model").write_bytes(pieces("bpe"))
    found = read_pretrained(folder)
    assert found.tokenizer.decode(found.tokenizer.encode("the cat")) == "the cat"
    (folder / "tokenizer.model").write_bytes(b"\n\x0e")
    found = read_pretrained(folder)
    assert found.tokenizer is None
    assert "is not SentencePiece's format, or transformers can't convert it" in found.no_tokenizer


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(pieces("unigram"))
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TokenizerError, match=r"pip install 'see-inside-llm\[sentencepiece\]', or a tokenizer\.json"):
        read_tokenizer(tmp_path)
