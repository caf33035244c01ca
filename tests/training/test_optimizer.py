import itertools
import math
from dataclasses import replace

import pytest
import torch

from llm.config import GPTConfig, LoRAConfig, OptimConfig
from llm.errors import ConfigError
from llm.model import GPT
from llm.model.trained import Trained
from llm.training.optimizer import build_optimizer, build_schedule, learning_rate_at, parameter_groups, remember_shapes

CONFIG = OptimConfig(learning_rate=1.0, final_learning_rate_ratio=0.1, warmup_steps=10)


def test_matrices_decay_and_vectors_do_not(tiny):
    model = GPT(tiny)
    decayed, undecayed = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim == 2 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in undecayed["params"])
    grouped = {id(p) for group in (decayed, undecayed) for p in group["params"]}
    assert grouped == {id(parameter) for parameter in model.parameters()}


def test_a_flat_piece_of_a_matrix_decays_as_the_matrix_does(tiny):
    model = GPT(tiny)
    remember_shapes(model)
    whole = [id(parameter) for parameter in parameter_groups(model, 0.1)[0]["params"]]
    for parameter in model.parameters():  # what FSDP leaves each process
        parameter.data = parameter.data.flatten()[::2]
    assert [id(parameter) for parameter in parameter_groups(model, 0.1)[0]["params"]] == whole


def test_a_model_without_vectors_has_one_group():
    bare = GPTConfig(7, 4, n_layer=1, n_embd=4, attention="dot", norm="none", mlp="none")
    assert len(parameter_groups(GPT(bare), 0.1)) == 1


def test_learning_rate_rises_in_a_line_and_falls_in_a_cosine():
    rates = [learning_rate_at(step, CONFIG, total_steps=110) for step in range(111)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx((1 + 0.1) / 2)  # half way down
    assert rates[110] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


def test_learning_rate_stays_where_the_end_is_unknown_or_over():
    assert learning_rate_at(10_000, CONFIG, total_steps=None) == 1.0
    assert learning_rate_at(10_000, CONFIG, total_steps=110) == pytest.approx(0.1)


WSD = replace(CONFIG, schedule="warmup_stable_decay", decay_fraction=0.3)


def test_learning_rate_rises_stays_and_falls_in_a_line():
    rates = [learning_rate_at(step, WSD, total_steps=100) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:71] == [1.0] * 61
    assert rates[70:] == pytest.approx([1.0 - 0.9 * step / 30 for step in range(31)])
    assert learning_rate_at(500, WSD, total_steps=100) == pytest.approx(0.1)
    assert learning_rate_at(500, WSD, total_steps=None) == 1.0


@pytest.mark.parametrize(("decay_fraction", "step_after_peak"), [(0.0, 100), (1.0, 11)])
def test_the_fall_may_be_nothing_or_everything(decay_fraction, step_after_peak):
    config = replace(WSD, decay_fraction=decay_fraction)
    rates = [learning_rate_at(step, config, total_steps=100) for step in range(101)]
    assert rates[10:step_after_peak] == [1.0] * (step_after_peak - 10), "the warm-up is whole"
    assert rates[step_after_peak] < 1.0
    assert rates[100] == pytest.approx(0.1)


def test_no_warmup_starts_at_the_peak():
    assert learning_rate_at(0, OptimConfig(warmup_steps=0), total_steps=10) == 1.0


def test_schedule_is_stepped_per_step(tiny):
    optimizer = build_optimizer(GPT(tiny), CONFIG)
    schedule = build_schedule(optimizer, CONFIG, total_steps=20)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_step_equals_adamw_by_hand(tiny):
    torch.manual_seed(0)
    model = GPT(tiny)
    config = OptimConfig(learning_rate=0.01, weight_decay=0.5, beta1=0.9, beta2=0.95)
    optimizer = build_optimizer(model, config)
    weight = model.blocks[0].mlp.expand.weight
    before, gradient = weight.detach().clone(), torch.randn_like(weight)
    weight.grad = gradient
    optimizer.step()
    # The first step of Adam moves by the sign of the gradient, and decay comes apart from it.
    expected = before * (1 - 0.01 * 0.5) - 0.01 * gradient / (gradient.abs() + config.epsilon * math.sqrt(1 - 0.95))
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_muon_is_refused_with_adapters_and_what_to_set_is_said(tiny):
    model = GPT(tiny)
    Trained(None, LoRAConfig(rank=2)).apply_to(model)
    with pytest.raises(ConfigError, match=r"not for LoRA.s factors: set --model\.optim\.kind adamw"):
        build_optimizer(model, OptimConfig(kind="muon"))
    build_optimizer(model, OptimConfig(kind="adamw"))
