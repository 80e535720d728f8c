"""Distances and the types of points: against loops in float64, at every size; refusals."""
import math

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.field.distances import narrowed, squared_distances, widened
from coulomb_gan.field.kernels import EnergyDistance, Gaussian, Laplace, Plummer

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


def cloud(seed, n, m, size=1., dtype=DOUBLE):
    return (size * torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)).to(dtype)

def clouds(m, size, dtype): return [cloud(seed, 9, m, size, dtype) for seed in range(3)]

def one_line(f):
    with pytest.raises(ValueError) as caught: f()
    message = str(caught.value)
    assert message and '\n' not in message
    return message

# --- distances ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('dtype, size', [(HALF, 300.), (HALF, 1e-4), (BRAIN, 1e20), (SINGLE, 1e20), (SINGLE, 6e37), (DOUBLE, 1e150)])
@pytest.mark.parametrize('m', [1, 2, 4, 5, 600])
def test_squared_distances_of_any_type(dtype, size, m):
    a, b, _ = clouds(m, size, dtype)
    want = (a.double()[:, None] - b.double()).square().sum(2)
    got = squared_distances(a, b)
    assert got.dtype in (SINGLE, DOUBLE)
    # four float32 roundings for few coordinates, float64 products for more
    assert_close(got.double(), want, rtol=4 * 2**-24, atol=1e-12 * want.max().item())


def test_squared_distances_of_duplicates_are_zero_and_never_negative():
    a = 1e3 + cloud(0, 50, 3072, dtype=SINGLE)
    r2_ij = squared_distances(a, a)
    assert r2_ij.min() >= 0
    # float64 products of 3072 terms of size 1 about the common centre: 1e-16 * 3072, times a few
    assert r2_ij.diagonal().max() < 1e-11


@pytest.mark.parametrize('columns', [1, 7, 512])
def test_squared_distances_do_not_depend_on_columns(columns):
    a, b = cloud(0, 4, 20), cloud(1, 5, 20)
    # 20 terms of size 10, one rounding each
    assert_close(squared_distances(a, b, columns), squared_distances(a, b, 20), rtol=0, atol=1e-12)


def test_distances_of_a_set_to_itself():
    x = cloud(0, 20, 7)
    r2_ij = squared_distances(x, x)
    # a product of 7 terms of size 3, one rounding each, whichever order BLAS takes
    assert_close(r2_ij, r2_ij.T, rtol=0, atol=1e-14)
    assert_close(r2_ij, squared_distances(x, x.clone()), rtol=0, atol=1e-14)


# --- types --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('m', [2, 4, 5, 64])
@pytest.mark.parametrize('kernel', [Plummer(1., 1.), Plummer(3., .01), Plummer(1., 100.), Gaussian(.5), Laplace(2.),
                                    EnergyDistance()], ids=repr)
def test_ordinary_float32_points_stay_as_they_are(m, kernel):
    for size in (1e-3, 1., 100.):
        x = cloud(0, 9, m, size, SINGLE)
        for f in (None, kernel.of_r2, kernel.slope): assert widened(f, x=x)[0] is x


@pytest.mark.parametrize('value, dtype, fits', [
    (6e4, HALF, True), (7e4, HALF, False), (1e-5, HALF, True), (1e-9, HALF, False), (0., HALF, True), (1e30, BRAIN, True),
    (1e30, SINGLE, True), (1e39, SINGLE, False), (1e-50, SINGLE, False), (math.inf, SINGLE, True)])
def test_results_that_their_type_does_not_hold_are_refused(value, dtype, fits):
    for values in ([0., value], [-value, value / 2]):
        values = torch.tensor(values, dtype=DOUBLE)
        if fits: assert narrowed(values, dtype).dtype == dtype
        else: assert f'which {dtype} does not hold' in one_line(lambda: narrowed(values, dtype))
        assert torch.equal(narrowed(values, dtype, finite=False), values.to(dtype))


# --- integers -----------------------------------------------------------------------------------------------------

INTEGERS = [torch.int64, torch.int32, torch.uint8, torch.bool]
POINTS = cloud(0, 40, 2, 1., DOUBLE)
FLAT = {
    'b of squared_distances': lambda b: squared_distances(POINTS, b),
}

@pytest.mark.parametrize('dtype', INTEGERS)
@pytest.mark.parametrize('use', FLAT)
def test_integers_are_refused_by_name_and_type(use, dtype):
    FLAT[use](POINTS)
    integers = torch.arange(80).view(40, 2).to(dtype)
    assert one_line(lambda: FLAT[use](integers)) == f'{use.split()[0]} must hold floats, got {dtype}'
