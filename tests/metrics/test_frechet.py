"""The Fréchet distance against independent oracles, its finite-sample bias, files of statistics."""
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.linalg import sqrtm
from torch.testing import assert_close

from coulomb_gan.metrics.frechet import Statistics, find_statistics, finite_sample_bias, frechet
from coulomb_gan.metrics.frechet import load_statistics, save_statistics, statistics


def randn(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_sqrtm(x, y):
    "The formula of FID in another library: a matrix root by Schur's method."
    (mu, c), (nu, e) = ((f.mean(0), np.atleast_2d(np.cov(f.T))) for f in (x.numpy(), y.numpy()))
    return ((mu - nu)**2).sum() + np.trace(c + e - 2 * sqrtm(c @ e).real)


# --- the distance -------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 12), seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_distance_agrees_with_a_matrix_root(k, seed, scale):
    mix = randn(k, k, seed=seed + 1)
    x, y = scale * randn(4*k + 5, k, seed=seed), scale * (randn(5*k + 5, k, seed=seed + 2) @ mix + 1)
    assert math.isclose(frechet(x, y), by_sqrtm(x, y), rel_tol=1e-6)
    assert math.isclose(frechet(x, y), frechet(y, x), rel_tol=1e-9)
    assert abs(frechet(x, x)) < 1e-6 * scale**2 * k


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=6, unique=True), offset=st.floats(-1e6, 1e6))
def test_statistics_do_not_depend_on_batches(cuts, offset):
    rows = offset + randn(40, 3)
    s = statistics(rows.tensor_split(sorted(cuts)), keep=17)
    assert_close(s.mu, rows.mean(0), rtol=1e-12, atol=1e-9)
    assert_close(s.sigma, torch.cov(rows.T), rtol=1e-6, atol=1e-9)
    assert_close(s.features, rows[:17], rtol=0, atol=0)


EMPTY = {'last': lambda y: [y, y[:0]], 'first': lambda y: [y[:0], y], 'between': lambda y: [y[:15], y[:0], y[15:]],
         'often': lambda y: [b for row in y.split(9) for b in (y[:0], row, y[:0])]}

