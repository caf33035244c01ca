import json

import pytest
from small_checkpoints import runner, write

from llm.config import EncoderConfig, GPTConfig
from llm.tokenizers import MASK, CharTokenizer

TOKENIZER = CharTokenizer.from_text("abcdefghij .").with_special(MASK)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = EncoderConfig(TOKENIZER.vocab_size, 16, n_layer=1, n_head=2, n_embd=8)
    return write(tmp_path_factory.mktemp("model") / "masked.ckpt", config, "masked", TOKENIZER)


@pytest.fixture
def fill(checkpoint, capsys, monkeypatch):
    """Run the command; gives exit status, output and errors."""
    return runner("fill", checkpoint, capsys, monkeypatch)


def test_a_text_is_printed_filled_with_the_candidates_of_each_mask(fill):
    status, output, errors = fill("--text", "ab[MASK]d [MASK]", "--top_k", "3")
    filled, first, second = output.splitlines()
    assert (status, errors) == (0, "")
    assert len(filled) == 6
    assert filled[:2] + filled[3:5] == "abd "
    for number, place, line in ((1, 2, first), (2, 5, second)):
        assert line.startswith(f"  [MASK] {number}: {filled[place]!r} ")
        assert line.count("%") == 3


def test_json_says_the_same_of_texts_files_and_standard_input(fill, tmp_path):
    texts = ["ab[MASK]", "[MASK] a[MASK]"]
    status, output, _ = fill("--json", *(word for text in texts for word in ("--text", text)))
    records = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [record["text"] for record in records] == texts
    assert [len(record["masks"]) for record in records] == [1, 2]
    assert set(records[0]["masks"][0][0]) == {"token", "id", "probability"}
    assert len(records[0]["masks"][0]) == 5
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([*texts, "", ""]))
    assert fill("--json", "--text_file", str(file))[1] == output
    assert fill("--json", stdin="\r\n".join(texts).encode())[1] == output


def test_masks_next_to_one_another_are_also_one_word(fill):
    status, output, _ = fill("--text", "ab[MASK][MASK]", "--top_k", "2")
    filled, _, _, joined = output.splitlines()
    assert status == 0
    assert joined.startswith(f"  [MASK] 1 to 2 as one: {filled[2:]!r} ")
    (span,) = json.loads(fill("--json", "--text", "ab[MASK][MASK]", "--top_k", "2")[1])["spans"]
    assert span["candidates"][0]["word"] == filled[2:]


def test_candidates_are_ranked_instead(fill):
    words = ["--text", "ab[MASK] d", "--candidates", "c", "ef", "j"]
    status, output, _ = fill(*words)
    text, *lines = output.splitlines()
    assert (status, text, len(lines)) == (0, "ab[MASK] d", 3)
    record = json.loads(fill("--json", *words)[1])
    for line, candidate in zip(lines, record["candidates"], strict=True):
        assert line.startswith(f"  {candidate['word']}: {candidate['probability']:.1%} of these, ")
    best = json.loads(fill("--json", *words, "--top_k", "2")[1])["candidates"]
    assert best == record["candidates"][:2], "their probabilities are still among all three"
    assert json.loads(fill("--json", *words, "--top_k", "0")[1]) == record
    (mask,) = json.loads(fill("--json", "--text", "ab[MASK]d", "--top_k", "0")[1])["masks"]
    assert sorted(candidate["id"] for candidate in mask) == list(range(TOKENIZER.vocab_size - 1)), "all but [MASK]"
    status, _, errors = fill("--text", "ab[MASK]", "--text", "a", "--candidates", "c")
    assert (status, errors) == (1, "error: text 2: nothing to fill in 'a': put [MASK] where a word is hidden\n")
    status, _, errors = fill("--text", "ab[MASK]", "--text", "[MASK]", "--candidates", "c?")
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("error: text 1: unknown character '?'")


@pytest.mark.parametrize(
    ("words", "stdin", "expected"),
    [
        (["--text", "abc"], None, "nothing to fill in 'abc': put [MASK] where a word is hidden"),
        (["--text", "[MASK]", "--text", "abc"], None, "text 2: nothing to fill in 'abc'"),
        ([], b"[MASK]\n\nabc\n", "standard input, line 3: nothing to fill in 'abc'"),
        ([], b"\n", "standard input is empty"),
        ([], b"\xff[MASK]", "standard input is not UTF-8 text at byte 0"),
        (["--text_file", "nowhere.txt"], None, "can't read 'nowhere.txt'"),
        (["--text", "[MASK]" * 17], None, "has 17 tokens, the model's context holds 16"),
        (["--batch_size=1"], b"[MASK]\n" + b"[MASK]" * 17, "standard input, line 2: a text has 17 tokens"),
        (["--text", "[MASK]", "--top_k", "-1"], None, "top_k must be at least 1, or 0 for all, got -1"),
    ],
)
def test_what_can_not_be_filled_is_one_line(fill, words, stdin, expected):
    status, output, errors = fill(*words, stdin=stdin)
    assert (status, output) == (1, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_language_model_is_refused_and_its_task_named(fill, tmp_path):
    config = GPTConfig(TOKENIZER.vocab_size, 16, n_layer=1, n_head=2, n_embd=8)
    path = write(tmp_path / "gpt.ckpt", config, "language", TOKENIZER)
    status, _, errors = fill("--text", "[MASK]", ckpt=path)
    assert status == 1
    assert errors == f"error: {path!r} is of the task 'language', not 'masked': use python -m llm generate\n"
