import json

import pytest
from small_checkpoints import runner, write

from llm.config import GPTConfig, TransformerConfig
from llm.tokenizers import END_OF_TEXT, CharTokenizer

TARGET, SOURCE = (CharTokenizer.from_text(text, [END_OF_TEXT]) for text in ("ABC ", "你好吗abc"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    sizes = {"vocab_size": TARGET.vocab_size, "source_vocab_size": SOURCE.vocab_size, "context_length": 6}
    config = TransformerConfig(**sizes, n_layer=1, n_head=2, n_embd=8)
    return write(
        tmp_path_factory.mktemp("model") / "translate.ckpt",
        config,
        "translate",
        TARGET,
        std=0.5,
        source_tokenizer=SOURCE.to_dict(),
    )


@pytest.fixture
def translate(checkpoint, capsys, monkeypatch):
    """Run the command; gives exit status, output and errors."""
    return runner("translate", checkpoint, capsys, monkeypatch)


def test_texts_files_and_standard_input_say_the_same(translate, tmp_path):
    texts = ["你好", "abc", "吗"]
    status, output, errors = translate(*(word for text in texts for word in ("--text", text)))
    assert (status, errors) == (0, "")
    assert len(output.split("\n")) == 4
    assert set(output) <= set("ABC \n")
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    assert translate("--text_file", str(file), "--batch_size", "2")[1] == output
    for words in ((), ("--text=-",)):
        assert translate(*words, stdin="\r\n".join([*texts, ""]).encode())[1] == output


def test_line_n_of_the_output_translates_line_n_of_the_input(translate):
    _, output, _ = translate(stdin=b"abc\n\nab\n")
    first, second, third, rest = output.split("\n")
    assert (second, rest) == ("", "")
    assert [first, third] == translate("--text=abc", "--text=ab")[1].splitlines()
    records = [json.loads(line) for line in translate("--json", stdin=b"abc\n\nab\n")[1].splitlines()]
    assert [record["source"] for record in records] == ["abc", "", "ab"]
    assert [record["translation"] for record in records] == [first, "", third]
    assert records[0].keys() == records[1].keys()


def test_json_says_how_good_a_translation_is(translate):
    status, output, _ = translate("--text=你好", "--text=abc", "--json", "--beam=3", "--length_penalty=0")
    records = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [record["source"] for record in records] == ["你好", "abc"]
    assert TARGET.decode(records[0]["ids"]) == records[0]["translation"]
    assert records[0]["score"] == records[0]["log_probability"] < 0
    assert isinstance(records[0]["ended"], bool)


@pytest.mark.parametrize(
    ("words", "stdin", "expected"),
    [
        (["--text", "   "], None, "there is nothing to translate in an empty text"),
        ([], b" \n", "standard input is empty"),
        ([], b"abc\nabd\n", "standard input, line 2: unknown character 'd' at line 1, column 3"),
        (["--batch_size=1"], b"a\n\nabcabc\n", "standard input, line 3: a source has 7 tokens with its end token"),
        (["--text=abcabc"], None, "a source has 7 tokens with its end token, the model's context holds 6"),
        (["--text=a", "--beam=0"], None, "beam must be at least 1 and at most 1,000, got 0"),
        (["--text=a", "--beam=100000"], None, "beam must be at least 1 and at most 1,000, got 100000"),
        (["--text=a", "--batch_size=0"], None, "batch_size must be at least 1, got 0"),
        (["--text=a", "--length_penalty=-1"], None, "length_penalty must be at least 0, got -1.0"),
        ([], b"\xff\n", "standard input is not UTF-8 text"),
    ],
)
def test_what_can_not_be_translated_is_said_in_a_line(translate, words, stdin, expected):
    status, output, errors = translate(*words, stdin=stdin)
    assert (status, output) == (1, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_checkpoint_of_another_task_is_refused(translate, tmp_path):
    gpt = write(
        tmp_path / "gpt.ckpt", GPTConfig(TARGET.vocab_size, 6, n_layer=1, n_head=2, n_embd=8), "language", TARGET
    )
    status, _, errors = translate("--text=a", ckpt=gpt)
    assert status == 1
    assert "is of the task 'language', not 'translate': use python -m llm generate" in errors


def test_an_unknown_character_of_a_source_names_the_setting_of_sources(translate):
    status, _, errors = translate("--text", "xyz")
    assert status == 1
    assert "unknown character 'x'" in errors
    assert "among data.source_tokenizer.specials" in errors
