"""The field against loops in float64: values, symmetries, statistics, refusals and memory."""
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from coulomb_gan.field.kernels import Gaussian, Laplace, Plummer
from coulomb_gan.field.potential import energy, force, potential, potentials

# Float64 throughout: squared distances are good to 1e-16 of the largest (about 1e3), the kernels drawn here
# amplify that by at most d / eps^2 < 50, so errors stay below 1e-11 of the largest kernel value.
EXACT = 1e-11
# Float32 targets: one rounding of r^2, one power, a sum of a dozen terms: below 25 units in the last place.
SINGLE = 3e-6


# --- the oracle: two loops, one pair at a time --------------------------------------------------------------------

def k_loop(p, q, d, eps): return (float(np.sum((p - q)**2)) + eps**2) ** (-d / 2)

def mean_k(p, charges, d, eps): return sum(k_loop(p, q, d, eps) for q in charges) / len(charges)

def arrays(*tensors): return [t.double().numpy() for t in tensors]


def potential_loop(a, x, y, d, eps):
    a, x, y = arrays(a, x, y)
    return torch.tensor([mean_k(p, y, d, eps) - mean_k(p, x, d, eps) for p in a], dtype=torch.float64)


def force_loop(a, x, y, d, eps):
    a, x, y = arrays(a, x, y)
    def pull(p, charges):
        return sum(-d * (p - q) * k_loop(p, q, d + 2, eps) for q in charges) / len(charges)
    return torch.from_numpy(np.array([pull(p, y) - pull(p, x) for p in a]))


def energy_loop(x, y, d, eps, unbiased):
    x, y = arrays(x, y)
    def within(c):
        pairs = [k_loop(p, q, d, eps) for i, p in enumerate(c) for j, q in enumerate(c) if i != j or not unbiased]
        return sum(pairs) / len(pairs)
    across = sum(mean_k(p, y, d, eps) for p in x) / len(x)
    return (within(x) + within(y)) / 2 - across


# --- clouds to try ------------------------------------------------------------------------------------------------

def cloud(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def clouds(draw, dtype=torch.float64, least=2):
    "`a, x, y, kernel` with random sizes; some points coincide"
    m, seed = draw(st.integers(1, 6)), draw(st.integers(0, 10**6))
    n_a, n_x, n_y = (draw(st.integers(least, 7)) for _ in range(3))
    c = 3 * cloud(seed, n_a + n_x + n_y, m, dtype=dtype)
    if draw(st.booleans()): c[-1] = c[0] = c[n_a]
    kernel = Plummer(draw(st.floats(.3, 4)), draw(st.floats(.3, 4)))
    return *c.split([n_a, n_x, n_y]), kernel


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)

def k_0(kernel): return kernel.eps ** -kernel.d

def close(got, want, kernel, rtol=EXACT):
    "Within `rtol` of the largest possible value of the kernel"
    assert_close(got, want, rtol=0, atol=rtol * k_0(kernel), check_dtype=False)


# --- values -------------------------------------------------------------------------------------------------------

@property_test
@given(clouds())
def test_kernel_matrix_equals_loop(c):
    a, x, _, kernel = c
    want = [[k_loop(p, q, kernel.d, kernel.eps) for q in x.numpy()] for p in a.numpy()]
    close(kernel(a, x), torch.tensor(want, dtype=torch.float64), kernel)


@property_test
@given(clouds())
def test_potential_equals_loop(c):
    a, x, y, kernel = c
    close(potential(a, x, y, kernel), potential_loop(a, x, y, kernel.d, kernel.eps), kernel)


@property_test
@given(clouds())
def test_potentials_equal_loop(c):
    _, x, y, kernel = c
    got = torch.cat(potentials(x, y, kernel))
    close(got, potential_loop(torch.cat([x, y]), x, y, kernel.d, kernel.eps), kernel)


@property_test
@given(clouds())
def test_force_equals_loop(c):
    a, x, y, kernel = c
    # the force of a unit charge is at most d k(0) / eps
    got, want = force(a, x, y, kernel), force_loop(a, x, y, kernel.d, kernel.eps)
    assert_close(got, want, rtol=0, atol=EXACT * k_0(kernel) * kernel.d / kernel.eps)


