"""A vocabulary that the user gives, or that lies where nanoGPT has put it."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import llm
from llm.__main__ import main
from llm.cli.main import main as train
from llm.config import GPTConfig
from llm.errors import CheckpointError, TokenizerError
from llm.model import GPT
from llm.pretrained import read_pretrained, read_tokenizer
from llm.pretrained.huggingface import LAYOUT
from llm.tokenizers import BPETokenizer, CharTokenizer, HuggingFaceTokenizer, IdTokenizer, WordTokenizer
from llm.tokenizers.files import write_tokenizer_file

REPOSITORY = Path(__file__).parents[2]
TEXT = "\n abcdehlorstw!é猫"
CHARS = CharTokenizer(TEXT)
META = {"vocab_size": len(TEXT), "itos": dict(enumerate(TEXT)), "stoi": {c: i for i, c in enumerate(TEXT)}}


@pytest.fixture
def nanogpt(tmp_path, monkeypatch):
    """nanoGPT's folder with a checkpoint of characters in `out`; gives the path of that."""
    monkeypatch.chdir(tmp_path)
    config = GPTConfig(vocab_size=len(TEXT), context_length=8, n_layer=1, n_head=1, n_embd=8, activation="gelu_exact")
    torch.manual_seed(0)
    tensors = LAYOUT.to_theirs(GPT(config).state_dict(), config)
    turned = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")  # which nanoGPT stores as nn.Linear does
    theirs = {f"transformer.{name}": tensor.T if name.endswith(turned) else tensor for name, tensor in tensors.items()}
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"]
    args = {"vocab_size": len(TEXT), "block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 8, "bias": True}
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "ckpt.pt"
    torch.save({"model": theirs, "model_args": args, "config": {"dataset": "shakespeare_char"}}, path)
    return path


def put_meta(folder, content=META, protocol=pickle.HIGHEST_PROTOCOL):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.pkl").write_bytes(pickle.dumps(content, protocol))
    return folder / "meta.pkl"


@pytest.mark.parametrize("place", ["out", "data/shakespeare_char", "out/data/shakespeare_char", "shakespeare_char"])
def test_the_characters_of_its_data_set_are_found(nanogpt, tmp_path, place):
    path = put_meta(tmp_path / place)
    found = read_pretrained(nanogpt)
    assert found.tokenizer == CHARS
    assert any(str(path) in note for note in found.notes)


def test_those_of_another_size_are_not_taken(nanogpt, tmp_path):
    put_meta(tmp_path / "data" / "shakespeare_char", {"itos": {0: "a"}})
    found = read_pretrained(nanogpt)
    assert found.tokenizer is None
    assert any("has 1 characters, the model 17: not used" in note for note in found.notes)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_meta_of_every_protocol(tmp_path, protocol):
    large = {"itos": {i: chr(300 + i) for i in range(700)}}
    assert read_tokenizer(put_meta(tmp_path, large, protocol)).vocabulary == "".join(large["itos"].values())


class Evil:
    def __reduce__(self):
        return os.system, ("touch run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({**META, "more": Evil()}), "which could run code"),
        (pickle.dumps({"itos": np.arange(3)}), "which could run code"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "numbers what it does not hold"),
        (pickle.dumps(META)[:-40], "is damaged"),
        (b"", "is damaged"),
        (b"(dp0\n.", "no 'itos'"),
        (pickle.dumps([1]), "no 'itos'"),
        (pickle.dumps({"itos": {0: "a", 2: "b"}}), "one character for each of the ids 0 to 1"),
        (pickle.dumps({"itos": {0: "ab"}}), "one character for each"),
        (pickle.dumps({"itos": {"a": 0}}), "no 'itos'"),
    ],
)
def test_a_meta_that_is_none(nanogpt, tmp_path, content, message):
    path = tmp_path / "meta.pkl"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(path)
    assert not (tmp_path / "run").exists()
    (nanogpt.parent / "meta.pkl").write_bytes(content)
    found = read_pretrained(nanogpt)
    assert found.tokenizer is None
    assert any("not used" in note for note in found.notes), "the weights are read all the same"


