import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llm.config import GPTConfig, OptimConfig
from llm.model import GPT
from llm.training.muon import MuonWithAdamW, orthogonalize
from llm.training.optimizer import build_optimizer, build_schedule

CONFIG = OptimConfig(kind="muon", learning_rate=0.01, muon_learning_rate=0.05, weight_decay=0.3)
ROUNDING = {"atol": 1e-3, "rtol": 0.0}  # of bfloat16, in moves of more than ten times that


def set_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def matrices_of(model):
    return {name: p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2}


# The reference


def separate(name, matrix, rows):
    """Wq, Wk and Wv, which have so many rows, each on its own."""
    return matrix.split(rows) if "qkv" in name else (matrix,)


def torch_muon(matrices, config, rows):
    """torch.optim.Muon on copies of the matrices, Wq, Wk and Wv each on its own."""
    parts = {}
    for name, matrix in matrices.items():
        for number, part in enumerate(separate(name, matrix.detach(), rows)):
            parts[name, number] = nn.Parameter(part.clone())
    optimizer = torch.optim.Muon(
        parts.values(), lr=config.muon_learning_rate, weight_decay=config.weight_decay, momentum=config.muon_momentum
    )
    return parts, optimizer


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"n_embd": 8}, [8, 8, 8]),
        ({"n_embd": 32}, [32, 32, 32]),
        ({"n_head": 4, "n_kv_head": 1, "head_size": 4}, [16, 4, 4]),
    ],
    ids=str,
)
def test_matrices_move_as_torch_muon_moves_them(tiny, settings, rows):
    torch.manual_seed(0)
    model = GPT(replace(tiny, **settings))
    optimizer = build_optimizer(model, CONFIG)
    parts, reference = torch_muon(matrices_of(model), CONFIG, rows)
    for step in range(4):
        before = {name: matrix.detach().clone() for name, matrix in matrices_of(model).items()}
        set_gradients(model, step)
        for (name, number), part in parts.items():
            gradient = matrices_of(model)[name].grad
            part.grad = separate(name, gradient, rows)[number].clone()
        optimizer.step()
        reference.step()
        for name, matrix in matrices_of(model).items():
            theirs = torch.cat([part for (other, _), part in parts.items() if other == name])
            torch.testing.assert_close(matrix, theirs, **ROUNDING)
            assert (matrix - before[name]).abs().max() > 10 * ROUNDING["atol"], "it moved further than rounding"


def test_everything_else_moves_as_adamw_moves_it(tiny):
    torch.manual_seed(0)
    model = GPT(replace(tiny, tie_head=False))
    twin = copy.deepcopy(model)
    optimizer, reference = build_optimizer(model, CONFIG), build_optimizer(twin, replace(CONFIG, kind="adamw"))
    for step in range(3):
        set_gradients(model, step)
        set_gradients(twin, step)
        optimizer.step()
        reference.step()
    matrices = matrices_of(model)
    others = [name for name, _ in model.named_parameters() if name not in matrices]
    assert {"embeddings.token.weight", "embeddings.position.weight", "head.weight"} < set(others)
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs[name]) == (name in others), name


@given(
    n=st.integers(1, 4),
    rows=st.integers(1, 12),
    more=st.integers(0, 12),
    seed=st.integers(0, 99),
    scale=st.floats(-3, 3),
)
def test_orthogonal_matrices_have_singular_values_near_1(n, rows, more, seed, scale):
    torch.manual_seed(seed)
    left, right = torch.randn(n, rows, rows), torch.randn(n, rows + more, rows)
    (u, _), (v, _) = torch.linalg.qr(left), torch.linalg.qr(right)
    values = torch.linspace(0.2, 1.0, rows)  # no direction too faint to be found
    found = orthogonalize(10**scale * u * values @ v.mT).float()
    assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.4
    # No direction is turned: it is the U V^T of the matrix, but for the values.
    assert ((u.mT @ found @ v) - torch.diag_embed((u.mT @ found @ v).diagonal(dim1=-2, dim2=-1))).abs().max() < 0.1


@given(
    rows=st.integers(2, 48),
    ratio=st.sampled_from([1.0, 1.25, 1.5, 4.0]),
    rank=st.integers(1, 48),
    smallest=st.floats(-2, 0),
    seed=st.integers(0, 99),
)
def test_ill_conditioned_and_low_rank_matrices_become_orthogonal_where_they_are_something(
    rows, ratio, rank, smallest, seed
):
    torch.manual_seed(seed)
    rank = min(rank, rows)
    left, right = torch.randn(rows, rank), torch.randn(int(ratio * rows), rank)
    (u, _), (v, _) = torch.linalg.qr(left), torch.linalg.qr(right)
    values = torch.logspace(0, smallest, rank)  # up to a hundred times as faint
    (found,) = orthogonalize((u * values @ v.mT)[None]).float()
    along = u.mT @ found @ v
    assert (along.diagonal() - 1).abs().max() < 0.4
    assert torch.linalg.svdvals(found).max() < 1.3, "nothing, not even rounding, becomes long"


