"""Forces between features: oracles in loops, units, and what is refused."""
import math

import pytest
import torch
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import force
from coulomb_gan.objectives.base import Batch
from coulomb_gan.objectives.drifting import FIELDS
from coulomb_gan.objectives.feature_space import Drifting, FeatureForce, head_force
from coulomb_gan.objectives.heads import flat_rows


def randn(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

def loss_of(game, x, y, encoder=None):
    "The loss of G, and the squared force that it notes"
    carried = {'squared_force': torch.zeros((), dtype=x.dtype)}
    b = Batch(x, y, torch.Generator().manual_seed(0), carried=carried, encoder=encoder)
    return game.loss_g(None, b), carried['squared_force']


# --- one head -----------------------------------------------------------------------------------------------------

def by_loops(x, y, eps, d):
    "Force of one place in units of the mean distance, pair by pair, brought to unit size"
    n, m = len(x), len(y)
    unit = sum(math.dist(a, b) for a in x.tolist() for b in y.tolist()) / (n * m)
    total = torch.zeros_like(x)
    squared = 0.
    for width in eps:
        v = torch.zeros_like(x)
        for i in range(n):
            for j in range(m):
                way = (y[j] - x[i]) / unit
                v[i] += d * way / (way.square().sum() + width**2)**(d / 2 + 1) / m
            for j in range(n):
                if j == i: continue
                way = (x[j] - x[i]) / unit
                v[i] -= d * way / (way.square().sum() + width**2)**(d / 2 + 1) / (n - 1)
        mean = v.square().sum(1).mean()
        squared += mean / len(eps)
        total += v / mean.sqrt()
    return unit, total, squared


@pytest.mark.parametrize('d', [1., 3.])
def test_the_force_of_a_head_is_the_one_in_loops(d):
    x, y = randn(0, 5, 3), randn(1, 7, 3) + 1
    unit, v, squared = head_force(x[None], y[None], 'plummer', [.2, .6], d)
    of_loops = by_loops(x, y, [.2, .6], d)
    assert_close(unit.item(), of_loops[0])
    assert_close(v[0], of_loops[1])
    assert_close(squared, of_loops[2])


@pytest.mark.parametrize('field', FIELDS)
def test_places_share_unit_and_size_but_no_force(field):
    "Two places: samples of one do not act on the other, and the mean distance is over both"
    x, y = randn(0, 2, 6, 3), randn(1, 2, 9, 3)
    _, v, _ = head_force(x, y, field, [.4], unit_size=False)
    moved = y.clone()
    moved[1] = moved[1].flip(0)      # the same points in another order: nothing changes anywhere
    _, again, _ = head_force(x, moved, field, [.4], unit_size=False)
    assert_close(v, again)
    sizes = head_force(x, y, field, [.4])[1].square().sum(-1).mean(1)
    assert_close(sizes.mean(), torch.ones((), dtype=torch.float64))
    assert (sizes[0] - sizes[1]).abs() > 1e-3


@pytest.mark.parametrize('field', FIELDS)
@pytest.mark.parametrize('scale', [1e-6, 1e6])
def test_features_have_no_unit(field, scale):
    x, y = randn(0, 1, 6, 3), randn(1, 1, 9, 3)
    unit, v, squared = head_force(x, y, field, [.05, .5])
    of_scaled = head_force(scale * x, scale * y, field, [.05, .5])
    assert_close(of_scaled, (scale * unit, v, squared), rtol=1e-6, atol=1e-9)


def test_samples_that_coincide_with_all_real_ones_feel_nothing_and_stay_finite():
    x = torch.ones(1, 4, 3)
    unit, v, squared = head_force(x, torch.ones(1, 5, 3), 'plummer', [.2])
    assert v.eq(0).all() and squared == 0 and unit.isfinite()


# --- the objective ------------------------------------------------------------------------------------------------

def test_with_the_samples_as_features_it_is_the_exact_force():
    "Gradient in x: minus the force over n, in units of the mean distance"
    x, y = randn(0, 6, 3).requires_grad_(), randn(1, 9, 3)
    loss, squared = loss_of(FeatureForce(widths='0.4', unit_size=False, d=2.), x, y)
    gradient, = torch.autograd.grad(loss, x)
    unit = torch.cdist(x, y).mean().detach()
    of_field = force(x.detach() / unit, x.detach() / unit, y / unit, Plummer(d=2., eps=.4), weight_x=6 / 5)
    assert_close(gradient, -of_field / unit / 6)
    assert_close(squared, of_field.square().sum(1).mean())


@pytest.mark.parametrize('game', [FeatureForce(), Drifting(), FeatureForce(field='laplace'), FeatureForce(field='gaussian')],
                         ids=lambda game: f'{game.name} {game.field}')
def test_samples_follow_the_force_to_the_data(game):
    "Steps that fade, since forces of unit size do not: less than half the way is left, and a tenth of the force"
    x, y = 3 + .5 * randn(0, 64, 2), .5 * randn(1, 256, 2)
    found = []
    for step in range(300):
        x.requires_grad_()
        loss, squared = loss_of(game, x, y)
        found.append(((x.mean(0) - y.mean(0)).norm(), squared))
        gradient, = torch.autograd.grad(loss, x)
        x = (x - 8 * (1 - step / 300) * gradient).detach()
    (far, strong), (near, weak) = found[0], found[-1]
    assert near < far / 2 and weak < strong / 10


def test_the_gradient_goes_through_the_encoder():
    x, y = randn(0, 4, 1, 8, 8).requires_grad_(), randn(1, 6, 1, 8, 8)
    def encoder(images): return avg_pool2d(images, 2)
    loss, _ = loss_of(FeatureForce(heads='locations'), x, y, encoder)
    gradient, = torch.autograd.grad(loss, x)
    same = avg_pool2d(gradient, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert gradient.abs().max() > 0
    assert_close(gradient, same)      # all four pixels of a square have the same part in the features


@pytest.mark.parametrize('options, message', [
    (dict(widths=''), "such as '0.2,0.6'"), (dict(widths='.2,,.6'), 'positive numbers'), (dict(widths='nan'), 'positive'),
    (dict(widths='inf'), 'positive'), (dict(widths='0'), 'positive'), (dict(heads=''), "got ''"), (dict(heads='mean, std'), "' std'"),
    (dict(heads='mean,'), "got ''"), (dict(field='coulomb'), 'field must be one of'), (dict(charges=-1), 'charges must lie'),
    (dict(d=0.), 'd must lie'), (dict(encoder=3), 'encoder must be of type')], ids=str)
def test_options_that_are_none_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught: FeatureForce(**options)
    assert '\n' not in str(caught.value)


def test_stored_features_of_other_heads_are_refused():
    x = randn(0, 4, 1, 8, 8)
    rows = flat_rows(FeatureForce(heads='mean').features(x, None))
    with pytest.raises(ValueError, match='got rows of 1 features, the heads have 6'):
        loss_of(FeatureForce(heads='mean,std,cells'), x, rows)
