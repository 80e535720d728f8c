"""Rates of relaxation: closed forms, units, the flow itself, data on flat pieces, refusals."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch.testing import assert_close

from coulomb_gan.field.gradient_flow import evolve
from coulomb_gan.field.kernels import Coulomb, EnergyDistance, Gaussian, Laplace, Plummer, sphere_area
from coulomb_gan.field.meshes import Ball, Torus
from coulomb_gan.field.potential import force
from coulomb_gan.field.relaxation import relaxation_rate, relaxation_slowdown


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=25)(f)

def rate(xi, kernel, m, density=1.): return relaxation_rate(xi, kernel, m, density).item()

XI = torch.tensor([.03, .4, 1., 5., 30.]).double()
numbers, exponents, softenings = st.floats(.1, 10), st.floats(.3, 8), st.floats(.05, 5)


# --- the rate -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('m', [1, 2, 3, 8, 16])
@pytest.mark.parametrize('eps', [.2, 1.])
def test_rate_of_poissons_kernel(m, eps):
    "At d = m + 1 the transform is an exponential, pi^((m+1)/2) / Gamma((m+1)/2) / eps e^(-eps xi)"
    factor = math.pi**((m + 1) / 2) / math.gamma((m + 1) / 2) / eps
    expected = 2.5 * factor * XI**2 * (-eps * XI).exp()
    # rounding of the trapezoid rule of the spectrum
    assert_close(relaxation_rate(XI, Plummer(m + 1., eps), m, 2.5), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize('d', [1.5, 2., 4.])
def test_rate_by_quadrature_on_a_line(d):
    kernel = Plummer(d, .7)
    def k(r): return (r * r + .49)**(-d / 2)
    for xi in (.5, 2.):
        transform = 2 * quad(k, 0, np.inf, weight='cos', wvar=xi, limlst=200)[0]
        # the quadrature's own error
        assert_close(rate(xi, kernel, 1), xi**2 * transform, rtol=1e-6, atol=0)


@pytest.mark.parametrize('d, m, q', [(1., 2, 1), (2.5, 3, 2), (4., 8, 7)])
def test_a_flat_piece_adds_up_the_waves_across_it(d, m, q):
    "The transform over q = m - 1 dimensions is the integral of that over m, along the axis that is left out"
    kernel = Plummer(d, .6)
    def across(eta): return rate(math.hypot(1.3, eta), kernel, m) / (1.3**2 + eta**2)
    total = quad(across, 0, 60, limit=200)[0] / math.pi           # beyond 60 there is e^-36 of it
    assert_close(rate(1.3, kernel, q), 1.3**2 * total, rtol=1e-6, atol=0)


@property_test
@given(numbers, exponents, softenings, st.integers(1, 12), numbers)
def test_rate_is_an_inverse_time(xi, d, eps, m, scale):
    "Stretching all lengths at constant charge divides rates by scale^(d+2)"
    before = rate(xi, Plummer(d, eps), m, .3)
    after = rate(xi / scale, Plummer(d, scale * eps), m, .3 / scale**m)
    assert_close(after, before / scale**(d + 2), rtol=1e-9, atol=0)


def test_rate_is_proportional_to_the_density_and_keeps_shapes():
    xi = XI.view(1, 5, 1)
    one = relaxation_rate(xi, Plummer(), 3, 1.)
    assert_close(relaxation_rate(xi, Plummer(), 3, 7.), 7 * one, rtol=1e-15, atol=0)
    assert one.shape == xi.shape and one.dtype == torch.float64
    assert_close(relaxation_rate(xi.float(), Plummer(), 3, 1.), one, rtol=1e-6, atol=0)     # float32 of xi
    assert_close(relaxation_rate(1., Plummer(), 3, 1.), one[0, 2, 0], rtol=0, atol=0)


@pytest.mark.parametrize('m', [3, 4, 5, 8])
def test_all_long_waves_decay_alike_at_the_coulomb_exponent(m):
    lam = (m - 2) * sphere_area(m)
    # terms of order z^2 log z, z = 1e-3
    assert_close(relaxation_rate(XI[:3], Plummer(m - 2., 1e-3), m, 1.), torch.full((3,), lam).double(), rtol=1e-5, atol=0)


# --- the flow -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('m, n, d, eps', [(1, 64, 1., .3), (1, 64, 3., .5), (2, 48, 2., .2), (3, 20, .5, .4)])
def test_flow_takes_the_difference_down(m, n, d, eps):
    "Waves in both densities: each wave of the difference decays at its rate, the data stay as they are"
    side = 5.
    mesh = Torus(n, m, side, Plummer(d, eps))
    h, p0 = side / n, 3 / side**m
    s = torch.meshgrid(*[mesh.r] * m, indexing='ij')[0]
    xi = 2 * math.pi / side * torch.tensor([1., 2., 3.]).double()
    def density(*sizes): return p0 * (1 + 1e-6 * sum(a * (c * s).cos() for a, c in zip(sizes, xi)))
    p_x, p_y = density(1., -2., .5), density(.3, 1., 1.)
    T = 1 / (p0 * mesh.relaxation)
    end = evolve(mesh, p_x, [T * i / 40 for i in range(1, 41)], p_y)[-1]
    def wave(p, c): return mesh.mass(p * (c * s).cos())
    measured = torch.stack([(wave(p_y - p_x, c) / wave(p_y - end, c)).log() / T for c in xi])
    on_mesh = (xi * h / 2).sin() / (xi * h / 2)
    # Heun's step 1e-4, the minmod slopes as much
    assert_close(measured, relaxation_rate(xi, Plummer(d, eps), m, p0) * on_mesh, rtol=3e-4, atol=0)


def test_the_mesh_error_is_of_second_order():
    errors = []
    for n in (16, 32, 64):
        mesh = Torus(n, 1, 2 * math.pi, Plummer(1., .5))
        p_x = 1 + 1e-6 * (2 * mesh.r).cos()
        T = .5 / mesh.relaxation
        end = evolve(mesh, p_x, [T * i / 200 for i in range(1, 201)], torch.ones_like(p_x))[-1]
        measured = -((end - 1).norm() / (p_x - 1).norm()).log() / T
        errors.append(1 - measured.item() / rate(2., Plummer(1., .5), 1))
    slope = np.polyfit(np.log([16, 32, 64]), np.log(errors), 1)[0]
    assert -2.1 < slope < -1.9, errors


@pytest.mark.parametrize('d', [.5, 1., 3.])
def test_samples_on_a_sheet_feel_two_dimensions(d):
    "A sheet of 50 x 50 points in five dimensions, shifted by a wave in an envelope"
    gen = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(5, 5, generator=gen, dtype=torch.float64))[0][:2]
    line = (torch.arange(50).double() - 24.5) * .3
    s = torch.cartesian_prod(line, line)
    kernel, xi = Plummer(d, .5), 3.
    shift = 1e-4 * (-s.square().sum(1) / (2 * (15 / 8)**2)).exp() * (xi * s[:, 0]).cos()
    y = s @ axes
    x = y + shift[:, None] * axes[0]
    pull = force(x, x, y, kernel) @ axes[0]
    measured = -(pull @ shift) / (shift @ shift)
    # the envelope holds waves within 1 / 1.9 of xi: 2 % of the mean rate
    assert_close(measured.item(), rate(xi, kernel, 2, 1 / 15**2), rtol=.03, atol=0)


def test_uniform_samples_in_uniform_data_grow_as_the_law_of_the_paths_says():
    "m = 4, d = 2, eps -> 0: a uniform ball of samples in one of data stays uniform, and s = r^4 relaxes exponentially"
    mesh = Ball(100, 4, 2., Plummer(2., .01))
    p_x, p_y = ((mesh.r < radius).double() for radius in (.5, 1.))
    p_x, p_y = p_x / mesh.mass(p_x), p_y / mesh.mass(p_y)
    times = [.02, .05, .1, .2]
    edges = mesh.volume.cumsum(0)
    unit = sphere_area(4) / 4                                                 # volume of the unit ball
    shares = np.array([.2, .5, .8])
    def held(p): return np.interp(shares, (p * mesh.volume).cumsum(0), edges) / unit       # r^4 of the quantiles
    start, end = held(p_x), held(p_y)
    for t, p in zip(times, evolve(mesh, p_x, times, p_y)):
        left = math.exp(-2 * 4 * t)                                           # lambda p_y = (m - 2) m
        # the sharp edge is smeared over a few cells of .02 to .03
        np.testing.assert_allclose(held(p), end + (start - end) * left, rtol=.03)


@pytest.mark.parametrize('d, eps', [(1., .25), (1., .8), (2.5, .4), (.5, .3)])
def test_energy_falls_between_its_bounds(d, eps):
    "2 mu min p_x <= -F'/F <= 2 mu max p_x on a box in three dimensions, from random smooth densities"
    gen = torch.Generator().manual_seed(3)
    n, kernel = 16, Plummer(d, eps)
    mesh = Torus(n, 3, 2 * math.pi, kernel)
    axis = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    xi = torch.stack(torch.meshgrid(axis, axis, axis, indexing='ij')).norm(dim=0)
    xi[0, 0, 0] = 1.
    xi2_k = relaxation_rate(xi, kernel, 3, 1.)
    def smooth():
        noise = torch.fft.fftn(torch.randn(n, n, n, generator=gen, dtype=torch.float64))
        p = (.5 * torch.fft.ifftn(noise * (-xi**2 / 4).exp()).real * 4).exp()
        return p / mesh.mass(p)
    for _ in range(3):
        p_x, p_y = smooth(), smooth()
        rho = p_y - p_x
        share = torch.fft.fftn(rho).abs()**2 * xi2_k / xi**2
        mu = (share * xi2_k).sum() / share.sum()
        delta = 1e-3 / (mesh.relaxation * p_x.max()).item()
        fall = (mesh.energy(rho) / mesh.energy(p_y - evolve(mesh, p_x, [delta], p_y)[0])).log() / delta
        assert 2 * mu * p_x.min() < fall < 2 * mu * p_x.max()
        assert p_x.max() > 1.5 * p_x.min()                                    # not a trivial case


# --- the slowdown -------------------------------------------------------------------------------------------------

@property_test
@given(numbers, st.floats(1, 5), st.floats(1, 5), exponents, softenings, st.floats(1, 20))
def test_slowdown_is_a_ratio_of_lifetimes(detail, up, further, d, eps, q):
    kernel, middle, extent = Plummer(d, eps), detail * up, detail * up * further
    whole = relaxation_slowdown(detail, extent, kernel, q)
    parts = relaxation_slowdown(detail, middle, kernel, q) * relaxation_slowdown(middle, extent, kernel, q)
    rates = rate(2 * math.pi / extent, kernel, q) / rate(2 * math.pi / detail, kernel, q)
    # rounding of a spectrum that may span many orders of magnitude
    assert_close(whole, parts, rtol=1e-8, atol=0)
    assert_close(whole, rates, rtol=1e-8, atol=0)


@property_test
@given(numbers, st.floats(1.1, 20), exponents, st.integers(1, 16), st.floats(.2, 5))
def test_slowdown_has_no_unit_and_grows_with_softening(detail, ratio, d, q, scale):
    times = [relaxation_slowdown(detail, ratio * detail, Plummer(d, eps * detail), q) for eps in (.01, .1, .5, 2.)]
    scaled = relaxation_slowdown(scale * detail, scale * ratio * detail, Plummer(d, .5 * detail * scale), q)
    assert_close(scaled, times[2], rtol=1e-8, atol=0)
    assert times == sorted(times)


@pytest.mark.parametrize('q, d', [(4, 1.), (8, 1.), (8, 6.), (16, 14.), (32, 1.)])
def test_slowdown_far_above_the_softening_is_a_power(q, d):
    # (2 pi eps / detail)^2 and its logarithm
    assert_close(relaxation_slowdown(1., 8., Plummer(d, 1e-4), q), 8.**(q - 2 - d), rtol=1e-4, atol=0)


def test_slowdown_far_below_the_softening_is_exponential():
    "One more wave length of softening costs e^(2 pi), but for the power of xi"
    kernel = [Plummer(2., eps) for eps in (20., 21.)]                         # d = q + 1: no power in k^
    slow = [relaxation_slowdown(1., 1e3, k, 1) for k in kernel]
    # the extent's own exponential, 2 pi / 1000
    assert_close(slow[1] / slow[0], math.exp(2 * math.pi), rtol=.01, atol=0)
    assert relaxation_slowdown(1., 1e3, Plummer(2., 200.), 1) == math.inf
    assert relaxation_slowdown(3., 3., Plummer(2., .1), 1) == 1.


# --- bad input ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('change, message', [
    (dict(kernel=Gaussian(1.)), 'expected a kernel with a spectrum'), (dict(kernel=Laplace(1.)), 'with a spectrum'),
    (dict(kernel=Coulomb(3)), 'with a spectrum'), (dict(kernel=EnergyDistance()), 'with a spectrum'),
    (dict(xi=torch.tensor([1., 0.])), 'xi must be finite and above 0, got 0'),
    (dict(xi=torch.tensor([1., -2.])), 'got -2'), (dict(xi=torch.tensor(math.nan)), 'got nan'),
    (dict(xi=torch.tensor(math.inf)), 'got inf'), (dict(m=0), 'm must be'), (dict(m=.5), 'm must be at least 1, got 0.5'),
    (dict(m=math.nan), 'm must be'), (dict(m=2000), 'got m=2000: the spectrum does not fit into float64'),
    (dict(density=0.), 'density must be'), (dict(density=-1.), 'density must be'), (dict(density=math.inf), 'density must be')])
def test_rate_refuses(change, message):
    good = dict(xi=torch.ones(2), kernel=Plummer(), m=3, density=1.)
    assert relaxation_rate(**good).shape == (2,)
    with pytest.raises(ValueError, match=message): relaxation_rate(**{**good, **change})


@pytest.mark.parametrize('change, message', [
    (dict(detail=0.), 'detail must be'), (dict(detail=math.nan), 'detail must be'), (dict(extent=-1.), 'extent must be'),
    (dict(extent=math.inf), 'extent must be'), (dict(detail=5.), 'detail must be at most extent, got 5 and 4'),
    (dict(q=0), 'm must be'), (dict(q=2000), 'does not fit into float64'), (dict(kernel=Gaussian(1.)), 'with a spectrum')])
def test_slowdown_refuses(change, message):
    good = dict(detail=1., extent=4., kernel=Plummer(), q=3)
    assert relaxation_slowdown(**good) > 1
    with pytest.raises(ValueError, match=message): relaxation_slowdown(**{**good, **change})
