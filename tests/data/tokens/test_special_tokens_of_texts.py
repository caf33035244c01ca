"""Special tokens that a text spells: themselves, or ordinary text."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from llm.__main__ import main
from llm.data import TextDataModule, TokenStore, open_or_build
from llm.data.tokens.opening import hash_of_corpus
from llm.errors import CheckpointError
from llm.tokenizers import END_OF_TEXT, BPETokenizer, CharTokenizer, HuggingFaceTokenizer, WordTokenizer

TEXT = f"One story.{END_OF_TEXT}Another one. <|x|>"
TOKENIZERS = {
    "gpt2": BPETokenizer(),
    "char": CharTokenizer.from_text(TEXT, (END_OF_TEXT,)),
    "word": WordTokenizer.from_text("One story. Another one.", specials=(END_OF_TEXT, "<|unk|>", "<|x|>")),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_as_text_no_text_can_end_a_document(tmp_path, name):
    tokenizer = TOKENIZERS[name]
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(TEXT)
    paths = [tmp_path / "0.txt", tmp_path / "1.txt"]
    as_tokens = open_or_build(paths, tokenizer, tmp_path / "cache")
    as_text = open_or_build(paths, tokenizer, tmp_path / "cache", special_tokens="as_text")
    end = tokenizer.end_of_text_id
    assert as_tokens.tokens().tolist().count(end) == 3
    assert as_text.tokens().tolist().count(end) == 1, "the one between the two files"
    if tokenizer.lossless:
        assert tokenizer.decode(as_text.tokens().tolist()) == f"{TEXT}{END_OF_TEXT}{TEXT}"
    assert as_text.source_hash != as_tokens.source_hash
    corpus = [str(path) for path in paths]
    assert hash_of_corpus(corpus, tmp_path / "cache", "as_text") == as_text.source_hash
    assert open_or_build(paths, tokenizer, tmp_path / "cache").path == as_tokens.path


@given(st.lists(st.sampled_from([*TEXT, END_OF_TEXT, "<|x|>"])).map("".join))
def test_as_text_the_ids_are_those_of_a_tokenizer_without_special_tokens(text):
    char = TOKENIZERS["char"]
    assert char.encode(text, as_text=True) == CharTokenizer(char.vocabulary).encode(text)
    assert char.encode_array(text, as_text=True).tolist() == char.encode(text, as_text=True)
    gpt2 = TOKENIZERS["gpt2"]
    assert END_OF_TEXT not in text or gpt2.end_of_text_id not in gpt2.encode(text, as_text=True)
    assert gpt2.decode(gpt2.encode(text, as_text=True)) == text


def test_an_unknown_character_as_text_is_reported_where_it_is():
    with pytest.raises(ValueError, match="line 1, column 3"):
        CharTokenizer("ab", ("x",)).encode("abx", as_text=True)
    with pytest.raises(ValueError, match="line 2, column 1"):
        WordTokenizer(["a"], specials=("<x>",)).encode("a\n<x>", as_text=True)


def test_a_tokenizer_that_begins_texts_begins_every_document(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "<s>": 2, "</s>": 3}))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 2), ("</s>", 3)])
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    store = open_or_build(paths, HuggingFaceTokenizer(made.to_str()), tmp_path / "cache")
    assert store.tokens().tolist() == [2, 0, 3, 2, 1]
    assert store.make_tokenizer().encode("a") == [0]


def test_a_run_is_resumed_with_its_own_way_alone(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT * 20)

    def module(way):
        settings = {"corpus": str(tmp_path / "a.txt"), "context_length": 4, "cache_dir": str(tmp_path / "cache")}
        return TextDataModule(**settings, special_tokens=way)

    identity = module("as_text").data_identity()
    module("as_text").refuse_other_corpus(identity)
    with pytest.raises(CheckpointError, match="corpus"):
        module("as_tokens").refuse_other_corpus(identity)


def test_the_command_tokenizes_as_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT)
    assert main(["tokenize", "--input", "a.txt", "--output", "ids", "--special_tokens", "as_text"]) == 0
    assert BPETokenizer().end_of_text_id not in TokenStore.open("ids").tokens().tolist()
