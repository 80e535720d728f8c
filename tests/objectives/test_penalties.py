"""The gradient penalty against finite differences, and the discriminators it refuses."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.penalties import GradientPenalty
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


@pytest.mark.parametrize('option, value', [('weight', -1.), ('weight', None), ('target', -.1), ('target', float('nan'))])
def test_wrong_options_are_named(option, value):
    with pytest.raises(ValueError, match=f'{option} must '): GradientPenalty(**{option: value})


def test_its_options_are_options_of_the_objective_that_has_it():
    e = Experiment().changed(objective='wgan-gp', penalty_weight=3., penalty_target=0.)
    assert e.objective.penalty == GradientPenalty(3., 0.)
    assert {'penalty_weight', 'penalty_target'} <= {*flat_fields(type(e.objective))}
