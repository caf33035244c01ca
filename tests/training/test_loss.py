"""The fused loss against the plain one: the same value, the same gradients, less memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import GPTConfig
from llm.model import Head
from llm.training import loss as losses
from llm.training.loss import fused_loss, head_loss, plain_loss, to_gradient, to_gradient_in_one


def results(way, head, x, targets, precision=None, scale=1.0, with_accuracy=True):
    x = x.detach().clone().requires_grad_()
    head.weight.grad = None
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        loss, accuracy = way(head, x, targets, with_accuracy)
    (loss * scale).backward()
    return loss.detach(), accuracy, x.grad, head.weight.grad


def example(n_tokens=97, n_embd=16, vocab_multiple=1, shape=(3, 7), seed=0):
    torch.manual_seed(seed)
    head = Head(GPTConfig(n_tokens, n_head=1, n_embd=n_embd, vocab_multiple=vocab_multiple))
    return head, torch.randn(*shape, n_embd), torch.randint(n_tokens, shape)


@pytest.fixture(params=[1, 4_000, 1 << 27], ids=["a row a block", "some blocks", "one block"])
def block(request, monkeypatch):
    monkeypatch.setitem(losses._BLOCK_BYTES, "cpu", request.param)
    monkeypatch.setattr(losses, "_ROWS", 4)
    monkeypatch.setattr(losses, "_COLUMNS", 10)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("vocab_multiple", [1, 64])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_value_and_gradients_are_those_of_the_plain_loss(vocab_multiple, scale):
    given = example(vocab_multiple=vocab_multiple)
    ours, plain = (results(way, *given, scale=scale) for way in (fused_loss, plain_loss))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("block")
def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_plain_loss():
    given = example(n_tokens=500, n_embd=64, shape=(4, 32))
    truth = results(plain_loss, *given)
    plain = results(plain_loss, *given, precision=torch.bfloat16)
    ours = results(fused_loss, *given, precision=torch.bfloat16)
    assert ours[0].dtype == torch.float32
    torch.testing.assert_close(ours[0], plain[0], atol=1e-4, rtol=0)
    for exact, theirs, mine in zip(truth[2:], plain[2:], ours[2:], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - exact).norm() <= 1.5 * (theirs - exact).norm()
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=2e-2)


@pytest.mark.usefixtures("block")
def test_in_float16_it_bears_a_scale_against_underflow():
    given = example(n_tokens=500, n_embd=64, shape=(4, 512))
    truth = results(plain_loss, *given, scale=2.0**17)
    plain = results(plain_loss, *given, scale=2.0**17, precision=torch.float16)
    ours = results(fused_loss, *given, scale=2.0**17, precision=torch.float16)
    for exact, theirs, mine in zip(truth[2:], plain[2:], ours[2:], strict=True):
        assert (mine - exact).norm() <= 1.5 * (theirs - exact).norm()


def test_a_sum_over_many_blocks_is_exact_where_the_weights_are_short(monkeypatch):
    head, x, targets = example(n_tokens=50, shape=(4, 256))
    head, x = head.bfloat16(), x.bfloat16()
    plain = results(plain_loss, head, x, targets)
    monkeypatch.setitem(losses._BLOCK_BYTES, "cpu", 500)
    ours = results(fused_loss, head, x, targets)
    assert ours[3].dtype == torch.bfloat16
    assert (ours[3] - plain[3]).norm() <= 0.006 * plain[3].norm()


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 5000), st.floats(0.1, 50))
def test_any_size_and_any_scores(n_rows, n_tokens, block_bytes, size):
    head, x, targets = example(n_tokens=n_tokens, n_embd=4, shape=(1, n_rows), seed=n_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses._BLOCK_BYTES, "cpu", block_bytes)
        ours = results(fused_loss, head, x * size, targets)
    for mine, plain in zip(ours, results(plain_loss, head, x * size, targets), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [None, 0.25])
def test_what_is_written_for_a_compiler_is_the_same(dtype, share):
    torch.manual_seed(0)
    scores, targets = torch.randn(37, 501).mul(3).to(dtype), torch.randint(501, (37,))
    before, mine, theirs = scores.clone(), scores.clone(), scores.clone()
    expected = torch.nn.functional.cross_entropy(scores.float(), targets, reduction="none")
    torch.testing.assert_close(to_gradient_in_one(mine, targets, share), expected)
    torch.testing.assert_close(to_gradient(theirs, targets, share), expected)
    torch.testing.assert_close(mine, theirs)
    assert torch.equal(mine, before) is (share is None)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("vocab_multiple", [1, 64])
def test_compiled_it_has_the_value_and_gradients_of_the_plain_loss(vocab_multiple):
    given = example(vocab_multiple=vocab_multiple)
    step = torch.compile(to_gradient_in_one, backend="aot_eager")
    ours = results(lambda *words: fused_loss(*words, to_gradient=step), *given)
    for mine, theirs in zip(ours, results(plain_loss, *given), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_a_score_far_below_the_others_has_a_finite_loss():
    head, x, _ = example()
    x = x * 1e4
    targets = head(x).argmin(-1)
    assert torch.isfinite(fused_loss(head, x, targets).loss)


def test_the_fused_loss_is_the_default_for_a_large_vocabulary(monkeypatch):
    given = example(n_tokens=5000)
    assert torch.equal(head_loss(*given).loss, fused_loss(*given).loss)
    monkeypatch.setattr(losses, "fused_loss", None)
    assert head_loss(*example(n_tokens=65)).loss.ndim == 0


def test_frozen_parts_get_no_gradient():
    head, x, targets = example()
    head.weight.requires_grad_(False)
    x.requires_grad_()
    fused_loss(head, x, targets).loss.backward()
    assert x.grad is not None
    assert head.weight.grad is None


def test_no_gradients_are_computed_where_nobody_wants_them(monkeypatch):
    head, x, targets = example()
    monkeypatch.setattr(torch, "mm", None)
    with torch.no_grad():
        loss, accuracy = fused_loss(head, x, targets, with_accuracy=True)
    plain = plain_loss(head, x, targets, with_accuracy=True)
    torch.testing.assert_close(loss, plain.loss)
    assert accuracy == plain.accuracy


def test_gradients_can_be_taken_once():
    head, x, targets = example()
    loss = fused_loss(head, x, targets).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()
