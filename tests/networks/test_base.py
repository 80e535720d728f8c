"""What holds for every kind of networks: shapes, refusals, fields that matter, and the order in which a pair is made."""
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.networks.base import NETWORKS, Networks, build, check_image, latent_vectors, layer_rows, sample
from coulomb_gan.options import discover, plain, rebuilt

discover('coulomb_gan.networks')

# Of each kind a small record and the shapes it is for
SMALL = {'mlp': (dict(latent=5, width_g=12, width_d=8), [(2,), (1, 8, 8), (3, 4, 6)]),
         'dcgan': (dict(latent=5, width_g=32, width_d=4), [(3, 32, 32), (1, 16, 16)]),
         'text': (dict(latent=5, width_g=12, width_d=8, depth_g=2, depth_d=1), [(8, 20), (1, 2)]),
         'dcgan-radford': (dict(latent=5, width_g=32, width_d=4), [(3, 32, 32), (1, 16, 16)]),
         'wgan-gp-dcgan': (dict(latent=5, width_g=8, width_d=4), [(3, 32, 32)]),
         'resnet': (dict(latent=5, width_g=4, width_d=4), [(3, 32, 32), (1, 64, 64)]),
         'began-autoencoder': (dict(latent=5, width=4), [(3, 32, 32), (1, 16, 16)]),
         'mmd-autoencoder': (dict(latent=5, width=4), [(3, 32, 32), (1, 16, 16)])}
REFUSED = {'mlp': [(), (8, 20), (1, 2, 3, 4)], 'dcgan': [(2,), (8, 20), (3, 32, 64), (3, 24, 24), (3, 8, 8), (3, 48, 48)],
           'text': [(2,), (1, 8, 8), (0, 20), (8, 1)],
           **dict.fromkeys(['dcgan-radford', 'began-autoencoder', 'mmd-autoencoder'],
                           [(2,), (8, 20), (3, 32, 64), (3, 24, 24), (3, 8, 8), (3, 128, 128)]),
           'wgan-gp-dcgan': [(2,), (8, 20), (3, 64, 64), (3, 16, 16)], 'resnet': [(2,), (8, 20), (3, 16, 16), (3, 128, 128)]}
# Of each field another value, and of some what must be chosen with it
CHANGES = {'latent': 6, 'width_g': 16, 'width_d': 16, 'depth_g': 4, 'depth_d': 3, 'batch_norm_g': False, 'batch_norm_d': False,
           'straight_through': True, 'activation_d': 'elu', 'hinge_spread': 9., 'fourier_d': .5,
           'width': 6, 'norm_d': 'layer', 'upsampling': 'resize', 'init_g': 'linear'}
WITH = {'init_g': dict(batch_norm_g=False)}      # what must be chosen beside a field for it to show


def small(kind): return NETWORKS.find(kind)(**SMALL[kind][0])

def made(record, shape):
    torch.manual_seed(0)
    return build(record, shape, record.heads[0])

def facts(record, shape):
    "What a pair is: its modules, its weights, what it computes"
    g, d = made(record, shape)
    x = g(torch.ones(4, record.latent).cumsum(0))
    return [str(g), str(d), *(p.detach() for p in (*g.parameters(), *d.parameters())), x.detach(), d(x).detach()]

def equal(a, b): return len(a) == len(b) and all(
    torch.equal(p, q) if isinstance(p, torch.Tensor) else p == q for p, q in zip(a, b))


CASES = [(kind, shape) for kind in SMALL for shape in SMALL[kind][1]]


def test_every_kind_is_tried_here(): assert set(SMALL) == set(REFUSED) == set(NETWORKS)


@pytest.mark.parametrize('kind, shape', CASES)
def test_shapes(kind, shape):
    record = small(kind)
    g, d = made(record, shape)
    x = g(torch.randn(7, record.latent))
    returned = {'scalar': (1,), 'reconstruction': shape, 'code': (record.latent,)}
    assert x.shape == (7, *shape) and d(x).shape == (7, *returned[record.heads[0]]) and x.dtype == torch.float32


@pytest.mark.parametrize('kind, shape', [(kind, shape) for kind in REFUSED for shape in REFUSED[kind]])
def test_shapes_refused(kind, shape):
    "In one line that says what was got"
    with pytest.raises(ValueError, match=r'got .*' + (str(shape[-1]) if shape else '')) as error: made(small(kind), shape)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', SMALL)
def test_every_field_changes_the_networks(kind):
    record, shape = small(kind), SMALL[kind][1][0]
    assert equal(facts(record, shape), facts(record, shape))
    for field in fields(record):
        base = replace(record, **WITH.get(field.name, {}))
        other = replace(base, **{field.name: CHANGES[field.name]})
        assert other != base and not equal(facts(base, shape), facts(other, shape)), f'{kind}: {field.name} has no effect'


@pytest.mark.parametrize('kind', SMALL)
def test_fields_of_one_network_leave_the_other_alone(kind):
    "Those that end in _g change no module of D, those in _d none of G"
    record, shape = small(kind), SMALL[kind][1][0]
    g, d = made(record, shape)
    for field in fields(record):
        changed = WITH.get(field.name, {}) | {field.name: CHANGES[field.name]}
        other_g, other_d = made(replace(record, **changed), shape)
        if field.name.endswith('_g'): assert str(other_d) == str(d)
        if field.name.endswith('_d'):
            assert str(other_g) == str(g)
            assert all(torch.equal(p, q) for p, q in zip(g.parameters(), other_g.parameters()))   # G is made first


