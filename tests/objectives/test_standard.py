"""The standard losses against torch's cross entropies, what is known of the best discriminator, and a game of two numbers."""
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.standard import Minimax, NonSaturating
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.state import TrainState

GAME = NonSaturating()


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)


def outputs(n):
    "What a discriminator may return at n points"
    numbers = st.lists(st.floats(-1000, 1000), min_size=n, max_size=n)
    return numbers.map(lambda values: torch.tensor(values, dtype=torch.float64))


def losses(d_x, d_y):
    b = Batch(torch.zeros(len(d_x)), torch.zeros(len(d_y)), None)
    return GAME.loss_d(lambda x, y: (d_x, d_y), b), GAME.loss_g(lambda x: d_x, b)


@property_test
@given(outputs(5), outputs(7))
def test_losses_are_cross_entropies(d_x, d_y):
    loss_d, loss_g = losses(d_x, d_y)
    zeros, ones = torch.zeros_like, torch.ones_like
    assert_close(loss_d, cross_entropy(d_x, zeros(d_x)) + cross_entropy(d_y, ones(d_y)))
    assert_close(loss_g, cross_entropy(d_x, ones(d_x)))


@property_test
@given(outputs(5), outputs(5))
def test_exchanging_real_and_generated_flips_the_sign_of_d(d_x, d_y): assert_close(losses(-d_y, -d_x)[0], losses(d_x, d_y)[0])


@property_test
@given(outputs(6), st.permutations(range(6)))
def test_the_order_of_the_samples_does_not_matter(d, order):
    for one, other in zip(losses(d, d), losses(d[order], d)): assert_close(one, other)


def test_a_generator_that_is_found_out_still_learns():
    "The slope of L_G is -sigmoid(-D) / n: near 1 where D is sure that a sample is generated; the saturating loss has none"
    d_x = torch.tensor([-50., 0., 50.], dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(losses(d_x, d_x)[1], d_x)
    assert_close(slope, -torch.sigmoid(-d_x.detach()) / 3)
    saturating, = torch.autograd.grad(-cross_entropy(d_x, torch.zeros_like(d_x)), d_x)
    assert slope[0] < -.33 and saturating[0].abs() < 1e-20


def test_the_best_discriminator_returns_the_log_odds():
    "On three places with known frequencies D = log(real / generated) is stationary, and L_D = 2 log 2 - 2 JSD"
    x, y = (torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor(n)) for n in ((6, 3, 1), (2, 3, 5)))
    p_x, p_y = (places.bincount() / 10 for places in (x, y))
    table = nn.Embedding.from_pretrained((p_y / p_x).log()[:, None], freeze=False)
    loss = GAME.loss_d(Passes(table), Batch(x, y, None))
    gradient, = torch.autograd.grad(loss, table.weight)
    assert_close(gradient, torch.zeros(3, 1), rtol=0, atol=1e-7)
    middle = (p_x + p_y) / 2
    jsd = ((p_x * (p_x / middle).log()).sum() + (p_y * (p_y / middle).log()).sum()) / 2
    assert_close(loss, 2 * torch.tensor(2.).log() - 2 * jsd)
    with torch.no_grad(): table.weight[0] += .5
    assert GAME.loss_d(Passes(table), Batch(x, y, None)) > loss


def test_bfloat16_passes_give_losses_in_float32():
    net = nn.Linear(3, 1)
    x, y = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(0))
    b = Batch(x, y, None)
    for loss in (GAME.loss_d, GAME.loss_g):
        exact, rounded = (loss(Passes(net, precision=p), b) for p in ('float32', 'bfloat16'))
        assert rounded.dtype == torch.float32 and rounded != exact
        assert_close(rounded, exact, rtol=0, atol=8 * 2**-9)  # slopes of at most 1 on a handful of roundings


def test_the_game_is_played_in_turn_with_one_update_each():
    assert (GAME.simultaneous, GAME.critic_steps, GAME.head, GAME.n_real(8)) == (False, 1, 'scalar', 8)
    assert GAME.check(True) is None


def test_its_only_option_is_the_penalty_at_the_data():
    assert [f.name for f in fields(NonSaturating)] == [f.name for f in fields(Minimax)] == ['r1'] and GAME.r1 == 0
    for value in (-1., None, '1'):
        with pytest.raises(ValueError, match='r1 must '): NonSaturating(r1=value)


@pytest.mark.parametrize('cls', [NonSaturating, Minimax])
def test_batch_norm_is_refused_only_with_the_penalty(cls):
    assert cls().check(True) is None and cls(r1=1.).check(False) is None
    with pytest.raises(ValueError, match='--no-batch-norm-d'): cls(r1=1.).check(True)
    e = Experiment().changed(networks='dcgan', width_g=16, width_d=4, objective=cls.name)
    TrainState(e, (3, 16, 16))
    with pytest.raises(ValueError, match='--no-batch-norm-d'): TrainState(e.changed(r1=1.), (3, 16, 16))
    TrainState(e.changed(r1=1., batch_norm_d=False), (3, 16, 16))


