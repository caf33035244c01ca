"""The kernel for GPUs gives what torch's own operations give."""

from __future__ import annotations

import pytest
import torch

from llm.data.batch import IGNORED
from llm.training.loss import cross_entropy_with_grad_, has_kernel


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("vocab_size", "width"), [(5000, 5000), (50_257, 50_304), (8192, 8192), (20_001, 20_032)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [None, 0.37])
def test_the_kernel_on_a_gpu_is_the_loss_and_gradient_of_torch(precision, vocab_size, width, smoothing, scale):
    assert has_kernel(torch.device("cuda"))
    generator = torch.Generator("cuda").manual_seed(0)
    logits = (torch.randn(37, width, device="cuda", generator=generator) * 4).to(precision)
    targets = torch.randint(0, vocab_size, (37,), device="cuda", generator=generator)
    targets[::5] = IGNORED
    targets[1], targets[2] = 0, vocab_size - 1
    exact = logits[:, :vocab_size].double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(exact, targets, reduction="none", label_smoothing=smoothing)
    before = logits.clone()
    found = cross_entropy_with_grad_(logits, targets, scale, vocab_size, smoothing)
    torch.testing.assert_close(found, losses.detach().float(), rtol=1e-5, atol=1e-5)
    if scale is None:
        assert torch.equal(logits, before)
        return
    (gradient,) = torch.autograd.grad(losses.sum() * scale, exact)
    torch.testing.assert_close(logits[:, :vocab_size], gradient.to(precision), rtol=2e-2, atol=1e-6)
    assert not logits[:, vocab_size:].any()


@pytest.mark.gpu
def test_a_logit_that_is_not_finite_gives_a_loss_that_is_not():
    logits = torch.randn(3, 5000, device="cuda")
    logits[1, 4321] = float("nan")
    losses = cross_entropy_with_grad_(logits, torch.tensor([0, 1, 2], device="cuda"), 1.0)
    assert losses.isfinite().tolist() == [True, False, True]
