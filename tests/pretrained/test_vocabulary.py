"""The tokenizer that comes and goes with weights."""

import json
import shutil
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.config import GPTConfig, TokenizerConfig
from llm.errors import TokenizerError
from llm.model import GPT
from llm.pretrained import Pretrained, export, read_pretrained, read_tokenizer
from llm.tokenizers import BPETokenizer, BytePairTokenizer, HuggingFaceTokenizer, build_tokenizer, tokenizer_from_dict

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT = "Der alte Mann und das Meer; die Männer am Meer.\n\n  Es war einmal ein Mann, 猫 😀!" * 20


@pytest.fixture(scope="module")
def german(tmp_path_factory):
    """A byte-pair encoding of Hugging Face's, trained on another text, and the folder with its files."""
    folder = tmp_path_factory.mktemp("german")
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT], vocab_size=300, special_tokens=["<|endoftext|>", "<pad>"], show_progress=False)
    trained.save_model(str(folder))
    reference = transformers.GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    reference.add_special_tokens({"pad_token": "<pad>"})
    return reference, folder


def put(files, folder):
    for file in files.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def test_another_vocabulary_comes_with_its_weights(hugging_face, german):
    reference, files = german
    _, folder = hugging_face(vocab_size=len(reference))
    put(files, folder)
    found = read_pretrained(folder)
    assert isinstance(found.tokenizer, BytePairTokenizer)
    assert found.tokenizer.vocab_size == found.config.vocab_size == len(reference)
    assert found.tokenizer.special_ids == {"<|endoftext|>": 0, "<pad>": 1}
    assert found.tokenizer.end_of_text_id == 0
    for text in (TEXT, "Ein <|endoftext|> Märchen<pad>", "neu: Xylophon Ω\t \n", ""):
        ids = found.tokenizer.encode(text)
        assert ids == reference(text)["input_ids"]
        assert found.tokenizer.decode(ids) == text


@given(text=st.text(max_size=60))
def test_it_encodes_every_text_as_transformers_does(german, text):
    reference, files = german
    ours = _read(files)
    assert ours.decode(ours.encode(text)) == text
    if text.isascii():  # the two count other signs as letters in different versions of Unicode
        assert ours.encode(text) == reference(text)["input_ids"]


def _read(files):
    vocabulary = json.loads((files / "vocab.json").read_text(encoding="utf-8"))
    specials = {name: token_id for name, token_id in vocabulary.items() if name in ("<|endoftext|>", "<pad>")}
    return BytePairTokenizer({name: i for name, i in vocabulary.items() if name not in specials}, specials)


def test_it_travels_as_a_dict(german):
    ours = _read(german[1])
    again = tokenizer_from_dict(json.loads(json.dumps(ours.to_dict())))
    assert again == ours
    assert again.encode(TEXT) == ours.encode(TEXT)


def test_its_merges_are_found_again(german):
    _, files = german
    lines = (files / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [" ".join(pair) for pair in _read(files).merges()] == lines


@pytest.mark.parametrize("only_json", [True, False])
def test_it_goes_out_as_it_came(hugging_face, german, tmp_path, only_json):
    reference, files = german
    _, folder = hugging_face(vocab_size=len(reference))
    if only_json:
        reference.save_pretrained(folder)
        assert (folder / "tokenizer.json").is_file()
        for name in ("vocab.json", "merges.txt"):
            (folder / name).unlink(missing_ok=True)
    else:
        put(files, folder)
    found = read_pretrained(folder)
    assert export(found, tmp_path / "out") == []
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in (TEXT, "Ein <|endoftext|> Märchen<pad>!"):
        assert theirs(text)["input_ids"] == reference(text)["input_ids"]
    assert theirs.eos_token_id == 0
    assert read_pretrained(tmp_path / "out").tokenizer == found.tokenizer


@pytest.fixture(scope="module", params=["gpt2", "gpt4"])
def learned(request, tmp_path_factory):
    """A tokenizer learned from a text, what was exported with it, and what `transformers` makes of that."""
    config = TokenizerConfig("bpe", vocab_size=320, pattern=request.param, specials=("<|endoftext|>", "<pad>"))
    tokenizer = build_tokenizer(config, [TEXT])
    network = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=8, n_layer=1, n_head=1, n_embd=4)
    folder = tmp_path_factory.mktemp("learned") / "out"
    assert export(Pretrained("llm", network, GPT(network).state_dict(), tokenizer), folder) == []
    return tokenizer, folder, transformers.AutoTokenizer.from_pretrained(folder)


@given(text=st.text(max_size=60))
@example(" ?\n\n a  b")
@example("12345 Männer 'S 's <pad>\r\n <|endoftext|>.")
def test_a_learned_vocabulary_goes_out_with_the_same_ids(learned, text):
    ours, _, theirs = learned
    ids = ours.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text


def test_the_files_of_a_learned_vocabulary(learned):
    ours, folder, theirs = learned
    assert {"tokenizer.json", "vocab.json", "merges.txt"} <= {file.name for file in folder.iterdir()}
    assert (theirs.eos_token_id, len(theirs)) == (ours.end_of_text_id, ours.vocab_size)
    alone = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert alone.encode(TEXT).ids == ours.encode(TEXT)
    assert read_pretrained(folder).tokenizer == ours


