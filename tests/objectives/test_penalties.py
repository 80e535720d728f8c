"""The gradient penalty against finite differences, where it takes the slope, and the discriminators it refuses."""
from math import gamma, sqrt

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.penalties import GradientPenalty, zero_centred
from coulomb_gan.options import flat_fields
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.state import TrainState


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=20)(f)

def seeded(seed): return torch.Generator().manual_seed(seed)

def randn(seed, *shape): return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def smooth(m, seed=0):
    "A discriminator with bounded derivatives"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(m, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def slopes(net, a, h=1e-5):
    "Length of the slope at each point, by central differences in each coordinate"
    found = []
    for point in a:
        along = []
        for step in h * torch.eye(point.numel(), dtype=torch.float64):
            step = step.view(point.shape)
            rise = net((point + step)[None]) - net((point - step)[None])
            along.append(rise.item() / (2 * h))
        found.append(torch.tensor(along, dtype=torch.float64).norm())
    return torch.stack(found)


def between(x, y, gen):
    "One point on the way of each pair, by the formula of the page"
    u = torch.rand(len(x), *[1] * (x.ndim - 1), generator=gen, dtype=torch.float64)
    return u * y[:len(x)] + (1 - u) * x


# --- values and gradients -----------------------------------------------------------------------------------------

@property_test
@given(st.sampled_from([(1,), (3,), (2, 2, 2)]), st.integers(1, 4), st.floats(.1, 20), st.floats(0, 3), st.integers(0, 1000))
def test_penalty_equals_finite_differences(shape, n, weight, target, seed):
    x, y = randn(seed, n, *shape), randn(seed + 1, n, *shape)
    net = smooth(x[0].numel())
    got = GradientPenalty(weight, target)(Passes(net), Batch(x, y, seeded(seed)))
    want = weight * (slopes(net, between(x, y, seeded(seed))) - target).square().mean()
    # central differences: h^2 of the third derivative and 1e-16 / h of rounding, both below 1e-9
    assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_its_gradient_in_the_weights_equals_finite_differences():
    x, y, net = randn(0, 4, 3), randn(1, 4, 3), smooth(3)
    weights = [p for p in net.parameters() if p.ndim > 1]  # a bias shifts D, not its slope
    def penalty(): return GradientPenalty()(Passes(net), Batch(x, y, seeded(0)))
    gradients = torch.autograd.grad(penalty(), weights)
    h = 1e-5
    for p, gradient in zip(weights, gradients):
        direction = randn(2, *p.shape)
        values = []
        for sign in (1, -1):
            with torch.no_grad(): p += sign * h * direction
            values.append(penalty().item())
            with torch.no_grad(): p -= sign * h * direction
        assert_close((values[0] - values[1]) / (2 * h), (gradient * direction).sum().item(), rtol=1e-6, atol=1e-6)


@property_test
@given(st.integers(0, 1000), st.floats(0, 5))
def test_a_linear_critic_has_the_same_slope_everywhere(seed, target):
    net = nn.Linear(4, 1, bias=False).double()
    net.weight.data = randn(seed, 1, 4)
    got = GradientPenalty(3., target)(Passes(net), Batch(randn(1, 6, 4), randn(2, 6, 4), seeded(seed)))
    assert_close(got, 3 * (net.weight.norm() - target)**2)


def test_only_the_minibatch_of_real_samples_is_used():
    x, y, net = randn(0, 4, 3), randn(1, 9, 3), smooth(3)
    got, other = (GradientPenalty()(Passes(net), Batch(x, real, seeded(0))) for real in (y, y[:4]))
    assert torch.equal(got, other)
    assert not torch.equal(got, GradientPenalty()(Passes(net), Batch(x, y[5:], seeded(0))))


def test_each_pair_has_its_own_place_and_each_time_another():
    x, y = torch.zeros(500, 1, dtype=torch.float64), torch.ones(500, 1, dtype=torch.float64)
    seen = []
    class Net(nn.Identity):
        def forward(self, a):
            seen.append(a.detach().flatten())
            return a.square()
    b = Batch(x, y, seeded(0))
    for _ in range(2): GradientPenalty()(Passes(Net()), b)
    for u in seen:  # uniform on (0, 1): mean and variance within four standard errors
        assert 0 < u.min() and u.max() < 1
        assert abs(u.mean() - 1/2) < 4 * (1 / 12 / 500)**.5 and abs(u.var() - 1/12) < 4 * (1 / 180 / 500)**.5
    assert (seen[0] != seen[1]).all()


def test_the_generator_learns_nothing_from_it():
    x = randn(0, 4, 3).requires_grad_()
    value = GradientPenalty()(Passes(smooth(3)), Batch(x, randn(1, 4, 3), seeded(0)))
    assert torch.autograd.grad(value, x, allow_unused=True) == (None,)
    assert x.grad is None


def test_the_slope_is_taken_in_float32_whatever_the_precision():
    net, x, y = smooth(3).float(), randn(0, 4, 3).float(), randn(1, 4, 3).float()
    one, other = (GradientPenalty()(Passes(net, precision=p), Batch(x, y, seeded(0))) for p in ('float32', 'bfloat16'))
    assert torch.equal(one, other) and one.dtype == torch.float32


def test_weight_zero_is_no_penalty():
    assert GradientPenalty(0.)(Passes(smooth(3)), Batch(randn(0, 4, 3), randn(1, 4, 3), seeded(0))) == 0


# --- one-sided, and where the slope is taken ----------------------------------------------------------------------

@property_test
@given(st.floats(0, 3), st.floats(.01, 3), st.sampled_from(['between', 'around', 'data']))
def test_one_sided_only_slopes_above_the_target_cost(slope, target, at):
    net = nn.Linear(1, 1, bias=False).double()
    net.weight.data.fill_(slope)
    b = Batch(randn(0, 4, 1), randn(1, 4, 1), seeded(0))
    two, one = (GradientPenalty(2., target, at=at, one_sided=sided)(Passes(net), b) for sided in (False, True))
    assert_close(two.item(), 2 * (slope - target)**2)
    assert_close(one.item(), 2 * max(0., slope - target)**2)


def points_of(penalty, x, y, seed=0):
    "Where a penalty takes the slope"
    seen = []
    class Net(nn.Module):
        def forward(self, a):
            seen.append(a.detach().clone())
            return a.flatten(1).square().sum(1)
    penalty(Passes(Net()), Batch(x, y, seeded(seed)))
    return seen[0]


@pytest.mark.parametrize('shape', [(3,), (2, 4, 4)])
def test_at_the_data_are_the_real_samples_of_the_minibatch(shape):
    x, y = randn(0, 4, *shape), randn(1, 9, *shape)
    assert torch.equal(points_of(GradientPenalty(at='data'), x, y), y[:4])


@pytest.mark.parametrize('shape', [(3,), (2, 4, 4)])
@pytest.mark.parametrize('noise', ['released', 'gaussian', 'uniform'])
def test_noise_around_the_data_by_its_formula(noise, shape):
    "From the same random numbers, drawn in the same order; the size is that of the minibatch, not of each coordinate"
    x, y = randn(0, 4, *shape), 2 + 3 * randn(1, 9, *shape)
    got = points_of(GradientPenalty(at='around', noise=noise, spread=.7), x, y)
    gen, y = seeded(0), y[:4]
    size = .7 * ((y - y.mean())**2).mean().sqrt()
    if noise == 'gaussian': want = y + size * torch.randn(y.shape, generator=gen, dtype=y.dtype)
    else:
        u = torch.rand(y.shape, generator=gen, dtype=y.dtype)
        alpha = torch.rand(4, *[1] * len(shape), generator=gen, dtype=y.dtype)
        want = y + size * (2 * u - 1 if noise == 'uniform' else alpha * u)
    assert_close(got, want)
    assert not torch.equal(points_of(GradientPenalty(at='around', noise=noise), x, y, seed=1), got)


def test_noise_of_the_released_code_goes_up_and_the_uniform_one_both_ways():
    x, y = randn(0, 200, 3), randn(1, 200, 3)
    s = y.std(correction=0)
    up, both = ((points_of(GradientPenalty(at='around', noise=noise), x, y) - y) / s for noise in ('released', 'uniform'))
    assert 0 <= up.min() and up.max() < .5 and -.5 <= both.min() < -.4 and .4 < both.max() < .5


@pytest.mark.parametrize('m, q, spread', [(1, .5, .3), (2, 1., 1.), (16, .3, .5)])
def test_gaussian_noise_in_a_bowl(m, q, spread):
    "The slope of q|a|^2 / 2 is q times a chi variable; one further coordinate gives the batch its deviation of 1"
    n = 20_000
    y = torch.zeros(n, m + 1, dtype=torch.float64)
    y[::2, 0], y[1::2, 0] = sqrt(m + 1), -sqrt(m + 1)
    class Bowl(nn.Module):
        def forward(self, a): return q * a[:, 1:].square().sum(1) / 2
    got = GradientPenalty(1., at='around', noise='gaussian', spread=spread)(Passes(Bowl()), Batch(y, y, seeded(0)))
    mean = spread * sqrt(2) * gamma((m + 1) / 2) / gamma(m / 2)
    want = q**2 * spread**2 * m - 2 * q * mean + 1
    assert got.item() == pytest.approx(want, abs=12 / sqrt(n))  # deviation of a term below 3


@pytest.mark.parametrize('at', ['between', 'around', 'data'])
def test_a_batch_is_left_as_it_was_and_only_d_learns(at):
    x, y = randn(0, 4, 3).requires_grad_(), randn(1, 4, 3)
    b = Batch(x, y, seeded(0))
    before = y.clone()
    value = GradientPenalty(at=at)(Passes(smooth(3)), b)
    assert torch.equal(y, before) and not y.requires_grad and b.y is y
    assert torch.autograd.grad(value, x, allow_unused=True) == (None,)


@pytest.mark.parametrize('shape', [(2,), (3, 5, 5)])
@pytest.mark.parametrize('at', ['between', 'around', 'data'])
def test_penalty_and_gradient_in_float32(at, shape):
    net = smooth(int(torch.tensor(shape).prod())).float()
    value = GradientPenalty(at=at)(Passes(net), Batch(randn(0, 4, *shape).float(), randn(1, 4, *shape).float(), seeded(0)))
    gradients = torch.autograd.grad(value, [p for p in net.parameters() if p.ndim > 1])
    assert value.dtype == torch.float32 and all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize('one_sided', [False, True])
@pytest.mark.parametrize('target', [0., 1.])
@pytest.mark.parametrize('at', ['between', 'around', 'data'])
def test_a_slope_of_zero_has_a_gradient(at, target, one_sided):
    "Every unit of the first layer is off; a square root of the sum of squares would give NaN"
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    net[0].bias.data.fill_(-100.)
    value = GradientPenalty(1., target, at, one_sided)(Passes(net), Batch(randn(0, 4, 3).float(), randn(1, 4, 3).float(), seeded(0)))
    assert value == (0 if one_sided else target)
    for gradient in torch.autograd.grad(value, [*net.parameters()], allow_unused=True):
        assert gradient is None or torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize('strength', [0., 1., 10.])
def test_zero_centred_is_half_gamma_times_the_squared_slope(strength):
    net, y = smooth(3), randn(1, 4, 3)
    got = zero_centred(strength)(Passes(net), Batch(randn(0, 4, 3), y, None))  # draws no random number
    assert_close(got, strength / 2 * slopes(net, y).square().mean(), rtol=1e-6, atol=1e-9)
    assert zero_centred(strength) == GradientPenalty(strength / 2, 0., at='data')


def test_a_run_that_names_two_options_of_the_penalty_is_the_run_of_today():
    "What a configuration of an earlier version says"
    stored = dict(name='wgan-gp', critic_steps=5, penalty=dict(weight=10., target=1.))
    assert Experiment().revised(dict(objective=stored)) == Experiment().changed(objective='wgan-gp')
    assert GradientPenalty() == GradientPenalty(10., 1., 'between', False)


# --- what is refused ----------------------------------------------------------------------------------------------

def test_a_coupled_discriminator_is_refused():
    with pytest.raises(ValueError, match='at each sample, and batch norm couples .* use --no-batch-norm-d'):
        GradientPenalty().check(True)
    assert GradientPenalty().check(False) is None


def test_the_slope_at_a_sample_of_a_coupled_discriminator_is_not_its_own():
    "Which is why: with batch norm, the slope at one sample depends on the others"
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(), nn.Linear(4, 1)).double()
    def slope(a):
        a = a.requires_grad_()
        return torch.autograd.grad(net(a).sum(), a)[0][0]
    one, others = randn(0, 1, 3), randn(1, 4, 3)
    assert (slope(torch.cat([one, others])) - slope(torch.cat([one, 3 * others]))).abs().max() > 1e-3


