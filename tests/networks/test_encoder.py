"""Encoders: shapes and widths of the maps, images apart, what is hidden stays hidden, losses against loops, what is refused."""
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from coulomb_gan.networks.encoder import (ENCODERS, Classifier, Decoder, MapEncoder, MaskedAutoencoder, check_side, draw_mask,
                                          map_widths, masked_error, pooled)


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def images(n, shape): return torch.rand(n, *shape) * 2 - 1
def gen(seed=0): return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('kind', ENCODERS)
@pytest.mark.parametrize('shape', [(1, 8, 8), (3, 16, 16), (2, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize('width', [2, 3, 16])
def test_a_map_at_every_resolution(kind, shape, width):
    encoder, x = MapEncoder(kind, shape, width), images(3, shape)
    maps, sides = encoder(x), []
    side = shape[-1]
    while side >= 4:
        sides.append(side)
        side //= 2
    assert [tuple(m.shape) for m in maps] == [(3, c, s, s) for c, s in zip(map_widths(shape[-1], width), sides)]
    assert all(m.isfinite().all() and m.std() > 0 for m in maps)


def test_widths_double_and_stop():
    assert map_widths(1024, 10) == [5, 10, 20, 40, 80, 80, 80, 80, 80]
    assert map_widths(8, 2) == [1, 2]


@pytest.mark.parametrize('kind', ENCODERS)
def test_images_are_encoded_apart_in_any_order(kind):
    "To the rounding of float32 sums"
    encoder, x = MapEncoder(kind, (3, 16, 16), 16).double(), images(6, (3, 16, 16)).double()
    order = torch.randperm(6)
    for whole, shuffled, first in zip(encoder(x), encoder(x[order]), encoder(x[:1])):
        assert_close(shuffled, whole[order])
        assert_close(first, whole[:1])


def test_architectures_share_no_layer_but_convolutions_and_norms():
    kinds = {kind: {type(m) for m in MapEncoder(kind, (3, 16, 16)).modules()} for kind in ENCODERS}
    common = set.intersection(*kinds.values())
    assert common == {MapEncoder, nn.ModuleList, nn.Sequential, nn.Conv2d, nn.GroupNorm}
    assert nn.ReLU in kinds['resnet'] and nn.SiLU in kinds['plain']


@pytest.mark.parametrize('cell', [1, 2, 4, 8])
def test_masks_are_uniform_on_cells_and_one_half(cell):
    "5 standard deviations of a share of 400 (16/cell)^2 cells"
    mask = draw_mask(400, 16, cell, gen())
    cells = mask.reshape(400, 16 // cell, cell, 16 // cell, cell)
    assert cells.all(dim=(2, 4)).logical_or(~cells.any(4).any(2)).all()
    n = 400 * (16 // cell)**2
    assert abs(mask.double().mean() - .5) < 5 / (2 * n**.5)
    assert torch.equal(mask, draw_mask(400, 16, cell, gen())) and not torch.equal(mask, draw_mask(400, 16, cell, gen(1)))


@pytest.mark.parametrize('kind', ENCODERS)
def test_hidden_pixels_have_no_influence(kind):
    net, x = MaskedAutoencoder(MapEncoder(kind, (2, 16, 16), 8)), images(3, (2, 16, 16)).requires_grad_()
    mask = draw_mask(3, 16, 2, gen())
    slope, = torch.autograd.grad(net(x, mask).square().sum(), x)
    assert (slope * mask).abs().max() == 0 and (slope * ~mask).abs().max() > 0


def test_error_against_a_loop():
    x, mask = images(4, (3, 8, 8)).double(), draw_mask(4, 8, 2, gen())
    def constant(images, mask): return torch.full_like(images, .25)
    found, n = 0., 0
    for i in range(4):
        for c in range(3):
            for row in range(8):
                for column in range(8):
                    if not mask[i, 0, row, column]: continue
                    found += (.25 - x[i, c, row, column].item())**2
                    n += 1
    assert_close(masked_error(constant, x, mask), torch.tensor(found / n).double(), atol=1e-6, rtol=0)
    assert masked_error(constant, x, torch.zeros_like(mask)) == 0


@pytest.mark.parametrize('most, taken', [(1000, 4), (15, 4), (14, 3), (13, 2), (12, 2), (11, 1), (1, 1)])
def test_pooled_takes_the_deepest_maps_that_fit(most, taken):
    maps = [torch.randn(2, c, s, s) for c, s in ((1, 32), (2, 16), (4, 8), (8, 4))]
    expected = torch.cat([m.flatten(2).mean(2) for m in maps[::-1][:taken]], dim=1)
    assert_close(pooled(maps, most), expected)


def test_decoder_uses_every_map():
    decoder = Decoder([2, 4, 8], 3)
    maps = [torch.randn(2, c, s, s, requires_grad=True) for c, s in ((2, 16), (4, 8), (8, 4))]
    out = decoder(maps)
    assert out.shape == (2, 3, 16, 16)
    assert all(slope.abs().max() > 0 for slope in torch.autograd.grad(out.square().sum(), maps))


def test_classifier_is_linear_in_its_features():
    net, x = Classifier(MapEncoder('plain', (3, 16, 16), 8), 7), images(5, (3, 16, 16))
    features = net.features(x)
    assert features.shape == (5, 128) and features.min() >= 0
    assert_close(net(x), nn.functional.linear(features, net.logits.weight, net.logits.bias))


@pytest.mark.parametrize('shape', [(2,), (32, 100), (3, 4, 4), (3, 12, 12), (3, 48, 48), (3, 16, 32), (3, 0, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match='square images with a side of 8, 16, 32, 64, ... pixels, got shape'): check_side(shape)
    with pytest.raises(ValueError, match='square images'): MapEncoder('plain', shape)
