"""GAN-GP and DRAGAN: the standard losses and a penalty, each where it belongs, and the game of two numbers with them."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.dragan import DRAGAN
from coulomb_gan.objectives.gan_gp import GANGP
from coulomb_gan.objectives.penalties import GradientPenalty, zero_centred
from coulomb_gan.objectives.standard import NonSaturating
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.state import TrainState

BOTH = pytest.mark.parametrize('cls', [GANGP, DRAGAN])


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)

def seeded(seed): return torch.Generator().manual_seed(seed)

def randn(seed, *shape): return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def linear(w):
    net = nn.Linear(w.shape[-1], 1, bias=False).double()
    net.weight.data = w.reshape(1, -1)
    return net


@BOTH
@property_test
@given(seed=st.integers(0, 1000), n=st.integers(2, 5), weight=st.floats(0, 20), target=st.floats(0, 3))
def test_losses_of_a_linear_discriminator(cls, seed, n, weight, target):
    w, x, y = randn(seed, 3), randn(seed + 1, n, 3), randn(seed + 2, n, 3) + 1
    game, b = cls(penalty=GradientPenalty(weight, target, at=cls().penalty.at)), Batch(x, y, seeded(seed))
    d_x, d_y = x @ w, y @ w
    zeros, ones = torch.zeros_like, torch.ones_like
    classification = cross_entropy(d_x, zeros(d_x)) + cross_entropy(d_y, ones(d_y))
    assert_close(game.loss_d(Passes(linear(w)), b), classification + weight * (w.norm() - target)**2)
    assert_close(game.loss_g(Passes(linear(w)), b), cross_entropy(d_x, ones(d_x)))


@BOTH
def test_without_weight_it_is_the_non_saturating_gan(cls):
    x, y, net = randn(0, 4, 3), randn(1, 4, 3), linear(randn(2, 3))
    b = Batch(x, y, seeded(0))
    assert_close(cls(penalty=GradientPenalty(0.)).loss_d(Passes(net), b), NonSaturating().loss_d(Passes(net), b))
    assert_close(cls(penalty=zero_centred(3.)).loss_d(Passes(net), b), NonSaturating(r1=3.).loss_d(Passes(net), b))
    assert_close(cls().loss_g(Passes(net), b), NonSaturating().loss_g(Passes(net), b))


def test_dragan_does_not_look_at_the_generated_samples():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x, y = randn(0, 6, 3), randn(1, 6, 3)
    def penalties(game): return [game.penalty(Passes(net), Batch(a, y, seeded(0))).item() for a in (x, x + 3)]
    one, other = penalties(DRAGAN())
    assert one == other
    one, other = penalties(GANGP())
    assert one != other


def test_their_options():
    assert GANGP().penalty == GradientPenalty(10., 1., at='between')
    assert DRAGAN().penalty == GradientPenalty(10., 1., at='around', noise='released', spread=.5)
    for cls in (GANGP, DRAGAN):
        game = cls()
        assert (game.simultaneous, game.critic_steps, game.head, game.published) == (False, 1, 'scalar', {})
        with pytest.raises(ValueError, match='penalty must be of type GradientPenalty'): cls(penalty=10.)


def test_another_objective_keeps_the_place_of_its_own_penalty():
    "A weight that was chosen for one is taken over by the next, the place of the penalty is not"
    e = Experiment().changed(objective='gan-gp', penalty_weight=3.)
    for name, at in (('wgan-gp', 'between'), ('dragan', 'around')):
        assert e.changed(objective=name).objective.penalty == GradientPenalty(3., at=at)
    back = Experiment().changed(objective='dragan', penalty_target=.5).changed(objective='gan-gp')
    assert back.objective.penalty == GradientPenalty(10., .5, at='between')


@BOTH
def test_batch_norm_is_refused(cls):
    with pytest.raises(ValueError, match='--no-batch-norm-d'): cls().check(True)
    assert cls().check(False) is None
    e = Experiment().changed(networks='dcgan', width_g=16, width_d=4, objective=cls.name)
    with pytest.raises(ValueError, match='--no-batch-norm-d'): TrainState(e, (3, 16, 16))
    TrainState(e.changed(batch_norm_d=False), (3, 16, 16))


# --- a game of two numbers: real point 0, generated theta, D(a) = psi a -------------------------------------------

def velocity(game, theta, psi):
    "Both players down their gradients"
    net = linear(torch.tensor([psi], dtype=torch.float64))
    at = torch.tensor([[theta]], dtype=torch.float64, requires_grad=True)
    d, b = Passes(net), Batch(at, torch.zeros(1, 1).double(), seeded(0))
    to_g, = torch.autograd.grad(game.loss_g(d, b), at, retain_graph=True)
    to_d, = torch.autograd.grad(game.loss_d(d, b), net.weight)
    return np.array([-to_g.item(), -to_d.item()])


def formula(theta, psi, weight, target):
    push = -theta / (1 + np.exp(-theta * psi))
    return np.array([psi / (1 + np.exp(theta * psi)), push - 2 * weight * (psi - target * np.sign(psi))])


@BOTH
@property_test
@given(theta=st.floats(-5, 5), psi=st.floats(.01, 5), sign=st.sampled_from([-1, 1]), weight=st.floats(0, 20), target=st.floats(0, 2))
def test_the_field_of_two_numbers(cls, theta, psi, sign, weight, target):
    game = cls(penalty=GradientPenalty(weight, target, at=cls().penalty.at))
    np.testing.assert_allclose(velocity(game, theta, sign * psi), formula(theta, sign * psi, weight, target), atol=1e-12)


@pytest.mark.parametrize('weight, target, rest', [(1., 1., 4.), (.5, 0., 0.)])
def test_with_target_one_they_rest_at_four_times_the_weight_with_target_zero_at_the_solution(weight, target, rest):
    "The slower rate at 4 is .042: of the way 3e-6 is left after 300 units of time"
    at = np.array([1., .5])
    for _ in range(15_000): at = at + .02 * formula(*at, weight, target)
    np.testing.assert_allclose(at, [rest, 0], atol=1e-3)