@property_test
@given(clouds(), st.booleans())
def test_energy_equals_loop(c, unbiased):
    _, x, y, kernel = c
    want = energy_loop(x, y, kernel.d, kernel.eps, unbiased)
    close(energy(x, y, kernel, unbiased), torch.tensor(want, dtype=torch.float64), kernel)


def test_oracle_rejects_another_sign_and_exponent():
    x, y, kernel = cloud(0, 5, 3), cloud(1, 6, 3), Plummer(1., 1.)
    got = torch.cat(potentials(x, y, kernel))
    for wrong in (potential_loop(torch.cat([x, y]), y, x, 1., 1.), potential_loop(torch.cat([x, y]), x, y, 2., 1.)):
        with pytest.raises(AssertionError): close(got, wrong, kernel, rtol=SINGLE)


# --- the same in float32, where training computes it --------------------------------------------------------------

@pytest.mark.parametrize('m', [1, 2, 3, 64, 3072, 12288])
@pytest.mark.parametrize('offset', [0., 1e3])
@pytest.mark.parametrize('d, eps', [(1., 1.), (3., .01), (1., 3.), (.5, .1), (4., 1.)])
def test_float32_targets_agree_with_float64_loop(m, offset, d, eps):
    x = offset + cloud(m, 6, m, dtype=torch.float32)
    y = offset + cloud(m + 1, 5, m, dtype=torch.float32)
    for i, gap in enumerate((1e-6, 1e-5, 1e-3)): y[i] = x[i] + gap * cloud(m + 2 + i, m, dtype=torch.float32)
    y[3] = x[3]
    x[5] = x[4]
    got, kernel = torch.cat(potentials(x, y, Plummer(d, eps))), Plummer(d, eps)
    assert got.dtype == torch.float32
    close(got.double(), potential_loop(torch.cat([x, y]), x, y, d, eps), kernel, rtol=SINGLE)


@property_test
@given(clouds(dtype=torch.float32))
def test_float32_points_agree_with_float64_loop(c):
    a, x, y, kernel = c
    close(potential(a, x, y, kernel).double(), potential_loop(a, x, y, kernel.d, kernel.eps), kernel, rtol=SINGLE)


@pytest.mark.parametrize('offset', [0., 1e3])
@pytest.mark.parametrize('m', [1, 3, 3072])
def test_float32_force_agrees_with_float64_loop(m, offset):
    a, x, y = (offset + cloud(m + i, 5, m, dtype=torch.float32) for i in range(3))
    got = force(a, x, y, Plummer(1., .5))
    assert got.dtype == torch.float32
    # as for the targets, in units of the largest pull d k(0) / eps
    assert_close(got.double(), force_loop(a, x, y, 1., .5), rtol=0, atol=SINGLE * 1 / .5 / .5)


# --- symmetries ---------------------------------------------------------------------------------------------------

def readings(a, x, y, kernel):
    return torch.cat([potential(a, x, y, kernel), *potentials(x, y, kernel), energy(x, y, kernel)[None]])


@property_test
@given(clouds(), st.floats(-10, 10))
def test_translation_changes_nothing(c, t):
    *sets, kernel = c
    # the shifted points are rounded to 1e-15, which moves the kernel by less than d / eps times that
    close(readings(*(s + t for s in sets), kernel), readings(*sets, kernel), kernel)


@property_test
@given(clouds(), st.integers(0, 10**6))
def test_rotation_turns_the_force_and_leaves_the_potential(c, seed):
    *sets, kernel = c
    q = torch.linalg.qr(cloud(seed, sets[0].shape[1], sets[0].shape[1]))[0]
    turned = [s @ q for s in sets]
    close(readings(*turned, kernel), readings(*sets, kernel), kernel)
    close(force(*turned, kernel), force(*sets, kernel) @ q, kernel, rtol=EXACT * (1 + kernel.d / kernel.eps))


