"""A byte-pair encoding learned from a text."""

import collections
import itertools
import json
import os
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.pretrained.written_tokenizer import to_fast
from llm.tokenizers import END_OF_TEXT, BytePairTokenizer, build_tokenizer, tokenizer_from_dict

TEXT = "The cat sat on the mat; the hat of 1234 cats, it's THE CAT'S ?\n\n a  b, naïve 猫が座った。 \r\n\t😀 " * 30
PATTERNS = ("gpt2", "gpt4")
LEARNED = {
    pattern: build_tokenizer(TokenizerConfig("bpe", vocab_size=400, pattern=pattern), [TEXT]) for pattern in PATTERNS
}
FAST = {pattern: to_fast(tokenizer, tokenizer.merges()) for pattern, tokenizer in LEARNED.items()}


def learn(*texts, vocab_size=300, **options):
    return build_tokenizer(TokenizerConfig("bpe", vocab_size=vocab_size, **options), texts)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_has_the_tokens_asked_for_and_its_special_token_last(pattern):
    tokenizer = LEARNED[pattern]
    assert isinstance(tokenizer, BytePairTokenizer)
    assert tokenizer.vocab_size <= 400
    assert tokenizer.special_ids == {END_OF_TEXT: tokenizer.vocab_size - 1}
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 3
    assert learn(TEXT, vocab_size=280).vocab_size == 280


@pytest.mark.parametrize("pattern", PATTERNS)
@given(
    text=st.one_of(
        st.text(max_size=80), st.lists(st.sampled_from([*TEXT[:90], " ", "\n", "'s", "'S", "9"])).map("".join)
    )
)
@example(text=" ?\n\n a  b")
@example(text="123456 12 1  \n  ")
@example(text=f"a{END_OF_TEXT}\n  'ſ \u0085\u2028\u00a0x")
def test_tiktoken_and_tokenizers_give_the_same_ids(pattern, text):
    ids = LEARNED[pattern].encode(text)
    assert ids == FAST[pattern].encode(text).ids
    assert LEARNED[pattern].decode(ids) == text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_character_of_unicode_is_split_alike(pattern):
    """Tokens that join `a`, `1` and `!` with what follows show whether it is a letter, a digit, or neither."""
    signs = sorted(learn(vocab_size=257).vocabulary)
    joined = [first + sign for first in "a1!" for sign in signs]
    tokenizer = BytePairTokenizer({token: number for number, token in enumerate([*signs, *joined])}, {}, pattern)
    fast = to_fast(tokenizer, tokenizer.merges())
    assert tokenizer.split("ab 1b !b")[:2] == [b"ab", b" "]
    for start in range(0, sys.maxunicode + 1, 1 << 12):
        is_one_script = 0x3000 <= start < 0xA000 or 0xB000 <= start < 0xE000 or start >= 0x20000  # a sample will do
        codes = range(start, start + (1 << 12), 64 if is_one_script else 1)
        text = "".join(f"a{chr(code)} 1{chr(code)} !{chr(code)} " for code in codes if not 0xD800 <= code < 0xE000)
        assert tokenizer.encode(text) == fast.encode(text).ids, hex(start)


def naive(words, n_merges):
    """Sennrich et al. 2016, algorithm 1, on bytes; of pairs with the same count the one with the lower ids."""
    ids = {sign: number for number, sign in enumerate(sorted(learn(vocab_size=257).vocabulary))}
    split = [[ids[sign] for sign in word] for word in words]
    merges = []
    for new in range(len(ids), len(ids) + n_merges):
        pairs = collections.Counter(pair for word in split for pair in itertools.pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        for word in split:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [new]
                at += 1
    return merges


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=12))
def test_it_joins_the_pairs_that_the_algorithm_joins(words):
    tokenizer = learn(" ".join(words), vocab_size=256 + 8, specials=())
    expected = naive([words[0], *(f"Ġ{word}" for word in words[1:])], 8)
    ids = tokenizer.vocabulary
    assert [(ids[first], ids[second]) for first, second in tokenizer.merges()] == expected


