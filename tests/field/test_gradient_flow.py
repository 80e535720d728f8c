"""Densities and particles set free: invariants, symmetries, an oracle by loops, refusals."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from coulomb_gan.field.gradient_flow import evolve, particles
from coulomb_gan.field.kernels import Coulomb, EnergyDistance, Gaussian, Laplace, Plummer
from coulomb_gan.field.meshes import Ball, Torus
from coulomb_gan.field.potential import force


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=25)(f)

def cloud(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

def crossing(mesh, velocity):
    "Time in which the fastest flow crosses a cell"
    return (mesh.volume / mesh.areas[0] / max(v.abs().max() for v in velocity)).item()


def densities_on(mesh, seed, power):
    "Two rough densities of mass 1; the first has empty cells, and the more of them nearly so the higher the power"
    gen = torch.Generator().manual_seed(seed)
    p_x, p_y = (torch.rand(2, *[len(mesh.r)] * len(mesh.areas), generator=gen, dtype=torch.float64)**power).unbind()
    p_x.view(-1)[:2] = 0.
    return p_x / mesh.mass(p_x), p_y / mesh.mass(p_y)


@st.composite
def problems(draw, dimensions=(1, 2, 3)):
    "`mesh, p_x, p_y, T`: a box, a kernel of any exponent, rough densities and a few crossings of a cell"
    m = draw(st.sampled_from(dimensions))
    n, length = draw(st.integers(3, {1: 24, 2: 9, 3: 6}[m])), draw(st.floats(.3, 10))
    mesh = Torus(n, m, length, Plummer(draw(st.floats(.3, 4)), length * draw(st.floats(.05, .5))))
    p_x, p_y = densities_on(mesh, draw(st.integers(0, 10**6)), draw(st.sampled_from([1, 4, 12])))
    return mesh, p_x, p_y, draw(st.sampled_from([.2, 1., 3.])) * crossing(mesh, mesh.field(p_x - p_y))


def motions(mesh, p_x, p_y):
    "Both motions: what moves, what is fixed, and how to get the charge from what moves"
    return (p_x, p_y, lambda u: p_y - u), (p_y - p_x, None, lambda u: u)

def one_step(mesh, charge):
    "Less than any step limit"
    return .02 * crossing(mesh, mesh.field(charge))


# --- what a solver must keep --------------------------------------------------------------------------------------

@property_test
@given(problems())
def test_mass_is_kept(p):
    mesh, p_x, p_y, T = p
    for u, fixed, _ in motions(mesh, p_x, p_y):
        for v in evolve(mesh, u, [T / 3, T], fixed):
            # every face takes what it gives: rounding of some hundred sums of mass 1
            assert_close(mesh.mass(v), mesh.mass(u), rtol=0, atol=1e-13)


@property_test
@given(problems())
def test_generated_density_is_never_negative(p):
    mesh, p_x, p_y, T = p
    assert min(v.min() for v in evolve(mesh, p_x, [T / 3, T], p_y)) >= 0.


@property_test
@given(problems())
def test_energy_never_rises(p):
    mesh, p_x, p_y, T = p
    for u, fixed, charge in motions(mesh, p_x, p_y):
        F = torch.stack([mesh.energy(charge(v)) for v in (u, *evolve(mesh, u, [T / 3, 2 * T / 3, T], fixed))])
        # rounding of F, a sum of squares, is 1e-16 of it
        assert (F.diff() <= 1e-14 * F[0]).all() and (F >= 0).all()


@property_test
@given(problems())
def test_charge_only_annihilates(p):
    mesh, p_x, p_y, T = p
    total = torch.stack([mesh.mass(v.abs()) for v in (p_y - p_x, *evolve(mesh, p_y - p_x, [T / 3, T]))])
    assert (total.diff() <= 1e-13).all()      # rounding of a total of at most 2


@pytest.mark.parametrize('amplitude', [1e-2, 1e-6])
@pytest.mark.parametrize('d, eps', [(1., .5), (1., .1), (3., .5)])
def test_energy_and_sign_near_the_rest_point(d, eps, amplitude):
    "Near p_x = p_y the field is weak and a crossing takes long, but charge still relaxes at the rate p k_hat xi^2"
    mesh = Torus(32, 1, 2 * math.pi, Plummer(d, eps))
    p_y = (1 + .9 * (2 * mesh.r).cos()) / (2 * math.pi)
    p_x = p_y * (1 + amplitude * (5 * mesh.r).cos())
    path = [p_x, *evolve(mesh, p_x, [1., 10., 30.], p_y)]
    F = torch.stack([mesh.energy(p_y - u) for u in path])
    assert (F.diff() < 0).all() and min(u.min() for u in path) >= 0.


@pytest.mark.parametrize('seed', range(10))
def test_sign_from_rough_densities_near_the_rest_point(seed):
    mesh = Torus(16, 1, 5., Plummer(1., .5))
    p_y, noise = densities_on(mesh, seed, 12)
    p_x = p_y * (1 + 1e-3 * noise)
    T = 2 * crossing(mesh, mesh.field(p_y - p_x * (mesh.mass(p_y) / mesh.mass(p_x))))
    assert min(v.min() for v in evolve(mesh, p_x, [min(T, 20.)], p_y)) >= 0.


def test_charges_that_feel_nothing_stay():
    for mesh in (Torus(8, 1, 5., Plummer()), Torus(4, 2, 5., Plummer()), Ball(8, 3, 5., Plummer())):
        p, _ = densities_on(mesh, 0, 1)
        assert_close(evolve(mesh, p, [1., 2.], p), [p, p], rtol=0, atol=0)
        assert_close(evolve(mesh, 0 * p, [1.]), [0 * p], rtol=0, atol=0)


# --- symmetries ---------------------------------------------------------------------------------------------------

def moves_alike(mesh, p_x, p_y, T, change):
    for u, fixed, _ in motions(mesh, p_x, p_y):
        want = change(evolve(mesh, u, [T], fixed)[0])
        got = evolve(mesh, change(u), [T], fixed if fixed is None else change(fixed))[0]
        # Fourier sums in another order: 1e-15 of the density a step, over some dozen steps
        assert_close(got, want, rtol=0, atol=1e-11 * u.abs().max().item())


@property_test
@given(problems(), st.integers(-5, 5))
def test_translation(p, cells):
    mesh, *rest = p
    moves_alike(mesh, *rest, lambda u: u.roll([cells] * u.ndim, tuple(range(u.ndim))))


@property_test
@given(problems())
def test_reflection(p):
    mesh, *rest = p
    moves_alike(mesh, *rest, lambda u: u.flip(0))


@property_test
@given(problems((2, 3)))
def test_exchange_of_axes(p):
    mesh, *rest = p
    moves_alike(mesh, *rest, lambda u: u.transpose(0, 1))


@property_test
@given(problems())
def test_swap_of_the_clouds(p):
    "With all charge mobile, data and model play the same part"
    mesh, p_x, p_y, T = p
    moved = evolve(mesh, p_y - p_x, [T])[0]
    assert_close(evolve(mesh, p_x - p_y, [T])[0], -moved, rtol=0, atol=1e-11 * p_y.max().item())


@property_test
@given(st.integers(1, 3), st.floats(.3, 4), st.floats(.1, 10), st.integers(0, 10**6))
def test_unit_of_length(m, d, s, seed):
    "Stretched by s, a density of mass 1 is s^-m as high and takes s^(d+2) as long"
    mesh, stretched = (Torus(6, m, 2. * unit, Plummer(d, .4 * unit)) for unit in (1., s))
    p_x, p_y = densities_on(mesh, seed, 4)
    T = crossing(mesh, mesh.field(p_x - p_y))
    got, = evolve(stretched, p_x * s**-m, [T * s**(d + 2)], p_y * s**-m)
    # the same steps in other units: rounding, as above
    assert_close(got * s**m, evolve(mesh, p_x, [T], p_y)[0], rtol=0, atol=1e-11 * p_x.max().item())


# --- time ---------------------------------------------------------------------------------------------------------

def smooth(mesh):
    a, b = (1 + .5 * f(mesh.r) for f in (torch.sin, torch.cos))
    return a / mesh.mass(a), b / mesh.mass(b)


@property_test
@given(problems())
def test_going_on_is_starting_again(p):
    mesh, p_x, p_y, T = p
    for u, fixed, _ in motions(mesh, p_x, p_y):
        half, full = evolve(mesh, u, [T / 2, T], fixed)
        # the same steps, but for rounding of the time
        assert_close(evolve(mesh, half, [T / 2], fixed)[0], full, rtol=0, atol=1e-11 * u.abs().max().item())


@pytest.mark.parametrize('moves', ['all', 'p_x'])
def test_stops_on_the_way_change_the_result_to_second_order(moves):
    "A time of one step, cut into 1, 2, 4, 8: Heun's error falls like the square of their number"
    mesh = Torus(32, 1, 2 * math.pi, Plummer(1., .5))
    p_x, p_y = smooth(mesh)
    u, fixed = (p_y - p_x, None) if moves == 'all' else (p_x, p_y)
    T, cuts = .1 * crossing(mesh, mesh.field(p_y - p_x)), [1, 2, 4, 8]
    run = lambda k: evolve(mesh, u, [T * (i + 1) / k for i in range(k)], fixed)[-1]
    exact = run(128)
    errors = [(run(k) - exact).abs().sum().item() for k in cuts]
    # the kinks of minmod and of the flux leave the slope within a tenth of 2
    assert abs(np.polyfit(np.log(cuts), np.log(errors), 1)[0] + 2) < .1


@pytest.mark.parametrize('m, n, xi', [(1, 256, 1), (1, 256, 4), (2, 96, 1), (2, 96, 2)])
@pytest.mark.parametrize('d, eps', [(1., .5), (3., .5), (.5, .2)])
def test_rate_near_rest_in_one_call(m, n, xi, d, eps):
    "A small wave on a uniform density decays at p_0 xi^2 k_hat(xi), also if nobody stops on the way"
    mesh = Torus(n, m, 2 * math.pi, Plummer(d, eps))
    p_0 = torch.full(mesh.shape, (2 * math.pi)**-m, dtype=torch.float64)
    wave = torch.meshgrid(*[mesh.r] * m, indexing='ij')[0].mul(xi).cos()
    rate = (p_0.mean() * xi**2 * Plummer(d, eps).spectrum(torch.tensor(float(xi**2)).double(), m)).item()
    after, = evolve(mesh, p_0 * (1 + 1e-3 * wave), [.5 / rate], p_0)
    left = ((after - p_0) * wave).sum() / (1e-3 * p_0 * wave**2).sum()
    # Heun at h lambda <= .2: .8 %; cells and minmod at the extrema: (xi h)^2 / 8, .1 %
    assert_close(-left.log().item() / .5, 1., rtol=.01, atol=0)


# --- the ball against the box -------------------------------------------------------------------------------------

def test_ball_agrees_with_box():
    "A round generated cloud inside a round cloud of data, in space: second moments in both"
    kernel, size, times = Plummer(1., 1.), [], [1., 3., 6.]
    for mesh in (Torus(24, 3, 12., kernel), Ball(100, 3, 6., kernel)):
        r2 = sum(s**2 for s in torch.meshgrid(*[mesh.r] * len(mesh.areas), indexing='ij'))
        p_x, p_y = ((-r2 / (2 * w**2)).exp() for w in (.8, 1.3))
        p_x, p_y = p_x / mesh.mass(p_x), p_y / mesh.mass(p_y)
        size.append(torch.stack([mesh.mass(r2 * u) for u in evolve(mesh, p_x, times, p_y)]))
    # cells of half a unit, second order: (0.5 / 0.8)^2 / 12 = 3 %; images of a neutral round charge do not pull
    assert_close(size[0], size[1], rtol=.03, atol=0)
    assert size[1][-1] > 1.2 * size[1][0]


# --- particles ----------------------------------------------------------------------------------------------------

def particles_loop(x, y, kernel, steps, dt, reach):
    x = x.clone()
    for _ in range(steps):
        old = x.clone()
        for i, v in enumerate(force(old, old, y, kernel)):
            x[i] = old[i] + v * min(dt, reach / v.norm().item() if v.norm() > 0 else math.inf)
    return x


@property_test
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.integers(0, 4), st.floats(.01, 10),
       st.floats(.01, 1) | st.just(math.inf), st.sampled_from([Plummer(1., 1.), Gaussian(1.), Laplace(1.)]))
def test_particles_equal_loop(seed, m, n, steps, dt, reach, kernel):
    x, y = cloud(seed, n, m), cloud(seed + 1, n + 1, m)
    before = x.clone()
    # a few steps of at most 10 units of time, with forces good to 1e-9 (a cusp at zero distance)
    got, want = (f(x, y, kernel, steps, dt, reach) for f in (particles, particles_loop))
    assert_close(got, want, rtol=1e-6, atol=1e-6)
    assert_close(x, before, rtol=0, atol=0)


@pytest.mark.parametrize('kernel', [Plummer(3., .01), Coulomb(2), Coulomb(3), EnergyDistance()], ids=repr)
def test_reach_is_respected(kernel):
    x, y = 1e-3 * cloud(0, 20, 2), cloud(1, 20, 2)
    for _ in range(20):
        moved = particles(x, y, kernel, 1, 10., reach=.1)
        assert (moved - x).norm(dim=1).max() <= .1 * (1 + 1e-12)       # rounding of one product
        x = moved
    assert x.isfinite().all()


def test_particles_at_rest_stay():
    y = cloud(0, 5, 3)
    for reach in (.1, math.inf): assert_close(particles(y, y, Plummer(), 3, 1., reach), y, rtol=0, atol=1e-15)


# --- refusals: one line that says what was got --------------------------------------------------------------------

LINE, PLANE, BALL = Torus(8, 1, 5., Plummer()), Torus(8, 2, 5., Plummer()), Ball(8, 3, 5., Plummer())
ONE, TWO = torch.ones(8).double(), torch.ones(8, 8).double()
X = cloud(0, 4, 2)


def spoilt(value): return ONE.clone().index_fill_(0, torch.tensor([3]), value)


REFUSED = {
    'times that fall': lambda: evolve(LINE, ONE, [2., 1.]),
    'a time twice': lambda: evolve(LINE, ONE, [1., 1.]),
    'time 0': lambda: evolve(LINE, ONE, [0., 1.]),
    'a negative time': lambda: evolve(LINE, ONE, [-1.]),
    'an infinite time': lambda: evolve(LINE, ONE, [math.inf]),
    'a time of NaN': lambda: evolve(LINE, ONE, [math.nan]),
    'p_x below 0': lambda: evolve(LINE, spoilt(-1e-9), [1.], ONE),
    'NaN in p_x': lambda: evolve(LINE, spoilt(math.nan), [1.], ONE),
    'NaN in p_y': lambda: evolve(LINE, ONE, [1.], spoilt(math.nan)),
    'NaN in rho': lambda: evolve(LINE, spoilt(math.nan), [1.]),
    'infinite p_x': lambda: evolve(LINE, spoilt(math.inf), [1.], ONE),
    'a short u': lambda: evolve(LINE, ONE[:5], [1.]),
    'a short p_y': lambda: evolve(LINE, ONE, [1.], ONE[:5]),
    'a line in the plane': lambda: evolve(PLANE, ONE, [1.]),
    'one row of the plane': lambda: evolve(PLANE, TWO[:1] * torch.rand(8), [1.]),
    'half of the plane': lambda: evolve(PLANE, TWO[:, :4], [1.]),
    'a short u in the ball': lambda: evolve(BALL, ONE[:5], [1.]),
    'a matrix in the ball': lambda: evolve(BALL, TWO, [1.]),
    'NaN samples': lambda: particles(X.log(), X, Plummer(), 1, .1),
    'samples of another m': lambda: particles(X[:, :1], X, Plummer(), 1, .1),
    'no samples': lambda: particles(X[:0], X, Plummer(), 1, .1),
    'a negative reach': lambda: particles(X, X + 1, Plummer(), 1, .1, reach=-1.),
    'a step of NaN': lambda: particles(X, X + 1, Plummer(), 1, math.nan)}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(case):
    with pytest.raises(ValueError) as caught: REFUSED[case]()
    assert str(caught.value) and '\n' not in str(caught.value)