@property_test
@given(clouds(), st.randoms(use_true_random=False))
def test_order_of_charges_does_not_matter(c, random):
    a, x, y, kernel = c
    order = random.sample(range(len(x)), len(x))
    close(potential(a, x[order], y, kernel), potential(a, x, y, kernel), kernel)
    close(potentials(x[order], y, kernel)[0], potentials(x, y, kernel)[0][order], kernel)
    close(energy(x[order], y, kernel), energy(x, y, kernel), kernel)


@property_test
@given(clouds(), st.sampled_from([0., .4, 1.]))
def test_swapping_the_clouds_flips_the_sign(c, self_term):
    a, x, y, kernel = c
    close(potential(a, x, y, kernel), -potential(a, y, x, kernel), kernel)
    phi_x, phi_y = potentials(x, y, kernel, self_term)
    swapped_y, swapped_x = potentials(y, x, kernel, self_term)
    close(torch.cat([phi_x, phi_y]), -torch.cat([swapped_x, swapped_y]), kernel)
    close(energy(x, y, kernel), energy(y, x, kernel), kernel)


@property_test
@given(clouds(), st.integers(1, 20), st.sampled_from([0., .4, 1.]))
def test_block_size_changes_nothing(c, block, self_term):
    a, x, y, kernel = c
    close(potential(a, x, y, kernel, block), potential(a, x, y, kernel), kernel)
    close(force(a, x, y, kernel, block), force(a, x, y, kernel), kernel, EXACT * (1 + kernel.d / kernel.eps))
    close(energy(x, y, kernel, True, block), energy(x, y, kernel), kernel)
    got, want = (torch.cat(potentials(x, y, kernel, self_term, block=b)) for b in (block, 4096))
    close(got, want, kernel)


@property_test
@given(clouds(least=3), st.floats(0, 5), st.integers(1, 2))
def test_further_charges_are_charges_where_nothing_is_read(c, strength, read):
    _, x, y, kernel = c
    wide = potentials(x, y, kernel, strength)
    got = potentials(x[:read], y[:read], kernel, strength, more_x=x[read:], more_y=y[read:])
    close(torch.cat(got), torch.cat([phi[:read] for phi in wide]), kernel)


@property_test
@given(clouds(), st.floats(0, 5))
def test_potentials_are_linear_in_the_self_term(c, strength):
    _, x, y, kernel = c
    dropped, kept, got = (torch.cat(potentials(x, y, kernel, s)) for s in (0., 1., strength))
    close(got, dropped + strength * (kept - dropped), kernel)


# --- closed forms -------------------------------------------------------------------------------------------------

@property_test
@given(clouds())
def test_v_statistic_minus_u_statistic(c):
    "Each cloud's diagonal lifts F by (k(0) - mean over its pairs) / 2n"
    _, x, y, kernel = c
    pairs = [(kernel(c, c).sum() - len(c) * k_0(kernel)) / (len(c) * (len(c) - 1)) for c in (x, y)]
    want = sum((k_0(kernel) - p) / (2 * len(c)) for p, c in zip(pairs, (x, y)))
    close(energy(x, y, kernel, False) - energy(x, y, kernel, True), want, kernel)


@property_test
@given(clouds())
def test_v_statistic_is_never_negative(c):
    _, x, y, kernel = c
    assert energy(x, y, kernel, unbiased=False) >= -EXACT * k_0(kernel)      # zero up to rounding
    assert energy(x, x, kernel, unbiased=False).abs() <= EXACT * k_0(kernel)


@property_test
@given(clouds())
def test_self_term_lowers_phi_x_and_lifts_phi_y(c):
    "Keeping k(c,c) moves phi_x by (mean over the others - k(0)) / n_x, and phi_y the other way"
    _, x, y, kernel = c
    kept, dropped = (potentials(x, y, kernel, self_term) for self_term in (1., 0.))
    for got, want_sign, c in zip((kept[0] - dropped[0], kept[1] - dropped[1]), (1, -1), (x, y)):
        others = (kernel(c, c).sum(1) - k_0(kernel)) / (len(c) - 1)
        close(got, want_sign * (others - k_0(kernel)) / len(c), kernel)


