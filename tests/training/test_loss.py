"""The fused loss against the plain one: the same value, the same gradients, less memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llm.config import GPTConfig
from llm.data.batch import IGNORED
from llm.model import Head
from llm.training import fused_loss as fused
from llm.training import loss as losses
from llm.training.loss import (
    compilable_cross_entropy_with_grad_,
    cross_entropy_with_grad_,
    fused_loss,
    head_loss,
    plain_loss,
)


def results(way, head, x, targets, precision=None, scale=1.0, with_accuracy=True):
    x = x.detach().clone().requires_grad_()
    head.zero_grad()
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        loss, n_correct = way(head, x.flatten(0, -2), targets.flatten(), with_accuracy, 1 / max(1, targets.numel()))
    (loss * scale).backward()
    bias = () if head.bias is None else (head.bias.grad,)
    return loss.detach(), n_correct, x.grad, head.weight.grad, *bias


def example(n_tokens=97, n_embd=16, vocab_multiple=1, shape=(3, 7), seed=0, bias=False):
    torch.manual_seed(seed)
    head = Head(GPTConfig(n_tokens, n_head=1, n_embd=n_embd, vocab_multiple=vocab_multiple), bias)
    if bias:
        torch.nn.init.normal_(head.bias)
    return head, torch.randn(*shape, n_embd), torch.randint(n_tokens, shape)


@pytest.fixture(params=[1, 4_000, 1 << 27], ids=["a row a block", "some blocks", "one block"])
def block(request, monkeypatch):
    monkeypatch.setitem(fused.BLOCK_BYTES, "cpu", request.param)
    monkeypatch.setattr(losses, "ROWS_PER_THREAD", 4)
    monkeypatch.setattr(fused, "COLUMNS", 10)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("vocab_multiple", [1, 64])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_are_those_of_the_plain_loss(vocab_multiple, scale, bias):
    given = example(vocab_multiple=vocab_multiple, bias=bias)
    ours, plain = (results(way, *given, scale=scale) for way in (fused_loss, plain_loss))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("block")
def test_capped_logits_have_the_gradients_of_the_plain_loss():
    head, x, targets = example()
    head.softcap = 1.5
    ours, plain = (results(way, head, 3 * x, targets) for way in (fused_loss, plain_loss))
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
    head.softcap = None
    assert not torch.allclose(results(fused_loss, head, 3 * x, targets)[0], plain[0], rtol=1e-2)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("bias", [False, True])
def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_plain_loss(bias):
    given = example(n_tokens=500, n_embd=64, shape=(4, 32), bias=bias)
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
@pytest.mark.parametrize("bias", [False, True])
def test_in_float16_it_bears_a_scale_against_underflow(bias):
    given = example(n_tokens=500, n_embd=64, shape=(4, 512), bias=bias)
    truth = results(plain_loss, *given, scale=2.0**17)
    plain = results(plain_loss, *given, scale=2.0**17, precision=torch.float16)
    ours = results(fused_loss, *given, scale=2.0**17, precision=torch.float16)
    for exact, theirs, mine in zip(truth[2:], plain[2:], ours[2:], strict=True):
        assert (mine - exact).norm() <= 1.5 * (theirs - exact).norm()


def test_a_sum_over_many_blocks_is_exact_where_the_weights_are_short(monkeypatch):
    head, x, targets = example(n_tokens=50, shape=(4, 256))
    head, x = head.bfloat16(), x.bfloat16()
    plain = results(plain_loss, head, x, targets)
    monkeypatch.setitem(fused.BLOCK_BYTES, "cpu", 500)
    ours = results(fused_loss, head, x, targets)
    assert ours[3].dtype == torch.bfloat16
    assert (ours[3] - plain[3]).norm() <= 0.006 * plain[3].norm()


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 5000), st.floats(0.1, 50))
def test_any_size_and_any_scores(n_rows, n_tokens, block_bytes, size):
    head, x, targets = example(n_tokens=n_tokens, n_embd=4, shape=(1, n_rows), seed=n_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fused.BLOCK_BYTES, "cpu", block_bytes)
        ours = results(fused_loss, head, x * size, targets)
    for mine, plain in zip(ours, results(plain_loss, head, x * size, targets), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_what_is_written_for_a_compiler_is_the_same(dtype, scale):
    torch.manual_seed(0)
    logits, targets = torch.randn(37, 501).mul(3).to(dtype), torch.randint(501, (37,))
    targets[::5] = IGNORED
    before, mine, theirs = logits.clone(), logits.clone(), logits.clone()
    expected = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    torch.testing.assert_close(compilable_cross_entropy_with_grad_(mine, targets, scale), expected)
    torch.testing.assert_close(cross_entropy_with_grad_(theirs, targets, scale), expected)
    torch.testing.assert_close(mine, theirs)
    assert torch.equal(mine, before) is (scale is None)


@pytest.mark.parametrize("way", [cross_entropy_with_grad_, compilable_cross_entropy_with_grad_])
@pytest.mark.parametrize("vocab_size", [None, 5])
def test_smoothed_labels_are_those_of_torch(way, vocab_size):
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 7, dtype=torch.float64).float(), torch.tensor([0, 4, IGNORED, 2, 1, 3])
    wanted = logits[:, :vocab_size].clone().requires_grad_()
    losses = F.cross_entropy(wanted, targets, label_smoothing=0.2, reduction="none")
    (3.0 * losses.sum()).backward()
    torch.testing.assert_close(way(logits, targets, 3.0, vocab_size, 0.2), losses.detach())
    torch.testing.assert_close(logits[:, :vocab_size], wanted.grad)
    assert (logits[:, 7 if vocab_size is None else vocab_size :] == 0).all()


@pytest.mark.parametrize("way", [cross_entropy_with_grad_, compilable_cross_entropy_with_grad_])
def test_what_is_beyond_the_vocabulary_does_not_count_and_gets_no_gradient(way):
    torch.manual_seed(0)
    logits, targets = torch.randn(37, 64), torch.randint(50, (37,))
    alone, wide = logits[:, :50].clone(), logits.clone()
    torch.testing.assert_close(way(wide, targets, 0.5, 50), way(alone, targets, 0.5))
    torch.testing.assert_close(wide[:, :50], alone)
    assert not wide[:, 50:].any()


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("vocab_multiple", [1, 64])
@pytest.mark.parametrize("bias", [False, True])
def test_compiled_it_has_the_value_and_gradients_of_the_plain_loss(vocab_multiple, bias):
    given = example(vocab_multiple=vocab_multiple, bias=bias)
    step = torch.compile(compilable_cross_entropy_with_grad_, backend="aot_eager")
    ours = results(lambda *words: fused_loss(*words, cross_entropy=step), *given)
    for mine, theirs in zip(ours, results(plain_loss, *given), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_a_score_far_below_the_others_has_a_finite_loss():
    head, x, _ = example()
    x = x * 1e4
    targets = head(x).argmin(-1)
    assert torch.isfinite(fused_loss(head, x.flatten(0, 1), targets.flatten())[0])


def test_the_fused_loss_is_the_default_for_a_large_vocabulary(monkeypatch):
    given = example(n_tokens=5000)
    head, x, targets = given
    assert torch.equal(head_loss(*given).loss, fused_loss(head, x.flatten(0, 1), targets.flatten())[0])
    monkeypatch.setattr(losses, "fused_loss", None)
    assert head_loss(*example(n_tokens=65)).loss.ndim == 0


def test_frozen_parts_get_no_gradient():
    head, x, targets = example()
    head.weight.requires_grad_(False)
    x.requires_grad_()
    fused_loss(head, x.flatten(0, 1), targets.flatten())[0].backward()
    assert x.grad is not None
    assert head.weight.grad is None


def test_no_gradients_are_computed_where_nobody_wants_them(monkeypatch):
    head, x, targets = example()
    monkeypatch.setattr(torch, "mm", None)
    with torch.no_grad():
        loss, n_correct = fused_loss(head, x.flatten(0, 1), targets.flatten(), with_accuracy=True)
    plain = plain_loss(head, x.flatten(0, 1), targets.flatten(), with_accuracy=True)
    torch.testing.assert_close(loss, plain[0])
    assert n_correct == plain[1]


def test_a_bias_alone_gets_its_gradient():
    head, x, targets = example(bias=True)
    head.weight.requires_grad_(False)
    fused_loss(head, x.flatten(0, 1), targets.flatten())[0].backward()
    found, head.bias.grad = head.bias.grad, None
    plain_loss(head, x.flatten(0, 1), targets.flatten())[0].backward()
    torch.testing.assert_close(found, head.bias.grad)


@pytest.mark.parametrize("n_tokens", [97, 5000])
def test_layers_before_the_head_see_supervised_tokens_alone(n_tokens):
    head, x, targets = example(n_tokens=n_tokens)
    targets[0, 2:] = targets[2] = IGNORED
    rows = []
    prediction = head_loss(head, x, targets, transform=lambda states: rows.append(len(states)) or 2 * states)
    assert rows == [9]
    torch.testing.assert_close(prediction.loss, head_loss(head, 2 * x, targets).loss)


def test_gradients_can_be_taken_once():
    head, x, targets = example()
    loss, _ = fused_loss(head, x.flatten(0, 1), targets.flatten())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("n_tokens", [97, 5000])
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_not_supervised_adds_nothing_and_is_not_counted(n_tokens, precision, compiled):
    head, x, targets = example(n_tokens=n_tokens)
    targets[0, 2:] = targets[2] = IGNORED
    supervised = targets != IGNORED
    step = torch.compile(compilable_cross_entropy_with_grad_, backend="aot_eager")
    found = []
    for states, wanted in ((x, targets), (x[supervised], targets[supervised])):
        states = states.clone().requires_grad_()
        head.weight.grad = None
        with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            options = {"cross_entropy": step} if compiled else {}
            prediction = head_loss(head, states, wanted, with_accuracy=True, **options)
        prediction.loss.backward()
        found.append((prediction, states.grad, head.weight.grad))
    (masked, grad, weight_grad), (alone, grad_alone, weight_grad_alone) = found
    assert masked.n_tokens == alone.n_tokens == supervised.sum() == 9
    assert masked.n_correct == alone.n_correct
    torch.testing.assert_close(masked.loss, alone.loss)
    torch.testing.assert_close(masked.mean, alone.loss / 9)
    torch.testing.assert_close(weight_grad, weight_grad_alone)
    torch.testing.assert_close(grad[supervised], grad_alone)
    assert not grad[~supervised].any()


@pytest.mark.parametrize("way", [fused_loss, plain_loss])
@pytest.mark.parametrize("n_rows", [0, 5])
def test_a_batch_with_nothing_supervised_has_no_loss_and_no_gradient(way, n_rows):
    head, x, _ = example(n_tokens=5000, shape=(1, n_rows))
    x = x.flatten(0, 1).requires_grad_()
    loss, n_correct = way(head, x, torch.full((n_rows,), IGNORED), with_accuracy=True)
    loss.backward()
    assert loss == 0
    assert n_correct == 0
    assert not x.grad.any()
    assert not head.weight.grad.any()


def test_the_mean_of_nothing_is_zero():
    head, x, targets = example()
    prediction = head_loss(head, x, torch.full_like(targets, IGNORED), with_accuracy=True)
    assert prediction.mean == 0
    assert prediction.accuracy == 0


@pytest.mark.gpu
@pytest.mark.parametrize("vocab_multiple", [1, 64])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_on_a_gpu_it_is_that_of_the_processor(vocab_multiple, compiled, bias):
    head, x, targets = example(n_tokens=5003, n_embd=64, vocab_multiple=vocab_multiple, shape=(4, 128), bias=bias)
    targets[1, 5:] = IGNORED
    expected = results(plain_loss, head, x, targets)
    step = torch.compile(compilable_cross_entropy_with_grad_) if compiled else cross_entropy_with_grad_
    there = Head(GPTConfig(5003, n_head=1, n_embd=64, vocab_multiple=vocab_multiple), bias).cuda()
    there.load_state_dict(head.state_dict())
    states = x.cuda().requires_grad_()
    prediction = head_loss(there, states, targets.cuda(), True, 1 / targets.numel(), step)
    prediction.loss.backward()
    found = (prediction.loss.detach(), prediction.n_correct, states.grad, there.weight.grad)
    found += (there.bias.grad,) if bias else ()
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), wanted, atol=1e-5, rtol=1e-3)


def test_in_float16_a_sum_over_many_tokens_does_not_overflow():
    head, _, _ = example(n_tokens=5000)
    x, targets = torch.zeros(4096, 16), torch.full((4096,), 3)
    x[:, 0] = 20.0
    with torch.no_grad():
        head.weight.zero_()
    truth = results(plain_loss, head, x, targets)
    ours = results(fused_loss, head, x, targets, precision=torch.float16)
    assert ours[3].isfinite().all()
    torch.testing.assert_close(ours[3], truth[3], atol=1e-2, rtol=1e-2)
