import pytest
import torch

from llm.config import GPTConfig
from llm.model import Embeddings


def make(**options):
    torch.manual_seed(123)
    return Embeddings(GPTConfig(n_head=1, **options)).eval()


def test_token_vectors_of_the_notes(figures):
    golden = figures["embeddings"]["seed_123_vocab6_dim3"]
    embeddings = make(vocab_size=6, n_embd=3, context_length=4)
    weight = embeddings.token.weight.detach()
    torch.testing.assert_close(weight, torch.tensor(golden["weight"]), atol=5.1e-5, rtol=0)

    torch.nn.init.zeros_(embeddings.position.weight)
    rows = embeddings(torch.tensor([golden["ids"]])).detach()
    torch.testing.assert_close(rows[0], torch.tensor(golden["rows"]), atol=5.1e-5, rtol=0)


def test_shapes_of_the_notes(figures):
    golden = figures["embeddings"]["shapes_vocab50257_dim256_L4_batch8"]
    embeddings = make(vocab_size=50257, n_embd=256, context_length=4)
    ids = torch.randint(50257, (8, 4))
    shapes = {
        "token ids": list(ids.shape),
        "token embeddings": list(embeddings.token(ids).shape),
        "positional embeddings": list(embeddings.position(torch.arange(4)).shape),
        "input embeddings": list(embeddings(ids).shape),
    }
    assert shapes == golden


def test_a_vector_is_token_plus_position():
    embeddings = make(vocab_size=6, n_embd=3, context_length=5)
    ids = torch.tensor([[1, 1, 4], [5, 0, 1]])
    vectors = embeddings(ids)
    for b in range(2):
        for t in range(3):
            expected = embeddings.token.weight[ids[b, t]] + embeddings.position.weight[t]
            torch.testing.assert_close(vectors[b, t], expected)
    assert not torch.allclose(vectors[0, 0], vectors[0, 1])


def test_dropout_is_for_training_only():
    embeddings = make(vocab_size=6, n_embd=64, context_length=5, dropout=0.5)
    ids = torch.tensor([[1, 2, 3]])
    assert (embeddings(ids) != 0).all()
    dropped = (embeddings.train()(ids) == 0).float().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.15)
