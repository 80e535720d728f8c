"""The slow step against calculations by hand: who moves when, from which samples, and how often."""
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch, Objective
from coulomb_gan.objectives.coulomb import Coulomb, ExactForce
from coulomb_gan.objectives.reference import Player, SeparatePasses, reference_step
from coulomb_gan.objectives.wasserstein import WGANGP
from coulomb_gan.objectives.penalties import GradientPenalty


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)


def linear(weight, lr=1.):
    "A player whose network multiplies by a matrix, and who follows the plain gradient"
    weight = torch.tensor(weight, dtype=torch.float64)
    net = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    net.weight.data = weight
    return Player(net, torch.optim.SGD(net.parameters(), lr=lr))


def weight(player): return player.net.weight.detach()

def column(values): return torch.tensor(values, dtype=torch.float64)[:, None]


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.calls = nn.Linear(2, 1), 0
    def forward(self, a):
        self.calls += 1
        return self.line(a)


# --- separate passes ----------------------------------------------------------------------------------------------

def test_every_set_is_evaluated_anew_every_time():
    net = Counted()
    a, b = torch.randn(3, 2), torch.randn(4, 2)
    d = SeparatePasses(net)
    d_a, d_b, again = d(a, b, a)
    alone = d(a)
    assert net.calls == 4 and len({id(out) for out in (d_a, again, alone)}) == 3
    assert torch.equal(d_a, again) and torch.equal(d_a, alone)
    assert (d_a.shape, d_b.shape) == ((3,), (4,))


def test_heads_of_several_numbers_keep_their_axis():
    assert SeparatePasses(nn.Linear(2, 3), 'code')(torch.randn(5, 2)).shape == (5, 3)
    assert SeparatePasses(nn.Linear(1, 1), 'reconstruction')(torch.randn(5, 1)).shape == (5, 1)


def test_more_than_a_number_each_is_refused():
    with pytest.raises(ValueError, match=r'D returned \(5, 3\) for 5 samples, expected one number each'):
        SeparatePasses(nn.Linear(2, 3))(torch.randn(5, 2))


@pytest.mark.parametrize('together', [True, False])
def test_what_holds_d_holds_it_in_both_kinds_of_step(together):
    class Clipped(Coulomb):
        simultaneous = together
        def constrain(self, d):
            with torch.no_grad():
                for p in d.parameters(): p.clamp_(-.01, .01)
    g, d = (Player(net, torch.optim.SGD(net.parameters(), lr=1.)) for net in (nn.Linear(2, 2), nn.Linear(2, 1)))
    gen = torch.Generator().manual_seed(0)
    y = torch.randn(4, 2, generator=gen)
    def draw(): return Batch(g.net(torch.randn(4, 2, generator=gen)), y, gen)
    reference_step(Clipped(), g, d, draw)
    assert max(p.abs().max() for p in d.net.parameters()) <= .01


# --- a player -----------------------------------------------------------------------------------------------------

def test_gradients_are_taken_from_scratch_and_move_nothing():
    player = linear([[2., -1.]])
    a = torch.tensor([[1., 3.], [2., 5.]], dtype=torch.float64)
    loss = player.net(a).square().mean()
    first, second = player.gradients(loss), player.gradients(loss)
    # d/dw of mean (w.a)^2 = mean 2 (w.a) a, with w.a = -1
    assert_close(first[0], (-2 * a).mean(0, keepdim=True))
    assert torch.equal(first[0], second[0])  # the same graph again, nothing added up
    assert torch.equal(weight(player), torch.tensor([[2., -1.]], dtype=torch.float64))


def test_a_move_is_the_optimisers_step_along_the_given_gradients():
    player = linear([[2., -1.]], lr=.5)
    player.move([torch.tensor([[4., 8.]], dtype=torch.float64)])
    assert torch.equal(weight(player), torch.tensor([[0., -5.]], dtype=torch.float64))


def test_gradients_taken_before_a_move_stay_as_they_were():
    player = linear([[3.]])
    a = column([1.])
    first = player.gradients(player.net(a).square().mean())
    kept = first[0].clone()
    player.gradients(player.net(a).mean())
    assert torch.equal(first[0], kept)


# --- a game of means, by hand -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Means(Objective):
    "D of generated minus D of real samples; writes down what is called"
    together: bool = False
    critic_steps: int = 1
    calls: list = field(default_factory=list)
    def __post_init__(self): pass
    @property
    def simultaneous(self): return self.together
    def loss_d(self, d, b):
        self.calls.append('d')
        d_x, d_y = d(b.x, b.y)
        return d_x.mean() - d_y.mean()
    def loss_g(self, d, b):
        self.calls.append('g')
        return -d(b.x).mean()
    def constrain(self, d):
        self.calls.append('constrain')
        with torch.no_grad(): d.weight.clamp_(-64., 64.)
    def finish(self, d, b): self.calls.append(('finish', b))


class Draws:
    "Batches in turn: latent numbers through G, and real ones"
    def __init__(self, g, batches):
        self.g, self.left, self.given = g, list(batches), []
    def __call__(self):
        z, y = self.left.pop(0)
        self.given.append(Batch(self.g.net(column(z)), column(y), None))
        return self.given[-1]


# Small integers, two to a batch: all sums, halves and products of a few of them are exact in float64
pair = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=2)
batches = st.lists(st.tuples(pair, pair), min_size=7, max_size=7)


