"""D against the potential and its self term: weights known by construction, signs, scales, and what cannot be said."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.metrics.regression import Regression, charge_noise, regression

N = 4000


def made(seed=0, noise=.05, separable=True):
    """Phi, S, readings of Phi by 16 blocks, each point's share and the points, all from chosen numbers and without any cloud:
    S is 1 - 2 p at a point that is generated with probability p, and p depends on Phi only in part."""
    gen = torch.Generator().manual_seed(seed)
    phi, other = torch.randn(2, 2 * N, generator=gen, dtype=torch.float64)
    p = torch.sigmoid(-2 * (phi + (3 * other if separable else 0.)))
    generated = torch.rand(2 * N, generator=gen, dtype=torch.float64) < p
    own = 1. - 2 * generated.double()
    waves = torch.stack([torch.sin(3 * phi), torch.cos(other)])
    readings = phi + noise * 4 * torch.randn(16, 2, generator=gen, dtype=torch.float64) @ waves
    return phi, 1 - 2 * p, readings, own, torch.stack([phi, other], 1)


@pytest.mark.parametrize('weights', [(1., 1.), (1., 0.), (-1., 0.), (0., 1.), (2., -.5), (.1, 3.)])
@pytest.mark.parametrize('error', [0., .5])
def test_weights_come_back(weights, error):
    phi, s, readings, own, points = made()
    d = weights[0] * phi + weights[1] * s
    wrong = error * d.std() * torch.randn(2 * N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    r = regression(d + wrong + 7., readings, own, points)
    size = math.hypot(*weights)
    # 2,048 points of eight neighbours each: 2 % of S's variance, and twice that in a weight
    assert abs(r.phi_weight - weights[0]) < .1 * size and abs(r.self_weight - weights[1]) < .1 * size
    assert abs(r.r2_both - 1 / (1 + error**2)) < .04
    assert math.copysign(1, r.r2) == math.copysign(1, r.slope)


def settings_(f): return settings(derandomize=True, deadline=None, max_examples=20)(f)

@settings_
@given(st.floats(.01, 100), st.booleans())
def test_scale_and_sign_of_d(scale, minus):
    phi, s, readings, own, points = made()
    factor = -scale if minus else scale
    one, other = regression(phi + s, readings, own, points), regression(factor * (phi + s), readings, own, points)
    assert other.r2 == pytest.approx((-1 if minus else 1) * one.r2, rel=1e-9)
    for name in ('slope', 'phi_weight', 'self_weight'):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-6)
    assert other.r2_both == pytest.approx(one.r2_both, rel=1e-6)


def test_explained_is_the_share_of_the_potential():
    phi, s, readings, own, points = made(noise=0.)
    def explained(d): return regression(d, readings, own, points).explained
    assert explained(phi) == pytest.approx(1)
    assert explained(torch.zeros_like(phi)) == pytest.approx(-phi.mean().item()**2 / phi.var().item(), abs=1e-6)
    assert explained(-phi) == pytest.approx(-3, abs=.01)
    assert explained(phi + phi.std() * s / s.square().mean().sqrt()) == pytest.approx(0, abs=.01)


def test_noise_of_the_charges_is_taken_out():
    "In the mean over draws of the noise: of one draw the estimate is off by as much as the noise lies along Phi"
    found, blurred = [], []
    for seed in range(12):
        phi, s, readings, own, points = made(seed, noise=.4)
        found.append(regression(phi, readings, own, points).r2)
        blurred.append(torch.corrcoef(torch.stack([phi, readings.mean(0)]))[0, 1].item()**2)
    assert abs(sum(found) / 12 - 1) < .05 < 1 - sum(blurred) / 12


def test_terms_that_are_alike_get_no_weights():
    phi, s, readings, own, points = made(separable=False, noise=0.)
    level = own - own.mean()
    line = (level * phi).mean() / phi.square().mean() * phi
    own = torch.sign(torch.rand(2 * N, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - .5 + line / 4)
    r = regression(phi, readings, own, points)                          # S is a line in Phi
    assert (r.phi_weight, r.self_weight, r.r2_both) == (None, None, None) and r.r2 > .99


def test_nothing_is_said_of_noise_and_of_a_constant():
    gen = torch.Generator().manual_seed(0)
    readings, own, points = torch.randn(16, 200, generator=gen), torch.ones(200), torch.randn(200, 2, generator=gen)
    assert regression(torch.randn(200, generator=gen), readings, own, points) == Regression()
    flat = torch.zeros(16, 200)
    assert regression(torch.randn(200, generator=gen), flat, own, points) == Regression()
    phi, _, readings, own, points = made()
    constant = regression(torch.ones(2 * N), readings, own, points)
    assert (constant.r2, constant.slope, constant.phi_weight) == (0., 0., None)


def test_a_collapsed_cloud_is_read():
    "All generated points are one point: D, Phi and the shares repeat"
    phi, s, readings, own, points = made()
    readings = readings.clone()
    readings[:, :N] = readings[:, :1]
    d, own = readings.mean(0), torch.cat([-torch.ones(N), torch.ones(N)]).double()
    r = regression(d, readings, own, points)
    assert r.r2 > .9 and all(v is None or math.isfinite(v) for v in vars(r).values())


@pytest.mark.parametrize('blocks', [2, 8, 32])
def test_charge_noise_is_the_variance_of_the_mean_reading(blocks):
    gen = torch.Generator().manual_seed(blocks)
    places = torch.randn(20, 2, generator=gen)
    charges = torch.randn(500, blocks * 3, 2, generator=gen)
    readings = Plummer()(charges.view(-1, 2), places).view(500, blocks, 3, 20).mean(2)
    mean = readings.mean(1)
    mean = mean - mean.mean(1, keepdim=True)
    true = mean.var(0).mean()
    assert charge_noise(readings).mean() == pytest.approx(true.item(), rel=.2)
