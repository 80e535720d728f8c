"""The distance of clouds of codes against the package's energy, the losses, the clip, and the schedule of the critic."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.field.kernels import Gaussian
from coulomb_gan.field.potential import energy
from coulomb_gan.networks.base import build
from coulomb_gan.networks.mlp import MLP
from coulomb_gan.networks.text import TextResNet
from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.mmd_gan import (EVERY, LEAST, MMDGAN, START, WIDTHS, GaussianSum, clipped_normalisation, rank,
                                            safe_root, squared_mmd)
from coulomb_gan.training.algorithm import rows_of_a_step, train_step
from coulomb_gan.training.cuda_graph import GraphedStep
from coulomb_gan.training.state import TrainState
from tiny_networks import discriminator
from tiny_runs import assert_same_end, stopped, tiny, train

KERNEL = GaussianSum()


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)

def randn(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the kernel and the distance ----------------------------------------------------------------------------------

def test_slope_and_curvature_are_the_derivatives():
    r2 = torch.tensor([0., .01, 1., 30., 900.], dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(KERNEL.of_r2(r2).sum(), r2, create_graph=True)
    curvature, = torch.autograd.grad(slope.sum(), r2)
    assert_close(KERNEL.slope(r2), slope)
    assert_close(KERNEL.curvature(r2), curvature)


@property_test
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.floats(.001, 10))
def test_distance_is_twice_the_energy(seed, n_a, n_b, q, size):
    a, b = size * randn(seed, n_a, q), size * randn(seed + 1, n_b, q) + size
    got = squared_mmd(a, b, KERNEL)
    assert_close(got, 2 * energy(a, b, KERNEL, unbiased=False), rtol=1e-9, atol=1e-15)
    assert_close(got, squared_mmd(b, a, KERNEL), rtol=1e-9, atol=1e-15)
    assert got > -1e-15


def test_distance_by_loops():
    a, b = randn(0, 4, 3), randn(1, 5, 3) + 1
    def k(u, v): return sum(Gaussian(s).of_r2((u - v).square().sum()) for s in WIDTHS)
    def mean(p, q): return torch.stack([k(u, v) for u in p for v in q]).mean()
    assert_close(squared_mmd(a, b, KERNEL), mean(a, a) + mean(b, b) - 2 * mean(a, b))


@pytest.mark.parametrize('q', [2, 8])
def test_gradients_are_right_in_both_clouds(q):
    a, b = randn(0, 4, q).requires_grad_(), (randn(1, 5, q) + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: squared_mmd(u, v, KERNEL), (a, b))


def test_equal_clouds_are_at_the_least_distance_and_pull_at_nothing():
    a = randn(0, 6, 8).float().requires_grad_()
    root = safe_root(squared_mmd(a, a.detach(), KERNEL))
    assert root >= LEAST and root < 1e-3
    assert torch.autograd.grad(root, a)[0].isfinite().all()
    zeros = torch.zeros(6, 8, requires_grad=True)
    assert torch.autograd.grad(safe_root(squared_mmd(zeros, zeros.detach(), KERNEL)), zeros)[0].abs().max() == 0


# --- the losses ---------------------------------------------------------------------------------------------------

def test_losses_by_hand():
    net = discriminator('code').double()
    x, y = randn(0, 6, 2), randn(1, 6, 2) + 1
    game = MMDGAN(rank_weight=3., decoding_weight=5.)
    d, b = Passes(net, head='code'), Batch(x, y, None)
    u, v = net.encoder(x), net.encoder(y)
    h = -(u.mean(0) - v.mean(0)).clamp(min=0).mean()
    distance = (2 * energy(u, v, KERNEL, unbiased=False)).sqrt()
    decoding = sum((net.decoder(codes) - a).square().mean() for codes, a in ((u, x), (v, y)))
    assert_close(rank(u, v), h)
    assert_close(game.loss_g(d, b), distance + 3 * h)
    assert_close(game.loss_d(d, b), -distance - 3 * h + 5 * decoding)


def test_generator_moves_toward_the_real_samples_and_discriminator_apart():
    "One step of each along its gradient changes the distance the right way"
    net, game = discriminator('code').double(), MMDGAN(rank_weight=0., decoding_weight=0.)
    x, y = randn(0, 6, 2).requires_grad_(), randn(1, 6, 2) + 1
    def distance(points): return squared_mmd(net(points), net(y), KERNEL).detach()
    before = distance(x)
    slope, = torch.autograd.grad(game.loss_g(Passes(net, head='code'), Batch(x, y, None)), x)
    assert distance(x - 1e-3 * slope) < before
    weights = [*net.encoder.parameters()]
    slopes = torch.autograd.grad(game.loss_d(Passes(net, head='code'), Batch(x, y, None)), weights)
    with torch.no_grad():
        for p, g in zip(weights, slopes): p -= 1e-3 * g
    assert distance(x) > before


@pytest.mark.parametrize('m', [2, 7])
def test_nothing_waits_for_the_device(m):
    "A tensor without values cannot be read: what asks for one raises, as the energy does"
    net, game = discriminator('code', m).to('meta'), MMDGAN()
    net.encoder = nn.Linear(m, m).to('meta')      # codes of both kinds of distances: few coordinates, and more than four
    net.decoder = nn.Linear(m, m).to('meta')
    x, y = torch.zeros(2, 5, m, device='meta')
    d, b = Passes(net, head='code'), Batch(x, y, None)
    assert game.loss_d(d, b).shape == game.loss_g(d, b).shape == ()
    game.constrain(net)
    with pytest.raises((RuntimeError, NotImplementedError)): energy(x, y, KERNEL, unbiased=False)


# --- the clip -----------------------------------------------------------------------------------------------------

def test_every_parameter_of_the_encoder_is_clipped_and_none_of_the_decoder():
    net = discriminator('code')
    before = [p.clone() for p in net.decoder.parameters()]
    MMDGAN(clip=.02).constrain(net)
    assert max(p.abs().max() for p in net.encoder.parameters()) == .02
    assert all(torch.equal(p, q) for p, q in zip(before, net.decoder.parameters()))


@pytest.mark.parametrize('layer, scales', [(nn.BatchNorm1d(6), 6), (nn.LayerNorm(6), 6), (nn.GroupNorm(2, 6), 6), (nn.Linear(6, 6), 0),
                                           (nn.BatchNorm1d(6, affine=False), 0), (nn.InstanceNorm1d(6, affine=True), 6)], ids=str)
def test_scales_start_at_one_and_shifts_at_zero(layer, scales):
    net = nn.Sequential(nn.Linear(4, 6), layer)
    assert clipped_normalisation(net, .01) == (scales, 2 * scales)
    assert clipped_normalisation(net, 2.) == (0, 2 * scales)


# --- the schedule -------------------------------------------------------------------------------------------------

def test_schedule_of_the_critic():
    game = MMDGAN(critic_steps=3, more_critic_steps=7)
    found = [game.critic_steps_at(step) for step in range(2 * EVERY + 1)]
    assert [step for step, n in enumerate(found) if n == 7] == [*range(START), EVERY, 2 * EVERY] and {*found} == {3, 7}


def test_a_step_takes_as_many_updates_as_the_schedule_says():
    t = TrainState(tiny(objective='mmd-gan', critic_steps=2, more_critic_steps=4), (2,))
    step, updates = GraphedStep(t), []
    t.opt_d.register_step_post_hook(lambda *_: updates.append(t.progress.step))
    gen = torch.Generator().manual_seed(0)
    for made in (24, 25, 499, 500, 501):
        t.progress.step = made
        assert step.is_usual() == (made not in (24, 500))
        step(torch.randn(rows_of_a_step(t), 2, generator=gen))
    assert [updates.count(made) for made in (24, 25, 499, 500, 501)] == [4, 2, 2, 4, 2]


def test_a_run_stopped_amid_the_schedule_continues_bit_for_bit(tmp_path):
    e = tiny(objective='mmd-gan', critic_steps=1, more_critic_steps=3, steps=30, optimiser='rmsprop', beta2=.99)
    train(e, tmp_path / 'whole')
    for step in (24, 27): assert_same_end(train(e, stopped(e, tmp_path / str(step), step)).out, tmp_path / 'whole')


def test_weights_stay_clipped_while_it_trains():
    t = TrainState(tiny(objective='mmd-gan', more_critic_steps=2), (2,))
    for _ in range(3): train_step(t, randn(0, rows_of_a_step(t), 2).float())
    assert max(p.abs().max() for p in t.d.encoder.parameters()) <= MMDGAN().clip < max(p.abs().max() for p in t.d.decoder.parameters())


# --- what is refused ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('wrong', [dict(critic_steps=0), dict(more_critic_steps=0), dict(critic_steps=1.5), dict(clip=0.),
                                   dict(rank_weight=-1.), dict(decoding_weight=-1.)], ids=str)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f'^{[*wrong][0]} must ') as caught: MMDGAN(**wrong)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('networks, shape', [(MLP(), (2,)), (TextResNet(width_g=4, width_d=4), (6, 5))])
def test_networks_without_codes_are_refused_in_one_line(networks, shape):
    if 'code' in networks.heads: pytest.skip('these have codes')
    with pytest.raises(ValueError, match='have no discriminator that returns a code'): build(networks, shape, head=MMDGAN.head)
