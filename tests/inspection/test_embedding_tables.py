"""Similar positions, near words, and labels that the projector can take."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_probe import make

from llm.config import GPTConfig, TokenizerConfig
from llm.inspection.embeddings import (
    choose_words,
    cosine_similarity,
    nearest,
    neighbours_table,
    positional_similarity,
    projector_sample,
    token_table,
    word_ids,
)
from llm.model import GPT
from llm.tokenizers import build_tokenizer


@given(N=st.integers(1, 20), C=st.integers(1, 8), seed=st.integers(0, 9))
def test_similarity_is_symmetric_with_ones_on_the_diagonal(N, C, seed):
    found = cosine_similarity(torch.randn(N, C, generator=torch.Generator().manual_seed(seed)))
    assert found.diagonal().eq(1).all()
    torch.testing.assert_close(found, found.mT)
    assert found.abs().max() <= 1


def test_similarity_by_hand():
    found = cosine_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(found[0], torch.tensor([1, 0, -1, 0.5**0.5], dtype=torch.float64))


@pytest.mark.parametrize(("context", "shown"), [(8, list(range(8))), (40, list(range(0, 40, 3)))])
def test_a_long_context_is_sampled_evenly(context, shown):
    model = GPT(GPTConfig(vocab_size=5, context_length=context, n_layer=1, n_head=1, n_embd=4))
    similarity, positions = positional_similarity(model, 16)
    assert positions == shown
    assert similarity.shape == (len(shown), len(shown))
    expected = torch.cosine_similarity(*model.embeddings.position.weight[[shown[1], shown[2]]].double(), dim=0)
    torch.testing.assert_close(similarity[1, 2], expected.detach())


def test_neighbours_are_found_by_angle_and_a_token_is_not_its_own():
    model = GPT(GPTConfig(vocab_size=4, context_length=2, n_layer=1, n_head=1, n_embd=2))
    with torch.no_grad():
        model.embeddings.token.weight.copy_(torch.tensor([[1.0, 0.0], [100.0, 10.0], [0.0, 1.0], [-1.0, 0.0]]))
    ids, cosines = nearest(token_table(model), [0], k=3)
    assert ids.tolist() == [[1, 2, 3]]
    torch.testing.assert_close(cosines, torch.tensor([[100 / 10100**0.5, 0.0, -1.0]]))
    assert nearest(token_table(model), [0, 3], k=10)[0].shape == (2, 3)


def test_padding_is_nobody_s_neighbour():
    model = GPT(GPTConfig(vocab_size=3, context_length=2, n_layer=1, n_head=1, n_embd=2, vocab_multiple=8))
    with torch.no_grad():
        model.embeddings.token.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], *[[1, 0]] * 5]))
    assert nearest(token_table(model), [0], k=7)[0].tolist() == [[1, 2]]


def test_the_table_of_neighbours(tiny):
    tokenizer = build_tokenizer(TokenizerConfig(kind="char", specials=()), ["abc|<d> efghijklm"])
    lines = neighbours_table(token_table(make(tiny)), tokenizer, tokenizer.encode("a|")).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {3}


def test_words_worth_a_look():
    tokenizer = build_tokenizer(TokenizerConfig(kind="word", specials=()), ["The remarkable cat , the cat sat"])
    ids = choose_words(tokenizer, tokenizer.encode("The remarkable cat , the cat"), most=2)
    assert [tokenizer.decode([i]) for i in ids] == ["The", "remarkable"]


def test_words_that_are_no_token_are_named():
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    ids, others = word_ids(tokenizer, ["king", "antidisestablishmentarianism"])
    assert [tokenizer.decode([i]) for i in ids] == [" king"]
    assert others == ["antidisestablishmentarianism"]


def test_the_projector_has_the_tokens_of_the_text_or_the_most_frequent_of_them():
    tokens = torch.tensor([7, 7, 7, 2, 2, 9])
    assert projector_sample(10, tokens, 10).tolist() == [2, 7, 9]
    assert projector_sample(10, tokens, 3).tolist() == [2, 7, 9]
    assert projector_sample(10, tokens, 2).tolist() == [2, 7]
    assert projector_sample(10, tokens, 9).tolist() == [2, 7, 9]  # no token that the text does not have


def test_neighbours_are_sought_among_the_trained_tokens_alone(tiny):
    model = make(tiny)
    with torch.no_grad():
        table = model.embeddings.token.weight
        table[1] = table[0]  # as near as can be
    assert nearest(token_table(model), [0], k=1)[0].tolist() == [[1]]
    among = torch.tensor([0, 2, 5])
    found, cosines = nearest(token_table(model), [0], k=4, among=among)
    assert sorted(found[0].tolist()) == [2, 5]
    assert cosines.isfinite().all()
