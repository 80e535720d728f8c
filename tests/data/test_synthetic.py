"""The drawn mixture has the law it states: means, weights, variances, modes, and nothing hidden in the seed."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from coulomb_gan.data.synthetic import mixture, mixture_means


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=25)(f)


def test_means_are_a_grid():
    places = [-21, -10.5, 0, 10.5, 21]
    assert sorted(map(tuple, mixture_means().tolist())) == [(a, b) for a in places for b in places]
    assert mixture_means().dtype == torch.float32


def test_means_are_made_anew():
    "So that nobody's changes reach another"
    mixture_means().zero_()
    assert mixture_means().abs().max() == 21


@property_test
@given(st.integers(10, 3000), st.floats(.01, 4), st.integers(0, 10**6))
def test_a_drawn_set_is_what_it_says(n, variance, seed):
    data = mixture(n, variance, seed)
    assert (len(data.train), len(data.test), data.shape, data.kind) == (n, n // 10, (2,), 'points')
    assert (len(data.train_labels), len(data.test_labels)) == (n, n // 10)
    assert torch.equal(data.modes.means, mixture_means()) and data.modes.std == variance**.5
    labels = torch.cat([data.train_labels, data.test_labels])
    assert 0 <= labels.min() and labels.max() < 25
    z = (torch.cat([data.train, data.test]) - mixture_means()[labels]) / variance**.5
    assert z.abs().max() < 6.5  # of 6,600 standard normal numbers: one beyond in two million sets
    # mean and variance of normal numbers within five standard errors
    assert_close(z.mean(), torch.tensor(0.), rtol=0, atol=5 * (1 / z.numel())**.5)
    assert_close(z.var(), torch.tensor(1.), rtol=0, atol=5 * (2 / z.numel())**.5)


@pytest.mark.parametrize('variance', [1., .1])
def test_weights_are_equal(variance):
    counts = mixture(variance=variance).train_labels.bincount() / 100_000
    # five standard errors of a share of 0.04 among 100,000
    assert_close(counts, torch.full((25,), .04), rtol=0, atol=5 * (.04 * .96 / 100_000)**.5)


def test_coordinates_are_independent():
    data = mixture()
    z = data.train - mixture_means()[data.train_labels]
    assert (z[:, 0] * z[:, 1]).mean().abs() < 5 / 100_000**.5


@pytest.mark.parametrize('other', [dict(n=101), dict(variance=.5), dict(seed=1)])
def test_what_decides_the_draw_decides_the_digest(other):
    one, again = mixture(100), mixture(100)
    changed = mixture(**{'n': 100, **other})
    assert torch.equal(one.train, again.train) and one.digest == again.digest
    assert changed.digest != one.digest and not torch.equal(changed.train[:50], one.train[:50])


def test_a_draw_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    mixture(100)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('option, value', [('n', 9), ('n', 0), ('n', -5), ('n', 100.), ('variance', 0.), ('variance', -1.),
                                           ('variance', float('nan')), ('variance', float('inf'))])
def test_refused(option, value):
    with pytest.raises(ValueError, match=f'^{option} must be .*, got {value}$'): mixture(**{option: value})