@pytest.mark.parametrize('kind', SMALL)
def test_a_pair_is_its_generator_then_its_discriminator(kind):
    record, shape = small(kind), SMALL[kind][1][0]
    pair = made(record, shape)
    torch.manual_seed(0)
    apart = record.generator(shape), record.discriminator(shape)
    for built, alone in zip(pair, apart):
        assert equal([*built.state_dict().values()], [*alone.state_dict().values()])


@pytest.mark.parametrize('kind', SMALL)
def test_heads(kind):
    record, shape = small(kind), SMALL[kind][1][0]
    assert build(record, shape, head=None)[1] is None
    with pytest.raises(ValueError, match=f"{kind}' have no discriminator that returns a picture"): build(record, shape, 'picture')


@pytest.mark.parametrize('kind', SMALL)
def test_latent_and_sizes_have_ranges(kind):
    record = small(kind)
    for field in fields(record):
        if field.type is int:
            with pytest.raises(ValueError, match=f'{field.name} must lie in'): replace(record, **{field.name: 0})


@pytest.mark.parametrize('kind', SMALL)
def test_a_record_comes_back_from_plain_data(kind):
    stored = plain(small(kind))
    assert stored['name'] == kind
    for other in SMALL: assert rebuilt(NETWORKS.find(other)(), stored, NETWORKS) == small(kind)


def test_a_kind_without_networks_says_so():
    for make in (Networks().generator, Networks().discriminator):
        with pytest.raises(NotImplementedError): make((2,))


# --- latent vectors -----------------------------------------------------------------------------------------------

def vectors(kind, n, seed=0): return latent_vectors(small(kind), n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('kind', SMALL)
def test_latent_vectors_have_the_prior_of_their_networks(kind):
    "First, second and fourth moments; of 100,000 numbers they are known to 0.003, 0.005 and 0.03, five times which is allowed"
    z = vectors(kind, 20_000).double()
    assert z.shape == (20_000, 5)
    moments = {'normal': (0., 1., 3.), 'uniform': (0., 1 / 3, 1 / 5)}[small(kind).prior]
    for power, moment, allowed in zip((1, 2, 4), moments, (.015, .025, .15)):
        assert_close(z.pow(power).mean().item(), moment, rtol=0, atol=allowed)
    if small(kind).prior == 'uniform': assert z.abs().max() <= 1


def test_normal_latent_vectors_are_those_of_earlier_versions():
    gen = torch.Generator().manual_seed(3)
    assert torch.equal(vectors('mlp', 7, 3), torch.randn(7, 5, generator=gen))


@pytest.mark.parametrize('kind', ['mlp', 'dcgan-radford'])
def test_latent_vectors_go_on_with_their_generator(kind):
    gen = torch.Generator().manual_seed(0)
    first, second = (latent_vectors(small(kind), 4, gen) for _ in range(2))
    assert torch.equal(first, vectors(kind, 4)) and not torch.equal(first, second)


def test_priors(): assert {kind for kind in NETWORKS if NETWORKS[kind].prior != 'normal'} == {'dcgan-radford', 'began-autoencoder'}


def test_square_images_of_allowed_sides():
    assert check_image(small('mlp'), (5, 8, 8), (8,)) is None
    for shape in ((3, 8, 16), (3, 16, 16), (8, 8), (8,), (), (1, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"'mlp' are for square images with a side of 8 pixels, got shape \("):
            check_image(small('mlp'), shape, (8,))


def test_layers_in_rows():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Identity())
    assert layer_rows(net, torch.zeros(2, 2, 4, 4)) == [('Conv2d', (3, 2, 2), 57), ('BatchNorm2d', (3, 2, 2), 6), ('Flatten', (12,), 0)]


# --- samples ------------------------------------------------------------------------------------------------------

def normalising(latent=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(latent, 2), nn.BatchNorm1d(2, track_running_stats=False))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 12))
def test_samples_come_in_whole_batches(n, batch):
    "Each sample is that of its own batch; the last one is filled up with the first vectors, again and again if there are few"
    g, z = normalising(), torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
    x = sample(g, z, batch)
    rows = [i % n for i in range(-(-n // batch)*batch)]
    batches = [g(z[rows[i:i + batch]]) for i in range(0, len(rows), batch)]
    assert_close(x, torch.cat(batches)[:n])
    assert x.shape == (n, 2) and not x.requires_grad


def test_a_whole_batch_does_not_depend_on_what_comes_after_it():
    g, z = normalising(), torch.randn(40, 3)
    for n in (8, 9, 39): assert torch.equal(sample(g, z[:n], 8)[:8], sample(g, z, 8)[:8])


def test_another_batch_gives_other_samples():
    g, z = normalising(), torch.randn(40, 3)
    with pytest.raises(AssertionError): assert_close(sample(g, z, 8), sample(g, z, 10))
