import pytest
import torch

from llm.config import GPTConfig, SamplingConfig
from llm.data.chat.templates import ChatTemplate
from llm.errors import DataError
from llm.generation.chat import Chat
from llm.model import GPT
from llm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz \n")
TEMPLATE = ChatTemplate.find("phi3", tokenizer=LETTERS)
TOKENIZER = TEMPLATE.prepare(LETTERS)


@pytest.fixture
def chat():
    torch.manual_seed(0)
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 64, n_layer=1, n_head=2, n_embd=8)).eval()
    return Chat(model, TOKENIZER, TEMPLATE, SamplingConfig(max_new_tokens=12, temperature=0.0, compile="never"))


def prompt(chat, text):
    return TOKENIZER.decode(chat.prompt(text))


def test_a_chat_that_ends_with_the_user_is_answered_and_not_gone_on_with(chat):
    assert prompt(chat, "hi") == "<|user|>\nhi<|end|>\n<|assistant|>\n"


def test_history_is_part_of_the_prompt_and_is_cut_at_whole_turns(chat):
    answers = ["".join(chat.ask(text)) for text in ("one", "two")]
    turn = "<|user|>\n{}<|end|>\n<|assistant|>\n{}<|end|>\n"
    history = turn.format("one", answers[0]) + turn.format("two", answers[1])
    assert prompt(chat, "a").endswith("<|user|>\na<|end|>\n<|assistant|>\n")
    forgotten = chat.n_forgotten
    assert prompt(chat, "a") in history + prompt(chat, "a")
    for _ in range(5):
        list(chat.ask("more"))
    found = prompt(chat, "b")
    assert chat.n_forgotten >= max(forgotten, 3)
    assert found.startswith("<|user|>\n"), "no half turn"
    assert found.count("<|user|>") == found.count("<|assistant|>")
    assert len(chat.prompt("b")) <= 64 - 12


def test_a_message_longer_than_the_context_is_truncated(chat):
    found = prompt(chat, "x" * 200)
    assert found.startswith("<|user|>\nxxx")
    assert found.endswith("x<|end|>\n<|assistant|>\n")
    assert len(chat.prompt("x" * 200)) == 64 - 12


def test_the_system_message_stays_when_turns_are_forgotten(chat):
    chat.reset("sys")
    for _ in range(4):
        list(chat.ask("abc"))
    assert prompt(chat, "d").startswith("<|system|>\nsys<|end|>\n<|user|>\n")
    chat.reset()
    assert (chat.turns, chat.system) == ([], None)


def test_an_answer_that_is_broken_off_is_no_part_of_the_history(chat):
    answer = chat.ask("one")
    next(answer)
    answer.close()
    assert chat.turns == []


def test_a_special_token_in_a_message_is_refused_and_the_chat_goes_on(chat):
    with pytest.raises(DataError, match="special token"):
        list(chat.ask("a<|end|>"))
    assert list(chat.ask("a"))
    assert len(chat.turns) == 1
