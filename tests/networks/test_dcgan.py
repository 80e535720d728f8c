"""The paper's image pair: parameter counts, layers at every side, and sides that are refused."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.networks.base import build
from coulomb_gan.networks.dcgan import DCGAN, dcgan_discriminator, dcgan_generator
from coulomb_gan.networks.layers import LeCunTanh, PatchConv2d


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def count(net): return sum(p.numel() for p in net.parameters())

def count_g(latent, c, ups, width):
    widths = [width >> i for i in range(ups)]
    layers = sum(25*a*b + 2*b for a, b in zip(widths, widths[1:]))
    return 16*width*(latent + 1) + layers + 25*widths[-1]*c + c

def count_d(c, side, width, batch_norm):
    v = [c] + [width << i for i in range(4)]
    return sum((25*a + (2 if batch_norm else 1))*b for a, b in zip(v, v[1:])) + (side//16)**2*v[4] + 1


@given(st.integers(1, 40), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(5, 10))
@settings(max_examples=25, deadline=None)
def test_counts_of_the_generator(latent, c, ups, power):
    with torch.device('meta'): g = dcgan_generator(latent, (c, 4*2**ups, 4*2**ups), 2**power)
    assert count(g) == count_g(latent, c, ups, 2**power)


@given(st.sampled_from([1, 3]), st.integers(1, 8), st.integers(1, 64), st.booleans())
@settings(max_examples=25, deadline=None)
def test_counts_of_the_discriminator(c, sixteenths, width, batch_norm):
    side = 16*sixteenths
    with torch.device('meta'): d = dcgan_discriminator((c, side, side), width, batch_norm)
    assert count(d) == count_d(c, side, width, batch_norm)


@pytest.mark.parametrize('latent, side, millions_g', [(32, 64, 17.76), (16, 32, 16.68)])
def test_paper_sizes_are_the_defaults(latent, side, millions_g):
    with torch.device('meta'): g, d = build(DCGAN(latent=latent), (3, side, side))
    assert (round(count(g)/1e6, 2), round(count(d)/1e6, 1)) == (millions_g, 17.2)
    assert DCGAN() == DCGAN(latent=32, width_g=1024, width_d=128, batch_norm_d=True)


@pytest.mark.parametrize('side', [8, 16, 32, 128])
def test_generator_reaches_every_power_of_two(side):
    g = dcgan_generator(5, (3, side, side), 64)
    x = g(torch.randn(3, 5))
    assert x.shape == (3, 3, side, side) and x.abs().max() <= 1.7159
    ups = [layer for layer in g if isinstance(layer, nn.ConvTranspose2d)]
    assert 4*2**len(ups) == side and {(u.kernel_size, u.stride) for u in ups} == {((5, 5), (2, 2))}
    assert [u.bias is None for u in ups] == [True]*(len(ups) - 1) + [False]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in g) == len(ups) - 1 and isinstance(g[-1], LeCunTanh)


@pytest.mark.parametrize('side', [16, 32, 48, 64])
@pytest.mark.parametrize('batch_norm', [True, False])
@pytest.mark.parametrize('width', [4, 32])
def test_discriminator_at_every_multiple_of_sixteen(side, batch_norm, width):
    d = dcgan_discriminator((3, side, side), width, batch_norm)
    assert d(torch.randn(6, 3, side, side)).shape == (6, 1)
    convs = [layer for layer in d if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [width, 2*width, 4*width, 8*width]
    small = [side >> i <= 4 and conv.in_channels >= 128 for i, conv in enumerate(convs)]
    assert [isinstance(conv, PatchConv2d) for conv in convs] == small
    assert [conv.bias is None for conv in convs] == [batch_norm]*4
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in d) == 4*batch_norm
    assert {layer.negative_slope for layer in d if isinstance(layer, nn.LeakyReLU)} == {.2}


def test_only_batch_norm_couples_the_samples():
    x = torch.randn(6, 3, 16, 16)
    for batch_norm in (True, False):
        d = dcgan_discriminator((3, 16, 16), 4, batch_norm)
        assert torch.allclose(d(x[:3]), d(x)[:3], atol=1e-5) != batch_norm
        assert_close(d.eval()(x), d.train()(x))


@pytest.mark.parametrize('side', [0, 1, 4, 9, 12, 24, 48, 96])
def test_sides_refused_by_the_generator(side):
    with pytest.raises(ValueError, match=f'8, 16, 32, 64, ..., got {side}'): dcgan_generator(5, (3, side, side), 64)


@pytest.mark.parametrize('side', [8, 24, 40, 63])
def test_sides_refused_by_the_discriminator(side):
    with pytest.raises(ValueError, match=f'multiple of 16, got {side}'): dcgan_discriminator((3, side, side))


@pytest.mark.parametrize('shape', [(2,), (32, 100), (3, 32, 64), (3, 3, 32, 32)])
def test_shapes_refused(shape):
    with pytest.raises(ValueError, match="'dcgan' are for square images, got shape"): build(DCGAN(), shape)
