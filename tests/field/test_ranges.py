"""Points of every type and size: the answer is that of float64, to the rounding of their type, or one line."""
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from coulomb_gan.metrics.birthday_test import birthday
from coulomb_gan.metrics.nearest_neighbours import closest_pairs, nearest
from coulomb_gan.metrics.equilibrium import energy_interval, diagnose, self_term_share
from coulomb_gan.metrics.frechet import frechet, statistics
from coulomb_gan.field.kernels import EnergyDistance, Gaussian, Laplace, Plummer, narrowed, positive, squared_distances, widened
from coulomb_gan.metrics.mode_coverage import mode_coverage
from coulomb_gan.field.potential import energy, force, kernel_sums, potential, potentials

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
ZERO = torch.zeros(1, dtype=DOUBLE)


def cloud(seed, n, m, size, dtype):
    return (size * torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)).to(dtype)

def clouds(m, size, dtype): return [cloud(seed, 9, m, size, dtype) for seed in range(3)]

def doubled(sets): return [s.double() for s in sets]

def one_line(f):
    with pytest.raises(ValueError) as caught: f()
    message = str(caught.value)
    assert message and '\n' not in message
    return message


# --- kernels and fields -------------------------------------------------------------------------------------------

FIELDS = {  # type, columns and size of the points, kernel
    'squares beyond float16': (HALF, 64, 300., Plummer(1., 1.)),
    'squares beyond float16 in the plane': (HALF, 2, 300., Plummer(1., 1.)),
    'squares below float16': (HALF, 2, 1e-3, Plummer(1., 1e-3)),
    'softening beyond float16': (HALF, 8, 300., Plummer(1., 1000.)),
    'Gaussian beyond float16': (HALF, 3, 300., Gaussian(400.)),
    'Laplace beyond float16': (HALF, 8, 300., Laplace(400.)),
    'bfloat16 of size 1': (BRAIN, 8, 1., Plummer(1., 1.)),
    'squares beyond bfloat16': (BRAIN, 8, 1e20, Plummer(1., 1e20)),
    'squares beyond float32': (SINGLE, 8, 1e20, Plummer(1., 1e20)),
    'squares beyond float32 in the plane': (SINGLE, 2, 1e20, Plummer(1., 1e20)),
    'squares beyond float32, little softening': (SINGLE, 3, 1e20, Plummer(1., 1.)),
    'Gaussian beyond float32': (SINGLE, 8, 1e20, Gaussian(3e20)),
    'Laplace beyond float32': (SINGLE, 2, 1e20, Laplace(1e20)),
    'minus the distance beyond float32': (SINGLE, 8, 1e20, EnergyDistance()),
    'sums beyond float32': (SINGLE, 8, 6e37, Plummer(1., 1e37)),
    'softening beyond float32': (SINGLE, 8, 1e18, Plummer(1., 1e20)),
    'squares below float32': (SINGLE, 8, 1e-25, Plummer(1., 1e-25)),
    'squares below float32 in the plane': (SINGLE, 2, 1e-25, Plummer(1., 1e-25)),
    'softening below float32': (SINGLE, 8, 1., Plummer(1., 1e-25)),
    'kernel below float32': (SINGLE, 8, 1e12, Plummer(4., 1e12)),
    'slope below float32': (SINGLE, 8, 1e16, Plummer(1., 1.)),
    'ordinary float32': (SINGLE, 8, 1., Plummer(3., .1)),
    'ordinary float32 in the plane': (SINGLE, 2, 20., Plummer(1., 1.)),
}
READINGS = {
    'kernel': lambda a, x, y, k: k(a, x),
    'kernel_sums': lambda a, x, y, k: kernel_sums(a, x, k),
    'potential': potential,
    'potentials': lambda a, x, y, k: torch.cat(potentials(x, y, k)),
    'potentials without self-charge': lambda a, x, y, k: torch.cat(potentials(x, y, k, 0.)),
    'potentials with further charges': lambda a, x, y, k: torch.cat(potentials(x, y, k, more_x=a, more_y=a[:1])),
    'force': force,
    'energy': lambda a, x, y, k: energy(x, y, k),
    'biased energy': lambda a, x, y, k: energy(x, y, k, unbiased=False),
}
WITH_SELF = {'potentials', 'potentials with further charges', 'energy', 'biased energy'}