@property_test
@given(clouds(), st.sampled_from(['plummer', 'gaussian']))
def test_force_is_the_gradient_of_the_potential(c, name):
    a, x, y, kernel = c
    used = kernel if name == 'plummer' else Gaussian(kernel.eps)
    a = a.clone().requires_grad_()
    grad, = torch.autograd.grad(potential(a, x, y, used).sum(), a)
    # sharpest slope: d k(0) / eps for Plummer, 1 / sigma for Gauss
    scale = k_0(kernel) * kernel.d / kernel.eps + 1 / kernel.eps
    assert_close(force(a.detach(), x, y, used), grad, rtol=0, atol=EXACT * scale)


def test_force_of_laplace_kernel_is_the_gradient_off_the_charges():
    a, x, y = (cloud(i, 5, 3).requires_grad_(i == 0) for i in range(3))
    grad, = torch.autograd.grad(potential(a, x, y, Laplace(1.)).sum(), a)
    # no point meets a charge, so the slope is at most 1
    assert_close(force(a.detach(), x, y, Laplace(1.)), grad, rtol=0, atol=EXACT)


@property_test
@given(clouds())
def test_potentials_read_the_potential_at_the_charges(c):
    _, x, y, kernel = c
    phi_x, phi_y = potentials(x, y, kernel)
    close(phi_x, potential(x, x, y, kernel), kernel)
    close(phi_y, potential(y, x, y, kernel), kernel)


# --- expectations: every minibatch of a law on three points, with its probability ----------------------------------

def every_minibatch(n_x, n_y, space, p_x, p_y):
    "(x, y, probability) of all of them"
    for i in itertools.product(range(len(space)), repeat=n_x + n_y):
        i_x, i_y = list(i[:n_x]), list(i[n_x:])
        yield space[i_x], space[i_y], p_x[i_x].prod() * p_y[i_y].prod()


LAWS = torch.tensor([[.2, .3, .5], [.6, .4, 0.]], dtype=torch.float64)

@pytest.mark.parametrize('d, eps', [(1., 1.), (3., .5)])
@pytest.mark.parametrize('n_x, n_y', [(2, 2), (3, 2)])
def test_energy_exceeds_that_of_the_laws_by_half_the_self_terms(n_x, n_y, d, eps):
    space, kernel, (p_x, p_y) = cloud(0, 3, 2), Plummer(d, eps), LAWS
    k = kernel(space, space)
    want = (p_y - p_x) @ k @ (p_y - p_x) / 2
    lift = ((k_0(kernel) - p_x @ k @ p_x) / n_x + (k_0(kernel) - p_y @ k @ p_y) / n_y) / 2
    kept, dropped = (sum(p * energy(x, y, kernel, unbiased) for x, y, p in every_minibatch(n_x, n_y, space, *LAWS))
                     for unbiased in (False, True))
    close(dropped, want, kernel)
    close(kept, want + lift, kernel)
    assert lift > 1e-3 * k_0(kernel)


@pytest.mark.parametrize('d, eps', [(1., 1.), (3., .5)])
@pytest.mark.parametrize('n_x', [2, 3])
@pytest.mark.parametrize('first', range(3))
def test_force_at_a_sample_lacks_its_share_of_the_repulsion(n_x, d, eps, first):
    "Given that the first sample is at a: attraction and (n - 1) / n of the repulsion; the weight n / (n - 1) mends it"
    space, kernel, (p_x, p_y) = cloud(0, 3, 2), Plummer(d, eps), LAWS
    a = space[first:first + 1]
    w = 2 * kernel.slope((a - space).square().sum(1))[:, None] * (a - space)
    pull_x, pull_y = p_x @ w, p_y @ w
    def mean_force(weight_x):
        batches = every_minibatch(n_x - 1, 2, space, p_x, p_y)
        return sum(p * force(a, torch.cat([a, x]), y, kernel, weight_x=weight_x)[0] for x, y, p in batches)
    close(mean_force(1.), pull_y - (n_x - 1) / n_x * pull_x, kernel)
    close(mean_force(n_x / (n_x - 1)), pull_y - pull_x, kernel)
    assert (pull_x / n_x).abs().max() > 1e-3


