"""Kernels against independent oracles: Bessel functions, autograd, loops; refusals and coincident points."""
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from coulomb_gan.field.kernels import Coulomb, EnergyDistance, Gaussian, Laplace, Plummer, positive, sphere_area
from coulomb_gan.field.potential import force

KERNELS = [Plummer(1., 1.), Plummer(2.5, .1), Gaussian(.7), Laplace(1.3), Coulomb(2), Coulomb(3), Coulomb(5),
           EnergyDistance()]


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=60)(f)

def powers(low, high): return st.floats(low, high).map(lambda e: 10**e)

def cloud(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the spectrum -------------------------------------------------------------------------------------------------

def spectrum_by_bessel(d, eps, xi2, m):
    "Closed form with K_nu in 30 digits"
    with mpmath.workdps(30):
        d, eps, xi = mpmath.mpf(d), mpmath.mpf(eps), mpmath.sqrt(mpmath.mpf(xi2))
        scale = 2 * mpmath.pi**(mpmath.mpf(m) / 2) / mpmath.gamma(d / 2) * (xi / (2 * eps))**((d - m) / 2)
        return scale * mpmath.besselk((d - m) / 2, eps * xi)


def exponents(m): return st.floats(.05, 70) | st.sampled_from([float(max(m - 2, 1)), float(m), m + 1.])


@property_test
@given(st.data(), st.sampled_from([1, 2, 3, 4, 5, 8, 16, 33, 64, 128]), powers(-3, 2), powers(-8, 2.3))
def test_spectrum_is_the_bessel_function(data, m, eps, z):
    d, xi2 = data.draw(exponents(m)), (z / eps)**2
    want = spectrum_by_bessel(d, eps, xi2, m)
    assume(1e-290 < want < 1e290)
    got = Plummer(d, eps).spectrum(torch.tensor(xi2, dtype=torch.float64), m).item()
    # rounding of exponents up to 700: 700 * 2^-52 = 2e-13
    assert abs(got / want - 1) < 1e-12


def test_oracle_rejects_the_neighbouring_order():
    got = Plummer(1., 1.).spectrum(torch.tensor(1.), 3).item()
    for d, m in ((1., 2), (2., 3)): assert abs(got / spectrum_by_bessel(d, 1., 1., m) - 1) > .01


@property_test
@given(st.integers(1, 64), st.floats(.05, 70), powers(-2, 2), powers(-1, 1))
def test_spectrum_scales_with_the_unit_of_length(m, d, eps, s):
    "k_{s eps}(s r) = s^-d k_eps(r), so its transform at xi / s is s^(m-d) that of k_eps at xi"
    z = torch.logspace(-6, 2, 20, dtype=torch.float64)
    want = Plummer(d, eps).spectrum((z / eps)**2, m)
    got = Plummer(d, s * eps).spectrum((z / (s * eps))**2, m)
    usual = (1e-280 < want) & (want < 1e280) & (1e-280 < got) & (got < 1e280)
    # as above, rounding of exponents up to 700, twice
    shift = got.log() - want.log() - (m - d) * math.log(s)
    assert shift[usual].abs().max() < 2e-12


@property_test
@given(st.integers(1, 64), st.floats(.05, 20), powers(-2, 1))
def test_spectrum_is_positive_and_falls(m, d, eps):
    "A mixture of Gaussians with positive weights: each one's transform falls with the frequency"
    k_hat = Plummer(d, eps).spectrum((torch.logspace(-4, 2, 60, dtype=torch.float64) / eps)**2, m)
    k_hat = k_hat[k_hat < math.inf]
    assert (k_hat > 0).all() and (k_hat.diff() < 0).all()


def test_spectrum_keeps_shape_and_answers_in_float64():
    xi2 = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)) + .1
    got = Plummer().spectrum(xi2, 3)
    assert got.shape == (2, 3) and got.dtype == torch.float64
    assert_close(got, Plummer().spectrum(xi2.double(), 3), rtol=0, atol=0)


@pytest.mark.parametrize('xi2', [0., -1., math.nan])
def test_spectrum_refuses(xi2):
    with pytest.raises(ValueError, match='xi2 must be above 0'): Plummer().spectrum(torch.tensor([1., xi2]), 3)


# --- value, slope, curvature --------------------------------------------------------------------------------------

