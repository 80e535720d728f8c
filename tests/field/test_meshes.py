"""The ball against quadrature, and refusals of both meshes."""
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.field.kernels import Coulomb, Gaussian, Plummer, sphere_area
from coulomb_gan.field.meshes import Ball, Torus


def shell_by_quadrature(kernel, m, inner, outer, r):
    "Potential and outward field at radius r of a shell of density 1: 8 radii, 1000 angles each"
    theta = (np.arange(1000) + .5) * math.pi / 1000
    mean = np.sin(theta)**(m - 2) / np.sum(np.sin(theta)**(m - 2))
    potential = field = 0.
    for node, weight in zip(*np.polynomial.legendre.leggauss(8)):
        s = (inner + outer) / 2 + (outer - inner) / 2 * node
        mass = weight * (outer - inner) / 2 * sphere_area(m) * s**(m - 1)
        r2 = torch.from_numpy(r**2 + s**2 - 2 * r * s * np.cos(theta))
        potential += mass * np.sum(mean * kernel.of_r2(r2).numpy())
        field += mass * np.sum(mean * -2 * kernel.slope(r2).numpy() * (r - s * np.cos(theta)))
    return potential, field


@pytest.mark.parametrize('m', [2, 3, 5])
@pytest.mark.parametrize('kernel', [Plummer(1., .5), Plummer(3., .4), Gaussian(.5)], ids=repr)
def test_one_shell_against_quadrature(m, kernel):
    n, radius = 24, 3.
    ball, edges = Ball(n, m, radius, kernel), [radius * (i / n)**2 for i in range(n + 1)]
    for j in (0, 11, n - 1):
        rho = torch.eye(n, dtype=torch.float64)[j]
        by_quadrature = lambda r: shell_by_quadrature(kernel, m, edges[j], edges[j + 1], r)
        phi = torch.tensor([by_quadrature(r)[0] for r in ball.r[::3].tolist()], dtype=torch.float64)
        out = torch.tensor([by_quadrature(r)[1] for r in edges[:-1:3]], dtype=torch.float64)
        # three Gauss points a shell, of a width of at most 0.6 softenings: sixth order, below 0.6^6 / 200
        for got, want in ((ball.potential(rho)[::3], phi), (ball.field(rho)[0][::3], out)):
            assert_close(got, want, rtol=0, atol=2e-4 * want.abs().max().item())


@pytest.mark.parametrize('m', [2, 3, 5, 8, 16])
def test_a_shell_acts_with_the_mass_it_has(m):
    "Seen from afar of its own size, a kernel is flat: potential = mass / eps"
    ball = Ball(20, m, 3., Plummer(1., 1e6))
    # 1 - k eps is (r / eps)^2 / 2, below 1e-10
    assert_close(ball.to_potential[0] * 1e6, ball.volume, rtol=1e-9, atol=0)


REFUSED = {
    'a kernel without spectrum': lambda: Torus(8, 1, 5., Gaussian()),
    'no cells': lambda: Torus(0, 1, 5., Plummer()),
    'no axis': lambda: Torus(8, 0, 5., Plummer()),
    'a negative side': lambda: Torus(8, 1, -5., Plummer()),
    'no shells': lambda: Ball(0, 3, 5., Plummer()),
    'a ball of one dimension': lambda: Ball(8, 1, 5., Plummer()),
    'a negative radius': lambda: Ball(8, 3, -5., Plummer()),
    'a kernel infinite at 0': lambda: Ball(8, 3, 5., Coulomb(3)),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused(case):
    with pytest.raises(ValueError) as caught: REFUSED[case]()
    assert str(caught.value) and '\n' not in str(caught.value)
