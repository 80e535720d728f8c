"""The Fréchet distance against independent oracles, files and caches of statistics, spaces that are not there."""
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.linalg import sqrtm
from torch import nn
from torch.testing import assert_close

from coulomb_gan import spaces
from coulomb_gan.fidelity import Statistics, frechet, load_statistics, sampling_floor, save_statistics, statistics
from coulomb_gan.spaces import Space, digest, evaluate, features, inception, load_space, reference, summary


def randn(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_sqrtm(x, y):
    "The formula of FID in another library: a matrix root by Schur's method"
    (mu, c), (nu, e) = ((f.mean(0), np.atleast_2d(np.cov(f.T))) for f in (x.numpy(), y.numpy()))
    return ((mu - nu)**2).sum() + np.trace(c + e - 2 * sqrtm(c @ e).real)


def pictures(n, seed=0): return torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope='module')
def space():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Space('random-8', lambda images: net(images / 127.5 - 1))


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


def test_too_few_rows_are_refused():
    for n in (2, 5):
        with pytest.raises(ValueError, match=rf'x: got \({n}, 5\), expected \(n, k\)'): frechet(randn(n, 5), randn(9, 5))
    with pytest.raises(ValueError, match=r'y: got \(5, 5\)'): frechet(randn(9, 5), randn(5, 5))
    frechet(randn(6, 5), randn(6, 5, seed=1))


@pytest.mark.parametrize('k', [1, 3, 10])
def test_floor_of_a_round_gaussian(k):
    "k (k + 5) / 4 for unit variances, by its own formula and by the fourth moments of many rows (1 % off)"
    exact = k * (k + 5) / 4 * (1/50 + 1/200)
    assert math.isclose(sampling_floor(Statistics(torch.zeros(k), torch.eye(k).double()), 50, 200), exact, rel_tol=1e-12)
    assert math.isclose(sampling_floor(statistics(randn(200_000, k), keep=200_000), 50, 200), exact, rel_tol=.02)


def test_features_that_never_vary_add_nothing():
    rows = randn(300, 4)
    padded = torch.cat([rows, torch.full((300, 3), 7.)], 1).float()
    floors = [sampling_floor(statistics(f, keep=300), 100) for f in (rows, padded)]
    assert math.isclose(*floors, rel_tol=1e-5)
    assert abs(frechet(padded, padded)) < 1e-5


# --- files --------------------------------------------------------------------------------------------------------

def test_files_come_back(tmp_path):
    s = statistics(randn(50, 6), keep=9)
    save_statistics(tmp_path / 'deep' / 's.npz', s)
    again = load_statistics(tmp_path / 'deep' / 's.npz')
    assert_close((again.mu, again.sigma, again.features), (s.mu, s.sigma, s.features), rtol=0, atol=0)
    assert again.n == 50
    x = randn(30, 6, seed=1)
    assert frechet(x, again) == frechet(x, s)


def test_published_files(tmp_path):
    x, y = randn(400, 6), 1.1 * randn(500, 6, seed=1) + .1
    np.savez(tmp_path / 'p.npz', mu=y.numpy().mean(0).astype(np.float32), sigma=np.cov(y.numpy().T))
    assert math.isclose(frechet(x, load_statistics(tmp_path / 'p.npz')), by_sqrtm(x, y), rel_tol=1e-6)


@pytest.mark.parametrize('name, content', [
    ('empty', b''), ('text', b'mu'), ('torn', None), ('pickle', pickle.dumps({'mu': 1})), ('nan', dict(mu=[np.nan], sigma=[[1.]])),
    ('shape', dict(mu=[0., 0.], sigma=[[1.]])), ('nothing', dict(nu=[0.])), ('words', dict(mu=['a'], sigma=[['b']]))])
def test_other_files_are_refused(tmp_path, name, content):
    path = tmp_path / f'{name}.npz'
    if content is None:
        save_statistics(path, statistics(randn(50, 6)))
        content = path.read_bytes()[:200]
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(ValueError, match=rf'{name}\.npz: '): load_statistics(path)


# --- spaces -------------------------------------------------------------------------------------------------------

def test_images_in_every_form(space, capsys):
    x = pictures(30)
    whole = torch.cat([*features(space, x, batch=7)])
    floats = x.float() / 127.5 - 1
    assert_close(torch.cat([*features(space, floats)]), whole)
    assert_close(torch.cat([*features(space, (b for b in floats.split(4)))]), whole)
    assert whole.shape == (30, 8) and not whole.requires_grad and capsys.readouterr().err == ''
    assert len([*features(space, x, batch=10, progress=True)]) == 3 and 'random-8: 100%' in capsys.readouterr().err
    with pytest.raises(ValueError, match=r'random-8: images .* expected \(n, k\)'): next(features(space, x[0]))


