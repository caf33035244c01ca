"""What a step of any network costs, where it can be told by hand."""

import pytest
import torch
from torch import nn

from llm.config import GPTConfig
from llm.model import GPT
from llm.runtime.counting import count_costs

R, C, D = 8, 4, 6


def perceptron():
    return nn.Sequential(nn.Linear(C, D, bias=False), nn.ReLU(), nn.Linear(D, C, bias=False))


def test_a_perceptron_costs_what_is_counted_by_hand():
    costs = count_costs(perceptron, lambda model: model(torch.zeros(R, C)), "32-true", "cpu")
    assert costs.kept == 4 * (R * C + R * D + R * C)  # the input, what the activation gave, the output
    assert costs.scattered == costs.kept
    assert costs.forward_peak == 4 * (R * C + 2 * R * D)  # at the activation
    assert costs.backward_peak > costs.kept
    assert costs.flops == 2 * R * (5 * C * D)  # the gradient of the input is not asked for


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_the_precision_keeps_less(precision):
    full, half = (
        count_costs(perceptron, lambda model: model(torch.zeros(R, C)), kind, "cpu") for kind in ("32-true", precision)
    )
    assert half.kept < full.kept + 2 * 2 * C * D  # mixed precision adds copies of the weights
    assert half.flops == full.flops


def test_large_tensors_are_not_scattered():
    costs = count_costs(perceptron, lambda model: model(torch.zeros(1 << 22, C)), "32-true", "cpu")
    assert costs.kept >= 3 * 64 << 20
    assert costs.scattered == 0


def test_a_recurrent_network_needs_nothing_of_its_own():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, C)
            self.cell = nn.LSTM(C, D, batch_first=True)
            self.head = nn.Linear(D, 11)

        def forward(self, ids):
            return self.head(self.cell(self.embedding(ids))[0])

    short, long = (
        count_costs(
            Recurrent,
            lambda model, T=T: model(torch.zeros(2, T, dtype=torch.int64)).logsumexp(-1).sum(),
            "32-true",
            "cpu",
        )
        for T in (5, 10)
    )
    assert 1.5 * short.kept < long.kept <= 2 * short.kept
    assert long.flops == 2 * short.flops > 0


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_each_block_costs_the_same(dropout):
    def count(n_layer):
        config = GPTConfig(17, 8, n_layer=n_layer, n_head=2, n_embd=8, dropout=dropout)
        return count_costs(
            lambda: GPT(config), lambda model: model(torch.zeros(2, 8, dtype=torch.int64)).sum(), "32-true", "cpu"
        )

    one, two, five = map(count, (1, 2, 5))
    assert five.kept == one.kept + 4 * (two.kept - one.kept)
    assert five.flops == one.flops + 4 * (two.flops - one.flops)


def test_it_draws_no_random_number_and_leaves_the_default_dtype():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    count_costs(
        lambda: nn.Sequential(nn.Linear(C, D), nn.Dropout(0.5)),
        lambda model: model(torch.zeros(R, C)),
        "bf16-true",
        "cpu",
    )
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