def largest_term(reading, sets, kernel):
    "What cancels in a reading: kernels or pulls of single charges"
    c = torch.cat(doubled(sets))
    r2 = (c[:, None] - c).square().sum(2)
    r2 = r2[r2 > 0]
    if reading == 'force': return (2 * kernel.slope(r2) * r2.sqrt()).abs().max().item()
    return torch.cat([kernel.of_r2(r2), kernel.of_r2(ZERO) * (reading in WITH_SELF)]).abs().max().item()


@pytest.mark.parametrize('case', FIELDS)
@pytest.mark.parametrize('reading', READINGS)
def test_any_type_reads_what_float64_reads(reading, case):
    dtype, m, size, kernel = FIELDS[case]
    sets = clouds(m, size, dtype)
    want = READINGS[reading](*doubled(sets), kernel)
    assert want.isfinite().all() and want.abs().max() > 0
    result = dtype if reading not in ('kernel_sums', 'energy', 'biased energy') else DOUBLE
    top = want.abs().max()
    if abs(top.to(result).double() / top - 1) > .01:
        assert 'does not hold' in one_line(lambda: READINGS[reading](*sets, kernel))
        return
    got = READINGS[reading](*sets, kernel)
    assert got.dtype == result
    limits = torch.finfo(result)
    # the rounding of what is shown, near zero that of denormal numbers, and float32's, of terms that cancel
    rounding = limits.eps * top.item() + limits.tiny * limits.eps + 1e-6 * largest_term(reading, sets, kernel)
    assert_close(got.double(), want, rtol=0, atol=rounding)


@pytest.mark.parametrize('dtype, size', [(HALF, 300.), (HALF, 1e-4), (BRAIN, 1e20), (SINGLE, 1e20), (SINGLE, 6e37), (DOUBLE, 1e150)])
@pytest.mark.parametrize('m', [1, 2, 4, 5, 600])
def test_squared_distances_of_any_type(dtype, size, m):
    a, b, _ = clouds(m, size, dtype)
    want = (a.double()[:, None] - b.double()).square().sum(2)
    got = squared_distances(a, b)
    assert got.dtype in (SINGLE, DOUBLE)
    # four float32 roundings for few coordinates, float64 products for more
    assert_close(got.double(), want, rtol=4 * 2**-24, atol=1e-12 * want.max().item())


@pytest.mark.parametrize('reading', READINGS)
def test_squares_beyond_float64_are_refused(reading):
    sets = clouds(3, 1e160, DOUBLE)
    assert 'overflow float64' in one_line(lambda: READINGS[reading](*sets, Plummer()))


@pytest.mark.parametrize('m', [2, 4, 5, 64])
@pytest.mark.parametrize('kernel', [Plummer(1., 1.), Plummer(3., .01), Plummer(1., 100.), Gaussian(.5), Laplace(2.),
                                    EnergyDistance()], ids=repr)
def test_ordinary_float32_points_stay_as_they_are(m, kernel):
    for size in (1e-3, 1., 100.):
        x = cloud(0, 9, m, size, SINGLE)
        for f in (None, kernel.of_r2, kernel.slope): assert widened(f, x=x)[0] is x


@pytest.mark.parametrize('dtype', [HALF, BRAIN, SINGLE])
def test_vouched_for_points_are_not_looked_at(dtype):
    "Whatever is read back from a GPU is a wait in the training step; half precision is widened all the same"
    class Looks(TorchDispatchMode):
        count = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal)
            return func(*args, **(kwargs or {}))
    for m, kernel in ((2, Plummer(1., .5)), (64, Plummer(3., 1.))):
        a, x, y = clouds(m, 1., dtype)
        with Looks() as seen:
            got = [force(a, x, y, kernel, finite=False), *potentials(x, y, kernel, .5, finite=False),
                   kernel(a, x, finite=False)]
        assert seen.count == 0
        with Looks() as seen: force(a, x, y, kernel)
        assert seen.count > 0
        for values in (got, [force(a, x, y, kernel), *potentials(x, y, kernel, .5), kernel(a, x)]):
            assert [v.dtype for v in values] == [dtype] * 4
            for v, w in zip(values, got): assert torch.equal(v, w)