# --- refusals: one line that says what was got --------------------------------------------------------------------

GOOD = cloud(0, 4, 3)
BAD = {'empty': torch.empty(0, 3), 'another m': cloud(1, 4, 2), 'nan': GOOD.where(GOOD < .1, torch.nan),
       'inf': GOOD.where(GOOD < .1, torch.inf), '1-d': cloud(2, 3), '0-d': torch.tensor(1.), '3-d': cloud(3, 4, 1, 3)}
USES = {'potential a': lambda b: potential(b, GOOD, GOOD, Plummer()),
        'potential x': lambda b: potential(GOOD, b, GOOD, Plummer()),
        'potential y': lambda b: potential(GOOD, GOOD, b, Plummer()),
        'force a': lambda b: force(b, GOOD, GOOD, Plummer()),
        'force x': lambda b: force(GOOD, b, GOOD, Plummer()),
        'force y': lambda b: force(GOOD, GOOD, b, Plummer()),
        'potentials x': lambda b: potentials(b, GOOD, Plummer()),
        'potentials y': lambda b: potentials(GOOD, b, Plummer()),
        'energy x': lambda b: energy(b, GOOD, Plummer()),
        'energy y': lambda b: energy(GOOD, b, Plummer())}


def refused(f, *args):
    with pytest.raises(ValueError) as caught: f(*args)
    message = str(caught.value)
    assert message and '\n' not in message
    return message


@pytest.mark.parametrize('bad', BAD)
@pytest.mark.parametrize('use', USES)
def test_bad_set_is_refused(use, bad):
    USES[use](GOOD)
    message = refused(USES[use], BAD[bad])
    assert 'shape' in message or 'dimension' in message or 'NaN' in message


@pytest.mark.parametrize('use', USES)
def test_refusal_names_the_set(use):
    assert refused(USES[use], BAD['nan']).startswith(use.split()[1] + ' ')


@pytest.mark.parametrize('value', [0., -1., float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('name', ['d', 'eps'])
def test_bad_kernel_parameter_is_refused(name, value):
    assert refused(lambda: Plummer(**{name: value})).startswith(f'{name} must be')


def test_statistics_over_others_need_two_samples():
    one = GOOD[:1]
    assert 'got 1 and 4' in refused(lambda: potentials(one, GOOD, Plummer(), self_term=0.))
    assert 'got 4 and 1' in refused(lambda: energy(GOOD, one, Plummer()))
    assert energy(one, one, Plummer(), unbiased=False) == 0


# --- memory -------------------------------------------------------------------------------------------------------

class Largest(TorchDispatchMode):
    "The number of elements of the largest tensor any operation returns"
    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor): self.numel = max(self.numel, t.numel())
        return out


def test_no_operation_holds_all_differences():
    x, y, m = cloud(0, 64, 1000), cloud(1, 64, 1000), 1000
    with Largest() as largest: potentials(x, y, Plummer())
    n = len(x) + len(y)
    assert n * m <= largest.numel <= max(n**2, 2 * n * m)
    with Largest() as naive: (x[:, None] - y[None]).square().sum(2)
    assert naive.numel > max(n**2, 2 * n * m)


MEMORY = '''
import torch
from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import energy, force, potential

def peak():
    line = next(l for l in open('/proc/self/status') if l.startswith('VmHWM'))
    return int(line.split()[1]) / 1e3

gen = torch.Generator().manual_seed(0)
x, y = torch.randn(2_000, 16, generator=gen), torch.randn(200_000, 16, generator=gen)
force(x[:100], x[:100], y[:100], Plummer())
before = peak()
potential(x, x, y, Plummer())
force(x[:500], x, y, Plummer())
energy(x, y[:10_000], Plummer())
print(peak() - before)
'''


@pytest.mark.skipif(sys.platform != 'linux', reason='peak memory is read from /proc')
def test_memory_is_that_of_tiles():
    "All pairs at once would take 3.2 GB for the potential, 0.8 GB for the force and for the energy"
    done = subprocess.run([sys.executable, '-c', MEMORY], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 600
