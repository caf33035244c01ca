"""Vocabularies of characters and words go out with the same ids."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.config import GPTConfig
from llm.model import GPT
from llm.pretrained import Pretrained, export, read_pretrained
from llm.tokenizers import CharTokenizer, HuggingFaceTokenizer, WordTokenizer

transformers = pytest.importorskip("transformers")

TEXT = 'Hello, it\'s -- a "day": (so) fine?\n\n猫! Ünï; day_day\r\n\x1c\x85\u2028 1 2<|end of'
SPECIALS = ("<|endoftext|>", "<|unk|>")
OURS = {
    "char": CharTokenizer.from_text(TEXT, SPECIALS),
    "strict char": CharTokenizer.from_text(TEXT),
    "word": WordTokenizer.from_text(TEXT, specials=SPECIALS),
    "word without_colon": WordTokenizer.from_text(TEXT, "without_colon", ("[UNK]",)),
    "word lowercase": WordTokenizer.from_text(TEXT, "lowercase", SPECIALS),
}


@functools.cache
def exported(name, folder):
    tokenizer = OURS[name]
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=8, n_layer=1, n_head=1, n_embd=4)
    out = folder / name
    assert export(Pretrained("llm", config, GPT(config).state_dict(), tokenizer), out) == []
    return transformers.AutoTokenizer.from_pretrained(out), read_pretrained(out).tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


known = st.lists(st.sampled_from(TEXT)).map("".join)
# Letters that Unicode did not have yet when this Python was made, and a sigma at the end of a word, are left out.
characters = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="Σ")
anything = st.lists(st.one_of(st.sampled_from([*TEXT, *SPECIALS, "[UNK]"]), characters))


@pytest.mark.parametrize("name", OURS)
@given(data=st.data())
def test_the_same_ids_and_the_same_text(name, folder, data):
    ours, (theirs, back) = OURS[name], exported(name, folder)
    text = data.draw(known if name == "strict char" else anything.map("".join))
    ids = ours.encode(text)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == ours.decode(ids)
    assert isinstance(back, HuggingFaceTokenizer)
    assert (back.encode(text), back.decode(ids), back.end_of_text_id) == (ids, ours.decode(ids), ours.end_of_text_id)


def test_a_strict_vocabulary_is_strict_there_too(folder):
    with pytest.raises(Exception, match=r"\[UNK\]"):
        exported("strict char", folder)[0]("Ω")


def test_the_roles_of_its_special_tokens(folder):
    theirs = exported("word", folder)[0]
    assert (theirs.eos_token, theirs.unk_token, theirs.bos_token) == (*SPECIALS, None)