@property_test
@given(st.integers(1, 6), batches, st.integers(-3, 3), st.integers(-3, 3))
def test_critic_steps_by_hand(k, drawn, v, w):
    game, g, d = Means(critic_steps=k), linear([[float(w)]]), linear([[float(v)]])
    draws = Draws(g, drawn)
    loss_d, loss_g = reference_step(game, g, d, draws)
    for z, y in drawn[:k]:
        slope = w * np.mean(z) - np.mean(y)
        want_d, v = v * slope, np.clip(v - slope, -64, 64)
    z_g = np.mean(drawn[k][0])
    assert (loss_d.item(), loss_g.item()) == (want_d, -v * w * z_g)
    assert (weight(d).item(), weight(g).item()) == (v, w + v * z_g)
    assert len(draws.given) == k + 1  # fresh samples for each update
    assert game.calls == ['d', 'constrain'] * k + ['g', ('finish', draws.given[-1])]


@property_test
@given(batches, st.integers(-3, 3), st.integers(-3, 3))
def test_at_once_by_hand(drawn, v, w):
    game, g, d = Means(together=True), linear([[float(w)]]), linear([[float(v)]])
    draws = Draws(g, drawn)
    loss_d, loss_g = reference_step(game, g, d, draws)
    z, y = (np.mean(part) for part in drawn[0])
    assert (loss_d.item(), loss_g.item()) == (v * (w * z - y), -v * w * z)
    assert (weight(d).item(), weight(g).item()) == (v - (w * z - y), w + v * z)
    assert len(draws.given) == 1 and game.calls == ['d', 'g', ('finish', draws.given[0]), 'constrain']


def test_a_step_in_turn_is_another_than_at_once():
    ends = []
    for together in (True, False):
        g, d = linear([[2.]]), linear([[.5]])
        reference_step(Means(together=together), g, d, Draws(g, [([1., 2.], [3., 5.])] * 2))
        ends.append((weight(d).item(), weight(g).item()))
    assert ends == [(1.5, 2.75), (1.5, 4.25)]


# --- the objectives of the package --------------------------------------------------------------------------------

@pytest.mark.parametrize('k', [1, 2, 5])
def test_critic_steps_of_wgan_gp_by_hand(k):
    "D(a) = v.a has slope |v|, so that L_D = v.(mean x - mean y) + w (|v| - t)^2 wherever the penalty is taken"
    gen, lr, strength, target = np.random.default_rng(k), .1, 3., 2.
    drawn = [(gen.normal(size=(4, 2)), gen.normal(size=(4, 2)) + 1) for _ in range(k + 1)]
    v, w = np.array([.6, -.8]), np.array([[1., .5], [0., 2.]])
    g, d = linear(w.tolist(), lr), linear([v.tolist()], lr)
    left, torch_gen = list(drawn), torch.Generator().manual_seed(0)
    def draw():
        z, y = map(torch.from_numpy, left.pop(0))
        return Batch(g.net(z), y, torch_gen)
    game = WGANGP(critic_steps=k, penalty=GradientPenalty(weight=strength, target=target))
    loss_d, loss_g = reference_step(game, g, d, draw)
    for z, y in drawn[:k]:
        length = np.linalg.norm(v)
        difference = (z @ w.T).mean(0) - y.mean(0)
        want_d = v @ difference + strength * (length - target)**2
        v = v - lr * (difference + 2 * strength * (length - target) * v / length)
    z = drawn[k][0]
    want_g = -(z @ w.T).mean(0) @ v
    w = w + lr * np.outer(v, z.mean(0))
    assert_close((loss_d.item(), loss_g.item()), (want_d, want_g))
    assert_close((weight(d).numpy(), weight(g).numpy()), (v[None], w))


def test_algorithm_1_by_hand():
    "On a line, D(a) = v a and G(z) = w z; the potential by loops, the gradients by calculus"
    z, y, v, w, lr, eps = [1., 2., -1.], [3., 5., 4.], .5, 2., .1, 1.5
    g, d = linear([[w]], lr), linear([[v]], lr)
    loss_d, loss_g = reference_step(Coulomb(eps=eps), g, d, lambda: Batch(g.net(column(z)), column(y), None))
    x = [w * z_i for z_i in z]
    def k(p, q): return ((p - q)**2 + eps**2)**-.5
    def phi(a): return np.mean([k(a, q) for q in y]) - np.mean([k(a, q) for q in x])
    want_d = np.mean([(v * a - phi(a))**2 for a in x]) + np.mean([(v * a - phi(a))**2 for a in y])
    slope_d = np.mean([2 * (v * a - phi(a)) * a for a in x]) + np.mean([2 * (v * a - phi(a)) * a for a in y])
    assert_close((loss_d.item(), loss_g.item()), (want_d, -v * np.mean(x)))
    assert_close((weight(d).item(), weight(g).item()), (v - lr * slope_d, w + lr * v * np.mean(z)))


def test_without_a_discriminator_only_the_generator_moves():
    z, y, w, lr = column([1., 2.]), column([3., 5.]), 2., .1
    g = linear([[w]], lr)
    draws = []
    def draw():
        draws.append(Batch(g.net(z), y, None))
        return draws[-1]
    loss_d, loss_g = reference_step(ExactForce(self_term=0.), g, None, draw)
    assert loss_d is None and len(draws) == 1
    # each of two generated points: pulled by both real ones, pushed by the other generated one
    x, real = w * z.flatten(), y.flatten()
    def pull(p, q): return -(p - q) * ((p - q)**2 + 1)**-1.5
    forces = torch.stack([pull(p, real).mean() - pull(p, other) for p, other in zip(x, x.flip(0))])
    assert_close(loss_g.item(), (forces**2).mean().item() / 2)
    assert_close(weight(g).item(), w + lr * (forces * z.flatten()).mean().item())
