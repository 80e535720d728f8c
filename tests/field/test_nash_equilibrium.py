"""What the page on Nash equilibria derives, over more cases than it shows: the second-order condition, the bound by 2F,
and the kernel that ends."""
import math

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.field.kernels import Kernel, Plummer
from coulomb_gan.field.potential import energy, potential

CASES = [(m, d, eps) for m in (1, 2, 10) for d in (.3, 1., 6.) for eps in (.1, 1.)]


def clouds(seed, m, n=100):
    "Pairs of small clouds of random size and place; every fourth pair is a cloud and its shifted copy"
    gen = torch.Generator().manual_seed(seed)
    def randn(*shape): return torch.randn(*shape, generator=gen, dtype=torch.float64)
    for i in range(n):
        size_x, size_y = torch.rand(2, generator=gen, dtype=torch.float64)
        x = 3 * size_x * randn(1 + i % 5, m)
        y = x + randn(1, m) if i % 4 == 3 else 3 * size_y * randn(1 + i % 6, m) + randn(1, m)
        yield x, y


def product(p, q, kernel):
    "Mean of -lap k over the pairs of two clouds, distances by subtraction: the diagonal is exactly K(0)"
    r2_ij = (p[:, None] - q).square().sum(2)
    return -kernel.laplacian(r2_ij, p.shape[1]).mean()


@pytest.mark.parametrize('m, d, eps', CASES)
def test_samples_at_least_as_concentrated_as_data_gain_by_a_shift(m, d, eps):
    kernel, seen = Plummer(d, eps), 0
    for x, y in clouds(m, m):
        xx, yy, xy = product(x, x, kernel), product(y, y, kernel), product(x, y, kernel)
        rounding = 1e-12 * product(x[:1], x[:1], kernel)
        apart = xx + yy - 2 * xy
        assert apart > rounding                                     # K is strictly positive definite
        if xx < yy - rounding: continue
        seen += 1
        assert xx - xy >= apart / 2 - rounding                      # mean of the Laplacian of Phi over the samples
    assert seen > 25


@pytest.mark.parametrize('m, d, eps', CASES)
def test_a_lone_sample_has_the_largest_norm(m, d, eps):
    kernel = Plummer(d, eps)
    r2 = torch.logspace(-4, 6, 60, dtype=torch.float64) * eps**2
    top = -kernel.laplacian(torch.zeros((), dtype=torch.float64), m)
    assert_close(top.item(), m * d * eps**(-d - 2))
    assert (kernel.laplacian(r2, m).abs() < top).all()


def test_the_mean_curvature_is_that_of_a_shift():
    "Second difference of the mean potential over all shifts of the samples, D held"
    kernel, m, h = Plummer(1.5, .8), 3, 1e-3
    for x, y in clouds(0, m, 20):
        total = 0.
        for e in h * torch.eye(m, dtype=torch.float64):
            up, here, down = (potential(a, x, y, kernel).mean() for a in (x + e, x, x - e))
            total += (up - 2 * here + down) / h**2
        assert_close(total, product(x, x, kernel) - product(x, y, kernel), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('m, d, eps', CASES)
def test_the_best_place_gains_2F(m, d, eps):
    kernel = Plummer(d, eps)
    for x, y in clouds(1, m, 30):
        best = potential(y, x, y, kernel).max()
        F = energy(x, y, kernel, unbiased=False)
        assert best - potential(x, x, y, kernel).mean() >= 2 * F - 1e-12 * eps**-d


# --- the kernel that ends ---------------------------------------------------------------------------------------------

def tent(r): return (1 - r.abs()).clamp(min=0)


class Tents(Kernel):
    def of_r2(self, r2):
        r = r2.sqrt()
        return 2 * tent(r) + tent(r - 2) + tent(r + 2)


def test_its_spectrum():
    r = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    for xi in (.3, 1., math.pi / 2, 2., 5., 2 * math.pi, 9.):
        found = torch.trapezoid(Tents().of_r2(r**2) * torch.cos(xi * r), r).item()
        assert abs(found - 4 * math.cos(xi)**2 * (math.sin(xi / 2) / (xi / 2))**2) < 1e-7


@pytest.mark.parametrize('width', [.05, .4, .9])
def test_any_cloud_rests_on_level_ground(width):
    gen = torch.Generator().manual_seed(0)
    cloud = width * (torch.rand(30, 1, generator=gen, dtype=torch.float64) - .5)
    x, y = torch.cat([cloud, cloud + 1]), torch.cat([cloud - 2, cloud + 3])
    level = torch.linspace(-1 + width / 2, 2 - width / 2, 101, dtype=torch.float64)[:, None]
    phi = potential(level, x, y, Tents())
    assert_close(phi, torch.full_like(phi, -.5))
    assert energy(x, y, Tents(), unbiased=False) > .2
    assert potential(level - width - .2, x, y, Tents()).max() > -.4     # and ends where the page says