def test_a_set_against_itself_and_noise(space):
    x = pictures(200) // 2 + 64
    y = statistics(features(space, x), keep=200)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = [evaluate(space, x.float() / 127.5 - 1 + w * noise, y) for w in (0, .1, .2, .4, .8)]
    assert abs(found[0]['frechet']) < 1e-9
    distances = [f['frechet'] for f in found]
    assert distances == sorted(distances) and len(set(distances)) == 5
    assert found[0]['precision'] == found[0]['recall'] == 1 and found[-1]['precision'] < .2
    assert 'fid' not in found[0] and summary(found[0]).endswith('200 samples against 200 real images in random-8')


def test_reference_is_computed_once(tmp_path):
    seen = []
    def net(images):
        seen.append(len(images))
        return images.flatten(1)[:, :5].float()
    space, x = Space('counting', net), pictures(300)
    first = reference(space, x, tmp_path)
    assert (sum(seen), seen.clear()) == (300, None)
    again = reference(space, x, tmp_path)
    assert seen == [16] and torch.equal(again.sigma, first.sigma)
    assert reference(space, x[:299], tmp_path).n == 299
    assert [*tmp_path.iterdir()] != [] and len([*tmp_path.iterdir()]) == 2
    assert reference(Space('counting', lambda i: net(i)[:, :4]), x, tmp_path).mu.shape == (4,)
    torn = tmp_path / f'counting-{digest(x)}.npz'
    torn.write_bytes(torn.read_bytes()[:300])
    with pytest.raises(ValueError, match='npz: expected'): reference(space, x, tmp_path)


def test_digest_reads_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / 'x.npy', pictures(20).numpy())
    mapped = torch.from_numpy(np.load(tmp_path / 'x.npy', mmap_mode='c'))
    assert digest(mapped) == digest(pictures(20)) != digest(pictures(20, seed=1))


def test_a_plain_function_from_a_file(tmp_path):
    (tmp_path / 'mean.py').write_text('scale = 2\ndef colours(): return lambda images: scale * images.float().mean((2, 3))\n')
    space = load_space(f'{tmp_path}/mean.py:colours')
    assert_close(next(features(space, pictures(5))), 2 * pictures(5).float().mean((2, 3)))
    for spec in ('', 'colours', f'{tmp_path}/mean.py', f'{tmp_path}:colours', f'{tmp_path}/mean.py:nothing'):
        with pytest.raises(ValueError): load_space(spec)


# --- Inception ----------------------------------------------------------------------------------------------------

class Payload:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


def test_missing_and_wrong_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r'checkpoints.* does not exist. FID needs weights-inception\S+pth .* from https'): inception()
    torch.save({'a': Payload(tmp_path / 'run')}, tmp_path / 'code.pth')
    (tmp_path / 'text.pth').write_text('weights')
    torch.save({'conv': torch.zeros(3)}, tmp_path / 'other.pth')
    for name in ('code', 'text', 'other'):
        with pytest.raises(ValueError, match=rf'{name}\.pth holds no weights'): inception(tmp_path / f'{name}.pth')
    assert not (tmp_path / 'run').exists()


def test_made_up_weights_go_the_whole_way_and_are_not_fid(tmp_path, monkeypatch):
    "Untrained weights where torch keeps its downloads: only their checksum tells them from the true ones."
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state): pass
    path = tmp_path / 'checkpoints' / URL_INCEPTION_V3.rpartition('/')[2]
    path.parent.mkdir()
    torch.save({}, path)
    torch.manual_seed(0)
    torch.save(Untrained('untrained', ['2048'], path).state_dict(), path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    space = inception()
    assert not space.fid and space.name.startswith('inception-') and spaces.FID_WEIGHTS in path.name
    with pytest.raises(ValueError, match=r'x: got \(3, 2048\)'): evaluate(space, pictures(3), Statistics(torch.zeros(2048), torch.eye(2048)))
    monkeypatch.setattr(spaces, 'FID_WEIGHTS', space.name[-8:])
    true = inception()
    assert true.fid and true.name == 'inception-v3-compat'
    rows = 3000
    answers = Space(true.name, lambda images: torch.randn(len(images), 20), head=torch.randn(7, 20), fid=true.fid)
    found = evaluate(answers, pictures(rows), statistics(randn(rows, 20).float(), keep=rows))
    assert {'fid', 'isc', 'kid'} < set(found) and 'frechet' not in found and summary(found).startswith('fid ')
