import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.batch import IGNORED
from llm.data.chat.messages import Message
from llm.data.chat.samples import Losses, SampleMaker, question_of
from llm.data.chat.showing import as_markdown, as_text
from llm.data.chat.templates import ChatTemplate
from llm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz \n")
TEMPLATE = ChatTemplate.find("phi3", tokenizer=LETTERS)
TOKENIZER = TEMPLATE.prepare(LETTERS)
words = st.text("abcdef ", min_size=1, max_size=30)


def make(context_length=1000, **options):
    return SampleMaker(TEMPLATE, TOKENIZER, context_length, **options)


def talk(*texts):
    roles = ("user", "assistant")
    return tuple(Message(roles[number % 2], text) for number, text in enumerate(texts))


def samples(conversation, context_length=1000, **options):
    losses = Losses()
    return list(make(context_length, **options).samples(conversation, losses)), losses


def learned(example):
    """The text of the targets."""
    return TOKENIZER.decode([target for target in example.targets if target != IGNORED])


def text_of(example):
    return TOKENIZER.decode([*example.inputs, example.targets[-1]])


def test_answers_and_their_ends_are_learned_and_nothing_else():
    (sample,), losses = samples(talk("ask", "say", "more", "yes"))
    assert learned(sample) == "say<|end|>yes<|end|>"
    assert text_of(sample).endswith("<|assistant|>\nyes<|end|>")
    assert losses == Losses()
    # shifted by one: the first letter of an answer is the target where the prompt ends
    first = sample.targets.index(LETTERS.encode("s")[0])
    assert TOKENIZER.decode(sample.inputs[: first + 1]).endswith("<|assistant|>\n")


def test_all_can_be_learned():
    (sample,), _ = samples(talk("ask", "say"), learn_all=True)
    assert learned(sample) == text_of(sample)[len("<|user|>") :]


@pytest.mark.parametrize("learn_all", [False, True])
def test_an_answer_marked_as_context_is_never_learned(learn_all):
    """What a user masked by hand stays masked."""
    masked = Message("assistant", "wrong", learned=False)
    (sample,), _ = samples((Message("user", "ask"), masked, *talk("again", "right")), learn_all=learn_all)
    assert "wrong" not in learned(sample)
    assert "right<|end|>" in learned(sample)


def test_an_empty_answer_is_its_end():
    (sample,), _ = samples(talk("ask", ""))
    assert learned(sample) == "<|end|>"


def test_a_last_message_without_an_answer_is_left_out_and_counted():
    (sample,), losses = samples(talk("ask", "say", "unanswered"))
    assert learned(sample) == "say<|end|>"
    assert "unanswered" not in text_of(sample)
    assert losses.unanswered == 1


@given(question=words, about=words, answer=words, context_length=st.integers(8, 80))
def test_prompts_are_truncated_and_answers_never(question, about, answer, context_length):
    conversation = (Message("user", question, about), Message("assistant", answer))
    found, losses = samples(conversation, context_length)
    whole, _ = samples(conversation)
    if len(whole[0].inputs) <= context_length:
        assert found == whole
        assert losses == Losses()
    elif found:
        assert learned(found[0]) == f"{answer}<|end|>"
        assert len(found[0].inputs) <= context_length
        assert losses == Losses(truncated=1)
        assert text_of(found[0]).startswith("<|user|>\n"), "the template itself is whole"
    else:
        assert losses == Losses(left_out=1)
        assert len(answer) + len("\n\n\n") + 5 - 1 > context_length, "without any prompt it does not fit"


def test_what_the_instruction_is_about_is_truncated_before_the_instruction():
    conversation = (Message("user", "keep this", "x" * 50), Message("assistant", "y"))
    (sample,), _ = samples(conversation, 40)
    assert "keep this\nxxx" in text_of(sample)
    assert len(sample.inputs) == 40


def test_long_conversations_are_divided_at_whole_turns():
    system = Message("system", "sys")
    turns = talk("one", "first", "two", "second", "three", "third")
    found, losses = samples((system, *turns), 50)
    assert [learned(sample) for sample in found] == ["first<|end|>second<|end|>", "third<|end|>"]
    assert all(text_of(sample).startswith("<|system|>\nsys<|end|>") for sample in found)
    assert losses == Losses(divided=1)


def test_a_divided_turn_that_is_only_context_is_no_sample():
    """Of two turns that do not fit together, the first is not to be learned: alone, it would be a sample of -100."""
    masked = Message("assistant", "wrong", learned=False)
    found, losses = samples((Message("user", "a" * 20), masked, *talk("b" * 20, "right")), 50)
    assert [learned(sample) for sample in found] == ["right<|end|>"]
    assert losses == Losses(divided=1)


def test_nothing_but_ignored_targets_never_becomes_a_sample():
    """An answer that does not fit is left out and said, and is no sample of -100 alone, whose loss is NaN."""
    found, losses = samples(talk("ask", "x" * 100), 20)
    assert found == []
    assert losses.sentences(20) == ["1 answer is longer than context_length 20 and was left out"]


@given(turns=st.lists(st.tuples(words, words), max_size=4), question=words, room=st.integers(12, 120))
def test_a_prompt_fits_and_ends_where_an_answer_begins(turns, question, room):
    history = [text for turn in turns for text in turn]
    ids, is_cut = make().prompt(talk(*history, question), room)
    text = TOKENIZER.decode(ids)
    assert len(ids) <= room
    assert text.endswith("<|end|>\n<|assistant|>\n")
    assert text.startswith("<|user|>\n")
    assert is_cut == (len(make().encode(talk(*history, question), True).ids) > room)


def test_the_question_is_the_last_that_has_an_answer():
    conversation = talk("one", "first", "two", "second", "three")
    assert question_of(conversation) == (conversation[:3], "second")
    assert question_of(talk("one")) is None


def test_a_sample_is_shown_with_what_is_supervised():
    (sample,), _ = samples(talk("ask", "say"))
    assert as_text(sample, TOKENIZER, colours=False) == "<|user|>\nask<|end|>\n<|assistant|>\n[[say<|end|>]]"
    coloured = as_text(sample, TOKENIZER, colours=True)
    assert coloured.endswith("\x1b[1;32msay<|end|>\x1b[0m")
    assert "\x1b[2mask<|end|>\x1b[0m\n" in coloured
    assert as_markdown(sample, TOKENIZER).endswith("`<|assistant|>` `⏎`\n\n**`s`** **`a`** **`y`** **`<|end|>`**")