@pytest.mark.parametrize("columns", [16, 64])
def test_a_batch_is_its_matrices_one_by_one(columns):
    torch.manual_seed(0)
    matrices = torch.randn(5, 16, columns)
    one_by_one = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), one_by_one, atol=2e-2, rtol=0)


def test_a_gradient_of_zero_moves_nothing():
    assert (orthogonalize(torch.zeros(2, 3, 4)) == 0).all()


def test_all_same_shaped_matrices_are_one_batch(tiny, monkeypatch):
    shapes = []

    def watch(matrices):
        shapes.append(tuple(matrices.shape))
        return orthogonalize(matrices)

    monkeypatch.setattr("llm.training.muon.orthogonalize", watch)
    model = GPT(tiny)  # 2 layers: 2 x (Wq, Wk, Wv, output) of 8 x 8; 2 x (expand, back) of 32 x 8 and 8 x 32
    set_gradients(model, 0)
    build_optimizer(model, CONFIG).step()
    assert sorted(shapes) == [(4, 8, 32), (8, 8, 8)]


def test_each_parameter_is_in_one_group_and_muon_has_its_own_rate(tiny):
    model = GPT(tiny)
    optimizer = build_optimizer(model, CONFIG)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    muon = [group for group in optimizer.param_groups if "matrices" in group]
    assert {id(p) for group in muon for p in group["params"]} == {id(p) for p in matrices_of(model).values()}
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01, 0.05, 0.05]
    assert [group["matrices"] for group in muon] == [3, 1]


def test_both_rates_follow_the_schedule(tiny):
    config = replace(
        CONFIG, warmup_steps=4, schedule="warmup_stable_decay", decay_fraction=0.5, final_learning_rate_ratio=0.0
    )
    model = GPT(tiny)
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, config, total_steps=20)
    for share in (0.25, 0.5, 0.75, 1.0, 1.0):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.01 * share] * 2 + [0.05 * share] * 2)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("attention", ["dot", "self", "causal"])
def test_every_model_can_be_trained(tiny, attention):
    torch.manual_seed(0)
    model = GPT(replace(tiny, attention=attention))
    bare = GPT(GPTConfig(17, 4, n_layer=1, n_embd=4, attention="dot", norm="none", mlp="none"))
    for trained in (model, bare):
        optimizer = build_optimizer(trained, CONFIG)
        before = [p.detach().clone() for p in trained.parameters()]
        set_gradients(trained, 0)
        optimizer.step()
        assert not any(torch.equal(p, q) for p, q in zip(trained.parameters(), before, strict=True))


def test_frozen_parameters_and_missing_gradients_stay(tiny):
    model = GPT(tiny)
    model.blocks[0].requires_grad_(False)
    optimizer = build_optimizer(model, CONFIG)
    set_gradients(model, 0)
    model.blocks[1].mlp.expand.weight.grad = None
    kept = [*model.blocks[0].parameters(), model.blocks[1].mlp.expand.weight]
    before = [p.detach().clone() for p in kept]
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(kept, before, strict=True))


def test_a_state_is_stored_and_goes_on_bit_for_bit(tiny, tmp_path):
    torch.manual_seed(0)
    model = GPT(tiny)
    optimizer = build_optimizer(model, CONFIG)
    for step in range(2):
        set_gradients(model, step)
        optimizer.step()
    twin = copy.deepcopy(model)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = build_optimizer(twin, CONFIG)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(2, 5):
        for some, its in ((model, optimizer), (twin, resumed)):
            set_gradients(some, step)
            its.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_closure_is_called_once(tiny):
    model = GPT(tiny)
    optimizer = build_optimizer(model, CONFIG)
    assert isinstance(optimizer, MuonWithAdamW)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = model(torch.tensor([[1, 2]])).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    assert calls == [True]


@pytest.mark.gpu
def test_on_a_gpu(tiny):
    torch.manual_seed(0)
    model = GPT(tiny)
    twin = copy.deepcopy(model).cuda()
    for some in (model, twin):
        optimizer = build_optimizer(some, CONFIG)
        set_gradients(model, 0)
        for p, q in zip(some.parameters(), model.parameters(), strict=True):
            p.grad = q.grad.to(p.device)
        optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q.cpu(), atol=5e-3, rtol=0)
