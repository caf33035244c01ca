import json

import pytest

from llm.data.chat.messages import Message, conversation_of, read_conversations
from llm.errors import DataError

ALPACA = {"instruction": "Say hello.", "input": "to Ann", "output": "Hello, Ann!"}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "weight": 0},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": ""},
    ]
}
PAIR = {"prompt": "1 + 1 =", "completion": " 2"}


def write(path, records):
    lines = path.suffix == ".jsonl"
    path.write_text("\n\n".join(map(json.dumps, records)) if lines else json.dumps(records), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_all_three_forms_are_read(tmp_path, name):
    found = list(read_conversations(write(tmp_path / name, [ALPACA, CHAT, PAIR])))
    assert [conversation for _, conversation in found] == [
        (Message("user", "Say hello.", "to Ann"), Message("assistant", "Hello, Ann!")),
        (
            Message("system", "Be brief."),
            Message("user", "Hi"),
            Message("assistant", "Hello", learned=False),
            Message("user", "Bye"),
            Message("assistant", ""),
        ),
        (Message("user", "1 + 1 ="), Message("assistant", " 2")),
    ]
    assert found[1][0].endswith("line 3" if name == "a.jsonl" else "record 2"), "where it stands"


def test_a_template_sees_an_instruction_whole_and_in_its_parts():
    seen = Message("user", "Say hello.", "to Ann").to_dict()
    assert (seen["content"], seen["instruction"], seen["input"]) == ("Say hello.\nto Ann", "Say hello.", "to Ann")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("text", "expected a record with `instruction` and `output`"),
        ({"question": "a", "output": "b"}, "this one has question, output"),
        ({**ALPACA, "output": 7}, "'output' must be a string, got '7'"),
        ({**ALPACA, "instruction": " ", "input": ""}, "the instruction is empty"),
        ({"prompt": "", "completion": "x"}, "the prompt is empty"),
        ({"messages": "hello"}, "'messages' must be a list of records"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "message 1: the role must be one of system, user, assistant"),
        ({"messages": [{"role": "user", "content": ""}]}, "the user's message is empty"),
        ({"messages": [{"role": "user", "content": "x"}] * 2}, "message 2: expected one of the assistant"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "message 1: expected one of the user"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no message of the assistant is to be learned"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]},
            "no message of the assistant is to be learned, so that nothing is supervised",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 2}]},
            "weight must be 0 or 1, got '2'",
        ),
    ],
)
def test_a_record_that_is_none_of_them_is_refused_in_a_line(record, said):
    with pytest.raises(DataError, match=r"^here: |^here, message") as error:
        conversation_of(record, "here")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "neither .json nor .jsonl"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "for a record a line, name the file .jsonl"),
        ("a.json", b'{"a": 1}', "expected a list of records"),
        ("a.jsonl", b'{"a": \xff}', "byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n[1', "a.jsonl', line 2: not JSON"),
        ("a.json", b" \n", "is empty"),
        ("none.json", None, "No such file"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused_in_a_line(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_conversations(tmp_path / name))
    assert said in str(error.value)
    assert name in str(error.value)