def vocabulary_files(folder):
    (folder / "chars.txt").write_text(TEXT, encoding="utf-8")
    (folder / "lines.txt").write_text("\n".join("abcdefghijklmnopq") + "\n", encoding="utf-8")
    write_tokenizer_file(CHARS, folder / "ours.json")
    return {
        "meta.pkl": (put_meta(folder), CHARS),
        "chars.txt": (folder / "chars.txt", CHARS),
        "lines.txt": (folder / "lines.txt", CharTokenizer("abcdefghijklmnopq")),
        "ours.json": (folder / "ours.json", CHARS),
    }


@pytest.mark.parametrize("name", ["meta.pkl", "chars.txt", "lines.txt", "ours.json"])
def test_import_takes_the_tokenizer_that_is_given(nanogpt, tmp_path, capsys, name):
    path, expected = vocabulary_files(tmp_path / "out")[name]
    words = ["import", "--from", str(nanogpt), "--out", "out.ckpt", "--tokenizer", str(path)]
    assert main(words) == 0
    assert "CharTokenizer(vocab_size=17)" in capsys.readouterr().out
    assert llm.load("out.ckpt").tokenizer == expected
    words = ["import", "--from", str(nanogpt), "--out", "again.ckpt", "--tokenizer", "out.ckpt"]
    assert main(words) == 0
    assert llm.load("again.ckpt").tokenizer == expected


def test_a_checkpoint_gets_another_tokenizer(nanogpt, tmp_path):
    assert main(["import", "--from", str(nanogpt), "--out", "out.ckpt"]) == 0
    found = read_pretrained("out.ckpt", tokenizer=CharTokenizer("abc"))
    assert (found.config.vocab_size, found.config.padded_vocab_size) == (3, 17)
    with pytest.raises(CheckpointError, match="has 50,257 tokens, and the model 17"):
        read_pretrained("out.ckpt", tokenizer=BPETokenizer())


def test_vocabularies_of_words_and_of_bert(tmp_path):
    (tmp_path / "vocab.txt").write_text("cat\nsat\n.\n")
    assert read_tokenizer(tmp_path / "vocab.txt") == WordTokenizer(["cat", "sat", "."])
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n##s\nthe\n")
    for source in (tmp_path / "vocab.txt", tmp_path):
        bert = read_tokenizer(source)
        assert isinstance(bert, HuggingFaceTokenizer)
        assert bert.encode_whole("The cats [MASK] it") == [2, 7, 5, 6, 4, 1, 3]
        assert bert.decode(bert.encode("the cats")) == "the cats"


def test_word_pieces_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s", "the", "un", "##i", "C", "é", "e", "猫", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    for lower in (True, False):
        theirs = transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=lower)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        ours = read_tokenizer(tmp_path)
        for text in ("The cats. É é 猫猫 uni [MASK] C", "", "the  the\ncats"):
            assert ours.encode_whole(text) == theirs(text)["input_ids"]
        roles = ours.roles
        assert (roles.mask_id, roles.classifier_id, roles.separator_id) == (
            theirs.mask_token_id,
            theirs.cls_token_id,
            theirs.sep_token_id,
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"cat\nsat\ncat\n", "'cat' is there twice"),
        ("vocab.txt", b"\xff", "not UTF-8"),
        ("vocab.txt", b"[UNK]\n[CLS]\n[SEP]\na\na\n", "holds a token twice"),
        ("spiece.model", b"\n\x0e", "SentencePiece's format"),
        ("tokenizer.json", b'{"model": {}}', "can't use this tokenizer.json"),
    ],
)
def test_a_file_that_is_no_vocabulary(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path / name)


# Without a tokenizer