@pytest.mark.parametrize('cls', [NonSaturating, Minimax])
def test_r1_adds_half_gamma_times_the_squared_slope_at_the_data(cls):
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x, y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = Batch(x, y, None)
    at = y.clone().requires_grad_()
    slope, = torch.autograd.grad(net(at).sum(), at)
    added = cls(r1=3.).loss_d(Passes(net), b) - cls().loss_d(Passes(net), b)
    assert_close(added, 1.5 * slope.square().sum(1).mean())
    assert cls(r1=3.).loss_g(Passes(net), b) == cls().loss_g(Passes(net), b)


# --- a game of two numbers: real point 0, generated theta, D(a) = psi a -------------------------------------------

def velocity(game, theta, psi):
    "Both players down their gradients"
    net = nn.Linear(1, 1, bias=False).double()
    net.weight.data.fill_(psi)
    at = torch.tensor([[theta]], dtype=torch.float64, requires_grad=True)
    d, b = Passes(net), Batch(at, torch.zeros(1, 1).double(), None)
    to_g, = torch.autograd.grad(game.loss_g(d, b), at, retain_graph=True)
    to_d, = torch.autograd.grad(game.loss_d(d, b), net.weight)
    return np.array([-to_g.item(), -to_d.item()])


def jacobian(game, h=1e-4):
    "At the solution, by central differences, whose error is of the order of h^2"
    return np.array([velocity(game, *step) - velocity(game, *-step) for step in h * np.eye(2)]).T / (2 * h)


@pytest.mark.parametrize('cls', [NonSaturating, Minimax])
@pytest.mark.parametrize('gamma', [0., .3, .9, 2., 10.])
def test_eigenvalues_at_the_solution(cls, gamma):
    root = np.sqrt(complex(gamma**2 - 1)) / 2
    found = np.sort_complex(np.linalg.eigvals(jacobian(cls(r1=gamma))))
    np.testing.assert_allclose(found, np.sort_complex([-gamma/2 - root, -gamma/2 + root]), atol=1e-6)


@pytest.mark.parametrize('cls', [NonSaturating, Minimax])
@pytest.mark.parametrize('a, b', [(.01, .01), (.5, .001), (.001, 2.), (4., 3.9)])
def test_no_ratio_of_rates_makes_it_converge(cls, a, b):
    "Steps at once spiral outwards, steps in turn circle"
    j = jacobian(cls())
    of_g, of_d = np.diag([a, 0]) @ j, np.diag([0, b]) @ j
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(np.eye(2) + of_g + of_d))**2, 1 + a * b / 4, rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals((np.eye(2) + of_g) @ (np.eye(2) + of_d))), 1, rtol=1e-6)


@property_test
@given(st.floats(-4, 4), st.floats(-4, 4))  # products below 20, above which torch takes softplus for the identity
def test_minimax_conserves_the_distance_and_the_other_shrinks_it(theta, psi):
    at = np.array([theta, psi])
    assert at @ velocity(Minimax(), theta, psi) == pytest.approx(0, abs=1e-12)
    want = -theta * psi * np.tanh(theta * psi / 2)
    assert at @ velocity(NonSaturating(), theta, psi) == pytest.approx(want, abs=1e-12)


@property_test
@given(outputs(5), outputs(7))
def test_minimax_is_a_zero_sum_game(d_x, d_y):
    "What G pays for its samples, D gains from them; the discriminator is the non-saturating game's"
    b = Batch(torch.zeros(5), torch.zeros(7), None)
    loss_d, loss_g = Minimax().loss_d(lambda x, y: (d_x, d_y), b), Minimax().loss_g(lambda x: d_x, b)
    assert_close(loss_d, losses(d_x, d_y)[0])
    assert_close(loss_g, -cross_entropy(d_x, torch.zeros_like(d_x)))
    assert_close(loss_d + loss_g, cross_entropy(d_y, torch.ones_like(d_y)), atol=1e-9, rtol=1e-9)


def test_minimax_saturates():
    d_x = torch.tensor([-50., 0., 50.], dtype=torch.float64, requires_grad=True)
    loss = Minimax().loss_g(lambda x: d_x, Batch(torch.zeros(3), torch.zeros(3), None))
    slope, = torch.autograd.grad(loss, d_x)
    assert_close(slope, -torch.sigmoid(d_x.detach()) / 3)
    assert slope[0].abs() < 1e-20