@pytest.mark.parametrize('dtype', [HALF, BRAIN, SINGLE])
def test_gradients_come_back_in_the_type_of_the_points(dtype):
    a, x, y = clouds(6, 1., dtype)
    a.requires_grad_()
    potential(a, x, y, Plummer()).sum().backward()
    assert a.grad.dtype == dtype
    assert_close(a.grad, force(a.detach(), x, y, Plummer()), rtol=4 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize('value, dtype, fits', [
    (6e4, HALF, True), (7e4, HALF, False), (1e-5, HALF, True), (1e-9, HALF, False), (0., HALF, True), (1e30, BRAIN, True),
    (1e30, SINGLE, True), (1e39, SINGLE, False), (1e-50, SINGLE, False), (math.inf, SINGLE, True)])
def test_results_that_their_type_does_not_hold_are_refused(value, dtype, fits):
    for values in ([0., value], [-value, value / 2]):
        values = torch.tensor(values, dtype=DOUBLE)
        if fits: assert narrowed(values, dtype).dtype == dtype
        else: assert f'which {dtype} does not hold' in one_line(lambda: narrowed(values, dtype))
        assert torch.equal(narrowed(values, dtype, finite=False), values.to(dtype))


@pytest.mark.parametrize('value', [1e-200, 1e200])
@pytest.mark.parametrize('use', [lambda v: Plummer(eps=v), lambda v: Gaussian(v), lambda v: positive(eps=v)])
def test_softening_whose_square_leaves_float64_is_refused(use, value):
    assert 'squared must be a finite number above 0' in one_line(lambda: use(value))


# --- integers ------------------------------------------------------------------------------------------------------

INTEGERS = [torch.int64, torch.int32, torch.uint8, torch.bool]
POINTS = cloud(0, 40, 2, 1., DOUBLE)
FLAT = {
    'a of kernel': lambda b: Plummer()(b, POINTS), 'b of kernel': lambda b: Plummer()(POINTS, b),
    'a of kernel_sums': lambda b: kernel_sums(b, POINTS, Plummer()),
    'b of squared_distances': lambda b: squared_distances(POINTS, b),
    'a of potential': lambda b: potential(b, POINTS, POINTS, Plummer()),
    'x of potential': lambda b: potential(POINTS, b, POINTS, Plummer()),
    'y of potential': lambda b: potential(POINTS, POINTS, b, Plummer()),
    'x of potentials': lambda b: potentials(b, POINTS, Plummer()),
    'y of potentials': lambda b: potentials(POINTS, b, Plummer(), finite=False),
    'a of force': lambda b: force(b, POINTS, POINTS, Plummer(), finite=False),
    'y of force': lambda b: force(POINTS, POINTS, b, Plummer()),
    'x of energy': lambda b: energy(b, POINTS, Plummer()),
    'y of energy': lambda b: energy(POINTS, b, Plummer()),
    'x of self_term_share': lambda b: self_term_share(b, POINTS, Plummer(), 8),
    'real of diagnose': lambda b: diagnose(lambda n: POINTS[:n], lambda a: a[:, 0], b, Plummer(), 8),
    'generated of diagnose': lambda b: diagnose(lambda n: b[:n], lambda a: a[:, 0], POINTS, Plummer(), 8),
    'features of statistics': statistics,
    'x of frechet': lambda b: frechet(b, POINTS), 'y of frechet': lambda b: frechet(POINTS, b),
    'x of mode_coverage': lambda b: mode_coverage(b, POINTS[:3], 1.),
    'means of mode_coverage': lambda b: mode_coverage(POINTS, b[:3], 1.),
}

@pytest.mark.parametrize('dtype', INTEGERS)
@pytest.mark.parametrize('use', FLAT)
def test_integers_are_refused_by_name_and_type(use, dtype):
    FLAT[use](POINTS)
    integers = torch.arange(80).view(40, 2).to(dtype)
    assert one_line(lambda: FLAT[use](integers)) == f'{use.split()[0]} must hold floats, got {dtype}'


# --- neighbours ----------------------------------------------------------------------------------------------------

def nearest_loop(a, b):
    r = np.sqrt(((a.double().numpy()[:, None] - b.double().numpy())**2).sum(2))
    return torch.from_numpy(r.min(1)), r.argmin(1).tolist()


@pytest.mark.parametrize('dtype, size', [
    (HALF, 1e4), (HALF, 1e-6), (BRAIN, 1e20), (SINGLE, 1e18), (SINGLE, 4e18), (SINGLE, 1e19), (SINGLE, 1e20),
    (SINGLE, 6e37), (DOUBLE, 1e19), (DOUBLE, 1e60), (DOUBLE, 1e150)])
@pytest.mark.parametrize('m', [1, 5, 40])
def test_neighbours_of_any_type(dtype, size, m):
    a, b = cloud(0, 20, m, size, dtype), cloud(1, 300, m, size, dtype)
    low, at = nearest_loop(a, b)
    for block in (4, 64, 1024):
        distance, index = nearest(a, b, block=block)
        assert index.tolist() == at
        assert_close(distance, low, rtol=1e-12, atol=0)
    pairs, distance = closest_pairs(a, 5, block=7)
    assert_close(distance, (a.double()[pairs[:, 0]] - a.double()[pairs[:, 1]]).norm(dim=1), rtol=1e-12, atol=0)
    assert birthday(a, b, (10,), quantile=.5)['threshold'] == nearest(b, b, exclude_self=True)[0].quantile(.5, interpolation='higher')


def test_a_block_whose_squares_just_overflow_float32_is_searched():
    "Norms about its centre fit, 1.8e38, and squared distances of 3.6e38 do not; the nearest so far is at 3.8e38"
    turn = torch.tensor([[1., 1.], [1., -1.]]) / 2**.5
    b = torch.cat([torch.tensor([[-1.95e19, 0.]]).repeat(2, 1), 1.9e19 * turn])
    distance, index = nearest(torch.zeros(1, 2), b, block=2)
    assert index.tolist() == [2]
    assert_close(distance, torch.tensor([1.9e19]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize('use', [nearest, lambda a, b: nearest(b, a), lambda a, b: closest_pairs(b, 3),
                                 lambda a, b: birthday(a, b, (2,))])
def test_neighbours_beyond_float64_are_refused(use):
    a, b = cloud(0, 9, 3, 1., DOUBLE), cloud(1, 9, 3, 1e160, DOUBLE)
    assert 'squared distances fit into float64' in one_line(lambda: use(a, b))


@pytest.mark.parametrize('dtype, size', [(HALF, 100.), (BRAIN, 1e20), (SINGLE, 1e20), (DOUBLE, 1e140)])
def test_modes_of_any_type(dtype, size):
    "A mixture of four, stretched: only the unit changes, and the rounding of points (1/256 in bfloat16)"
    means = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]], dtype=DOUBLE)
    x = means[torch.arange(2000) % 4] + cloud(0, 2000, 2, .1, DOUBLE)
    plain = mode_coverage(x, means, .1)
    found = mode_coverage((x * size).to(dtype), (means * size).to(dtype), .1 * size)
    assert found['counts'] == plain['counts'] and found['modes'] == 4
    for name in ('variance_min', 'variance_max'): assert found[name] == pytest.approx(plain[name], rel=.02)


