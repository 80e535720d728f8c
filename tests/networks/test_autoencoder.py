"""BEGAN's and MMD-GAN's pairs: parameter counts, heads, layers, how the weights start, and what is refused."""
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from coulomb_gan.networks.autoencoder import (Autoencoder, BEGANAutoencoder, CodeDiscriminator, MMDAutoencoder, began_decoder,
                                              began_encoder, mmd_decoder, mmd_encoder)
from coulomb_gan.networks.base import build
from coulomb_gan.networks.mlp import MLP

PAIRS = [BEGANAutoencoder(latent=6, width=4), MMDAutoencoder(latent=6, width=4)]


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def count(net): return sum(p.numel() for p in net.parameters())
def pair(kind, shape): return build(kind, shape, kind.heads[0])


def test_released_counts_of_began():
    with torch.device('meta'): g, d = pair(BEGANAutoencoder(), (3, 64, 64))
    assert (count(g), count(d)) == (1_716_611, 13_405_379)
    assert BEGANAutoencoder() == BEGANAutoencoder(latent=64, width=128) and BEGANAutoencoder.prior == 'uniform'


@pytest.mark.parametrize('latent, side, counts', [(128, 32, (1_183_616, 1_183_488)), (64, 64, (3_281_792, 3_281_664))])
def test_released_counts_of_mmd_gan(latent, side, counts):
    with torch.device('meta'): g, d = pair(MMDAutoencoder(latent=latent), (3, side, side))
    assert (count(g), count(d.encoder), count(d.decoder)) == (*counts, counts[0])
    assert MMDAutoencoder() == MMDAutoencoder(latent=64, width=64) and MMDAutoencoder.prior == 'normal'


@pytest.mark.parametrize('kind', PAIRS, ids=lambda kind: kind.name)
@pytest.mark.parametrize('shape', [(1, 16, 16), (3, 32, 32), (2, 64, 64)])
def test_heads_and_parts(kind, shape):
    g, d = pair(kind, shape)
    x = g(torch.randn(5, 6))
    codes = d.encoder(x)
    assert x.shape == (5, *shape) and codes.shape == (5, 6) and d.decoder(codes).shape == x.shape
    assert_close(d(x), codes if kind.heads == ('code',) else d.decoder(codes))
    assert str(d.decoder) == str(g)
    assert not any(torch.equal(p, q) for p, q in zip(d.decoder.parameters(), g.parameters()) if p.ndim > 1)


def test_what_a_call_returns():
    parts = nn.Linear(3, 2), nn.Linear(2, 3)
    a = torch.randn(4, 3)
    assert_close(Autoencoder(*parts)(a), parts[1](parts[0](a)))
    assert_close(CodeDiscriminator(*parts)(a), parts[0](a))
    assert [*CodeDiscriminator(*parts).state_dict()] == [*Autoencoder(*parts).state_dict()]


def test_began_has_no_norm_and_no_bound():
    g, d = pair(BEGANAutoencoder(latent=5, width=4), (3, 32, 32))
    kinds = {type(m) for net in (g, d) for m in net.modules()}
    assert kinds == {Autoencoder, nn.Sequential, nn.Linear, nn.Unflatten, nn.Flatten, nn.Conv2d, nn.ELU, nn.Upsample}
    assert isinstance(g[-1], nn.Conv2d) and isinstance(d.encoder[-1], nn.Linear)
    assert [layer.out_channels for layer in d.encoder if isinstance(layer, nn.Conv2d)] == [4, 4, 4, 4, 8, 8, 8, 12, 12]
    assert g(100 * torch.ones(2, 5)).abs().max() > 1


def test_mmd_gan_has_no_bias_and_normalises_the_inner_layers():
    g, d = pair(MMDAutoencoder(latent=5, width=4), (3, 32, 32))
    assert all(m.bias is None for net in (g, d) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)))
    assert [m.num_features for m in d.encoder if isinstance(m, nn.BatchNorm2d)] == [8, 16]
    assert [m.num_features for m in g if isinstance(m, nn.BatchNorm2d)] == [16, 8, 4]
    assert {m.negative_slope for m in d.encoder if isinstance(m, nn.LeakyReLU)} == {.2}


def test_weights_of_began_start_as_glorots():
    "The largest of more than a thousand uniform weights lies within two per cent of their bound"
    encoder, decoder = began_encoder(16, (3, 32, 32), 16), began_decoder(16, (3, 32, 32), 16)
    for layer in (*encoder, *decoder):
        if not isinstance(layer, (nn.Linear, nn.Conv2d)): continue
        fans = layer.weight[0, 0].numel() * (layer.weight.shape[0] + layer.weight.shape[1])
        assert not layer.bias.any()
        if layer.weight.numel() < 1000: continue
        most, bound = layer.weight.abs().max().item(), math.sqrt(6 / fans)
        assert .98 * bound < most <= bound * (1 + 1e-6)


def test_weights_of_mmd_gan_start_as_released():
    "Of 8,192 weights and more the width is known to 0.8 per cent, of 64 scales and more to 9 per cent"
    for layer in (*mmd_encoder(16, (3, 32, 32), 64), *mmd_decoder(16, (3, 32, 32), 64)):
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.weight.numel() > 8000:
            assert_close(layer.weight.std().item(), .02, rtol=.04, atol=0)
        if isinstance(layer, nn.BatchNorm2d):
            assert_close(layer.weight.std().item(), .02, rtol=.4, atol=0)
            assert_close(layer.weight.mean().item(), 1., rtol=0, atol=.01)
            assert not layer.bias.any()


@pytest.mark.parametrize('kind', PAIRS, ids=lambda kind: kind.name)
def test_objectives_of_another_head_are_refused(kind):
    for head in {'scalar', 'reconstruction', 'code'} - {*kind.heads}:
        with pytest.raises(ValueError, match=f'{kind.name}.* that returns a {head}; choose networks') as caught:
            build(kind, (3, 32, 32), head)
        assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match=f"'mlp' have no .* returns a {kind.heads[0]}; choose networks '{kind.name}'"):
        build(MLP(), (3, 32, 32), kind.heads[0])


@pytest.mark.parametrize('networks', [kind.name for kind in PAIRS])
def test_a_run_says_so_before_it_starts(networks):
    from coulomb_gan.training.config import Experiment
    from coulomb_gan.training.state import TrainState
    with pytest.raises(ValueError, match="no discriminator that returns a scalar; choose networks .*'mlp'"):
        TrainState(Experiment().changed(networks=networks, width=4), (3, 16, 16))
