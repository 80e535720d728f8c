"""The pair for texts against loops in float64, its statistics under shuffles, and variants that must not pass."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.functional import conv1d, one_hot
from torch.testing import assert_close

from coulomb_gan.networks.base import build
from coulomb_gan.networks.layers import BatchNorm1d
from coulomb_gan.networks.text import ResidualBlock, TextResNet, text_discriminator, text_generator
from coulomb_gan.networks.text import ToomConv1d

SHAPE, LATENT, WIDTH, DEPTH = (12, 9), 5, 8, 2


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def pair(shape=SHAPE): return text_generator(LATENT, shape, WIDTH, DEPTH), text_discriminator(shape, WIDTH, DEPTH)

def differ(a, b, **tolerances):
    with pytest.raises(AssertionError): assert_close(a, b, **tolerances)


# --- the convolution ----------------------------------------------------------------------------------------------

def loops(x, weight, bias):
    "The convolution of the block, one number at a time."
    (n, c, length), o = x.shape, len(weight)
    out = torch.zeros(n, o, length, dtype=x.dtype)
    for i in range(n):
        for k in range(o):
            for t in range(length):
                at = [(t + s - 2, s) for s in range(5) if 0 <= t + s - 2 < length]
                out[i, k, t] = bias[k] + sum(weight[k, j, s] * x[i, j, p] for j in range(c) for p, s in at)
    return out


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 11), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_convolution_is_the_loops(n, c, o, length, seed):
    conv, gen = ToomConv1d(c, o).double(), torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, length, dtype=torch.float64, generator=gen)
    assert_close(conv(x), loops(x, conv.weight.detach(), conv.bias.detach()))


@pytest.mark.parametrize('wrong', ['reversed', 'circular', 'shifted', 'no bias'])
def test_other_convolutions_are_told_apart(wrong):
    conv, x = ToomConv1d(3, 2).double(), torch.randn(2, 3, 12, dtype=torch.float64)
    weight, bias = conv.weight, conv.bias
    variants = {'reversed': lambda: conv1d(x, weight.flip(2), bias, padding=2),
                'circular': lambda: conv1d(torch.cat([x[..., -2:], x, x[..., :2]], 2), weight, bias),
                'shifted': lambda: conv1d(x, weight, bias, padding=2).roll(1, 2),
                'no bias': lambda: conv1d(x, weight, padding=2)}
    differ(conv(x), variants[wrong]())


@pytest.mark.parametrize('length', [1, 6, 32])
def test_convolution_has_exact_derivatives(length):
    conv, x = ToomConv1d(2, 3).double(), torch.randn(2, 2, length, dtype=torch.float64, requires_grad=True)
    weight, bias = (p.detach().requires_grad_() for p in conv.parameters())
    apply = lambda x, weight, bias: torch.func.functional_call(conv, {'weight': weight, 'bias': bias}, (x,))
    assert torch.autograd.gradcheck(apply, (x, weight, bias))


@pytest.mark.parametrize('stored', ['contiguous', 'transposed', 'sliced'])
def test_convolution_takes_any_strides(stored):
    conv, x = ToomConv1d(3, 2), torch.randn(4, 3, 12)
    views = {'contiguous': x, 'transposed': x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
             'sliced': torch.stack([x, -x], 3)[..., 0]}
    assert_close(conv(views[stored]), conv1d(x, conv.weight, conv.bias, padding=2))


def test_float32_error_is_small():
    "At the paper's width the eight products stay within 1e-5 of the largest entry, gradients too"
    conv, x = ToomConv1d(512, 512), torch.randn(4, 512, 32, requires_grad=True)
    inputs = x, conv.weight, conv.bias
    doubles = [p.detach().double().requires_grad_() for p in inputs]
    up = torch.randn(4, 512, 32)
    got, exact = conv(x), conv1d(*doubles, padding=2)
    pairs = [(got, exact), *zip(torch.autograd.grad(got, inputs, up), torch.autograd.grad(exact, doubles, up.double()))]
    assert max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs) < 1e-5


def test_autocast_and_state_are_the_librarys():
    own, library, x = ToomConv1d(4, 4), nn.Conv1d(4, 4, 5, padding=2), torch.randn(2, 4, 12)
    library.load_state_dict(own.state_dict())
    assert_close(own(x), library(x))
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(own(x), library(x))


# --- the block ----------------------------------------------------------------------------------------------------

def normal(a, *dims): return (a - a.mean(dims, keepdim=True)) / (a.var(dims, unbiased=False, keepdim=True) + 1e-5).sqrt()

def block_by_loops(x, block, dims):
    "`x + 0.3 branch(x)`, the convolution by loops; `dims` are pooled by the batch norm, none without it"
    a = x
    for conv in (layer for layer in block if isinstance(layer, ToomConv1d)):
        a = normal(a, *dims) if dims else a
        a = loops(a.clamp(min=0), conv.weight.detach(), conv.bias.detach())
    return x + .3 * a


@pytest.mark.parametrize('batch_norm', [True, False])
def test_block_is_the_loops(batch_norm):
    block, x = ResidualBlock(3, batch_norm).double(), torch.randn(4, 3, 7, dtype=torch.float64)*2 + 1
    assert_close(block(x), block_by_loops(x, block, (0, 2) if batch_norm else ()))
    for dims in ((0,), (2,), (1,), () if batch_norm else (0, 2)): differ(block(x), block_by_loops(x, block, dims))


def test_batch_norm_has_one_statistic_a_channel():
    "What goes into each ReLU has mean 0 and variance 1 a channel over batch and positions; no other state is kept"
    block, seen = ResidualBlock(6, True), []
    for layer in block:
        if isinstance(layer, nn.ReLU): layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(torch.randn(16, 6, 10) * torch.arange(1., 11) + torch.arange(6.)[:, None])
    assert len(seen) == 2
    for a in seen:
        assert_close(a.mean((0, 2)), torch.zeros(6), atol=1e-5, rtol=0)
        assert_close(a.var((0, 2), unbiased=False), torch.ones(6), atol=1e-2, rtol=0)      # 1e-5 beside a small variance
    assert not any(name for name, _ in block.named_buffers())
    assert [type(layer).__name__ for layer in block] == ['BatchNorm1d', 'ReLU', 'ToomConv1d']*2


def shuffle(a, order):
    "The places of all samples, `(n, c, length)`, in another order, the same for every channel"
    return a.transpose(0, 1).flatten(1)[:, order].unflatten(1, (a.shape[0], a.shape[2])).transpose(0, 1)


@given(st.permutations(range(24)))
@settings(max_examples=10, deadline=None)
def test_statistics_ignore_the_order_of_all_places(order):
    "Statistics over batch and positions commute with any shuffle of the places"
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = ResidualBlock(3, True)[0].double()
    assert_close(norm(shuffle(x, order)), shuffle(norm(x), order))


def test_statistics_of_each_position_or_sample_would_show():
    x, order, each = torch.randn(4, 3, 6), torch.randperm(24), BatchNorm1d(18)
    apart = lambda a: each(a.flatten(1)).view_as(a)
    differ(apart(shuffle(x, order)), shuffle(apart(x), order))
    for dims in ((0,), (2,)): differ(normal(shuffle(x, order), *dims), shuffle(normal(x, *dims), order))


# --- the pair -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('shape', [(1, 2), (3, 5), (12, 9), (32, 100)])
def test_shapes_and_rows(shape):
    g, d = pair(shape)
    x = g(torch.randn(7, LATENT))
    assert x.shape == (7, *shape) and (x > 0).all() and x.is_contiguous()
    assert_close(x.sum(2), torch.ones(7, shape[0]))
    y = one_hot(torch.randint(shape[1], (7, shape[0])), shape[1]).float()
    assert d(x).shape == d(y).shape == (7, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 200), st.integers(1, 40), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_counts(latent, length, v, width, depth):
    count = lambda net: sum(p.numel() for p in net.parameters())
    with torch.device('meta'): g, d = text_generator(latent, (length, v), width, depth), text_discriminator((length, v), width, depth)
    convolutions = depth * 2 * (5*width**2 + width)
    assert count(g) == (latent + 1)*width*length + convolutions + depth*4*width + (width + 1)*v
    assert count(d) == (v + 1)*width + convolutions + width*length + 1


@pytest.mark.parametrize('v', [27, 100, 2048])
def test_released_counts_of_wgan_gp(v):
    "Whose generator has no batch norm"
    with torch.device('meta'): g, d = build(TextResNet(latent=128, batch_norm_g=False), (32, v))
    counts = [sum(p.numel() for p in net.parameters()) for net in (g, d)]
    assert counts == [15_225_856 + 513 * v, 13_129_217 + 512 * v]
    assert not any(isinstance(m, nn.BatchNorm1d) for m in g.modules())


def test_paper_sizes_are_the_defaults():
    with torch.device('meta'): g, d = text_generator(32, (32, 100)), text_discriminator((32, 100))
    for net in (g, d):
        blocks = [layer for layer in net if isinstance(layer, ResidualBlock)]
        assert len(blocks) == 5 and {p.shape[0] for b in blocks for p in b.parameters()} == {512}
    assert [sum(isinstance(m, nn.BatchNorm1d) for m in net.modules()) for net in (g, d)] == [10, 0]


def test_gradients_flow():
    "From D(G(z)) to every parameter but the biases right before a batch norm; from D on real texts to all of D"
    g, d = pair()
    x, y = g(torch.randn(16, LATENT)), one_hot(torch.randint(9, (16, 12)), 9).float()
    for loss, nets, still in ((d(x).sum(), (g, d), {'2.2.bias', '3.2.bias'}), (d(y).square().sum(), (d,), set())):
        named = [item for net in nets for item in net.named_parameters()]
        grads = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True)
        assert all(grad.isfinite().all() for grad in grads)
        assert {name for (name, _), grad in zip(named, grads) if grad.abs().max() < 1e-6} == still


def test_modes_agree_and_only_the_generator_sees_its_batch():
    g, d = pair()
    z = torch.randn(6, LATENT)
    x = g(z)
    assert_close(g.eval()(z), x)
    assert_close(d.eval()(x), d.train()(x))
    order = torch.randperm(6)
    assert_close(g(z[order]), x[order])
    assert_close(d(x)[:2], d(x[:2]))
    differ(g(z[:2]), x[:2])


def test_discriminator_reads_letters_by_name_and_place():
    "Renaming the characters in the texts and in the first layer changes nothing; in the texts alone, or reordering, does"
    _, d = pair()
    y, names = one_hot(torch.randint(9, (6, 12)), 9).float(), torch.arange(9).roll(1)
    out = d(y)
    differ(d(y[..., names]), out)
    differ(d(y.flip(1)), out)
    d[1].weight.data = d[1].weight.data[:, names]
    assert_close(d(y[..., names]), out)


@pytest.mark.parametrize('change, message', [
    (dict(shape=(0, 9)), r'length >= 1, vocabulary >= 2\), got \(0, 9\)'), (dict(shape=(12, 1)), r'got \(12, 1\)'),
    (dict(shape=(12,)), r'got \(12,\)'), (dict(shape=(3, 8, 8)), r'got \(3, 8, 8\)'),
    (dict(width=0), 'at least 1, got 0 and 2'), (dict(depth=0), 'at least 1, got 8 and 0')])
def test_errors(change, message):
    sizes = dict(shape=SHAPE, width=WIDTH, depth=DEPTH) | change
    with pytest.raises(ValueError, match=message): text_generator(LATENT, **sizes)
    with pytest.raises(ValueError, match=message): text_discriminator(**sizes)


# --- characters instead of probabilities --------------------------------------------------------------------------

def test_straight_through_gives_characters_with_the_slopes_of_probabilities():
    soft = text_generator(LATENT, SHAPE, WIDTH, DEPTH)
    hard = text_generator(LATENT, SHAPE, WIDTH, DEPTH, straight_through=True)
    hard.load_state_dict(soft.state_dict())
    z = torch.randn(6, LATENT)
    p, x = soft(z), hard(z)
    assert torch.equal(x, one_hot(p.argmax(2), SHAPE[1]).float())
    towards = torch.randn_like(x)
    of_soft = torch.autograd.grad((p * towards).sum(), list(soft.parameters()))
    of_hard = torch.autograd.grad((x * towards).sum(), list(hard.parameters()))
    for got, wanted in zip(of_hard, of_soft): assert_close(got, wanted)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_characters_of_any_precision_and_of_ties(dtype):
    chosen = text_generator(LATENT, SHAPE, WIDTH, DEPTH, straight_through=True)[-1]
    x = chosen(torch.full((2, 3, 4), .25, dtype=dtype))
    assert x.dtype == dtype
    assert torch.equal(x.sum(2), torch.ones(2, 3, dtype=dtype)) and ((x == 0) | (x == 1)).all()


def test_the_record_passes_it_on():
    g = TextResNet(latent=5, width_g=8, depth_g=1, straight_through=True).generator((8, 20))
    x = g(torch.randn(3, 5))
    assert ((x == 0) | (x == 1)).all()
