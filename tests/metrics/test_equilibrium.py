"""The diagnostics of a run against closed forms, their symmetries, points of every type, and what is refused."""
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from coulomb_gan.field.kernels import Gaussian, Plummer
from coulomb_gan.field.potential import energy, potential, potentials
from coulomb_gan.metrics.equilibrium import Diagnostics, diagnose, energy_interval, self_term_share

M, SIGMA = 4, 1.5


def cloud(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def off(mu, seed=1, dtype=torch.float64):
    "A generator of N(mu e_1, I)"
    return lambda n: cloud(seed, n, M, dtype=dtype) + mu * torch.eye(M, dtype=dtype)[0]

def exact(mu):
    "The potential of data N(0, I) and model N(mu e_1, I) under a Gaussian kernel: a difference of Gaussians"
    def hill(a, c):
        r2 = ((a - c * torch.eye(M, dtype=a.dtype)[0])**2).sum(1)
        return (1 + SIGMA**-2)**(-M/2) * torch.exp(-r2 / (2 * (1 + SIGMA**2)))
    return lambda a: hill(a, 0.) - hill(a, mu)

def true_energy(mu, n_dims=M, sigma=SIGMA):
    k = (1 + 2/sigma**2)**(-n_dims/2)
    return k * (1 - math.exp(-mu**2 / (2 * (sigma**2 + 2))))

def read(mu=1., D=None, real=None, n=400, seed=1, **options):
    real = cloud(2, 2 * n, M) if real is None else real
    return diagnose(off(mu, seed), D or exact(mu), real, Gaussian(SIGMA), 32, n=n, **options)

def property_test(f): return settings(derandomize=True, deadline=None, max_examples=30)(f)


# --- the interval -------------------------------------------------------------------------------------------------

def draws(mu, n, trials):
    for i in range(trials):
        x, y = off(mu, 2 * i)(2 * n), cloud(2 * i + 1, 2 * n, M)
        phi = potential(torch.cat([x[n:], y[n:]]), x[:n], y[:n], Gaussian(SIGMA))
        yield phi[:n], phi[n:]


@pytest.mark.parametrize('n', [32, 200])
@pytest.mark.parametrize('mu', [0., 1.])
def test_interval_covers(mu, n, trials=300):
    bounds = [energy_interval(*phi) for phi in draws(mu, n, trials)]
    covered = sum(low <= true_energy(mu) <= high for _, low, high in bounds) / trials
    # a binomial of 300 at 0.95 has standard error 0.013; at equality the interval is known to be wide
    assert .90 <= covered <= (1. if mu == 0 else .99)
    values = torch.tensor([f for f, *_ in bounds])
    assert abs(values.mean() - true_energy(mu)) < 4 * values.std() / trials**.5      # unbiased


def test_interval_is_half_a_difference_of_means():
    phi_x, phi_y = cloud(0, 50), cloud(1, 50) + 1
    f, low, high = energy_interval(phi_x, phi_y)
    assert f == pytest.approx((phi_y.mean() - phi_x.mean()).item() / 2, rel=1e-12)
    assert f - low == pytest.approx(high - f) and low < f < high
    assert energy_interval(phi_x, phi_y, z=3.92)[2] - f == pytest.approx(2 * (high - f))


# --- D against Phi ------------------------------------------------------------------------------------------------

def test_exact_discriminator():
    g = read(mu=2., n=1500)
    assert abs(g.r2 - (1 - g.noise)) < .01                      # what is not noise is explained
    assert abs(g.slope - 1) < 4 * g.noise**.5
    assert abs(g.energy - true_energy(2.)) < 4 * (g.energy_high - g.energy) / 1.96


@property_test
@given(st.floats(-5, 5).filter(lambda s: abs(s) > .01), st.floats(-10, 10))
def test_scale_and_offset_of_d(scale, shift):
    plain, scaled = read(), read(D=lambda a: scale * exact(1.)(a) + shift)
    assert scaled.slope == pytest.approx(scale * plain.slope, rel=1e-9)
    assert scaled.r2 == pytest.approx(plain.r2, rel=1e-9)
    same = asdict(replace(scaled, r2=plain.r2, slope=plain.slope))
    assert same == asdict(plain)                                # nothing else reads D


@pytest.mark.parametrize('D', [lambda a: torch.zeros(len(a)), lambda a: torch.full((len(a), 1), 7.)])
def test_constant_discriminator_has_no_slope(D):
    g = read(D=D)
    assert g.r2 < 1e-12 and abs(g.slope) < 1e-12


def test_discriminator_of_noise_is_seen():
    gen = torch.Generator().manual_seed(0)
    assert read(D=lambda a: torch.randn(len(a), generator=gen)).r2 < .03     # 800 points: 1/800 expected


def test_memory_is_perfect_only_at_its_own_charges():
    x, y = off(1., 5)(16), cloud(6, 16, M)
    memory = lambda a: potential(a, x, y, Gaussian(SIGMA))
    assert_close(memory(torch.cat([x, y])), torch.cat(potentials(x, y, Gaussian(SIGMA))))
    assert read(D=memory).r2 < .95 * read().r2


def test_d_is_evaluated_at_fresh_points_only():
    seen, real = [], cloud(2, 800, M)
    read(D=lambda a: seen.append(a) or exact(1.)(a), real=real)
    a_x, a_y = seen
    made = off(1.)(800)
    assert_close(a_x, made[400:], rtol=0, atol=0)
    rows = {tuple(r) for r in a_y.tolist()}
    assert len(rows) == 400 and rows < {tuple(r) for r in real.tolist()}
    g = read(real=real)
    charges = torch.stack([r for r in real if tuple(r.tolist()) not in rows])
    phi = potential(torch.cat([a_x, a_y]), made[:400], charges, Gaussian(SIGMA))
    assert g.max_phi == pytest.approx(phi.abs().max().item(), rel=1e-9)
    assert g.energy == pytest.approx(((phi[400:].mean() - phi[:400].mean()) / 2).item(), rel=1e-9)


def test_without_a_discriminator_all_else_is_the_same():
    real = cloud(2, 800, M)
    plain = diagnose(off(1.), exact(1.), real, Gaussian(SIGMA), 32)
    alone = diagnose(off(1.), None, real, Gaussian(SIGMA), 32)
    assert (alone.r2, alone.slope) == (None, None)
    assert replace(alone, r2=plain.r2, slope=plain.slope) == plain
    assert Diagnostics(**json.loads(json.dumps(asdict(alone)))) == alone


# --- energy, potential, noise -------------------------------------------------------------------------------------

def test_perfect_generator_has_no_energy():
    g = read(mu=0., D=lambda a: a[:, 0], n=1000)
    assert g.energy_low <= 0 <= g.energy_high
    assert .3 < g.noise < 3             # all of Phi is noise: 1 in the mean, and few degrees of freedom


@property_test
@given(st.floats(0, 4), st.integers(0, 100))
def test_energy_is_below_the_largest_potential(mu, seed):
    g = read(mu=mu, n=60, seed=seed)
    assert g.energy_low <= g.energy <= min(g.energy_high, g.max_phi)


def test_energy_agrees_with_the_u_statistic():
    g, x, y = read(mu=2., n=1500), off(2., 9)(1500), cloud(10, 1500, M)
    half = (g.energy_high - g.energy) / 1.96
    assert abs(g.energy - energy(x, y, Gaussian(SIGMA)).item()) < 4 * 2**.5 * half     # independent draws


def test_noise_falls_with_charges():
    few, many = (read(n=n).noise for n in (100, 1600))
    assert many < few / 4                                       # like 1/n: a sixteenth, times luck


# --- the self term ------------------------------------------------------------------------------------------------

def test_share_of_the_self_term_by_loops():
    x, y, kernel = cloud(0, 9, 2), cloud(1, 9, 2) + 1, Plummer(1., .5)
    own, target = [], []
    for s in (slice(0, 4), slice(4, 8)):                        # two batches of 4, the ninth sample left over
        phi_x, phi_y = potentials(x[s], y[s], kernel)
        for c, sign in ((x[s], -1), (y[s], 1)):
            others = (kernel(c, c).sum(1) - 2.) / 3             # k(0) = 1 / eps
            own.append(sign * (2. - others) / 4)
        target += [phi_x, phi_y]
    want = torch.cat(own).square().mean() / torch.cat(target).square().mean()
    assert self_term_share(x, y, kernel, 4) == pytest.approx(want.item(), rel=1e-9)


def test_self_term_fades_with_the_batch_and_away_from_equilibrium():
    x, y, kernel = cloud(0, 2048, M), cloud(1, 2048, M), Gaussian(SIGMA)
    near = [self_term_share(x, y, kernel, n) for n in (8, 64, 512)]
    assert 1 > near[0] > near[1] > near[2] > 0
    assert self_term_share(x + 3, y, kernel, 64) < near[1] / 10


def test_without_self_term_only_its_share_differs():
    kept, dropped = read(), read(self_term=0.)
    assert dropped.self_term_share == 0 < kept.self_term_share
    assert replace(kept, self_term_share=0.) == dropped


# --- every type and size ------------------------------------------------------------------------------------------

def points(seed, n, m, size, dtype): return (size * cloud(seed, n, m)).to(dtype)


@pytest.mark.parametrize('size', [1., 1e-25, 1e25])
def test_the_interval_of_small_and_large_potentials_scales_with_them(size):
    phi_x, phi_y = cloud(0, 50).float(), cloud(1, 50).float() + 1
    scaled = energy_interval(phi_x * size, phi_y * size)
    assert scaled == pytest.approx([v * size for v in energy_interval(phi_x, phi_y)], rel=1e-5, abs=0)


@pytest.mark.parametrize('dtype, size, rel', [
    (torch.float16, 1., .01), (torch.float32, 1., 1e-5), (torch.float32, 1e20, 1e-5)])
def test_points_of_any_type(dtype, size, rel):
    real, made = points(0, 200, 3, size, dtype), points(1, 200, 3, size, dtype) + size
    kernel = Plummer(1., size)
    def read(convert):
        return diagnose(lambda n: convert(made)[:n], lambda a: a[:, 0].double() / size, convert(real), kernel, 16)
    got, want = read(lambda c: c), read(torch.Tensor.double)
    for name in ('energy', 'r2', 'noise', 'max_phi', 'self_term_share'):
        assert getattr(got, name) == pytest.approx(getattr(want, name), rel=rel, abs=0)
    expected = self_term_share(real.double(), made.double(), kernel, 16)
    assert self_term_share(real, made, kernel, 16) == pytest.approx(expected, rel=rel, abs=0)


POINTS = cloud(0, 40, 2)
FLAT = {
    'x of self_term_share': lambda b: self_term_share(b, POINTS, Plummer(), 8),
    'real of diagnose': lambda b: diagnose(lambda n: POINTS[:n], lambda a: a[:, 0], b, Plummer(), 8),
    'generated of diagnose': lambda b: diagnose(lambda n: b[:n], lambda a: a[:, 0], POINTS, Plummer(), 8)}

@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize('use', FLAT)
def test_integers_are_refused_by_name_and_type(use, dtype):
    FLAT[use](POINTS)
    with pytest.raises(ValueError) as caught: FLAT[use](torch.arange(80).view(40, 2).to(dtype))
    assert str(caught.value) == f'{use.split()[0]} must hold floats, got {dtype}'


# --- what comes in ------------------------------------------------------------------------------------------------

def test_images_small_sets_and_column_answers():
    images = cloud(0, 81, 1, 3, 3, dtype=torch.float32).clamp(-1, 1)
    g = diagnose(lambda n: cloud(1, n, 1, 3, 3, dtype=torch.float32), lambda a: a.flatten(1).mean(1, keepdim=True),
                 images, Plummer(), 32)
    assert g.n == 40
    assert all(math.isfinite(v) for v in asdict(g).values())
    assert Diagnostics(**json.loads(json.dumps(asdict(g)))) == g


def test_same_seed_same_reading():
    assert read(seed=3) == read(seed=3)
    real = cloud(2, 2000, M)
    assert diagnose(off(1.), exact(1.), real, Gaussian(SIGMA), 32, 200) != diagnose(
        off(1.), exact(1.), real, Gaussian(SIGMA), 32, 200, seed=1)


def test_leaves_no_graph_and_no_change():
    w = torch.ones(M, dtype=torch.float64, requires_grad=True)
    real = cloud(2, 100, M)
    before = real.clone()
    diagnose(lambda n: off(1.)(n) * w, lambda a: a @ w, real, Gaussian(SIGMA), 32)
    assert w.grad is None and torch.equal(real, before)


REFUSED = {
    'few data': (lambda: read(real=cloud(0, 31, M)), 'got 2 n = 30 of 31 real samples, expected 32 or more'),
    'very few': (lambda: diagnose(off(0.), exact(0.), cloud(0, 10, M), Gaussian(1.), 2), 'expected 16 or more'),
    'another m': (lambda: read(real=cloud(0, 100, M + 1)), f'gave (100, {M}), expected (100, {M + 1})'),
    'another count': (lambda: diagnose(lambda n: cloud(0, n + 1, M), exact(0.), cloud(0, 100, M), Gaussian(1.), 8),
                      f'gave (101, {M}), expected (100, {M})'),
    'nan in D': (lambda: read(D=lambda a: a[:, 0] * torch.nan), 'expected finite numbers'),
    'shape of D': (lambda: read(D=lambda a: a), f'discriminator gave (400, {M}) at 400 points'),
    'nan in real': (lambda: read(D=lambda a: torch.zeros(len(a)), real=cloud(0, 200, M) / 0), 'NaN or infinite')}

@pytest.mark.parametrize('name', REFUSED)
def test_refusal_is_one_line(name):
    use, words = REFUSED[name]
    with pytest.raises(ValueError) as caught: use()
    assert words in str(caught.value) and '\n' not in str(caught.value)
