"""The four drifting fields: a loop over pairs in float64, their symmetries, and what is refused."""
from math import inf

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from coulomb_gan.objectives.drifting import FIELDS, pair_weights, weighted_force

# Float64: distances are good to 1e-15 of the largest (below 20), weights by at most d / width^(d+2) < 100 times that,
# and at most 20 of them with differences below 20 are summed.
EXACT = 1e-11


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=30)(f)

def randn(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

def distances(a, b): return torch.cdist(a, b, compute_mode='donot_use_mm_for_euclid_dist')


def drift(field, x, y, width=.7, d=1.):
    w_xy, w_xx = pair_weights(field, distances(x, y), distances(x, x), width, d)
    return weighted_force(x, y, w_xy, w_xx)


# --- what the field is, pair by pair ------------------------------------------------------------------------------

def slow_kernel(field, x, y, width, d):
    def pull(r):
        if field == 'plummer': return d * (r**2 + width**2)**(-d / 2 - 1)
        if field == 'gaussian': return torch.exp(-r**2 / (2 * width**2)) / width**2
        return torch.exp(-r / width)
    v = torch.zeros_like(x)
    for i in range(len(x)):
        for y_j in y: v[i] += pull((y_j - x[i]).norm()) * (y_j - x[i]) / len(y)
        for j in range(len(x)):
            if j != i: v[i] -= pull((x[j] - x[i]).norm()) * (x[j] - x[i]) / (len(x) - 1)
    return v


def slow_mean_shift(x, y, width):
    t = torch.cat([y, x])
    n = len(y)
    e = torch.zeros(len(x), len(t), dtype=x.dtype)
    for i in range(len(x)):
        for j in range(len(t)):
            if j != n + i: e[i, j] = torch.exp(-(x[i] - t[j]).norm() / width)
    v = torch.zeros_like(x)
    for i in range(len(x)):
        a = [(e[i, j] / e[i].sum() * e[i, j] / e[:, j].sum()).sqrt() for j in range(len(t))]
        to_real, to_generated = sum(a[:n]), sum(a[n:])
        for j in range(len(t)): v[i] += (to_generated if j < n else -to_real) * a[j] * t[j]
    return v


def slow(field, x, y, width=.7, d=1.):
    return slow_mean_shift(x, y, width) if field == 'mean-shift' else slow_kernel(field, x, y, width, d)


fields, widths, exponents = st.sampled_from(FIELDS), st.floats(.3, 3), st.floats(.3, 4)
shapes = st.tuples(st.integers(2, 6), st.integers(1, 7), st.integers(1, 3))


@st.composite
def clouds(draw):
    "Generated samples `(n, C)` and real ones `(N, C)`; some coincide"
    n, n_real, c = draw(shapes)
    seed = draw(st.integers(0, 10**6))
    x, y = randn(seed, n, c), randn(seed + 1, n_real, c) + .5
    if draw(st.booleans()): y[0] = x[0]
    if draw(st.booleans()): x[-1] = x[0]
    return x, y


@property_test
@given(fields, clouds(), widths, exponents)
def test_the_field_equals_a_loop_over_pairs(field, cloud, width, d):
    x, y = cloud
    assert_close(drift(field, x, y, width, d), slow(field, x, y, width, d), rtol=0, atol=EXACT)


@pytest.mark.parametrize('field', FIELDS)
def test_float32_is_as_good_as_float32_can_be(field):
    "Far from the origin too: the inputs are rounded at 100 * 6e-8, the weights change by at most 3 / width of that"
    x, y = (randn(0, 40, 5) + 100).float(), (randn(1, 50, 5) + 100).float()
    got = drift(field, x, y)
    assert got.dtype == torch.float32
    assert_close(got.double(), drift(field, x.double(), y.double()), rtol=0, atol=1e-5)


@pytest.mark.parametrize('field', FIELDS)
def test_a_batch_equals_its_members(field):
    x, y = randn(0, 2, 3, 6, 4), randn(1, 2, 3, 7, 4)
    together = drift(field, x, y)
    for i in range(2):
        for j in range(3): assert_close(together[i, j], drift(field, x[i, j], y[i, j]), rtol=0, atol=EXACT)


@pytest.mark.parametrize('field', FIELDS)
def test_weights_of_one_batch_serve_many_locations(field):
    "Weights `(n, N)` with samples `(locations, n, C)`"
    x, y = randn(0, 3, 6, 4), randn(1, 3, 7, 4)
    w_xy, w_xx = pair_weights(field, distances(x, y).mean(0), distances(x, x).mean(0), 1.)
    together = weighted_force(x, y, w_xy, w_xx)
    for location in range(3):
        assert_close(together[location], weighted_force(x[location], y[location], w_xy, w_xx), rtol=0, atol=EXACT)


# --- symmetries ---------------------------------------------------------------------------------------------------

@property_test
@given(fields, clouds(), st.integers(0, 1000))
def test_moves_and_turns_go_through(field, cloud, seed):
    x, y = cloud
    turn, _ = torch.linalg.qr(randn(seed, x.shape[1], x.shape[1]))
    shift = 3 * randn(seed + 1, x.shape[1])
    assert_close(drift(field, x @ turn + shift, y @ turn + shift), drift(field, x, y) @ turn, rtol=0, atol=EXACT)


@property_test
@given(fields, clouds(), st.randoms(use_true_random=False))
def test_order_does_not_matter(field, cloud, random):
    x, y = cloud
    of_x, of_y = random.sample(range(len(x)), len(x)), random.sample(range(len(y)), len(y))
    assert_close(drift(field, x[of_x], y[of_y]), drift(field, x, y)[of_x], rtol=0, atol=EXACT)


@property_test
@given(fields, st.integers(2, 6), st.integers(0, 1000), widths)
def test_exchanging_real_and_generated_changes_the_sign_if_the_mask_does_too(field, n, seed, width):
    "Both matrices lack pair (i, i): then y may stand for x and x for y, at the same points x"
    x, y = randn(seed, n, 2), randn(seed + 1, n, 2)
    own = torch.eye(n, dtype=torch.bool)
    r_xy, r_xx = distances(x, y).masked_fill(own, inf), distances(x, x).masked_fill(own, inf)
    w_xy, w_xx = pair_weights(field, r_xy, r_xx, width)
    back_xx, back_xy = pair_weights(field, r_xx, r_xy, width)  # of the samples x as real ones, y as generated
    if field != 'mean-shift':  # 1/N for the real, 1/(n-1) for the generated ones
        w_xy, back_xx = w_xy * n / (n - 1), back_xx * n / (n - 1)
    pull = weighted_force(x, y, w_xy, w_xx)
    def towards(t, w): return w @ t - w.sum(1, keepdim=True) * x
    assert_close(pull, -(towards(x, back_xx) - towards(y, back_xy)), rtol=0, atol=EXACT)


@property_test
@given(fields, st.integers(2, 6), st.integers(0, 1000), widths)
def test_nothing_moves_if_the_real_samples_are_the_generated_ones(field, n, seed, width):
    "With matched masks; kernels have 1/N beside 1/(n-1), which is made good here"
    x = randn(seed, n, 2)
    r = distances(x, x).fill_diagonal_(inf)
    w_xy, w_xx = pair_weights(field, r, r, width)
    if field != 'mean-shift': w_xy = w_xy * n / (n - 1)
    assert_close(weighted_force(x, x, w_xy, w_xx), 0 * x, rtol=0, atol=EXACT)


def test_without_matched_masks_the_batch_rule_moves_them():
    x = randn(0, 64, 2)
    assert drift('mean-shift', x, x, .3).square().sum(1).mean().sqrt() > .02


@property_test
@given(st.sampled_from(['plummer', 'gaussian', 'laplace']), clouds(), st.floats(.1, 10))
def test_scaling(field, cloud, factor):
    "Lengths and width times s: weights times s^-(d+2), s^-2 or 1, differences times s"
    x, y = cloud
    power = {'plummer': -2., 'gaussian': -1., 'laplace': 1.}[field]
    got = drift(field, factor * x, factor * y, .7 * factor)
    assert_close(got, factor**power * drift(field, x, y), rtol=1e-9, atol=EXACT * factor**power)


@property_test
@given(clouds(), st.floats(.1, 10))
def test_scaling_of_the_batch_rule(cloud, factor):
    x, y = cloud
    assert_close(drift('mean-shift', factor * x, factor * y, .7 * factor), factor * drift('mean-shift', x, y),
                 rtol=1e-9, atol=EXACT * factor)


# --- the own pair, and samples that are alone ---------------------------------------------------------------------

@pytest.mark.parametrize('field', FIELDS)
def test_the_own_distance_is_not_used(field):
    x, y = randn(0, 5, 2), randn(1, 6, 2)
    r_xy, r_xx = distances(x, y), distances(x, x)
    plain = pair_weights(field, r_xy, r_xx, .7)
    assert (plain[1].diagonal() == 0).all()
    assert_close(pair_weights(field, r_xy, r_xx + 9 * torch.eye(5), .7), plain, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('field', FIELDS)
def test_a_sample_that_is_alone_stays_finite(field, dtype):
    x = torch.tensor([[0.], [1.], [1e4], [-1e6]], dtype=dtype)
    y = torch.tensor([[.3], [1e7]], dtype=dtype)
    for width in (1e-3, 1., 1e3):
        weights = pair_weights(field, distances(x, y), distances(x, x), width)
        assert all(w.isfinite().all() for w in weights)
        assert drift(field, x, y, width).isfinite().all()


@pytest.mark.parametrize('field', FIELDS)
def test_all_distances_zero(field):
    x = torch.zeros(3, 2)
    assert_close(drift(field, x, x), x, rtol=0, atol=0)


# --- what is refused ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('wrong, message', [
    (dict(field='mean_shift'), "did you mean 'mean-shift'"),
    (dict(width=0.), 'width must be a finite number above 0, got 0.0'),
    (dict(width=-1.), 'width must be a finite number above 0'),
    (dict(width=inf), 'width must be a finite number above 0'),
    (dict(d=0.), 'd must be a finite number above 0'),
    (dict(n=1), r'got r_xy \(1, 4\) and r_xx \(1, 1\), expected .* at least 2 .* give more samples'),
    (dict(n_real=0), r'got r_xy \(3, 0\) and r_xx \(3, 3\)'),
])
def test_bad_inputs(wrong, message):
    given = dict(field='plummer', width=1., d=1., n=3, n_real=4) | wrong
    x, y = randn(0, given['n'], 2), randn(1, given['n_real'], 2)
    with pytest.raises(ValueError, match=message):
        pair_weights(given['field'], distances(x, y), distances(x, x), given['width'], given['d'])


@pytest.mark.parametrize('xy, xx', [((3, 4), (3, 4)), ((4, 4), (3, 3)), ((2, 3, 4), (3, 3)), ((3,), (3,)), ((5, 3, 4), (2, 3, 3))])
def test_bad_shapes_of_distances(xy, xx):
    with pytest.raises(ValueError, match='the same n samples'): pair_weights('laplace', torch.ones(xy), torch.ones(xx), 1.)


def test_bad_shapes_of_weights():
    x, y = randn(0, 3, 2), randn(1, 4, 2)
    w_xy, w_xx = pair_weights('laplace', distances(x, y), distances(x, x), 1.)
    for bad in ((w_xx, w_xx), (w_xy, w_xy), (w_xy.T, w_xx)):
        with pytest.raises(ValueError, match='got weights'): weighted_force(x, y, *bad)
