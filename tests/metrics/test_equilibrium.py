"""The diagnostics of a run against closed forms, their symmetries, points of every type, and what is refused."""
import json
import math
from dataclasses import asdict, fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from coulomb_gan.field.kernels import Gaussian, Plummer
from coulomb_gan.field.potential import energy, potential, potentials
from coulomb_gan.metrics.equilibrium import Diagnostics, diagnose, energy_interval, self_term_share
from coulomb_gan.metrics.regression import Regression

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

def readings_of(x, y, kernel, blocks):
    "Potential at the second halves of x and y by blocks of the first ones, `(trials, blocks, 2n)`"
    charges_x, points_x = x.chunk(2, 1)
    charges_y, points_y = y.chunk(2, 1)
    points = torch.cat([points_x, points_y], 1)
    def to(c): return kernel.of_r2(torch.cdist(c, points)**2).unflatten(1, (blocks, -1)).mean(2)
    return to(charges_y) - to(charges_x)


def modes(seed, trials, n, share):
    "Two clouds of width .5, six apart; the share of the second"
    gen = torch.Generator().manual_seed(seed)
    second = torch.rand(trials, n, 1, generator=gen) < share
    return .5 * torch.randn(trials, n, 2, generator=gen, dtype=torch.float64) + torch.tensor([6., 0.]) * second

def k_of_modes(apart): return 1 / (1 + .5) * math.exp(-apart**2 / 3)    # Gaussian(1), m = 2, difference of variance 1/2


