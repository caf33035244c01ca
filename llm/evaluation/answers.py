"""How good answers are: exact, like their references, and ended by the model itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from llm.config import SamplingConfig
from llm.data.chat.messages import Conversation
from llm.data.chat.samples import SampleMaker, question_of
from llm.errors import DataError
from llm.generation import continue_texts
from llm.model import GPT


class Answer(NamedTuple):
    """An answer of a model beside the reference."""

    question: str
    """The user's last message."""
    reference: str
    answer: str
    ended: bool
    """Whether the model ended it itself, rather than being cut at the most tokens that were allowed."""
    tokens: int
    """How many were generated."""

    @property
    def is_exact(self) -> bool:
        """Whether it is the reference, but for white space around it."""
        return self.answer.strip() == self.reference.strip()

    def to_dict(self) -> dict[str, Any]:
        """What is written of it as JSON."""
        return {**self._asdict(), "exact": self.is_exact}


def answer_all(
    model: GPT, maker: SampleMaker, conversations: Sequence[Conversation], sampling: SamplingConfig, batch_size: int
) -> Iterator[Answer]:
    """Let a model give the last answer of each conversation.

    Args:
        model: whose context is as long as the maker's.
        maker: knows template and tokenizer.
        conversations: each with an answer, which is the reference; the model sees what comes before it.
        sampling: how to answer; `temperature: 0` is greedy.
        batch_size: conversations at once.

    Raises:
        LLMError: a conversation can't be encoded, or the model's logits are NaN.
    """
    tokenizer = maker.tokenizer
    asked = [found for found in map(question_of, conversations) if found is not None]
    sampling = answering(sampling, maker)
    room = max(1, model.config.context_length - sampling.max_new_tokens)
    prompts = [torch.tensor(maker.prompt(messages, room)[0]) for messages, _ in asked]
    # Prompts of similar length side by side; the answers come in the order that they were asked in.
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found: dict[int, Answer] = {}
    for continuation in continue_texts(model, tokenizer, [prompts[number] for number in order], sampling, batch_size):
        number = order[continuation.prompt]
        messages, reference = asked[number]
        question = messages[-1].to_dict()["content"]
        reference = tokenizer.decode(tokenizer.encode(reference))  # as the tokenizer can give it, where it is not exact
        found[number] = Answer(
            question, reference, continuation.text, continuation.end == "stop", len(continuation.ids)
        )
    yield from (found[number] for number in range(len(asked)))


def answering(sampling: SamplingConfig, maker: SampleMaker) -> SamplingConfig:
    """The sampling of one answer, which ends with the token that ends an answer in the template."""
    end = maker.template.end_of_answer(maker.tokenizer)
    return dataclasses.replace(sampling, n_samples=1, stop_ids=tuple({*sampling.stop_ids, end}))


def measure(answers: Sequence[Answer], overlap: bool = False) -> dict[str, float]:
    """What answers are worth together.

    Args:
        answers: at least one.
        overlap: also how much they have in common with their references, which says something where there is more than
            one right answer: ROUGE-L (Lin 2004), BLEU (Papineni et al. 2002) and chrF++ (Popović 2017), from 0 to 1.

    Raises:
        DataError: there is none.
    """
    if not answers:
        raise DataError("there are no answers to measure")
    found = {
        "exact_match": sum(answer.is_exact for answer in answers) / len(answers),
        "ended_fraction": sum(answer.ended for answer in answers) / len(answers),
        "answer_tokens": sum(answer.tokens for answer in answers) / len(answers),
    }
    if overlap:
        from torchmetrics.functional.text import bleu_score, chrf_score, rouge_score

        given, wanted = [answer.answer for answer in answers], [answer.reference for answer in answers]
        # ROUGE's own tokens are English letters and digits; white space does for every language.
        rouge = rouge_score(given, wanted, rouge_keys="rougeL", tokenizer=str.split, normalizer=str.lower)
        found["rouge_l"] = float(rouge["rougeL_fmeasure"])
        found["bleu"] = float(bleu_score(given, [[text] for text in wanted]))
        chrf = chrf_score(given, [[text] for text in wanted])
        assert isinstance(chrf, torch.Tensor)  # and not one for each sentence
        found["chrf"] = float(chrf)
    return found
