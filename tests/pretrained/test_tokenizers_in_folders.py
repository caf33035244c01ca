"""A `tokenizer.json` is read exactly, by tiktoken only where that gives the same ids."""

import functools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.__main__ import main
from llm.pretrained import read_tokenizer
from llm.pretrained.tokenizer_files import from_definition
from llm.tokenizers import BPETokenizer, BytePairTokenizer, HuggingFaceTokenizer

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

TEXT = "the cat, the cats! it's 1234 <a> <ab>\n\n  the  end"


def gpt2_like(tokens=(), **parts):
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens(["<|endoftext|>", *tokens])
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def changed(made, **model):
    content = json.loads(made.to_str())
    content["model"] |= model
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def with_unreachable_token(ignore_merges):
    """A token that the merges never make, since they join its parts otherwise."""
    content = json.loads(gpt2_like().to_str())
    content["added_tokens"] = []
    letters = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = letters | {"bc": 256, "ab": 257, "abc": 258}
    merges = [["b", "c"], ["a", "b"], ["ab", "c"]]
    content["model"] |= {"vocab": vocabulary, "merges": merges, "ignore_merges": ignore_merges}
    return tokenizers.Tokenizer.from_str(json.dumps(content))


level = pre_tokenizers.ByteLevel
CASES = {
    "as GPT-2": (lambda: gpt2_like(), BytePairTokenizer),
    "special tokens": (lambda: gpt2_like(["<a>", "<b>"]), BytePairTokenizer),
    "a template without tokens": (
        lambda: gpt2_like(post_processor=processors.TemplateProcessing("$A", None, [])),
        BytePairTokenizer,
    ),
    "one begins like another": (lambda: gpt2_like(["<a>", "<a>b"]), HuggingFaceTokenizer),
    "white space is eaten": (lambda: gpt2_like([AddedToken("<a>", lstrip=True)]), HuggingFaceTokenizer),
    "whole words alone": (lambda: gpt2_like([AddedToken("<a>", single_word=True)]), HuggingFaceTokenizer),
    "prefix space": (lambda: gpt2_like(pre_tokenizer=level(add_prefix_space=True)), HuggingFaceTokenizer),
    "no pattern": (lambda: gpt2_like(pre_tokenizer=level(False, use_regex=False)), HuggingFaceTokenizer),
    "lower case": (lambda: gpt2_like(normalizer=normalizers.Lowercase()), HuggingFaceTokenizer),
    "begin token": (
        lambda: gpt2_like(
            post_processor=processors.TemplateProcessing("<|endoftext|> $A", None, [("<|endoftext|>", 1)])
        ),
        HuggingFaceTokenizer,
    ),
    "another decoder": (lambda: gpt2_like(decoder=decoders.Fuse()), HuggingFaceTokenizer),
    "ends of words": (lambda: changed(gpt2_like(), end_of_word_suffix="s"), HuggingFaceTokenizer),
    "a token no merges make": (lambda: with_unreachable_token(False), HuggingFaceTokenizer),
    "pieces before merges": (lambda: with_unreachable_token(True), HuggingFaceTokenizer),
}


@functools.cache
def both(name):
    library = CASES[name][0]()
    return library, from_definition(json.loads(library.to_str()))


@pytest.mark.parametrize("name", CASES)
def test_which_is_taken(name):
    assert type(both(name)[1]) is CASES[name][1]


@pytest.mark.parametrize("name", CASES)
@given(st.lists(st.sampled_from([*TEXT, "<a>", "<a>b", "<|endoftext|>", " <a>", "abc", "  ", "é"])).map("".join))
@example("x<a>b abc bc  <a> <a>x")
@example(" ?\n\n a  b")
def test_the_ids_are_the_librarys(name, text):
    library, ours = both(name)
    ids = library.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == ids
    assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_the_settings_beside_it_count(tmp_path):
    library = gpt2_like()
    library.save(str(tmp_path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": True,
        "eos_token": {"content": "<end>"},
        "added_tokens_decoder": {str(library.get_vocab_size()): {"content": "<end>", "special": True}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = read_tokenizer(tmp_path)
    assert ours.encode("the") == library.encode(" the").ids
    assert ours.end_of_text_id == ours.special_ids["<end>"] == library.get_vocab_size()
    assert read_tokenizer(tmp_path / "tokenizer.json") == ours


def test_two_files_of_gpt2s_with_a_prefix_space(tmp_path):
    library = gpt2_like()
    library.model.save(str(tmp_path))
    assert type(read_tokenizer(tmp_path)) is BytePairTokenizer
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert read_tokenizer(tmp_path).encode("the cat") == library.encode(" the cat").ids


def test_the_commands_take_a_tokenizer_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    library = gpt2_like(normalizer=normalizers.Lowercase())
    (tmp_path / "mine").mkdir()
    library.save("mine/tokenizer.json")
    (tmp_path / "a.txt").write_text("THE cat")
    for name in ("mine", "mine/tokenizer.json"):
        assert main(["tokenizer", "show", "--text", "THE cat", "--tokenizer", name]) == 0
        assert "the|·cat" in capsys.readouterr().out
        assert main(["tokenize", "--input", "a.txt", "--tokenizer", name, "--output", "ids"]) == 0
        assert read_tokenizer(name).encode("the cat") == library.encode("THE cat").ids


def test_gpt2s_own_is_known_with_its_end_alone(tmp_path):
    from llm.pretrained.written_tokenizer import as_byte_pairs, to_fast

    to_fast(as_byte_pairs(BPETokenizer())).save(str(tmp_path / "tokenizer.json"))
    found = read_tokenizer(tmp_path)
    assert found == BPETokenizer()
    assert found.to_dict() == {"kind": "bpe", "encoding": "gpt2"}
