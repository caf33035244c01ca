import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llm.model.functions import rms_norm, squared_relu

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def gradients(function, *inputs, seed=0):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    torch.manual_seed(seed)
    y.backward(torch.randn_like(y))
    return [y.detach(), *(x.grad for x in inputs)]


@given(shape=SHAPES, seed=st.integers(0, 1000), epsilon=st.sampled_from([None, 1e-6, 0.1]), has_gain=st.booleans())
def test_rms_norm_and_its_gradients_are_torchs(shape, seed, epsilon, has_gain):
    torch.manual_seed(seed)
    inputs = [torch.randn(shape) + 0.01] + ([torch.randn(shape[-1])] if has_gain else [])
    ours = gradients(lambda x, gain=None: rms_norm(x, gain, epsilon), *inputs)
    theirs = gradients(lambda x, gain=None: F.rms_norm(x, x.shape[-1:], gain, epsilon), *inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_squared_relu_and_its_gradient_are_the_plain_ones(shape, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape)
    torch.testing.assert_close(gradients(squared_relu, x), gradients(lambda x: x.relu().square(), x))


@pytest.mark.parametrize("function", [rms_norm, squared_relu])
def test_gradients_are_those_of_small_changes(function):
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(function, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("function", [rms_norm, squared_relu])
def test_a_short_type_stays_and_is_computed_in_float32(function):
    torch.manual_seed(0)
    x = torch.randn(4, 64).bfloat16()
    y, gradient = gradients(function, x)
    assert y.dtype == gradient.dtype == torch.bfloat16
    exact, exact_gradient = gradients(lambda x: function(x.float()).bfloat16(), x)
    torch.testing.assert_close(y, exact, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(gradient, exact_gradient, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1])
def test_the_default_epsilon_is_torchs_whoever_computes_it(dtype, size):
    torch.manual_seed(0)
    x = (size * torch.randn(4, 64)).to(dtype)
    torch.testing.assert_close(rms_norm(x), F.rms_norm(x, x.shape[-1:]))


@pytest.mark.parametrize("function", [rms_norm, squared_relu])
def test_gradients_of_gradients_are_refused_rather_than_wrong(function):
    x = torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        gradient.sum().backward()


def test_zeros_stay_zeros():
    y, gradient = gradients(rms_norm, torch.zeros(2, 3))
    assert y.tolist() == [[0.0] * 3] * 2
    assert gradient.isfinite().all()