def test_the_vocabulary_does_not_depend_on_the_number_of_threads():
    code = (
        "import sys; from llm.config import TokenizerConfig; from llm.tokenizers import build_tokenizer\n"
        f"texts = [f'{{n}} the cat {{n % 7}} sat {{n * n}}' for n in range(3000)] + [{TEXT!r}]\n"
        "print(build_tokenizer(TokenizerConfig('bpe', vocab_size=700), texts).fingerprint)"
    )
    found = set()
    for threads in ("1", "2", "7"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        found.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
    assert len(found) == 1
    assert found != {b""}


def test_a_long_text_is_learned_in_parts_and_gives_the_same_vocabulary(monkeypatch):
    words = " ".join(f"{number}cats" for number in range(5000))
    whole = learn(words, vocab_size=500)
    monkeypatch.setattr("llm.tokenizers.learning._PART", 50)
    assert learn(words, vocab_size=500) == whole
    unbroken = "ab" * 20_000  # nowhere to cut
    assert learn(unbroken).vocabulary["abababab"] > 0


def test_texts_are_streamed():
    """The library reads on while it counts, but holds few of the texts."""
    alive = most = 0

    class Text(str):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def texts():
        nonlocal alive, most
        for number in range(5000):
            alive += 1
            most = max(most, alive)
            yield Text(f"text number {number}")

    build_tokenizer(TokenizerConfig("bpe", vocab_size=300), texts())
    assert 0 < most < 1000


def test_special_tokens_in_the_text_are_not_learned_from():
    text = f"one two{END_OF_TEXT}one two{END_OF_TEXT}" * 50
    assert not any("endo" in token for token in learn(text).vocabulary)
    assert any("endo" in token for token in learn(text, specials=("<pad>",)).vocabulary)


def test_specials_are_numbered_after_the_tokens():
    tokenizer = learn(TEXT, vocab_size=270, specials=("<pad>", END_OF_TEXT))
    assert tokenizer.special_ids == {"<pad>": 268, END_OF_TEXT: 269}
    assert tokenizer.encode("<pad>a") == [268, *tokenizer.encode("a")]
    assert learn(TEXT, vocab_size=256, specials=()).special_ids == {}


def test_pairs_that_are_too_rare_stay_apart(caplog):
    text = "ab ab ab cd"
    assert "ab" in learn(text, min_frequency=2).vocabulary
    assert "ab" not in learn(text, min_frequency=4).vocabulary
    assert "the vocabulary has 257 tokens, not 300: no other pair occurs 4 times" in caplog.text


def test_where_no_size_is_asked_for_there_are_as_many_tokens_as_pairs_or_2000(caplog):
    assert learn("ab ab ab cd", vocab_size=None).vocab_size < 300
    words = " ".join(f"{a}{b}{c}" for a in "abcdefghijklmno" for b in "pqrstuvwxyzABC" for c in "DEFGHIJKLMNOPQR")
    assert learn(words, words, vocab_size=None).vocab_size == 2_000
    assert not caplog.text


def test_what_makes_no_vocabulary():
    with pytest.raises(TokenizerError, match=r"at least 257 \(256 bytes and 1 special tokens\), got 200"):
        learn(TEXT, vocab_size=200)
    with pytest.raises(TokenizerError, match="'cat' can't be a special token: it is a token"):
        BytePairTokenizer({**learn(TEXT, vocab_size=257).vocabulary, "cat": 256}, {"cat": 257})
    with pytest.raises(TokenizerError, match=r"without white space, got 'a b'"):
        learn(TEXT, specials=("a b",))
    with pytest.raises(TokenizerError, match="pattern must be one of gpt2, gpt4; got 'gpt5'"):
        BytePairTokenizer({}, {}, "gpt5")


def test_an_error_in_the_text_is_its_own():
    def texts():
        yield "a text"
        raise TokenizerError("no more of it")

    with pytest.raises(TokenizerError, match="no more of it"):
        build_tokenizer(TokenizerConfig("bpe", vocab_size=300), texts())


def test_patterns_differ_in_digits_and_travel_with_the_vocabulary():
    by_pattern = {pattern: learn("1234 12345 1234 " * 9, pattern=pattern).split("1234") for pattern in PATTERNS}
    assert by_pattern == {"gpt2": [b"1234"], "gpt4": [b"123", b"4"]}
    state = LEARNED["gpt4"].to_dict()
    again = tokenizer_from_dict(json.loads(json.dumps(state)))
    assert again.split(TEXT) == LEARNED["gpt4"].split(TEXT)
    assert again.with_special("[MASK]").pattern == "gpt4"
    assert LEARNED["gpt2"].fingerprint != BytePairTokenizer(state["vocabulary"], state["specials"]).fingerprint
