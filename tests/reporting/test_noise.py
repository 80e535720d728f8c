"""Differences between methods: what seeds allow to be said."""
import numpy as np
import pytest
from scipy import stats

from coulomb_gan.reporting.noise import difference_interval, noise_sentence


def seeds(*values): return {str(i): dict(energy=v, fid=-v) for i, v in enumerate(values)}


def test_interval_is_welchs():
    "By its formula, in float64; the tolerance is that of a quantile"
    rng = np.random.default_rng(0)
    for n, m in ((2, 2), (3, 5), (8, 2)):
        a, b = rng.normal(1., 2., n), rng.normal(0., .5, m)
        va, vb = a.var(ddof=1) / n, b.var(ddof=1) / m
        df = (va + vb)**2 / (va**2 / (n - 1) + vb**2 / (m - 1))
        half = stats.t.ppf(.975, df) * (va + vb)**.5
        np.testing.assert_allclose(difference_interval(a, b), (a.mean() - b.mean() - half, a.mean() - b.mean() + half), rtol=1e-9)
        np.testing.assert_allclose(difference_interval(b, a), -np.array(difference_interval(a, b))[::-1], rtol=1e-9)


def test_interval_without_spread_and_without_seeds():
    assert difference_interval([2., 2.], [5., 5., 5.]) == (-3., -3.)
    with pytest.raises(ValueError, match='got 2 and 1 seeds, expected at least two of each'): difference_interval([1., 2.], [1.])


@pytest.mark.parametrize('numbers, words', [
    (dict(a=seeds(1., 1.1, .9), b=seeds(1.05, 1.2, .9)), 'all differences from it are **within noise**'),
    (dict(a=seeds(1., 1.1, .9), b=seeds(5., 5.1, 4.9)), '**beyond noise** (95 %) above it: b; within noise: none.'),
    (dict(a=seeds(1., 1.1, .9), b=seeds(1.05, 1.2, .9), c=seeds(5., 5.1, 4.9)), 'above it: c; within noise: b.'),
    (dict(a=seeds(1.), b=seeds(5.)), '**One seed of a method says nothing about noise**'),
    (dict(a=seeds(1., 2.), b=seeds(5.)), '**One seed of a method says nothing about noise**'),
    (dict(a=seeds(1., 2.)), 'a comparison needs two'), ({}, 'a comparison needs two')], ids=range(7))
def test_sentence(numbers, words):
    found = noise_sentence(numbers)
    assert words in found and '\n' not in found
    if 'least' in found: assert 'F is least for **a**' in found


def test_two_seeds_far_apart_may_still_be_within_noise():
    assert 'within noise' in noise_sentence(dict(a=seeds(1., 2.), b=seeds(3., 5.)))
    assert 'beyond noise' in noise_sentence(dict(a=seeds(1., 1.01), b=seeds(3., 3.01)))


def test_another_number_may_be_compared():
    assert noise_sentence(dict(a=seeds(1., 1.1), b=seeds(9., 9.1)), 'fid', 'FID').startswith('FID is least for **b**')