@pytest.mark.parametrize('where', EMPTY)
def test_an_empty_batch_adds_nothing(where):
    rows = randn(40, 3)
    s, whole = statistics(EMPTY[where](rows), keep=17), statistics(rows, keep=17)
    assert s.n == 40 and torch.equal(s.features, whole.features)
    assert_close((s.mu, s.sigma), (whole.mu, whole.sigma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('batches', [[], [randn(0, 3)], [randn(0, 3)] * 3, [randn(1, 3), randn(0, 3)], randn(0, 3)])
def test_no_rows_at_all_are_refused(batches):
    with pytest.raises(ValueError, match='features: got [01] rows, expected 2 or more'): statistics(batches)


@pytest.mark.parametrize('widths', [(3, 1), (1, 3), (3, 2), (3, 4)])
def test_batches_of_two_widths_are_refused(widths):
    first, second = (randn(20, k) for k in widths)
    for batches in ([first, second], [first, first, second[:1]], [first[:0], second], [first, second[:0]]):
        with pytest.raises(ValueError, match='got batches of width {} and {}, expected one width'.format(*widths)):
            statistics(batches)


REFUSED = {'one dimension': (lambda y: y[0], r'got \(3,\), expected finite rows'),
           'three dimensions': (lambda y: y[None], r'got \(1, 40, 3\), expected finite rows'),
           'infinite': (lambda y: y / 0, 'expected finite rows'),
           'NaN in the last row': (lambda y: torch.cat([y, y[:1] * torch.nan]), 'expected finite rows'),
           'integers': (lambda y: y.long(), 'features must hold floats, got torch.int64')}

@pytest.mark.parametrize('what', REFUSED)
def test_rows_of_another_kind_are_refused(what):
    change, message = REFUSED[what]
    for features in (change(randn(40, 3)), [randn(5, 3), change(randn(40, 3))]):
        with pytest.raises(ValueError, match=message): statistics(features)


def test_clouds_of_two_widths_have_no_distance():
    for x, y in ((6, 3), (3, 6)):
        with pytest.raises(ValueError, match=rf'x: got \(20, {x}\), expected \(n, k\) with one k for both'):
            frechet(randn(20, x), randn(20, y))


def test_statistics_stand_for_their_rows():
    x, y = randn(50, 4), 2 * randn(60, 4, seed=1)
    assert frechet(x, y) == frechet(statistics(x), y) == frechet(x, statistics(y)) == frechet(statistics(x), statistics(y))


def test_too_few_rows_are_refused():
    for n in (2, 5):
        with pytest.raises(ValueError, match=rf'x: got \({n}, 5\), expected \(n, k\)'): frechet(randn(n, 5), randn(9, 5))
    with pytest.raises(ValueError, match=r'y: got \(5, 5\)'): frechet(randn(9, 5), randn(5, 5))
    frechet(randn(6, 5), randn(6, 5, seed=1))


@pytest.mark.parametrize('k', [1, 3, 10])
def test_bias_of_a_round_gaussian(k):
    "k (k + 5) / 4 for unit variances, by its own formula and by the fourth moments of many rows (1 % off)"
    exact = k * (k + 5) / 4 * (1/50 + 1/200)
    gaussian = Statistics(torch.zeros(k), torch.eye(k).double())
    assert math.isclose(finite_sample_bias(gaussian, 50, 200), exact, rel_tol=1e-12)
    assert math.isclose(finite_sample_bias(statistics(randn(200_000, k), keep=200_000), 50, 200), exact, rel_tol=.02)


def test_features_that_never_vary_add_nothing():
    rows = randn(300, 4)
    padded = torch.cat([rows, torch.full((300, 3), 7.)], 1).float()
    biases = [finite_sample_bias(statistics(f, keep=300), 100) for f in (rows, padded)]
    assert math.isclose(*biases, rel_tol=1e-5)
    assert abs(frechet(padded, padded)) < 1e-5


# --- files --------------------------------------------------------------------------------------------------------

def test_files_come_back(tmp_path):
    s = statistics(randn(50, 6), keep=9)
    save_statistics(tmp_path / 'deep' / 's.npz', s)
    again = load_statistics(tmp_path / 'deep' / 's.npz')
    assert_close((again.mu, again.sigma, again.features), (s.mu, s.sigma, s.features), rtol=0, atol=0)
    assert again.n == 50
    with np.load(tmp_path / 'deep' / 's.npz') as z: assert set(z.files) == {'mu', 'sigma', 'n', 'features'}
    x = randn(30, 6, seed=1)
    assert frechet(x, again) == frechet(x, s)


def test_what_is_unknown_is_not_written(tmp_path):
    save_statistics(tmp_path / 's.npz', Statistics(torch.zeros(2).double(), torch.eye(2).double()))
    with np.load(tmp_path / 's.npz') as z: assert set(z.files) == {'mu', 'sigma'}
    again = load_statistics(tmp_path / 's.npz')
    assert again.n is None and again.features is None


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_published_files(tmp_path, dtype):
    x, y = randn(400, 6), 1.1 * randn(500, 6, seed=1) + .1
    np.savez(tmp_path / 'p.npz', mu=y.numpy().mean(0).astype(dtype), sigma=np.cov(y.numpy().T))
    assert math.isclose(frechet(x, load_statistics(tmp_path / 'p.npz')), by_sqrtm(x, y), rel_tol=1e-6)


@pytest.mark.parametrize('name, content', [
    ('empty', b''), ('text', b'mu'), ('torn', None), ('pickle', pickle.dumps({'mu': 1})),
    ('nan', dict(mu=[np.nan], sigma=[[1.]])), ('shape', dict(mu=[0., 0.], sigma=[[1.]])),
    ('ragged', dict(mu=np.zeros(3), sigma=np.zeros((2, 2)))), ('nothing', dict(nu=[0.])),
    ('words', dict(mu=['a'], sigma=[['b']])), ('counts', dict(mu=[0.], sigma=[[1.]], n=[3, 4])),
    ('few', dict(mu=[0.], sigma=[[1.]], n=1)), ('narrow', dict(mu=[0., 0.], sigma=np.eye(2), features=[[1.]])),
    ('flat', dict(mu=[0., 0.], sigma=np.eye(2), features=[1., 2.])), ('number', dict(mu=0., sigma=1.))])
def test_other_files_are_refused(tmp_path, name, content):
    path = tmp_path / f'{name}.npz'
    if content is None:
        save_statistics(path, statistics(randn(50, 6)))
        content = path.read_bytes()[:200]
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(ValueError, match=rf'{name}\.npz: expected an npz .*; .+'): load_statistics(path)


def test_a_missing_file_is_named_and_found_missing(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    for path in (tmp_path / 'missing.npz', tmp_path / 'nowhere' / 's.npz', tmp_path / 'file' / 's.npz'):
        with pytest.raises(ValueError, match=rf'{path.name}: expected an npz with mu \(k,\)'): load_statistics(path)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert find_statistics(path) is None


def test_a_damaged_file_is_found_with_a_warning(tmp_path):
    path = tmp_path / 's.npz'
    save_statistics(path, statistics(randn(50, 6)))
    assert find_statistics(path).n == 50
    path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(UserWarning, match=r's\.npz: expected an npz .*; the statistics are computed again'):
        assert find_statistics(path) is None


@pytest.mark.parametrize('packed', [False, True])
def test_damaged_files_are_named(tmp_path, packed):
    "Cut short anywhere, or with any byte changed: the statistics, or one line that names the file."
    path, s = tmp_path / 's.npz', statistics(randn(30, 3), keep=5)
    (np.savez_compressed if packed else np.savez)(path, mu=s.mu, sigma=s.sigma, n=s.n, features=s.features)
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        for damaged in (whole[:i], whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i+1:]):
            path.write_bytes(damaged)
            try: again = load_statistics(path)
            except ValueError as e: assert str(e).startswith(f'{path}: expected an npz') and '\n' not in str(e)
            else: assert again.mu.shape == (3,) and len(damaged) == len(whole)


# --- every type and size ------------------------------------------------------------------------------------------

def cloud(seed, n, m, size, dtype): return (size * randn(n, m, seed=seed)).to(dtype)


@pytest.mark.parametrize('dtype, size', [
    (torch.float16, 300.), (torch.float16, 1e4), (torch.bfloat16, 1e20), (torch.float32, 1e20), (torch.float32, 5e37),
    (torch.float64, 1e60)])
def test_features_of_any_type(dtype, size):
    x, y = cloud(0, 90, 4, size, dtype), cloud(1, 90, 4, size, dtype)
    s = statistics(x.split(7), keep=5)
    assert s.mu.dtype == s.sigma.dtype == torch.float64
    assert_close(s.sigma, torch.cov(x.double().T), rtol=1e-9, atol=1e-12 * size**2)
    assert frechet(x, y) == pytest.approx(frechet(x.double(), y.double()), rel=1e-9, abs=0)


def test_features_whose_squares_leave_float64_are_refused():
    with pytest.raises(ValueError, match='overflow float64') as caught: statistics(1e160 * randn(9, 2))
    assert '\n' not in str(caught.value)


POINTS = randn(40, 2)
FLAT = {
    'features of statistics': statistics,
    'x of frechet': lambda b: frechet(b, POINTS),
    'y of frechet': lambda b: frechet(POINTS, b)}

@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize('use', FLAT)
def test_integers_are_refused_by_name_and_type(use, dtype):
    FLAT[use](POINTS)
    with pytest.raises(ValueError) as caught: FLAT[use](torch.arange(80).view(40, 2).to(dtype))
    assert str(caught.value) == f'{use.split()[0]} must hold floats, got {dtype}'