@property_test
@given(st.sampled_from(KERNELS), powers(-4, 3))
def test_slope_and_curvature_are_the_derivatives(kernel, r2):
    r2 = torch.tensor(r2, dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(kernel.of_r2(r2), r2)
    curvature, = torch.autograd.grad(kernel.slope(r2), r2)
    # a power and an exponential each: a few roundings, amplified by exponents up to 700
    assert_close(kernel.slope(r2).detach(), slope, rtol=1e-12, atol=0)
    assert_close(kernel.curvature(r2).detach(), curvature, rtol=1e-12, atol=0)


@property_test
@given(st.sampled_from(KERNELS), powers(-4, 3), st.integers(1, 64))
def test_laplacian_is_the_radial_one(kernel, r2, m):
    "k'' + (m-1)/r k' in the radius itself"
    r = torch.tensor(r2**.5, dtype=torch.float64, requires_grad=True)
    first, = torch.autograd.grad(kernel.of_r2(r**2), r, create_graph=True)
    second, = torch.autograd.grad(first, r)
    terms = second, (m - 1) / r * first
    # both sides cancel, down to zero for Coulomb kernels, so rounding is measured by the terms
    assert_close(kernel.laplacian(r**2, m), sum(terms), rtol=0, atol=1e-11 * sum(t.abs() for t in terms).item())


@property_test
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 6))
def test_energy_distance_is_positive_against_neutral_charges(seed, n, m):
    c, x = cloud(seed, n), cloud(seed + 1, n, m)
    c = c - c.mean()
    k = EnergyDistance()(x, x)
    # r^2 is good to 1e-15, so r is to 3e-8
    assert_close(k, -(x[:, None] - x[None]).norm(dim=2), rtol=0, atol=1e-7)
    assert c @ k @ c > 0 > torch.ones(n).double() @ k @ torch.ones(n).double()


# --- coincident points --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kernel', KERNELS, ids=repr)
def test_slope_and_curvature_are_finite_at_the_charge(kernel):
    zero = torch.zeros(3)
    assert kernel.slope(zero).isfinite().all() and kernel.curvature(zero).isfinite().all()


@pytest.mark.parametrize('kernel', [Laplace(), Coulomb(2), Coulomb(3), EnergyDistance()], ids=repr)
def test_a_cusp_or_a_pole_has_no_slope_at_the_charge(kernel):
    zero = torch.zeros(1)
    assert kernel.slope(zero) == kernel.curvature(zero) == 0


def test_energy_distance_is_finite_at_the_charge(): assert EnergyDistance().of_r2(torch.zeros(1)) == 0


def test_kernel_matrix_has_the_type_of_its_points():
    assert Plummer()(torch.zeros(2, 3), torch.zeros(1, 3)).dtype == torch.float32


@pytest.mark.parametrize('kernel', [k for k in KERNELS if not isinstance(k, Coulomb)], ids=repr)
def test_gradient_is_finite_at_coincident_points(kernel):
    b = torch.cat([cloud(0, 5, 3), torch.zeros(1, 3), torch.ones(1, 3)])
    a = b.clone().requires_grad_()
    kernel(a, b).sum().backward()
    assert a.grad.isfinite().all()


def force_loop(a, x, y, kernel):
    def pull(p, charges):
        pairs = [2 * kernel.slope(((p - q)**2).sum()) * (p - q) for q in charges]
        return sum(pairs) / len(charges), max(f.norm() for f in pairs) / len(charges)
    pulls = [(pull(p, y), pull(p, x)) for p in a]
    return torch.stack([f - g for (f, _), (g, _) in pulls]), max(max(s, t).item() for (_, s), (_, t) in pulls)


@pytest.mark.parametrize('kernel', KERNELS, ids=repr)
@pytest.mark.parametrize('m, offset', [(2, 0.), (3, 8.), (5, 0.)])
def test_a_charge_exerts_no_force_on_itself(kernel, m, offset):
    x, y = offset + cloud(m, 16, m), cloud(m + 1, 16, m)
    y[0] = x[3]
    want, largest = force_loop(x, x, y, kernel)
    # r^2 is good to 1e-16 |x|^2: 1e-9 for pairs, but 'zero' may read 1e-8 |x|, where a cusp has the weight 1e8
    assert_close(force(x, x, y, kernel), want, rtol=0, atol=1e-6 * largest)


# --- refusals -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('m', [1, 0, -3, 2.5, 3., True, '3', None, math.nan])
def test_coulomb_refuses(m):
    with pytest.raises(ValueError, match='m must be an integer of at least 2, got'): Coulomb(m)


@pytest.mark.parametrize('value', [0, -1., math.nan, math.inf, '1', None])
@pytest.mark.parametrize('use', [Gaussian, Laplace, lambda v: positive(sigma=v)])
def test_width_is_refused(use, value):
    with pytest.raises(ValueError, match='sigma must be a finite number above 0, got'): use(value)


@pytest.mark.parametrize('kernel, text', [
    (Plummer(), 'Plummer(d=1.0, eps=1.0)'), (Gaussian(), 'Gaussian(sigma=1.0)'), (Laplace(), 'Laplace(sigma=1.0)'),
    (Coulomb(3), 'Coulomb(m=3)'), (EnergyDistance(), 'EnergyDistance()')])
def test_kernels_name_themselves_and_their_parameters(kernel, text): assert repr(kernel) == text


# --- spheres ------------------------------------------------------------------------------------------------------

def test_sphere_area():
    known = {1: 2, 2: 2 * math.pi, 3: 4 * math.pi, 4: 2 * math.pi**2, 5: 8 * math.pi**2 / 3, 6: math.pi**3}
    for m, area in known.items(): np.testing.assert_allclose(sphere_area(m), area, rtol=1e-14)
    # log Gamma is about 400 at the end: 400 * 2^-52 = 1e-13
    for m in range(1, 200):
        np.testing.assert_allclose(sphere_area(m + 2), 2 * math.pi * sphere_area(m) / m, rtol=1e-12)
