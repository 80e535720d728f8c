"""The layers against their formulas and the library's own, on every size a network uses them with."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn.functional import conv2d
from torch.testing import assert_close

from coulomb_gan.networks.layers import BatchNorm1d, BatchNorm2d, LeCunTanh, PatchConv2d


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


# --- LeCun's tanh -------------------------------------------------------------------------------------------------

@given(st.floats(-100, 100))
@settings(deadline=None)
def test_tanh_is_its_formula_odd_and_bounded(x):
    squash, x = LeCunTanh(), torch.tensor(x, dtype=torch.float64)
    assert_close(squash(x), 1.7159*(1 - 2/(1 + (4*x/3).exp())))
    assert_close(squash(-x), -squash(x))
    assert squash(x).abs() <= 1.7159


def test_tanh_has_its_slope_at_zero():
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert_close(torch.autograd.grad(LeCunTanh()(x), x)[0].item(), 1.7159*2/3)


def test_tanh_has_no_parameters(): assert not LeCunTanh().state_dict()


# --- batch norm ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('norm, shape', [(BatchNorm1d, (64, 3)), (BatchNorm1d, (16, 3, 5)), (BatchNorm2d, (8, 3, 4, 5))])
def test_batch_norm_takes_its_own_batch_in_both_modes(norm, shape):
    layer, x = norm(3), torch.randn(shape)*5 + 2
    dims = [d for d in range(len(shape)) if d != 1]
    for mode in (True, False):
        out = layer.train(mode)(x)
        assert_close(out.mean(dims), torch.zeros(3), atol=1e-5, rtol=0)
        assert_close(out.var(dims, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    assert list(layer.state_dict()) == ['weight', 'bias'] and layer.num_features == 3


def test_running_statistics_would_show():
    layer, x = torch.nn.BatchNorm1d(3), torch.randn(64, 3)*5 + 2
    with pytest.raises(AssertionError): assert_close(layer.train()(x), layer.eval()(x))


# --- the convolution of small maps --------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.sampled_from([2, 4, 6, 8]), st.booleans())
def test_patches_are_the_convolution(n, c, o, side, bias):
    conv = PatchConv2d(c, o, 5, 2, 2, bias=bias).double()
    x = torch.randn(n, c, side, side, dtype=torch.float64, requires_grad=True)
    own, library = conv(x), conv2d(x, conv.weight, conv.bias, stride=2, padding=2)
    assert_close(own, library)
    inputs = [x, *conv.parameters()]
    assert_close(torch.autograd.grad(own.sin().sum(), inputs), torch.autograd.grad(library.sin().sum(), inputs))


@pytest.mark.parametrize('wrong', ['reversed', 'turned', 'no bias'])
def test_other_convolutions_are_told_apart(wrong):
    conv, x = PatchConv2d(3, 2, 5, 2, 2).double(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    weight, bias = conv.weight, conv.bias
    if wrong == 'reversed': weight = weight.flip(2, 3)
    if wrong == 'turned': weight = weight.transpose(2, 3)
    if wrong == 'no bias': bias = None
    with pytest.raises(AssertionError): assert_close(conv(x), conv2d(x, weight, bias, stride=2, padding=2))


def test_it_is_stored_as_the_librarys():
    own, library = PatchConv2d(3, 2, 5, 2, 2), torch.nn.Conv2d(3, 2, 5, 2, 2)
    library.load_state_dict(own.state_dict())
    x = torch.randn(5, 3, 4, 4)
    assert_close(own(x), library(x))