def test_a_run_with_a_penalty_refuses_batch_norm_before_it_begins():
    e = Experiment().changed(networks='dcgan', width_g=16, width_d=4, objective='wgan-gp')
    with pytest.raises(ValueError, match='--no-batch-norm-d'): TrainState(e, (3, 16, 16))
    TrainState(e.changed(batch_norm_d=False), (3, 16, 16))


def test_batch_norm_hides_the_slope_of_a_linear_layer():
    "The sum of D over a batch is constant, so that the penalty is its weight whatever D is"
    net = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1, track_running_stats=False)).double()
    for scale in (1, 10):
        net[0].weight.data = scale * randn(0, 1, 3)
        assert_close(GradientPenalty(7.)(Passes(net), Batch(randn(1, 6, 3), randn(2, 6, 3), seeded(0))).item(), 7.)


@pytest.mark.parametrize('option, value', [
    ('weight', -1.), ('weight', None), ('target', -.1), ('target', float('nan')), ('at', 'here'), ('at', None), ('one_sided', 1),
    ('noise', 'pink'), ('noise', 'normal'), ('spread', 0.), ('spread', -1.)])
def test_wrong_options_are_named(option, value):
    with pytest.raises(ValueError, match=f'{option} must '): GradientPenalty(**{option: value})


def test_its_options_are_options_of_the_objective_that_has_it():
    e = Experiment().changed(objective='wgan-gp', penalty_weight=3., penalty_target=0.)
    assert e.objective.penalty == GradientPenalty(3., 0.)
    assert {'penalty_weight', 'penalty_target'} <= {*flat_fields(type(e.objective))}
