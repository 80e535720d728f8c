"""The layers against their formulas and the library's own, on every size a network uses them with."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn.functional import conv2d
from torch.testing import assert_close

from coulomb_gan.networks.layers import BatchNorm1d, BatchNorm2d, DoublingConv2d, LayerNorm2d, LeCunTanh, NORMS, PatchConv2d


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


# --- layer norm ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('shape', [(1, 3, 1, 1), (4, 3, 2, 5), (2, 8, 6, 6)])
def test_layer_norm_is_its_formula_one_sample_at_a_time(shape):
    "In float64, with a scale and a shift for each channel"
    norm, a = LayerNorm2d(shape[1]).double(), torch.randn(shape, dtype=torch.float64) * 3 + 2
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    for mode in (True, False):
        for row, out in zip(a, norm.train(mode)(a)):
            standard = (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()
            assert_close(out, norm.weight[:, None, None] * standard + norm.bias[:, None, None])
    assert norm.weight.shape == norm.bias.shape == (shape[1],)


def test_norms_that_a_discriminator_can_choose():
    a = torch.randn(6, 4, 3, 3)
    alone = {name: torch.allclose(norm(4)(a[:2]), norm(4)(a)[:2], atol=1e-6) for name, norm in NORMS.items()}
    assert alone == {'batch': False, 'layer': True, 'none': True}


@pytest.mark.parametrize('side', [1, 2, 5, 16])
def test_a_transposed_convolution_that_doubles_the_side(side):
    "It is the transpose of the halving one: <T a, b> = <a, C b>"
    up = DoublingConv2d(3, 2, bias=False).double()
    a = torch.randn(2, 3, side, side, dtype=torch.float64)
    b = torch.randn(2, 2, 2 * side, 2 * side, dtype=torch.float64)
    assert_close((up(a) * b).sum(), (a * conv2d(b, up.weight, stride=2, padding=2)).sum())


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
