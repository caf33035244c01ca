import math

import pytest
import torch

from llm.config import GPTConfig, SamplingConfig
from llm.data.chat.messages import Message
from llm.data.chat.samples import SampleMaker
from llm.data.chat.templates import ChatTemplate
from llm.errors import DataError
from llm.evaluation.answers import Answer, answer_all, measure
from llm.model import GPT
from llm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz \n")
TEMPLATE = ChatTemplate.find("phi3", tokenizer=LETTERS)
TOKENIZER = TEMPLATE.prepare(LETTERS)
MAKER = SampleMaker(TEMPLATE, TOKENIZER, 64)


class Parrot(GPT):
    """Says `ab`, and then ends the answer, or never does."""

    def __init__(self, ends=True):
        super().__init__(
            GPTConfig(TOKENIZER.vocab_size, 64, n_layer=1, n_head=1, n_embd=TOKENIZER.vocab_size, causal=False)
        )
        self.end = TEMPLATE.end_of_answer(TOKENIZER) if ends else TOKENIZER.encode("a")[0]

    def forward(self, ids, lengths=None, side="right"):
        a, b = TOKENIZER.encode("ab")
        after = {a: b, b: self.end}
        following = torch.tensor([[after.get(int(token), a) for token in row] for row in ids])
        return torch.nn.functional.one_hot(following, TOKENIZER.vocab_size).float()


def asked(*references):
    return [(Message("user", "x" * number), Message("assistant", text)) for number, text in enumerate(references, 1)]


def answers(model, *references, **options):
    sampling = SamplingConfig(**{"max_new_tokens": 5, "temperature": 0.0, "compile": "never", **options})
    return list(answer_all(model, MAKER, asked(*references), sampling, 2))


def test_answers_come_in_order_beside_their_references():
    found = answers(Parrot(), "ab", "b", " ab ")
    assert [answer.reference for answer in found] == ["ab", "b", " ab "]
    assert [answer.question for answer in found] == ["x", "xx", "xxx"]
    assert [answer.answer for answer in found] == ["ab"] * 3
    assert [answer.is_exact for answer in found] == [True, False, True], "but for white space around it"
    assert all(answer.ended and answer.tokens == 2 for answer in found)
    assert found[0].to_dict()["exact"] is True


def test_an_answer_that_is_cut_has_not_ended():
    (found,) = answers(Parrot(ends=False), "ab")
    assert not found.ended
    assert found.answer == "abab" + "a"


def test_measures():
    given = [
        Answer("q", "the cat sat on the mat", "the cat sat on the mat", True, 3),
        Answer("q", "a dog ran far", "a cat ran far", False, 5),
    ]
    found = measure(given, overlap=True)
    assert found["exact_match"] == 0.5
    assert found["ended_fraction"] == 0.5
    assert found["answer_tokens"] == 4
    assert found["rouge_l"] == pytest.approx((1 + 3 / 4) / 2), "3 of 4 words are in order in both"
    assert 0 < found["bleu"] < 1
    assert 0 < found["chrf"] < 1
    same = [Answer("q", text, text, True, 3) for text in ("Anna kauft am Montag zwei Äpfel.", "eins zwei drei vier")]
    assert all(measure(same, True)[name] == pytest.approx(1) for name in ("rouge_l", "bleu", "chrf"))
    assert not any(map(math.isnan, measure([Answer("q", "a", "", False, 0)], True).values())), "an empty answer too"
    with pytest.raises(DataError, match="no answers"):
        measure([])