@pytest.fixture
def without(nanogpt):
    assert main(["import", "--from", str(nanogpt), "--out", "ids.ckpt"]) == 0
    return "ids.ckpt"


def test_a_model_without_a_tokenizer_works_on_ids(without, capsys, tmp_path):
    assert isinstance(llm.load(without).tokenizer, IdTokenizer)
    capsys.readouterr()
    assert main(["generate", "--ckpt", without, "--prompt", "1 2 3", "--max_new_tokens", "3"]) == 0
    text = capsys.readouterr().out.strip()
    assert text.startswith("1 2 3 ")
    assert len(text.split()) == 6
    np.array(list(range(17)) * 3, "<u2").tofile("val.bin")
    assert main(["evaluate", "--ckpt", without, "--data.corpus", "val.bin", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_tokens"] == 50
    assert "bits_per_byte" not in found
    assert main(["attention", "--ckpt", without, "--text", "1 2 3", "--out", "a.html"]) == 0
    (tmp_path / "a.txt").write_text("a cat sat" * 9)
    write_tokenizer_file(CHARS, tmp_path / "chars.json")
    assert main(["tokenize", "--input", "a.txt", "--tokenizer", "chars.json", "--output", "store"]) == 0
    assert main(["evaluate", "--ckpt", without, "--data.corpus", "store", "--json"]) == 0


@pytest.mark.parametrize("prompt", ["hello", "1 x", "-1", "17", "٣"])
def test_a_text_is_refused_and_the_way_said(without, capsys, prompt):
    capsys.readouterr()
    assert main(["generate", "--ckpt", without, f"--prompt={prompt}"]) == 1
    error = capsys.readouterr().err
    assert "outside the vocabulary of 17" in error if prompt == "17" else "import --tokenizer" in error


def test_inspect_takes_ids_or_a_tokenizer(without):
    assert llm.inspect(without, [1, 2, 3]).labels == ["1", "2", "3"]
    report = llm.inspect(without, "a cat", tokenizer=CHARS)
    assert report.ids == CHARS.encode("a cat")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        llm.inspect(without, "a cat")


def test_an_empty_prompt_begins_from_the_end_of_text(nanogpt, tmp_path, capsys):
    with_end = CharTokenizer(TEXT[:-1], ("<|endoftext|>",))
    write_tokenizer_file(with_end, tmp_path / "with_end.json")
    words = ["import", "--from", str(nanogpt), "--out", "out.ckpt", "--tokenizer", "with_end.json"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["generate", "--ckpt", "out.ckpt", "--prompt", "", "--json", "--max_new_tokens", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == ""
    put_meta(tmp_path / "out")
    assert main(["generate", "--ckpt", str(nanogpt), "--prompt", ""]) == 1
    assert "no token to begin from" in capsys.readouterr().err


def test_of_weights_that_state_no_tokenizer_it_is_said_what_was_taken(nanogpt, tmp_path, capfd):
    other = "".join(chr(200 + i) for i in range(len(TEXT)))  # as many characters, and others
    (tmp_path / "a.txt").write_text(other * 20, encoding="utf-8")
    words = ["validate", "--model.pretrained", str(nanogpt), "--data.corpus", "a.txt", "--data.tokenizer.kind", "char"]
    assert train(words, default_config=REPOSITORY / "configs" / "default.yaml") == 1, "<|endoftext|> is one more"
    words.append("--data.tokenizer.specials=[]")
    assert train(words, default_config=REPOSITORY / "configs" / "default.yaml") == 0
    assert "the weights state no tokenizer: char is taken" in capfd.readouterr().err
    train(words[:-3], default_config=REPOSITORY / "configs" / "default.yaml")
    assert "gpt2 is taken" in capfd.readouterr().err, "a vocabulary learned here would mean nothing to the weights"
    put_meta(tmp_path / "out")
    assert train(words, default_config=REPOSITORY / "configs" / "default.yaml") == 1
    assert "unknown character" in capfd.readouterr().err