def test_another_split_pattern_is_not_taken_for_gpt2s(learned, tmp_path):
    folder = learned[1]
    shutil.copytree(folder, tmp_path / "other")
    content = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "e"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(content))
    found = read_pretrained(tmp_path / "other")
    assert isinstance(found.tokenizer, HuggingFaceTokenizer)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "other" / "tokenizer.json"))
    assert found.tokenizer.encode(TEXT) == theirs.encode(TEXT).ids != learned[0].encode(TEXT)


def test_gpt2s_own_files_are_recognised(hugging_face, gpt2_tokenizer):
    _, folder = hugging_face(vocab_size=50257)
    gpt2_tokenizer.save_pretrained(folder)
    assert read_tokenizer(folder) == BPETokenizer("gpt2")


def test_tokens_added_to_gpt2s(hugging_face, gpt2_tokenizer, tmp_path):
    gpt2_tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    _, folder = hugging_face(vocab_size=len(gpt2_tokenizer))
    gpt2_tokenizer.save_pretrained(folder)
    found = read_pretrained(folder)
    assert found.tokenizer.special_ids == {"<|endoftext|>": 50256, "<|pad|>": 50257}
    text = "Hello <|pad|> world<|endoftext|> it's"
    assert found.tokenizer.encode(text) == gpt2_tokenizer(text)["input_ids"]
    export(found, tmp_path / "out")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(text) == gpt2_tokenizer(text)


def test_rows_without_a_token_are_padding(hugging_face):
    _, folder = hugging_face(vocab_size=50300)
    found = read_pretrained(folder)
    assert (found.config.vocab_size, found.config.padded_vocab_size) == (50257, 50300)
    assert any("last 43 of 50300" in note for note in found.notes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer files: imported without"),
        ({"vocab.json": {"a": 0}, "merges.txt": "a b"}, "the merges join 'ab', which is not in the vocabulary"),
        ({"vocab.json": {"a": 0}, "merges.txt": "a b c"}, "not a pair"),
        ({"vocab.json": {"a": 0}, "merges.txt": ""}, "no token for the byte 0x00"),
        ({"tokenizer.json": {"model": {"type": "Unigram"}}}, "can't use this tokenizer.json"),
        ({"vocab.json": ["a"], "merges.txt": ""}, "should hold a JSON object"),
        ({"vocab.json": {"a": "b"}, "merges.txt": ""}, "can't be used"),
        (
            {"tokenizer.json": {"model": {"type": "BPE", "vocab": {}}, "added_tokens": ["a"]}},
            "is damaged, or of an unknown kind",
        ),
    ],
)
def test_a_tokenizer_that_can_not_be_read_is_said_and_left_out(hugging_face, files, message):
    _, folder = hugging_face()
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    found = read_pretrained(folder)
    assert found.tokenizer is None
    assert message in found.no_tokenizer


@pytest.mark.parametrize("settings", [{"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}, {}])
def test_opts_two_files(german, tmp_path, settings):
    """Their ids are in no order of merges, no merge makes some, and a begin-of-text token is asked for."""
    vocabulary = json.loads((german[1] / "vocab.json").read_text(encoding="utf-8"))
    names = [name for name in reversed(vocabulary) if name not in ("<|endoftext|>", "<pad>")]
    names = ["<s>", "<pad>", "</s>", *names, "madeupword0000"]
    shutil.copy(german[1] / "merges.txt", tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "</s>"}}))
    stated = {"eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>", "tokenizer_class": "GPT2Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated | {"bos_token": "</s>"} | settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    for text in (TEXT, " ?\n\n a  b", "x</s>y <s><pad> madeupword0000"):
        assert ours.encode_whole(text) == theirs(text)["input_ids"]
    assert ours.encode_whole("</s>a")[:2] != [2, 2], "never twice"
    assert (ours.end_of_text_id, ours.roles.pad_id) == (2, 1)
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "merges.txt").write_text("\n".join(lines[: len(lines) // 2]), encoding="utf-8")
    with pytest.raises(TokenizerError, match="are joined by no merges: they are cut short"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPTNeoXTokenizerFast", "GPT2Tokenizer"])
def test_two_files_are_read_as_their_class_does(german, tmp_path, name):
    put(german[1], tmp_path)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    token = {"content": "<|endoftext|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    settings = {"tokenizer_class": name, "added_tokens_decoder": {"0": token}, "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    for text in (TEXT, unicodedata.normalize("NFD", TEXT), " ?\n\n a  b 12345 'S<|endoftext|>x\r\n"):
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_a_tokenizer_with_more_tokens_than_the_model_is_left_out(hugging_face, german):
    _, folder = hugging_face(vocab_size=61)
    put(german[1], folder)
    found = read_pretrained(folder)
    assert found.tokenizer is None
    assert "tokens, the model 61" in found.no_tokenizer


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [({"a": 1}, "should be 0 to 0"), ({"a": 0}, "no token for the byte"), ({"\u4e00": 0}, "stands for no byte")],
)
def test_a_vocabulary_that_makes_no_tokenizer(vocabulary, message):
    with pytest.raises(TokenizerError, match=message):
        BytePairTokenizer(vocabulary, {})
