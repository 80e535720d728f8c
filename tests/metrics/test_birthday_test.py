"""Coincidences against brute force in float64, their intervals against formulas written out, and proportions."""
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from coulomb_gan.data.datasets import to_float
from coulomb_gan.metrics.birthday_test import birthday, support_size, wilson
from coulomb_gan.metrics.nearest_neighbours import nearest

# Both sides take differences first, in float64: they differ by the order of a sum, a few units of 1e-16 a term.
EXACT = 1e-12


def distances(a, b):
    p, q = (to_float(points).flatten(1).double().numpy() for points in (a, b))
    return np.sqrt(((p[:, None] - q[None]) ** 2).sum(2))

def random(seed): return torch.Generator().manual_seed(seed)


# --- the birthday test --------------------------------------------------------------------------------------------

def birthday_loop(x, y, sizes, quantile):
    "Everything from the matrix of distances; the threshold is the distance of a real point"
    r_y = distances(y, y)
    np.fill_diagonal(r_y, math.inf)
    t = np.quantile(r_y.min(1), quantile, method='higher')
    close = distances(x, x) <= t
    np.fill_diagonal(close, False)
    held = {s: [close[i:i+s, i:i+s].any() for i in range(0, len(x) // s * s, s)] for s in sizes}
    return t, close.sum() // 2, (r_y <= t).sum() / 2, {s: (sum(h), len(h)) for s, h in held.items()}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(30, 150), st.integers(1, 3), st.sampled_from([.02, .1, .5]))
def test_birthday_counts(seed, n, m, quantile):
    gen = random(seed)
    x, y = torch.rand(n, m, generator=gen), torch.rand(40, m, generator=gen)
    x[torch.randint(n, (10,), generator=gen)] = x[0].clone()
    t, pairs, real_pairs, held = birthday_loop(x, y, (2, 7, 30), quantile)
    result = birthday(x, y, batches=(2, 7, 30, 1000), quantile=quantile)
    assert_close(result['threshold'], t, rtol=EXACT, atol=0)
    assert result['pairs'] == pairs
    assert {l['batch']: (round(l['probability'] * l['trials']), l['trials']) for l in result['batches']} == held
    assert_close(result['ceiling'], 40 * 39 / 2 / real_pairs, rtol=EXACT, atol=0)
    assert_close(result['support'], n * (n - 1) / 2 / pairs, rtol=EXACT, atol=0)
    for line in [result, *result['batches']]:
        ends = [line[f'support{end}'] for end in ('_low', '', '_high')]
        given = [v for v in ends if v is not None]
        assert given == sorted(given)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_birthday_in_bytes_equals_floats():
    gen = random(0)
    x, y = (torch.randint(256, (200, 1, 2, 2), generator=gen, dtype=torch.uint8) for _ in range(2))
    assert birthday(x, y, (10, 50)) == birthday(to_float(x), to_float(y), (10, 50))


@pytest.mark.parametrize('m', [1, 768])
def test_duplicates_among_the_real_points(m):
    "More duplicates than the quantile: the threshold is zero, and only copies count, rounding or not"
    y = torch.rand(50, m, generator=random(0)) * 2 - 1
    x = torch.rand(60, m, generator=random(1)) * 2 - 1
    y[10:20], x[30] = y[:10], x[31]
    result = birthday(x, y, (60,), quantile=.1)
    assert (result['threshold'], result['pairs']) == (0, 1)
    assert_close(result['ceiling'], 50 * 49 / 2 / 10)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 10**6))
def test_the_variance_of_all_pairs(n, K, seed):
    "The interval is Wilson's for as many trials as the formula of the notebook says, written out over triples"
    labels = torch.randint(K, (n,), generator=random(seed)).tolist()
    pairs = [(i, j) for i in range(n) for j in range(i)]
    p = sum(labels[i] == labels[j] for i, j in pairs) / len(pairs)
    triples = [(i, j, k) for i in range(n) for j in range(n) for k in range(n) if len({i, j, k}) == 3]
    cov = sum(labels[i] == labels[j] == labels[k] for i, j, k in triples) / max(len(triples), 1) - p * p
    excess = 1 + 2 * (n - 2) * max(cov, 0) / (p * (1 - p)) if 0 < p < 1 else 1
    low, high = wilson(p * len(pairs) / excess, len(pairs) / excess)
    y = torch.tensor([[0.], [1e-3], [10.], [20.]])
    result = birthday(torch.tensor(labels)[:, None].double(), y, (2,))
    for got, rate in [(result['support'], p), (result['support_low'], high), (result['support_high'], low)]:
        assert (got is None) == (rate == 0)
        if rate: assert_close(got, 1 / rate, rtol=1e-9, atol=0)


def test_coverage_of_the_interval_for_many_laws():
    "Uniform, geometric and two-level laws: of 40 runs each, a 95 % interval misses at most 2 + 4 * 1.4 = 7"
    gen, y = random(0), torch.arange(25.).repeat_interleave(2)[:, None] * 1e3 + torch.tensor([0., .1]).repeat(25)[:, None]
    laws = {'uniform': torch.full((300,), 1.), 'geometric': .98 ** torch.arange(400.),
            'two levels': torch.tensor([1.] * 20 + [.01] * 2000)}
    for name, w in laws.items():
        p = w.double() / w.sum()
        x = torch.multinomial(p, 40 * 600, replacement=True, generator=gen).view(40, 600, 1).float()
        results = [birthday(row, y, (64,)) for row in x]
        missed = sum(not r['support_low'] <= 1 / (p ** 2).sum() <= r['support_high'] for r in results)
        assert missed <= 7, name


def test_shuffling_keeps_the_pairs():
    x = torch.arange(400.)[:, None] // 2
    y = torch.tensor([[0.], [1e-3], [10.], [20.]])
    ordered, mixed = birthday(x, y, (2,)), birthday(x, y, (2,), generator=random(0))
    assert ordered['pairs'] == mixed['pairs'] == 200
    assert ordered['batches'][0]['probability'] == 1 > .1 > mixed['batches'][0]['probability']
    assert mixed == birthday(x, y, (2,), generator=random(0))


def test_a_generator_with_one_sample():
    "It repeats itself in every batch: the interval gives an upper bound; sizes above n_x are left out"
    result = birthday(torch.zeros(640, 2), torch.rand(1000, 2, generator=random(0)), (64, 1024))
    line, = result['batches']
    assert (result['support'], result['support_low']) == (1., 1.)
    assert (line['batch'], line['probability'], line['support'], line['support_low']) == (64, 1., None, None)
    assert line['support_high'] < 2000
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize('dtype, size', [
    (torch.float16, 1e4), (torch.float16, 1e-6), (torch.bfloat16, 1e20), (torch.float32, 1e18), (torch.float32, 4e18),
    (torch.float32, 1e19), (torch.float32, 1e20), (torch.float32, 6e37), (torch.float64, 1e19), (torch.float64, 1e60),
    (torch.float64, 1e150)])
@pytest.mark.parametrize('m', [1, 5, 40])
def test_the_threshold_of_any_type(dtype, size, m):
    a, b = ((size * torch.randn(n, m, generator=random(n), dtype=torch.float64)).to(dtype) for n in (20, 300))
    expected = nearest(b, b, exclude_self=True)[0].quantile(.5, interpolation='higher')
    assert birthday(a, b, (10,), quantile=.5)['threshold'] == expected


# --- proportions --------------------------------------------------------------------------------------------------

@given(st.integers(1, 10**6), st.data())
def test_wilson_holds_the_proportion(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1 and low < high
    assert_close(wilson(n - k, n), (1 - high, 1 - low), rtol=1e-9, atol=1e-9)


@given(st.integers(2, 300), st.integers(1, 10**6))
def test_support_size_inverts_the_birthday_formula(s, N):
    p = -math.expm1(-s * (s - 1) / (2 * N))
    if 1e-4 < p < 1 - 1e-4: assert_close(support_size(p, s), float(N), rtol=1e-9, atol=0)


@pytest.mark.parametrize('n', [1, 2, 3, 10, 97, 1999, 10**6])
def test_wilson_reaches_both_ends(n):
    assert (wilson(0, n)[0], wilson(n, n)[1]) == (0., 1.)


# --- refusals -----------------------------------------------------------------------------------------------------

A, B = torch.zeros(4, 6), torch.ones(9, 6)

@pytest.mark.parametrize('call, message', [
    (lambda: birthday(A, B, (1,)), r'got batches \(1,\)'),
    (lambda: birthday(A, B, (5, 6)), 'one of them up to n_x = 4'),
    (lambda: birthday(A, B, ()), r'got batches \(\)'),
    (lambda: birthday(A, B, (2,), quantile=0.), 'quantile: got 0.0'),
    (lambda: birthday(A, B, (2,), quantile=1.), 'quantile: got 1.0'),
    (lambda: birthday(A, B[:, :5], (2,)), 'got rows of size 6 and 5'),
    (lambda: birthday(A, B[:1], (2,)), 'got 1 real sample'),
    (lambda: birthday(A, 1e160 * torch.arange(9).double()[:, None].expand(9, 6), (2,)), 'squared distances fit into float64'),
    (lambda: wilson(2, 1), 'got k=2, n=1'),
    (lambda: support_size(.5, 1), 'got p=0.5, batch=1'),
    (lambda: support_size(1.2, 64), 'got p=1.2, batch=64'),
])
def test_unfit_input_is_named(call, message):
    with pytest.raises(ValueError, match=message) as caught: call()
    assert '\n' not in str(caught.value)