@pytest.mark.parametrize('n', [32, 64, 128])
@pytest.mark.parametrize('share', [.5, .55, .6, .65, .7, .9])
def test_interval_covers_unequal_mode_shares(n, share):
    trials, F = 2000 if n < 128 else 1000, (share - .5)**2 * (k_of_modes(0.) - k_of_modes(6.))
    hits = []
    for i in range(trials // 100):
        x, y = modes(2 * i, 100, 2 * n, share), modes(2 * i + 1, 100, 2 * n, .5)
        f, low, high = energy_interval(readings_of(x, y, Gaussian(1.), 32))
        hits.append((low <= F) & (F <= high))
    covered = torch.cat(hits).double().mean()
    assert .93 - .25**.5 * .5 / trials**.5 * 2 < covered <= .99        # two standard errors of at most .25 / sqrt(trials)


@pytest.mark.parametrize('n', [32, 192])
@pytest.mark.parametrize('mu', [0., .3, 1.])
def test_interval_covers_a_shift(mu, n, trials=1000):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(trials, 2 * n, M, generator=gen, dtype=torch.float64) + mu * torch.eye(M, dtype=torch.float64)[0]
    y = torch.randn(trials, 2 * n, M, generator=gen, dtype=torch.float64)
    parts = [energy_interval(readings_of(*xy, Gaussian(SIGMA), 16)) for xy in zip(x.split(100), y.split(100))]
    f, low, high = (torch.cat(part) for part in zip(*parts))
    covered = ((low <= true_energy(mu)) & (true_energy(mu) <= high)).double().mean()
    assert .93 <= covered <= .99
    assert abs(f.mean() - true_energy(mu)) < 4 * f.std() / trials**.5      # unbiased


def test_interval_by_hand_for_one_direction():
    "Readings that are a product of two numbers: all variance lies along one direction, and lambda is that variance"
    charges, points = torch.tensor([1., 3., 2., 2.]), torch.tensor([-1., 0., 2., 1.])
    f, low, high = energy_interval(charges[:, None] * points[None])
    r1, r2 = (points[2:].mean() - points[:2].mean()).item(), charges.mean().item()
    v1, v2 = ((points[:2].var() + points[2:].var()) / 2).item(), charges.var().item() / 4
    assert f.item() == pytest.approx(r1 * r2 / 2)
    rate = (v1 * r2**2 + v2 * r1**2) / 2 / (r1 * r2 + (v1 * v2)**.5)
    for end in (low.item(), high.item()):
        inside = (f.item() - end)**2 - 1.96**2 * rate * end - 2.18**2 * v1 * v2 / 4
        assert abs(inside) < 1e-4                                       # the ends solve the quadratic; readings are float32


def test_interval_of_nothing_is_a_point():
    assert [v.item() for v in energy_interval(torch.zeros(4, 10))] == [0., 0., 0.]


# --- D against Phi ------------------------------------------------------------------------------------------------

def test_exact_discriminator():
    g = read(mu=2., n=1500)
    assert abs(g.r2 - 1) < 8 * g.noise**.5 and abs(g.slope - 1) < 4 * g.noise**.5
    assert g.energy_low <= true_energy(2.) <= g.energy_high
    assert 0 < g.explained <= 1.05


@property_test
@given(st.floats(-5, 5).filter(lambda s: abs(s) > .01), st.floats(-10, 10))
def test_scale_and_offset_of_d(scale, shift):
    plain, scaled = read(), read(D=lambda a: scale * exact(1.)(a) + shift)
    assert scaled.slope == pytest.approx(scale * plain.slope, rel=1e-9)
    assert scaled.r2 == pytest.approx(math.copysign(1, scale) * plain.r2, rel=1e-9)
    ours = {f.name: getattr(plain, f.name) for f in fields(Regression)}
    assert replace(scaled, **ours) == plain                     # nothing else reads D


def test_minus_the_potential_points_the_wrong_way():
    g = read(mu=2., D=lambda a: -exact(2.)(a), n=1500)
    assert g.r2 < -.95 and g.slope < -.9 and g.explained < -2


@pytest.mark.parametrize('D', [lambda a: torch.zeros(len(a)), lambda a: torch.full((len(a), 1), 7.)])
def test_constant_discriminator_has_no_slope(D):
    g = read(D=D)
    assert g.r2 == g.slope == 0 and g.phi_weight is None


def test_discriminator_of_noise_is_seen():
    gen = torch.Generator().manual_seed(0)
    assert abs(read(D=lambda a: torch.randn(len(a), generator=gen)).r2) < .03    # 800 points: 1/800 expected


def test_memory_is_perfect_only_at_its_own_charges():
    x, y = off(1., 5)(16), cloud(6, 16, M)
    memory = lambda a: potential(a, x, y, Gaussian(SIGMA))
    assert_close(memory(torch.cat([x, y])), torch.cat(potentials(x, y, Gaussian(SIGMA))))
    assert read(D=memory).r2 < .95 * read().r2


def test_at_equality_d_is_not_judged():
    judged = sum(read(mu=0., seed=seed, real=cloud(100 + seed, 800, M)).r2 is not None for seed in range(20))
    assert judged <= 3          # noise is a quarter of the variance or more, but for the luck of few degrees of freedom


def test_d_is_evaluated_at_fresh_points_only():
    seen, real = [], cloud(2, 832, M)
    read(D=lambda a: seen.append(a) or exact(1.)(a), real=real, n=416)
    a_x, a_y = seen
    made = off(1.)(832)
    assert_close(a_x, made[416:], rtol=0, atol=0)
    rows = {tuple(r) for r in a_y.tolist()}
    assert len(rows) == 416 and rows < {tuple(r) for r in real.tolist()}
    g = read(real=real, n=416)                                  # 13 charges a block
    charges = torch.stack([r for r in real if tuple(r.tolist()) not in rows])
    phi = potential(torch.cat([a_x, a_y]), made[:416], charges, Gaussian(SIGMA))
    assert g.max_phi == pytest.approx(phi.abs().max().item(), rel=1e-9)
    assert g.energy == pytest.approx(((phi[416:].mean() - phi[:416].mean()) / 2).item(), rel=1e-9)


def test_without_a_discriminator_all_else_is_the_same():
    real = cloud(2, 800, M)
    plain = diagnose(off(1.), exact(1.), real, Gaussian(SIGMA), 32)
    alone = diagnose(off(1.), None, real, Gaussian(SIGMA), 32)
    unread = {f.name: None for f in fields(Regression)}
    assert alone == replace(plain, **unread) and plain.r2 is not None
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
    half = (g.energy_high - g.energy_low) / (2 * 1.96)
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


def test_without_self_term_only_its_share_and_the_weights_differ():
    kept, dropped = read(), read(self_term=0.)
    assert dropped.self_term_share == 0 < kept.self_term_share
    assert dropped.phi_weight is None                           # there is no second term
    assert replace(kept, self_term_share=0., phi_weight=None, self_weight=None, r2_both=None) == dropped


# --- every type and size ------------------------------------------------------------------------------------------

def points(seed, n, m, size, dtype): return (size * cloud(seed, n, m)).to(dtype)


@pytest.mark.parametrize('size', [1., 1e-25, 1e25])
def test_the_interval_of_small_and_large_potentials_scales_with_them(size):
    readings = cloud(0, 8, 100).float() + (torch.arange(100) >= 50)
    want = [v.item() * size for v in energy_interval(readings)]
    assert [v.item() for v in energy_interval(readings * size)] == pytest.approx(want, rel=1e-5, abs=0)


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
    assert all(v is None or math.isfinite(v) for v in asdict(g).values())
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


def test_weights_with_other_numbers_of_charges_on_either_side():
    "The exact optimum of a target with 64 negative and 512 positive charges: each side's share has its own N"
    n_x, n_y, shift = 64, 512, 3 * torch.eye(8, dtype=torch.float64)[0]
    kernel = Plummer(1., 1.)
    def k_to(a, seed, move): return kernel(a, cloud(seed, 20_000, 8) + move).mean(1)
    def optimum(a):
        k_x, k_y = k_to(a, 11, shift), k_to(a, 12, 0.)
        of_model = torch.sigmoid(((a**2).sum(1) - ((a - shift)**2).sum(1)) / 2)
        return k_y - k_x - of_model * (1 - k_x) / n_x + (1 - of_model) * (1 - k_y) / n_y
    def read(**options):
        return diagnose(lambda n: cloud(1, n, 8) + shift, optimum, cloud(2, 4000, 8), kernel, n_y, n=2000, **options)
    right, wrong = read(n_negative=n_x), read()
    assert abs(right.phi_weight - 1) < .1 and abs(right.self_weight - 1) < .15
    assert wrong.self_weight is None or abs(wrong.self_weight - 1) > .5       # 512 charges on both sides
