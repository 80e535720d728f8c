"""WGAN-GP's pairs: parameter counts, blocks, how the weights start, and that each image is judged alone."""
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate
from torch.testing import assert_close

from coulomb_gan.networks.base import build
from coulomb_gan.networks.resnet import PlainWGANGP, ResNet, plain_discriminator, plain_generator, residual_block


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def count(net): return sum(p.numel() for p in net.parameters())


RELEASED = [(PlainWGANGP(), 32, (5_179_907, 4_114_689)), (ResNet(), 32, (1_204_483, 1_053_825)), (ResNet(), 64, (8_540_483, 7_491_841))]


@pytest.mark.parametrize('kind, side, counts', RELEASED)
def test_released_counts(kind, side, counts):
    with torch.device('meta'): g, d = build(kind, (3, side, side))
    assert (count(g), count(d)) == counts
    assert kind.latent == 128 and kind.prior == 'normal'


@pytest.mark.parametrize('kind, side, _', RELEASED)
@pytest.mark.parametrize('width', [1, 6])
def test_every_width(kind, side, _, width):
    narrow = type(kind)(latent=5, width_g=width, width_d=width)
    g, d = build(narrow, (2, side, side))
    x = g(torch.randn(4, 5))
    assert x.shape == (4, 2, side, side) and x.abs().max() <= 1 and d(x).shape == (4, 1)


@pytest.mark.parametrize('kind, side, _', RELEASED)
def test_each_image_is_judged_alone(kind, side, _):
    "Also where the slope is taken twice, as for a penalty"
    _, d = build(type(kind)(width_g=8, width_d=8), (3, side, side))
    assert not any(isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) for layer in d.modules())
    def pushed(a):
        a = a.clone().requires_grad_()
        slope, = torch.autograd.grad(d(a).sum(), a, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), a)[0] if side == 64 else slope
    y = torch.randn(4, 3, side, side)
    assert_close(pushed(y)[:2], pushed(y[:2]))


def test_norms():
    for side, kinds in ((32, set()), (64, {nn.GroupNorm})):
        g, d = build(ResNet(width_g=4, width_d=4), (3, side, side))
        found = [{type(m) for m in net.modules() if 'Norm' in type(m).__name__} for net in (g, d)]
        assert found == [{nn.BatchNorm2d}, kinds]
    assert [type(layer) for layer in plain_generator(5, 3, 8)[:3]] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert {type(layer) for layer in plain_discriminator(3, 8)} == {nn.Conv2d, nn.LeakyReLU, nn.Flatten, nn.Linear}


@pytest.mark.parametrize('side', ['doubles', 'halves', 'stays'])
def test_a_block_is_its_formula(side):
    "In float64, written out with functions; the shortcut as released, on the larger map"
    n_out = 6 if side == 'stays' else 5
    block, a = residual_block(6, n_out, side).double(), torch.randn(3, 6, 8, 8, dtype=torch.float64)
    weights = dict(block.named_parameters())
    def resized(a): return interpolate(a, scale_factor=2) if side == 'doubles' else a
    def pooled(a): return avg_pool2d(a, 2) if side == 'halves' else a
    first, second = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
    middle = conv2d(resized(a.relu()), first.weight, first.bias, padding=1)
    branch = pooled(conv2d(middle.relu(), second.weight, second.bias, padding=1))
    shortcut = a
    if side != 'stays':
        kernel, bias = (weights[name] for name in weights if name.startswith('shortcut'))
        shortcut = pooled(conv2d(resized(a), kernel, bias))
    assert_close(block(a), shortcut + branch)


def bound(fans, gain): return gain * math.sqrt(6 / fans)


def test_weights_start_as_released():
    "The largest of more than a thousand uniform weights lies within two per cent of their bound"
    r2 = math.sqrt(2)
    g, d = plain_generator(100, 3, 64), plain_discriminator(3, 32)
    g64, d64 = build(ResNet(width_g=32, width_d=32), (3, 64, 64))
    g32, d32 = build(ResNet(width_g=64, width_d=64), (3, 32, 32))
    cases = [(g[0], 100 + 1024, 1.), (g[4], 25 * (32 + 64 / 4), r2), (d[2], 25 * (32 + 64 / 4), r2), (d[-1], 2048 + 1, 1.),
             (g32[2].branch[3], 9 * 128, r2), (g32[2].shortcut[0], 128, 1.), (g32[-2], 9 * 67, 1.), (g64[2].shortcut[0], 256, 1.),
             (d64[0], 9 * (3 + 16), 1.), (d32[0].branch[0], 9 * 67, r2), (d64[1].branch[2], 9 * 32, r2)]
    for layer, fans, gain in cases:
        most = layer.weight.abs().max().item()
        assert .98 * bound(fans, gain) < most <= bound(fans, gain) * (1 + 1e-6), (layer, most, bound(fans, gain))
        assert layer.bias is None or not layer.bias.any()
