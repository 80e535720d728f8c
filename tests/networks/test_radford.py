"""The DCGAN of the two time-scale rule: parameter counts, layers, how the weights start, norms of the discriminator."""
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from coulomb_gan.networks.base import build
from coulomb_gan.networks.radford import RadfordDCGAN, radford_discriminator, radford_generator


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def count(net): return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize('side, counts', [(64, (5_135_363, 4_316_545)), (32, (4_514_819, 4_310_401))])
def test_released_counts(side, counts):
    with torch.device('meta'): g, d = build(RadfordDCGAN(), (3, side, side))
    assert (count(g), count(d)) == counts


@pytest.mark.parametrize('norm, without', [('none', 2 * (128 + 256 + 512)), ('layer', 0)])
def test_counts_with_another_norm(norm, without):
    with torch.device('meta'): d = radford_discriminator((3, 64, 64), norm=norm)
    assert count(d) == 4_316_545 - without


@pytest.mark.parametrize('side', [16, 32, 64])
@pytest.mark.parametrize('width', [1, 7, 32])
def test_every_width_and_side(side, width):
    g, d = build(RadfordDCGAN(latent=5, width_g=width, width_d=width), (2, side, side))
    x = g(torch.rand(6, 5))
    assert x.shape == (6, 2, side, side) and x.abs().max() <= 1 and d(x).shape == (6, 1)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in g) == 4
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in d) == 3
    assert all(layer.bias is not None for layer in (*g, *d) if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)))


def test_first_layer_of_the_discriminator_and_the_image_are_not_normalised():
    g, d = radford_generator(5, (3, 32, 32), 16), radford_discriminator((3, 32, 32), 4)
    assert [type(layer) for layer in d[:2]] == [nn.Conv2d, nn.LeakyReLU]
    assert [type(layer) for layer in g[-2:]] == [nn.ConvTranspose2d, nn.Tanh]


def test_weights_start_as_released():
    "Of 20,000 weights and more the width is known to half a per cent"
    g, d = radford_generator(100, (3, 32, 32), 128), radford_discriminator((3, 32, 32), 32)
    for layer in (*g, *d):
        if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)): continue
        assert not layer.bias.any()
        if layer.weight.numel() < 20_000: continue
        cut = isinstance(layer, nn.Conv2d)
        assert_close(layer.weight.std().item(), .02 * (.7737**.5 if cut else 1), rtol=.02, atol=0)
        assert (layer.weight.abs().max() <= .04) == cut


def test_a_penalty_is_not_for_its_batch_norm():
    from coulomb_gan.training.config import Experiment
    from coulomb_gan.training.state import TrainState
    e = Experiment().changed(networks='dcgan-radford', objective='wgan-gp', width_g=8, width_d=4)
    with pytest.raises(ValueError, match='batch norm couples'): TrainState(e, (3, 16, 16))
    for norm in ('layer', 'none'): TrainState(e.changed(norm_d=norm), (3, 16, 16))
