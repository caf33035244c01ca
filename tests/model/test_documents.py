"""Several documents in a row: none sees another, and each is as if it were alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import GPTConfig
from llm.data.batch import IGNORED, TokenBatch
from llm.errors import ConfigError
from llm.model import GPT
from llm.model.padding import document_mask, positions_in_documents
from llm.tasks import LanguageModel

SIZES = {"vocab_size": 17, "context_length": 24, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.0}


def test_positions_begin_anew_in_each_document():
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [3, 3, 0, 0, 0, 0]])
    assert positions_in_documents(documents).tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]]


def test_a_token_sees_itself_and_what_came_before_in_its_document():
    mask = document_mask(torch.tensor([[0, 0, 1]]))
    assert mask.shape == (1, 1, 3, 3)
    assert mask[0, 0].tolist() == [[True, False, False], [True, True, False], [False, False, True]]


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    positions=st.sampled_from(["learned", "rotary"]),
    seed=st.integers(0, 9),
)
def test_packed_logits_are_those_of_each_document_alone(lengths, positions, seed):
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**SIZES, positions=positions)).eval()
    texts = [torch.randint(17, (length,)) for length in lengths]
    documents = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])
    packed = model.head(model.hidden_states(torch.cat(texts)[None], documents=documents[None]))[0]
    alone = torch.cat([model(text[None])[0] for text in texts])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_without_the_mask_they_do_see_each_other():
    """Position resets alone do not help: what stands in the first document changes the second."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SIZES)).eval()
    ids, other = torch.randint(17, (2, 1, 10))
    documents = torch.tensor([[0] * 5 + [1] * 5])
    other[:, 5:] = ids[:, 5:]
    positions = positions_in_documents(documents)

    def resets_alone(ids):
        x = model.embeddings(ids, positions)
        for block in model.blocks:
            x = block(x)
        return model.final_norm(x)[:, 5:]

    assert not torch.allclose(resets_alone(ids), resets_alone(other), atol=1e-3)
    here, there = (model.hidden_states(each, documents=documents)[:, 5:] for each in (ids, other))
    torch.testing.assert_close(here, there, atol=0, rtol=0)


@pytest.mark.parametrize("vocab_size", [17, 5000])
def test_loss_and_gradients_of_packed_rows_are_those_of_their_samples(vocab_size):
    torch.manual_seed(0)
    module = LanguageModel(GPTConfig(**{**SIZES, "vocab_size": vocab_size}))
    lengths = [7, 5, 9]
    inputs = [torch.randint(17, (length,)) for length in lengths]
    targets = [torch.where(torch.arange(length) < 2, IGNORED, torch.randint(17, (length,))) for length in lengths]
    documents = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])
    rows = [TokenBatch(row[None], wanted[None]) for row, wanted in zip(inputs, targets, strict=True)]
    packed = TokenBatch(
        torch.cat(inputs)[None], torch.cat(targets)[None], torch.tensor([21]), documents=documents[None]
    )

    def loss_and_gradients(batches):
        module.zero_grad()
        loss = torch.stack([module.loss_of(module.hidden_states(batch), batch).loss for batch in batches]).sum()
        loss.backward()
        return loss.detach(), [
            parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None
        ]

    (loss, gradients), (alone, their_gradients) = loss_and_gradients([packed]), loss_and_gradients(rows)
    torch.testing.assert_close(loss, alone, atol=1e-5, rtol=1e-6)
    for mine, theirs in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_attention_that_sees_the_future_is_refused():
    model = GPT(GPTConfig(**SIZES, causal=False))
    with pytest.raises(ConfigError, match="packed documents need causal attention"):
        model.hidden_states(torch.zeros(1, 4, dtype=torch.int64), documents=torch.zeros(1, 4, dtype=torch.int64))
