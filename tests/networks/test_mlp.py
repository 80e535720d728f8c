"""Multilayer perceptrons: how many parameters, which layers, and how the weights start."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.networks.base import build
from coulomb_gan.networks.layers import LeCunTanh
from coulomb_gan.networks.mlp import ACTIVATIONS, MLP, FourierFeatures, mlp


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def count(net): return sum(p.numel() for p in net.parameters())
def kinds(net): return [type(layer).__name__ for layer in net]


@given(*[st.integers(1, 20)]*3, st.integers(1, 5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_counts(n_in, n_out, width, depth, batch_norm):
    net = mlp(n_in, n_out, width, depth, batch_norm)
    hidden = (n_in + 1)*width + (depth - 1)*(width + 1)*width + batch_norm*depth*2*width
    assert count(net) == hidden + (width + 1)*n_out
    assert kinds(net) == (['Linear'] + ['BatchNorm1d']*batch_norm + ['ReLU'])*depth + ['Linear']


def test_the_network_is_its_formula():
    net, x = mlp(3, 2, 8, 2, False, nn.ELU).double(), torch.randn(5, 3, dtype=torch.float64)
    first, _, second, _, last = net
    out = x
    for layer in (first, second):
        out = out @ layer.weight.T + layer.bias
        out = torch.where(out > 0, out, out.exp() - 1)
    assert_close(net(x), out @ last.weight.T + last.bias)


@pytest.mark.parametrize('depth', [1, 3])
@pytest.mark.parametrize('batch_norm', [True, False])
def test_batch_norm_of_the_generator(batch_norm, depth):
    g, d = build(MLP(latent=4, width_g=8, depth_g=depth, batch_norm_g=batch_norm), (2,))
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in g.modules()) == batch_norm*depth
    z = torch.randn(16, 4)
    alone = torch.cat([g(part) for part in z.split(8)])
    assert torch.allclose(g(z), alone) != batch_norm
    x = torch.randn(16, 2)
    assert_close(d(x)[:8], d(x[:8]))                                          # D judges each sample alone


@pytest.mark.parametrize('name, layer', [('leaky_relu', nn.LeakyReLU), ('elu', nn.ELU)])
def test_activation_of_the_discriminator(name, layer):
    d = MLP(activation_d=name, depth_d=3).discriminator((2,))
    assert [type(a) for a in d[1]][1::2] == [layer]*3
    if name == 'leaky_relu': assert {a.negative_slope for a in d[1][1::2]} == {.2}
    assert name in ACTIVATIONS


def test_images_end_in_a_tanh_and_points_do_not():
    images, points = MLP().generator((1, 8, 8)), MLP().generator((2,))
    assert isinstance(images[-1], LeCunTanh) and not any(isinstance(layer, LeCunTanh) for layer in points.modules())


@pytest.mark.parametrize('change, message', [
    (dict(activation_d='relu'), 'activation_d must be one of leaky_relu, elu'), (dict(hinge_spread=-1.), 'hinge_spread must lie in'),
    (dict(fourier_d=-1.), 'fourier_d must lie in'), (dict(fourier_d=float('nan')), 'fourier_d must'),
    (dict(hinge_spread=15., fourier_d=.4), 'got hinge_spread 15.0 and fourier_d 0.4, expected one of them above 0'),
    (dict(init_g='zero'), 'init_g must be one of kaiming, linear'),
    (dict(init_g='linear'), "init_g='linear' needs batch_norm_g=False and an even width_g of twice latent or more, got True, 256"),
    (dict(init_g='linear', batch_norm_g=False, width_g=65), 'got False, 65 and latent=32'),
    (dict(init_g='linear', batch_norm_g=False, width_g=62), 'got False, 62 and latent=32'),
    (dict(depth_g=0), 'depth_g must lie in'), (dict(batch_norm_g=1), 'batch_norm_g must be of type bool')])
def test_wrong_options(change, message):
    with pytest.raises(ValueError, match=message): MLP(**change)


# --- how the weights start ----------------------------------------------------------------------------------------

def test_kaiming_initialisation_keeps_the_size_of_a_signal():
    "Without batch norm and with PyTorch's own start, six layers lose more than nine tenths of it"
    z = torch.randn(1000, 200)
    body = MLP(latent=200, width_g=200, depth_g=6, batch_norm_g=False).generator((2,))[0]
    usual = mlp(200, 2, 200, 6, False)
    size, lost = (net[:-1](z).square().mean().sqrt().item() for net in (body, usual))
    assert .5 < size < 2 and lost < .1
    biases = torch.cat([layer.bias for layer in body if isinstance(layer, nn.Linear)])
    assert_close(biases.std().item(), .3, rtol=.08, atol=0)                  # of 1,202 numbers, to four standard errors


@pytest.mark.parametrize('latent, width, depth, n_out', [(2, 128, 7, 2), (2, 8, 1, 2), (5, 12, 3, 2), (2, 6, 2, 5), (4, 8, 2, 4)])
def test_a_linear_start_is_an_affine_map(latent, width, depth, n_out):
    "With singular values of one: a rotation or reflection, or a projection to fewer coordinates"
    g = MLP(latent=latent, width_g=width, depth_g=depth, batch_norm_g=False, init_g='linear').generator((n_out,)).double()
    origin = g(torch.zeros(1, latent).double())
    slopes = g(torch.eye(latent).double()) - origin
    z = 4 * torch.randn(50, latent).double()
    assert_close(g(z), origin + z @ slopes, rtol=0, atol=1e-4)      # the weights are those of float32
    singular = torch.linalg.svdvals(slopes)
    assert_close(singular, torch.ones_like(singular), rtol=1e-5, atol=0)
    assert not torch.allclose(g[0][1](g[0][0](z)), g[0][0](z))      # and yet units are off


def test_a_linear_start_spreads_its_hinges():
    body = MLP(latent=2, width_g=2000, depth_g=2, batch_norm_g=False, init_g='linear').generator((2,))[0]
    for layer in body[:-1:2]: assert_close(layer.bias.std().item(), .3, rtol=.1, atol=0)      # of 1,000 numbers


@pytest.mark.parametrize('width', [1., 15., 200.])
def test_hinges_lie_as_far_out_as_they_should(width):
    "The distance |b|/|w| is that of a normal number; slopes shrink so that w x is as large at every width"
    layer, usual = (MLP(width_d=10_000, depth_d=1, hinge_spread=s).discriminator((2,))[1][0] for s in (width, 0.))
    distance = layer.bias.abs()/layer.weight.norm(dim=1)
    assert_close(distance.square().mean().sqrt().item(), width, rtol=.03, atol=0)      # 10,000 hinges: 0.7 %
    assert_close((layer.weight*width).std().item(), 4*usual.weight.std().item(), rtol=.03, atol=0)


def test_only_the_first_layer_is_spread():
    torch.manual_seed(0)
    spread = MLP(hinge_spread=15.).discriminator((2,))[1]
    torch.manual_seed(0)
    usual = MLP().discriminator((2,))[1]
    for a, b in zip(spread[1:].parameters(), usual[1:].parameters()): assert torch.equal(a, b)
    assert not torch.equal(spread[0].weight, usual[0].weight)


# --- Fourier features ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('width', [.1, .4, 3.])
def test_fourier_features_have_the_stated_kernel(width):
    "Of two points r apart the products have mean exp(-(width r)^2/2) / 2; 100,000 waves: 0.003, to four such errors"
    torch.manual_seed(0)
    x = torch.tensor([[0., 0.], [.5, 0.], [-1., 2.]])
    features = FourierFeatures(2, 100_000, width)(x)
    kernel = 2*features @ features.T/100_000
    assert_close(kernel, torch.exp(-width**2*torch.cdist(x, x)**2/2), rtol=0, atol=.013)
    assert features.abs().max() <= 1


def test_fourier_features_stand_before_the_hidden_layers():
    "As many waves as hidden units, trained like every weight; images are flattened first"
    for shape, coordinates in (((2,), 2), ((1, 8, 8), 64)):
        d = MLP(width_d=16, depth_d=2, fourier_d=.4).discriminator(shape)
        first, waves, body = d
        assert isinstance(first, nn.Flatten) and waves.waves.weight.shape == (16, coordinates)
        assert body[0].weight.shape == (16, 16) and d(torch.zeros(3, *shape)).shape == (3, 1)
        assert all(p.requires_grad for p in d.parameters())


def test_without_fourier_features_the_discriminator_is_as_before():
    usual = MLP().discriminator((2,))
    assert len(usual) == 2 and [*usual.state_dict()][0] == '1.0.weight'
