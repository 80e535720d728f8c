"""Targets, losses and exact force against loops in float64, their symmetries, the replay buffer and the schedule."""
from dataclasses import replace
from itertools import accumulate
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import energy, potential
from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.coulomb import Charges, Coulomb, ExactForce

# Float64 throughout: squared distances are good to 1e-16 of the largest (about 1e3), the kernels drawn here
# amplify that by at most d / eps^2 < 50, so errors stay below 1e-11 of the largest kernel value.
EXACT = 1e-11


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)


# --- batches to try -----------------------------------------------------------------------------------------------

def randn(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

def seeded(seed): return torch.Generator().manual_seed(seed)


def batch(x, y, more_x=None, more_y=None, **options):
    "A batch with further charges: generated ones in the replay buffer, real ones behind the minibatch"
    carried = {} if more_x is None else {'replay': more_x}
    y = y if more_y is None else torch.cat([y, more_y])
    return Batch(x, y, seeded(0), carried=carried, **options)


@st.composite
def parts(draw):
    "`x, y, more_x, more_y` of one shape; x and y equally many, some points coincide"
    shape = draw(st.sampled_from([(1,), (3,), (2, 2, 2), (4, 3)]))
    n = draw(st.integers(2, 6))
    sizes = [n, n, draw(st.integers(0, 4)), draw(st.integers(0, 4))]
    c = 3 * randn(draw(st.integers(0, 10**6)), sum(sizes), *shape)
    if draw(st.booleans()): c[-1] = c[0] = c[n]
    return c.split(sizes)


def options(**more):
    "Options of an objective"
    strengths = st.sampled_from([0., .5, 1., 3.])
    return st.fixed_dictionaries(dict(d=st.floats(.3, 4), eps=st.floats(.3, 4), self_term=strengths, **more))


games = options(smoothing=st.sampled_from([0., .5])).map(lambda o: Coulomb(**o))
plain_games = options().map(lambda o: Coulomb(**o))
forces = options().map(lambda o: ExactForce(**o))


def k_0(game): return game.eps**-game.d

def close(got, want, game, rtol=EXACT):
    "Within `rtol` of the largest possible value of the kernel"
    assert_close(got, want, rtol=0, atol=rtol * k_0(game))


# --- the oracle: one pair at a time -------------------------------------------------------------------------------

def k_loop(p, q, game): return (float(np.sum((p - q)**2)) + game.eps**2) ** (-game.d / 2)


def mean_loop(p, charges, own, game):
    "Mean kernel of a point over charges; number `own` is its own and counts with the stated strength"
    k = [k_loop(p, q, game) for q in charges]
    if own is None: return sum(k) / len(k)
    others = sum(k_j for j, k_j in enumerate(k) if j != own) / (len(k) - 1)
    share = game.self_term / len(k)
    return (1 - share) * others + share * k[own]


def targets_loop(game, a_x, a_y, all_x, all_y):
    a_x, a_y, all_x, all_y = (c.flatten(1).numpy() for c in (a_x, a_y, all_x, all_y))
    phi_x = [mean_loop(p, all_y, None, game) - mean_loop(p, all_x, i, game) for i, p in enumerate(a_x)]
    phi_y = [mean_loop(p, all_y, i, game) - mean_loop(p, all_x, None, game) for i, p in enumerate(a_y)]
    return torch.tensor([phi_x, phi_y], dtype=torch.float64)


def phi(game, b): return torch.stack(game.targets(b)[2:])


def pull_loop(game, x, all_x, all_y):
    "The force on each generated sample: of all real charges, and of all generated ones but its own"
    x, all_x, all_y = (c.flatten(1).numpy() for c in (x, all_x, all_y))
    def pull(p, q): return -game.d * (p - q) * k_loop(p, q, game)**((game.d + 2) / game.d)
    def total(p, charges): return np.sum([pull(p, q) for q in charges], axis=0)
    weight = (len(all_x) - game.self_term) / (len(all_x) - 1)
    return torch.from_numpy(np.stack([total(p, all_y) / len(all_y) - weight * total(p, all_x) / len(all_x) for p in x]))


def force_close(got, want, game): assert_close(got, want, rtol=0, atol=4 * EXACT * k_0(game) * game.d / game.eps)


# --- targets ------------------------------------------------------------------------------------------------------

@property_test
@given(games, parts())
def test_targets_equal_loops(game, c):
    x, y, more_x, more_y = c
    a_x, a_y, *got = game.targets(batch(*c))
    assert (a_x.shape, a_y.shape) == (x.shape, y.shape)
    close(torch.stack(got), targets_loop(game, a_x, a_y, torch.cat([x, more_x]), torch.cat([y, more_y])), game)


def test_another_sum_would_be_noticed():
    x, y, more_x, more_y = randn(0, 12, 3).split(3)
    game = Coulomb(self_term=.5)
    got = phi(game, batch(x, y, more_x, more_y))
    for other in (targets_loop(replace(game, self_term=.6), x, y, torch.cat([x, more_x]), torch.cat([y, more_y])),
                  targets_loop(game, x, y, x, y), -got, got.flip(0)):
        assert (got - other).abs().max() > 1e-3


@property_test
@given(games, parts(), st.integers(0, 10**6))
def test_a_shift_of_everything_changes_nothing(game, c, seed):
    shift = 5 * randn(seed, *c[0].shape[1:])
    close(phi(game, batch(*[p + shift for p in c])), phi(game, batch(*c)), game, 100 * EXACT)


@property_test
@given(plain_games, parts(), st.integers(0, 10**6))
def test_a_rotation_of_everything_changes_nothing(game, c, seed):
    m = prod(c[0].shape[1:])
    rotation, _ = torch.linalg.qr(randn(seed, m, m))
    close(phi(game, batch(*[p.flatten(1) @ rotation for p in c])), phi(game, batch(*c)), game)


@property_test
@given(plain_games, parts(), st.floats(.3, 3))
def test_in_other_units_the_potential_is_a_power_of_the_unit(game, c, unit):
    scaled = replace(game, eps=game.eps * unit)
    close(phi(scaled, batch(*[p * unit for p in c])), phi(game, batch(*c)) * unit**-game.d, scaled)


@property_test
@given(plain_games, parts(), st.randoms(use_true_random=False))
def test_targets_follow_a_permutation_of_the_minibatch(game, c, random):
    x, y, *more = c
    order_x, order_y = (random.sample(range(len(x)), len(x)) for _ in 'xy')
    phi_x, phi_y = phi(game, batch(x, y, *more))
    close(phi(game, batch(x[order_x], y[order_y], *more)), torch.stack([phi_x[order_x], phi_y[order_y]]), game)


@property_test
@given(games, parts())
def test_the_order_of_further_charges_does_not_matter(game, c):
    x, y, more_x, more_y = c
    close(phi(game, batch(x, y, more_x.flip(0), more_y.flip(0))), phi(game, batch(*c)), game)


@property_test
@given(plain_games, parts())
def test_exchanging_real_and_generated_flips_the_sign(game, c):
    x, y, more_x, more_y = c
    close(phi(game, batch(y, x, more_y, more_x)), -phi(game, batch(*c)).flip(0), game)


@property_test
@given(games, parts())
def test_the_self_term_counts_in_proportion(game, c):
    "Targets are a straight line in its strength"
    none, half, one = (phi(replace(game, self_term=s), batch(*c)) for s in (0., .5, 1.))
    close(half, (none + one) / 2, game)


@property_test
@given(plain_games, parts())
def test_where_nothing_differs_only_the_self_term_is_left(game, c):
    "Real and generated charges coincide: without self term phi = (own mean) - k(0)/n ..., with strength 1 it is zero"
    x, _, more, _ = c
    zero = phi(replace(game, self_term=1.), batch(x, x.clone(), more, more.clone()))
    close(zero, torch.zeros_like(zero), game)
    phi_x, phi_y = phi(replace(game, self_term=0.), batch(x, x.clone(), more, more.clone()))
    close(phi_x, -phi_y, game)
    assert (phi_x >= -EXACT * k_0(game)).all()  # k(0), the largest value, is taken out of the repulsion only


@pytest.mark.parametrize('smoothing', [0., .5])
def test_targets_are_constants_and_the_charges_are_the_samples(smoothing):
    x, y = randn(0, 4, 3).requires_grad_(), randn(1, 6, 3)
    a_x, a_y, phi_x, phi_y = Coulomb(charges=2, smoothing=smoothing).targets(batch(x, y, randn(2, 3, 3).requires_grad_()))
    assert not phi_x.requires_grad and not phi_y.requires_grad
    assert (a_x is x) == (not smoothing) == a_x.requires_grad  # one pass of D then serves both losses
    assert torch.equal(a_y, y[:4]) == (not smoothing)


def test_smoothing_draws_noise_of_its_width_for_generated_and_then_for_real_points():
    x, y, gen = randn(0, 5, 3), randn(1, 5, 3), seeded(0)
    a_x, a_y, *_ = Coulomb(smoothing=.7).targets(batch(x, y))
    assert torch.equal(a_x, x + .7 * torch.randn(5, 3, generator=gen, dtype=torch.float64))
    assert torch.equal(a_y, y + .7 * torch.randn(5, 3, generator=gen, dtype=torch.float64))


def test_without_smoothing_nothing_is_drawn():
    b = batch(randn(0, 5, 3), randn(1, 5, 3))
    Coulomb().targets(b)
    assert torch.equal(b.gen.get_state(), seeded(0).get_state())


def test_float32_targets_are_those_of_float64_rounded():
    x, y = randn(0, 64, 10), randn(1, 64, 10)
    for game in (Coulomb(), Coulomb(smoothing=.5), Coulomb(self_term=0.)):
        b = batch(x.float(), y.float())
        a_x, a_y, *got = game.targets(b)
        want = targets_loop(game, a_x.double(), a_y.double(), x.float().double(), y.float().double())
        assert torch.stack(got).dtype == torch.float32
        # one rounding of r^2, one power and sums of 64 terms of at most 1
        assert_close(torch.stack(got).double(), want, rtol=0, atol=3e-6)


# --- losses -------------------------------------------------------------------------------------------------------

@property_test
@given(plain_games, parts(), st.integers(0, 10**6))
def test_losses_equal_sums(game, c, seed):
    x, y, more_x, more_y = c
    n = len(x)
    d_x, d_y = randn(seed, 2, n)
    phi_x, phi_y = targets_loop(game, x, y, torch.cat([x, more_x]), torch.cat([y, more_y]))
    want = sum((d_x[i] - phi_x[i])**2 + (d_y[i] - phi_y[i])**2 for i in range(n)) / n
    assert_close(game.loss_d(lambda *sets: (d_x, d_y), batch(*c)), want, rtol=1e-9, atol=1e-9)
    assert_close(game.loss_g(lambda a: d_x, batch(*c)), -sum(d_x) / n)


def test_only_through_d_does_the_loss_depend_on_the_samples():
    "So L_D of a D that is constant has no gradient at the generated samples, however strong their field"
    x, y = randn(0, 4, 2).requires_grad_(), randn(1, 4, 2)
    flat = nn.Linear(2, 1).double()
    with torch.no_grad(): flat.weight.zero_()
    gradient, = torch.autograd.grad(Coulomb().loss_d(Passes(flat), batch(x, y)), x)
    assert torch.equal(gradient, torch.zeros(4, 2, dtype=torch.float64))


def test_one_pass_of_d_serves_both_losses_unless_the_points_are_smoothed():
    calls = []
    class Net(nn.Linear):
        def forward(self, a):
            calls.append(len(a))
            return super().forward(a)
    net, x, y = Net(2, 1).double(), randn(0, 4, 2), randn(1, 9, 2)
    for smoothing, rows in ((0., [8]), (.5, [8, 4])):
        game, d, b = Coulomb(smoothing=smoothing, charges=5), Passes(net), batch(x, y)
        game.loss_d(d, b)
        game.loss_g(d, b)
        assert calls == rows  # D is evaluated at the minibatch, never at further charges
        calls.clear()


def test_bfloat16_passes_leave_the_targets_exact():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    b = batch(randn(0, 16, 3).float(), randn(1, 16, 3).float())
    d = Passes(net, precision='bfloat16')
    rounded, exact = Coulomb().loss_d(d, b), Coulomb().loss_d(Passes(net), b)
    # D is of order one and off by a handful of roundings of 2^-9; so is its squared error, twice that
    assert_close(rounded, exact, rtol=0, atol=32 * 2**-9)
    assert rounded != exact and rounded.dtype == torch.float32
    errors = torch.stack(d(b.x, b.y)) - phi(Coulomb(), b)
    assert_close(rounded, errors.square().mean(1).sum())


@property_test
@given(options(), parts(), st.integers(0, 10**6))
def test_both_updates_at_once_unless_alternating(o, c, seed):
    assert Coulomb(**o).simultaneous and not Coulomb(**o, alternating=True).simultaneous
    d = randn(seed, 2, len(c[0]))
    one, other = (Coulomb(**o, alternating=a).loss_d(lambda *sets: d, batch(*c)) for a in (False, True))
    assert torch.equal(one, other)  # only the order of the updates differs


# --- exact force --------------------------------------------------------------------------------------------------

@property_test
@given(forces, parts())
def test_force_equals_loops(game, c):
    x, y, more_x, more_y = c
    got = game.pull(batch(*c))
    force_close(got, pull_loop(game, x, torch.cat([x, more_x]), torch.cat([y, more_y])), game)


def test_force_in_blocks_equals_the_whole():
    "Blocks have 256 rows on the CPU"
    x, y = randn(0, 600, 2), randn(1, 300, 2)
    game = ExactForce(d=2., self_term=0.)
    r_xx, r_xy = x[:, None] - x, x[:, None] - y
    def pulls(r): return -2 * r * (r.square().sum(-1, keepdim=True) + 1)**-2
    force_close(game.pull(batch(x, y)), pulls(r_xy).mean(1) - pulls(r_xx).sum(1) / 599, game)


@property_test
@given(forces, parts())
def test_force_is_minus_n_times_the_gradient_of_the_unbiased_energy(game, c):
    game = replace(game, self_term=0.)
    x, y, more_x, more_y = c
    x = x.clone().requires_grad_()
    all_x, all_y = torch.cat([x, more_x]).flatten(1), torch.cat([y, more_y]).flatten(1)
    gradient, = torch.autograd.grad(energy(all_x, all_y, Plummer(game.d, game.eps), unbiased=True), x)
    force_close(game.pull(batch(*c)), -len(all_x) * gradient.flatten(1), game)


@property_test
@given(forces, parts())
def test_its_loss_is_half_the_mean_square_and_its_gradient_the_force(game, c):
    x, *others = c
    x = x.clone().requires_grad_()
    b = batch(x, *others)
    loss, pull = game.loss_g(None, b), game.pull(b)
    assert not pull.requires_grad
    assert_close(loss, pull.square().sum(1).mean() / 2)
    gradient, = torch.autograd.grad(loss, x)
    force_close(gradient.flatten(1), -pull / len(x), game)


@property_test
@given(options(), parts())
def test_an_ideal_discriminator_gives_the_same_gradient(o, c):
    "Released self term: its charge pulls nowhere, and the repulsion is averaged over all charges"
    o['self_term'] = 1.
    x, y, more_x, more_y = c
    x = x.clone().requires_grad_()
    all_x, all_y = torch.cat([x, more_x]).detach().flatten(1), torch.cat([y, more_y]).flatten(1)
    def ideal(a): return potential(a.flatten(1), all_x, all_y, Plummer(o['d'], o['eps']))
    b = batch(x, y, more_x, more_y)
    learned, = torch.autograd.grad(Coulomb(**o).loss_g(ideal, b), x)
    exact, = torch.autograd.grad(ExactForce(**o).loss_g(None, b), x)
    force_close(learned, exact, ExactForce(**o))


@property_test
@given(forces, parts(), st.integers(0, 10**6))
def test_force_turns_and_moves_with_its_charges(game, c, seed):
    m = prod(c[0].shape[1:])
    rotation, _ = torch.linalg.qr(randn(seed, m, m))
    c = [p.flatten(1) for p in c]
    moved = game.pull(batch(*[p @ rotation + 2 for p in c]))
    assert_close(moved, game.pull(batch(*c)) @ rotation, rtol=0, atol=100 * EXACT * k_0(game) * game.d / game.eps)


def test_generated_charges_do_not_push_themselves_as_a_whole():
    "Far from all real ones, forces between the generated samples cancel in the sum"
    x, y = randn(0, 8, 3), randn(1, 8, 3)
    total = ExactForce(eps=.5).pull(batch(x, y)).sum(0)
    alone = sum(pull_loop(ExactForce(eps=.5), p[None], torch.cat([p[None] + 1e9, p[None] - 1e9]), y)[0] for p in x)
    assert_close(total, alone, rtol=0, atol=1e-9)


def test_following_it_lowers_the_energy():
    x, y, game = 3 * randn(0, 20, 2), randn(1, 20, 2), ExactForce(self_term=0.)
    def energies(sign):
        moving = x
        for _ in range(20):
            moving = moving + sign * .5 * game.pull(batch(moving, y))
            yield energy(moving, y, Plummer()).item()
    towards, away = [*energies(1)], [*energies(-1)]
    assert towards == sorted(towards, reverse=True) and towards[-1] < .6 * towards[0]
    assert away == sorted(away) and away[0] > towards[0]


# --- replay buffer ------------------------------------------------------------------------------------------------

@property_test
@given(st.integers(1, 20), st.lists(st.integers(1, 8), min_size=1, max_size=8), st.sampled_from([(2,), (1, 3, 3)]),
       st.sampled_from([Coulomb, ExactForce]))
def test_replay_buffer_grows_and_then_keeps_the_newest(size, batches, shape, kind):
    game = kind(replay=size)
    carried = game.start(shape, 'cpu')
    assert carried['replay'].shape == (0, *shape) and carried['replay'].dtype == torch.float32
    made = randn(0, sum(batches), *shape).float().requires_grad_()
    for x, total in zip(made.split(batches), accumulate(batches)):
        place, full = carried['replay'].data_ptr(), game.settled(carried)
        game.finish(None, Batch(x, x, None, carried=carried))
        assert torch.equal(carried['replay'], made[:total][-size:])
        assert game.settled(carried) == (total >= size)
        assert not full or carried['replay'].data_ptr() == place  # a recorded step finds it where it was
        assert not carried['replay'].requires_grad
        assert carried['replay'].untyped_storage().nbytes() == carried['replay'].nbytes  # else checkpoints would grow


def test_replay_buffer_is_a_copy():
    game, x = Coulomb(replay=4), torch.ones(2, 3)
    carried = game.start((3,), 'cpu')
    for _ in range(3):
        game.finish(None, Batch(x, x, None, carried=carried))
        x.add_(1)
    assert carried['replay'][:, 0].tolist() == [2, 2, 3, 3]


def test_other_carried_tensors_are_left_alone():
    game, other = Coulomb(replay=2), torch.ones(3)
    carried = game.start((1,), 'cpu') | {'other': other}
    game.finish(None, Batch(torch.zeros(2, 1), None, None, carried=carried))
    assert carried['other'] is other


def test_without_a_buffer_nothing_is_carried():
    game, b = Coulomb(), Batch(torch.ones(2, 3), None, None)
    game.finish(None, b)
    assert (game.start((3,), 'cpu'), game.settled({}), b.carried) == ({}, True, {})


def test_what_is_in_the_buffer_are_charges_of_the_next_step():
    x, y, kept = randn(0, 6, 9, 3)[0].split(3)
    for game in (Coulomb(replay=3, smoothing=.5), Coulomb(replay=3)):
        assert (phi(game, batch(x, y, kept)) - phi(game, batch(x, y))).abs().max() > 1e-3
    pulls = [ExactForce(replay=3).pull(b) for b in (batch(x, y, kept), batch(x, y))]
    assert (pulls[0] - pulls[1]).abs().max() > 1e-3


# --- softening ----------------------------------------------------------------------------------------------------

@property_test
@given(st.floats(.01, 100), st.floats(.01, 100), st.floats(0, 1), st.floats(0, 1))
def test_softening_decays_exponentially(eps, eps_end, t, u):
    game = Charges(eps=eps, eps_end=eps_end)
    def at(t): return game.scheduled(t)['eps']
    assert at(0.) == eps and at(1.) == pytest.approx(eps_end, rel=1e-12)
    # equal steps, equal factors: the middle of two times has the geometric mean
    assert at((t + u) / 2) == pytest.approx((at(t) * at(u))**.5, rel=1e-9)


def test_softening_stays_where_no_end_is_named():
    assert [Charges(eps=3.).scheduled(t) for t in (0., .5, 1.)] == [{'eps': 3.}] * 3


@pytest.mark.parametrize('kind', [Coulomb, ExactForce])
def test_the_kernel_is_that_of_the_step(kind):
    x, y = randn(0, 4, 3), randn(1, 4, 3)
    game = kind(d=2., eps=3., eps_end=.3)
    assert game.kernel(batch(x, y)) == Plummer(2., 3.)
    half = game.scheduled(.5)
    assert game.kernel(batch(x, y, scheduled=half)) == Plummer(2., half['eps'])
    measured = (lambda b, g: phi(g, b)) if kind is Coulomb else (lambda b, g: g.pull(b))
    want = measured(batch(x, y), kind(d=2., eps=half['eps']))
    for value in (half['eps'], torch.tensor(half['eps'], dtype=torch.float64)):  # on a GPU it is a tensor
        assert_close(measured(batch(x, y, scheduled={'eps': value}), game), want)


# --- options ------------------------------------------------------------------------------------------------------

@property_test
@given(st.integers(2, 1000), st.integers(0, 1000))
def test_further_real_samples_come_beside_the_minibatch(n, charges):
    for kind in (Coulomb, ExactForce): assert kind(charges=charges).n_real(n) == n + charges


WRONG = [('d', 0.), ('d', -1.), ('d', '1'), ('d', float('nan')), ('eps', 0.), ('eps', float('inf')), ('eps', None),
         ('eps_end', 0.), ('eps_end', 'none'), ('self_term', -.1), ('charges', -1), ('charges', 1.5), ('replay', -1),
         ('replay', True)]


@pytest.mark.parametrize('kind', [Coulomb, ExactForce])
@pytest.mark.parametrize('option, value', WRONG)
def test_wrong_options_are_named(kind, option, value):
    with pytest.raises(ValueError, match=f'{option} must '): kind(**{option: value})


@pytest.mark.parametrize('option, value', [('smoothing', -1.), ('smoothing', None), ('alternating', 1)])
def test_wrong_options_of_coulomb_are_named(option, value):
    with pytest.raises(ValueError, match=f'{option} must '): Coulomb(**{option: value})


def test_batch_norm_is_allowed():
    for kind in (Coulomb, ExactForce): assert kind().check(True) is None