# --- features, gauges ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('dtype, size', [(HALF, 300.), (HALF, 1e4), (BRAIN, 1e20), (SINGLE, 1e20), (SINGLE, 5e37), (DOUBLE, 1e60)])
def test_features_of_any_type(dtype, size):
    x, y = cloud(0, 90, 4, size, dtype), cloud(1, 90, 4, size, dtype)
    s = statistics(x.split(7), keep=5)
    assert s.mu.dtype == s.sigma.dtype == DOUBLE
    assert_close(s.sigma, torch.cov(x.double().T), rtol=1e-9, atol=1e-12 * size**2)
    assert frechet(x, y) == pytest.approx(frechet(x.double(), y.double()), rel=1e-9, abs=0)


def test_features_whose_squares_leave_float64_are_refused():
    assert 'overflow float64' in one_line(lambda: statistics(cloud(0, 9, 2, 1e160, DOUBLE)))


@pytest.mark.parametrize('size', [1., 1e-25, 1e25])
def test_the_interval_of_small_and_large_potentials_scales_with_them(size):
    phi_x, phi_y = cloud(0, 50, 1, 1., SINGLE)[:, 0], cloud(1, 50, 1, 1., SINGLE)[:, 0] + 1
    scaled = energy_interval(phi_x * size, phi_y * size)
    assert scaled == pytest.approx([v * size for v in energy_interval(phi_x, phi_y)], rel=1e-5, abs=0)


@pytest.mark.parametrize('dtype, size, rel', [(HALF, 1., .01), (SINGLE, 1., 1e-5), (SINGLE, 1e20, 1e-5)])
def test_a_gauge_of_any_type(dtype, size, rel):
    real, made = cloud(0, 200, 3, size, dtype), cloud(1, 200, 3, size, dtype) + size
    def read(convert):
        return diagnose(lambda n: convert(made)[:n], lambda a: a[:, 0].double() / size, convert(real), Plummer(1., size), 16)
    got, want = read(lambda c: c), read(torch.Tensor.double)
    for name in ('energy', 'r2', 'noise', 'max_phi', 'self_term_share'):
        assert getattr(got, name) == pytest.approx(getattr(want, name), rel=rel, abs=0)
    assert self_term_share(real, made, Plummer(1., size), 16) == pytest.approx(
        self_term_share(real.double(), made.double(), Plummer(1., size), 16), rel=rel, abs=0)
