"""WGAN-GP in closed form for linear critics, and as a lower bound of the Wasserstein distance."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.penalties import GradientPenalty
from coulomb_gan.objectives.wasserstein import WGANGP
from coulomb_gan.training.algorithm import rows_of_a_step
from coulomb_gan.training.config import Experiment, Optimisation
from coulomb_gan.training.state import TrainState


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)

def seeded(seed): return torch.Generator().manual_seed(seed)

def randn(seed, *shape): return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def critic(w, bias=0.):
    net = nn.Linear(w.shape[-1], 1).double()
    net.weight.data, net.bias.data = w.reshape(1, -1), torch.tensor([bias], dtype=torch.float64)
    return net


@property_test
@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0, 20), st.floats(0, 3), st.floats(-5, 5))
def test_losses_of_a_linear_critic(seed, n, weight, target, bias):
    w, x, y = randn(seed, 3), randn(seed + 1, n, 3), randn(seed + 2, n, 3) + 1
    net, game = critic(w, bias), WGANGP(penalty=GradientPenalty(weight, target))
    b = Batch(x, y, seeded(seed))
    loss_d = game.loss_d(Passes(net), b)
    excess = w.norm() - target
    assert_close(loss_d, w @ (x.mean(0) - y.mean(0)) + weight * excess**2)
    gradient, = torch.autograd.grad(loss_d, net.weight)
    assert_close(gradient[0], x.mean(0) - y.mean(0) + 2 * weight * excess * w / w.norm())
    assert_close(game.loss_g(Passes(net), b), -(x @ w).mean() - bias)


def test_a_wrong_sign_would_be_noticed():
    w, x, y = randn(0, 3), randn(1, 5, 3), randn(2, 5, 3) + 1
    loss = WGANGP().loss_d(Passes(critic(w)), Batch(x, y, seeded(0)))
    assert (loss - (w @ (y.mean(0) - x.mean(0)) + 10 * (w.norm() - 1)**2)).abs() > .1


@property_test
@given(st.integers(0, 1000))
def test_exchanging_real_and_generated_flips_the_sign_of_the_difference(seed):
    x, y = randn(seed, 6, 3), randn(seed + 1, 6, 3)
    net, game = critic(randn(seed + 2, 3)), WGANGP(penalty=GradientPenalty(0.))
    assert_close(game.loss_d(Passes(net), Batch(y, x, seeded(0))), -game.loss_d(Passes(net), Batch(x, y, seeded(0))))


@property_test
@given(st.integers(0, 1000), st.integers(1, 8))
def test_a_critic_of_slope_one_stays_below_the_wasserstein_distance(seed, n):
    "On a line that distance is the mean distance of the sorted pairs; |sin'| and |tanh'| are at most one"
    x, y = 3 * randn(seed, n, 1), 3 * randn(seed + 1, n, 1) + 1
    distance = (x.sort(0).values - y.sort(0).values).abs().mean()
    game = WGANGP(penalty=GradientPenalty(0.))
    for net in (nn.Tanh(), critic(torch.ones(1).double()), critic(-torch.ones(1).double())):
        assert -game.loss_d(Passes(net), Batch(x, y, seeded(0))) <= distance + 1e-12


def test_of_a_shift_the_distance_is_attained():
    x = randn(0, 8, 1)
    loss = WGANGP().loss_d(Passes(critic(torch.ones(1).double())), Batch(x, x + 2.5, seeded(0)))
    assert_close(loss.item(), -2.5)  # slope one, so there is no penalty


def test_bfloat16_passes_round_the_difference_alone():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    x, y = randn(0, 32, 3).float(), randn(1, 32, 3).float()
    game = WGANGP()
    exact, rounded = (game.loss_d(Passes(net, precision=p), Batch(x, y, seeded(0))) for p in ('float32', 'bfloat16'))
    assert rounded.dtype == torch.float32 and rounded != exact
    assert_close(rounded, exact, rtol=0, atol=16 * 2**-9)


def test_its_options():
    game = WGANGP()
    assert (game.critic_steps, game.penalty, game.simultaneous) == (5, GradientPenalty(10., 1., at='between'), False)
    assert Optimisation(**game.published) == Optimisation(lr_g=1e-4, lr_d=1e-4, beta1=0., beta2=.9)
    for option, value in (('critic_steps', 0), ('critic_steps', 1.5), ('penalty', 10.), ('penalty', None)):
        with pytest.raises(ValueError, match=f'{option} must '): WGANGP(**{option: value})


@property_test
@given(st.integers(0, 1000), st.floats(.1, 100))
def test_the_best_linear_critic_is_steeper_than_one(seed, weight):
    "By 1 + shift / 2 weight; its loss and its estimate exceed the shift as predicted, and any other critic loses more"
    x, y = randn(seed, 5, 3), randn(seed + 1, 7, 3) + 1
    shift = y.mean(0) - x.mean(0)
    size = shift.norm()
    best = (1 + size / (2 * weight)) * shift / size
    game, b = WGANGP(penalty=GradientPenalty(weight)), Batch(x, y, seeded(seed))
    def loss(w): return game.loss_d(Passes(critic(w)), b)
    assert_close(loss(best), -size - size**2 / (4 * weight))
    assert_close(best @ shift, size + size**2 / (2 * weight))
    for other in (best + .1 * randn(seed + 2, 3), -best, shift / size): assert loss(other) >= loss(best)


@pytest.mark.parametrize('weight', [1., 2., 10.])
def test_two_numbers_rest_at_twice_the_weight(weight):
    "Real point 0, generated theta, critic psi a, from theta = 1, psi = 1/2; the slower rate is weight - sqrt(weight^2 - 1)"
    game = WGANGP(penalty=GradientPenalty(weight))
    def velocity(theta, psi):
        net, at = critic(torch.tensor([psi]).double()), torch.tensor([[theta]], dtype=torch.float64, requires_grad=True)
        d, b = Passes(net), Batch(at, torch.zeros(1, 1).double(), seeded(0))
        to_g, = torch.autograd.grad(game.loss_g(d, b), at, retain_graph=True)
        to_d, = torch.autograd.grad(game.loss_d(d, b), net.weight)
        return -to_g.item(), -to_d.item()
    def formula(theta, psi): return psi, -theta - 2 * weight * (psi - (psi > 0) + (psi < 0))
    for at in ((1., .5), (-3., .2), (2., -1.)): assert velocity(*at) == pytest.approx(formula(*at))
    theta, psi, h = 1., .5, .02
    for _ in range(int(500 / h)):
        move = formula(theta, psi)
        theta, psi = theta + h * move[0], psi + h * move[1]
    assert theta == pytest.approx(2 * weight, abs=1e-4) and psi == pytest.approx(0, abs=1e-4)
    assert velocity(0., 1e-9)[1] == pytest.approx(2 * weight)  # at the solution the slope is pushed away from zero


@pytest.mark.parametrize('steps', [1, 3, 5])
def test_each_critic_step_takes_its_own_real_samples(steps):
    e = Experiment().changed(objective='wgan-gp', critic_steps=steps, batch=7, width_g=8, width_d=8, depth_g=1, depth_d=1)
    assert rows_of_a_step(TrainState(e, (2,))) == 7 * steps


def test_batch_norm_is_refused():
    with pytest.raises(ValueError, match='--no-batch-norm-d'): WGANGP().check(True)
    assert WGANGP().check(False) is None
