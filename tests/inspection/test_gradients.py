"""Gradients by layer: norms, steps, and non-finite values."""

import math

import pytest
import torch
from test_probe import make

from llm.config import GPTConfig
from llm.inspection.gradients import GradientFlow, flow_table, layer_parameters


def trained_once(model, learning_rate=0.1):
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    model(torch.arange(8)[None]).square().mean().backward()
    flow = GradientFlow(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    return flow, before


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_in_one_layer(tiny, tied):
    model = make(GPTConfig(**{**tiny.to_dict(), "tie_head": tied}))
    layers = layer_parameters(model)
    assert [*layers] == [
        "token embeddings",
        "positional embeddings",
        "block 0",
        "block 1",
        "final norm",
        *([] if tied else ["head"]),
    ]
    ids = [id(parameter) for parameters in layers.values() for parameter in parameters]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())


def test_norm_and_update_ratio_by_hand(tiny):
    model = make(tiny)
    flow, before = trained_once(model)
    for row in flow.after_step():
        names = [
            name
            for name, parameter in model.named_parameters()
            if any(parameter is own for own in layer_parameters(model)[row.name])
        ]
        gradients = torch.cat([model.get_parameter(name).grad.flatten() for name in names])
        old = torch.cat([before[name].flatten() for name in names])
        assert row.norm == pytest.approx(float(gradients.norm()), rel=1e-4)
        assert row.update_ratio == pytest.approx(float(0.1 * gradients.norm() / old.norm()), rel=1e-3)
        assert row.non_finite == 0


def test_values_that_are_no_numbers_are_counted_in_their_layer(tiny):
    model = make(tiny)
    model(torch.arange(8)[None]).sum().backward()
    gradient = model.blocks[1].attention.qkv.weight.grad
    gradient[0, 0], gradient[0, 1], gradient[1, 0] = math.nan, math.inf, -math.inf
    flows = {row.name: row for row in GradientFlow(model, keep_weights=False).before}
    assert flows.pop("block 1").non_finite == 3
    assert all(row.non_finite == 0 and math.isfinite(row.norm) for row in flows.values())
    assert "block 0" in flow_table([*flows.values()])


def test_measuring_changes_nothing(tiny):
    model = make(tiny)
    flow, _ = trained_once(model)
    after = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    flow.after_step()
    assert all(torch.equal(parameter, after[name]) for name, parameter in model.named_parameters())
