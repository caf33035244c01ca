import json

import pytest
from small_checkpoints import runner, write

from llm.config import ClassifierConfig, GPTConfig
from llm.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer.from_text("abcdefghij .")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = ClassifierConfig(TOKENIZER.vocab_size, 16, n_layer=1, n_head=2, n_embd=8, labels=("ham", "spam", "über"))
    return write(tmp_path_factory.mktemp("model") / "labels.ckpt", config, "classify", TOKENIZER)


@pytest.fixture
def classify(checkpoint, capsys, monkeypatch):
    """Run the command; gives exit status, output and errors."""
    return runner("classify", checkpoint, capsys, monkeypatch)


def test_the_most_probable_label_comes_first(classify):
    status, output, errors = classify("--text", "abc", "--text", "a b c")
    assert (status, errors) == (0, "")
    for line, text in zip(output.splitlines(), ("abc", "a b c"), strict=True):
        labels, _, shown = line.rpartition(": ")
        chances = [float(part.split()[1].rstrip("%")) for part in labels.split(", ")]
        assert shown == text
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(100, abs=0.2)


def test_json_says_the_same_of_texts_files_and_standard_input_whatever_the_batch(classify, tmp_path):
    texts = ["abc", "a", "defghij. a", "bb"]
    status, output, _ = classify("--json", *(word for text in texts for word in ("--text", text)))
    records = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [record["text"] for record in records] == texts
    for record in records:
        assert list(record["probabilities"]) == ["ham", "spam", "über"]
        assert record["label"] == max(record["probabilities"], key=record["probabilities"].get)
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([*texts, "", ""]))
    assert classify("--json", "--text_file", str(file))[1] == output
    for words in ((), ("--text", "-")):
        assert classify("--json", *words, stdin="\r\n".join(texts).encode())[1] == output
    alone = [
        json.loads(line) for line in classify("--json", "--batch_size", "1", "--text_file", str(file))[1].splitlines()
    ]
    for one, other in zip(alone, records, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_it_says_which_tokens_a_label_rests_on(classify, tmp_path):
    picture = tmp_path / "why.png"
    status, output, _ = classify("--text", "abca", "--explain", "--picture", str(picture))
    assert status == 0
    _, for_it, against = output.splitlines()
    assert for_it.startswith("  for ")
    assert against.startswith("  against ")
    assert picture.read_bytes().startswith(b"\x89PNG")
    record = json.loads(classify("--text", "abca", "--explain", "--json")[1])
    assert [entry["token"] for entry in record["tokens"]] == list("abca")


def test_what_is_beyond_the_context_is_not_read_and_that_is_said(classify):
    status, output, errors = classify("--json", "--text", "a" * 16 + "bcd")
    assert (status, errors) == (0, "warning: the text is longer than the context of 16 tokens\n")
    cut = json.loads(classify("--json", "--text", "a" * 16)[1])
    assert json.loads(output)["probabilities"] == cut["probabilities"]


@pytest.mark.parametrize(
    ("words", "stdin", "expected"),
    [
        (["--text", " "], None, "the text is empty; give at least one word"),
        (["--text", "a", "--text", ""], None, "text 2: the text is empty"),
        (["--text", "a?"], None, "'?'"),
        ([], b"a\n\nab\xc3\xbc\n", "standard input, line 3: "),
        ([], b"\n", "standard input is empty"),
        ([], b"\xff", "standard input is not UTF-8 text at byte 0"),
        (["--text_file", "nowhere.txt"], None, "can't read 'nowhere.txt'"),
        (["--text", "a", "--batch_size", "0"], None, "batch_size must be at least 1, got 0"),
        (["--text", "a", "--text", "b", "--picture", "x.png"], None, "--picture is for one text, got 2"),
        (["--text", "a", "--picture", "."], None, "--picture '.' is a folder; give it the name of a file"),
    ],
)
def test_what_can_not_be_classified_is_one_line(classify, words, stdin, expected):
    status, _, errors = classify(*words, stdin=stdin)
    assert status == 1
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_language_model_is_refused_and_its_task_named(classify, tmp_path):
    config = GPTConfig(TOKENIZER.vocab_size, 16, n_layer=1, n_head=2, n_embd=8)
    path = write(tmp_path / "gpt.ckpt", config, "language", TOKENIZER)
    status, _, errors = classify("--text", "a", ckpt=path)
    assert status == 1
    assert errors == f"error: {path!r} is of the task 'language', not 'classify': use python -m llm generate\n"
