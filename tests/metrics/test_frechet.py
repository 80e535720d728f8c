"""The Fréchet distance against independent oracles, files and caches of statistics, spaces that are not there."""
import math
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.linalg import sqrtm
from torch import nn
from torch.testing import assert_close

from coulomb_gan.metrics import feature_extractors
from coulomb_gan.data.datasets import content_digest
from coulomb_gan.metrics.frechet import Statistics, frechet, load_statistics, finite_sample_bias, save_statistics, statistics
from coulomb_gan.metrics.feature_extractors import FeatureExtractor, evaluate_features, features, inception, load_extractor, reference, summary


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
    return FeatureExtractor('random-8', lambda images: net(images / 127.5 - 1))


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


def test_too_few_rows_are_refused():
    for n in (2, 5):
        with pytest.raises(ValueError, match=rf'x: got \({n}, 5\), expected \(n, k\)'): frechet(randn(n, 5), randn(9, 5))
    with pytest.raises(ValueError, match=r'y: got \(5, 5\)'): frechet(randn(9, 5), randn(5, 5))
    frechet(randn(6, 5), randn(6, 5, seed=1))


@pytest.mark.parametrize('k', [1, 3, 10])
def test_floor_of_a_round_gaussian(k):
    "k (k + 5) / 4 for unit variances, by its own formula and by the fourth moments of many rows (1 % off)"
    exact = k * (k + 5) / 4 * (1/50 + 1/200)
    assert math.isclose(finite_sample_bias(Statistics(torch.zeros(k), torch.eye(k).double()), 50, 200), exact, rel_tol=1e-12)
    assert math.isclose(finite_sample_bias(statistics(randn(200_000, k), keep=200_000), 50, 200), exact, rel_tol=.02)


def test_features_that_never_vary_add_nothing():
    rows = randn(300, 4)
    padded = torch.cat([rows, torch.full((300, 3), 7.)], 1).float()
    floors = [finite_sample_bias(statistics(f, keep=300), 100) for f in (rows, padded)]
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
    ('shape', dict(mu=[0., 0.], sigma=[[1.]])), ('nothing', dict(nu=[0.])), ('words', dict(mu=['a'], sigma=[['b']])),
    ('counts', dict(mu=[0.], sigma=[[1.]], n=[3, 4])), ('few', dict(mu=[0.], sigma=[[1.]], n=1)),
    ('narrow', dict(mu=[0., 0.], sigma=np.eye(2), features=[[1.]])), ('flat', dict(mu=[0., 0.], sigma=np.eye(2), features=[1., 2.])),
    ('number', dict(mu=0., sigma=1.))])
def test_other_files_are_refused(tmp_path, name, content):
    path = tmp_path / f'{name}.npz'
    if content is None:
        save_statistics(path, statistics(randn(50, 6)))
        content = path.read_bytes()[:200]
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(ValueError, match=rf'{name}\.npz: expected an npz .*; .+'): load_statistics(path)


@pytest.mark.parametrize('packed', [False, True])
def test_damaged_files_are_named(tmp_path, packed):
    "Cut short anywhere, or with any byte changed: the statistics, or one line that names the file"
    path, s = tmp_path / 's.npz', statistics(randn(30, 3), keep=5)
    (np.savez_compressed if packed else np.savez)(path, mu=s.mu, sigma=s.sigma, n=s.n, features=s.features)
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        for damaged in (whole[:i], whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i+1:]):
            path.write_bytes(damaged)
            try: again = load_statistics(path)
            except ValueError as e: assert str(e).startswith(f'{path}: expected an npz') and '\n' not in str(e)
            else: assert again.mu.shape == (3,) and len(damaged) == len(whole)


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
    found = [evaluate_features(space, x.float() / 127.5 - 1 + w * noise, y) for w in (0, .1, .2, .4, .8)]
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
    space, x = FeatureExtractor('counting', net), pictures(300)
    first = reference(space, x, tmp_path)
    assert (sum(seen), seen.clear()) == (300, None)
    again = reference(space, x, tmp_path)
    assert seen == [16] and torch.equal(again.sigma, first.sigma)
    assert reference(space, x[:299], tmp_path).n == 299
    assert [*tmp_path.iterdir()] != [] and len([*tmp_path.iterdir()]) == 2
    assert reference(FeatureExtractor('counting', lambda i: net(i)[:, :4]), x, tmp_path).mu.shape == (4,)
    torn = tmp_path / f'counting-{content_digest(x)}.npz'
    torn.write_bytes(torn.read_bytes()[:300])
    with pytest.warns(UserWarning, match='npz: expected an npz .* computed again') as seen_warnings:
        again = reference(space, x, tmp_path)
    assert len(seen_warnings) == 1 and torch.equal(again.sigma, first.sigma)
    assert torch.equal(reference(space, x, tmp_path).sigma, first.sigma)  # mended


def test_digest_reads_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / 'x.npy', pictures(20).numpy())
    mapped = torch.from_numpy(np.load(tmp_path / 'x.npy', mmap_mode='c'))
    assert content_digest(mapped) == content_digest(pictures(20)) != content_digest(pictures(20, seed=1))


def test_a_plain_function_from_a_file(tmp_path):
    (tmp_path / 'mean.py').write_text('scale = 2\ndef colours(): return lambda images: scale * images.float().mean((2, 3))\n')
    space = load_extractor(f'{tmp_path}/mean.py:colours')
    assert_close(next(features(space, pictures(5))), 2 * pictures(5).float().mean((2, 3)))
    for spec in ('', 'colours', f'{tmp_path}/mean.py', f'{tmp_path}:colours', f'{tmp_path}/mean.py:nothing'):
        with pytest.raises(ValueError): load_extractor(spec)


@pytest.mark.parametrize('cache', ['file', 'file/below'])
def test_statistics_are_not_lost_with_their_cache(tmp_path, space, cache):
    "A folder that cannot be made, here since a file is in its place, stands for one that is read-only"
    (tmp_path / 'file').write_text('in the way')
    x = pictures(50)
    with pytest.warns(UserWarning, match=rf'{cache}/random-8-key\.npz cannot be written') as seen:
        s = reference(space, x, tmp_path / cache, key='key')
    assert len(seen) == 1 and '\n' not in str(seen[0].message)
    assert torch.equal(s.sigma, statistics(features(space, x)).sigma)


def test_empty_batches_of_images_are_skipped(space):
    x = pictures(30)
    shown = []
    def net(images):
        shown.append(len(images))
        return space.net(images)
    batches = [x[:0], x[:10], x[:0], x[10:], x[:0]]
    assert [len(f) for f in features(FeatureExtractor('shown', net), batches)] == [10, 20] == shown
    found, whole = (evaluate_features(space, images, statistics(features(space, x))) for images in (batches, x))
    assert found == pytest.approx(whole, abs=1e-9)
    assert [*features(space, x[:0])] == []
    with pytest.raises(ValueError, match='got 0 rows'): evaluate_features(space, [x[:0]], statistics(features(space, x)))


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.int8, torch.bool])
def test_images_of_other_integers_are_refused(space, dtype):
    with pytest.raises(ValueError, match=rf'random-8: got images of {dtype}, expected uint8, or floats'):
        next(features(space, pictures(5).to(dtype)))


@pytest.mark.parametrize('size', [1., 1e5, 1e20])
def test_metrics_of_large_features(size):
    "Cubes of products of features leave float32 from a size of a million on; distances and shares only scale"
    w = torch.randn(192, 4, generator=torch.Generator().manual_seed(0))
    def found(size):
        space = FeatureExtractor('wide', lambda images: size * (images.flatten(1) / 255.) @ w)
        return evaluate_features(space, pictures(60), statistics(features(space, pictures(60, seed=1)), keep=60))
    plain, scaled = found(1.), found(size)
    assert all(math.isfinite(scaled[name]) for name in ('kid', 'kid_std'))
    assert (scaled['precision'], scaled['recall']) == (plain['precision'], plain['recall'])
    assert scaled['frechet'] / size**2 == pytest.approx(plain['frechet'], rel=1e-4)


def test_numbers_that_are_not_finite_are_refused(space):
    head = torch.full((3, 8), torch.finfo(torch.float32).max)
    wide = FeatureExtractor('wide', lambda images: 1e3 * space.net(images), head=head)
    with pytest.raises(ValueError, match='wide: got isc, isc_std not finite'):
        evaluate_features(wide, pictures(50), statistics(features(wide, pictures(50))))


def test_an_unknown_number_of_real_images_is_called_so(space):
    s = statistics(features(space, pictures(50)))
    line = summary(evaluate_features(space, pictures(50), Statistics(s.mu, s.sigma)))
    assert line.endswith('50 samples against an unknown number of real images in random-8')


# --- networks from a user's file ----------------------------------------------------------------------------------

NEIGHBOUR = {'nets/parts.py': 'WIDTH = 4', 'nets/late.py': 'SCALE = 2.'}
HELPED = '''
import torch
from parts import WIDTH
def make():
    weights = torch.ones(192, WIDTH)
    def net(images):
        from late import SCALE
        return SCALE * images.float().flatten(1) @ weights
    return net
'''

def written(folder, **files):
    for name, text in {**NEIGHBOUR, **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding='utf-8')


@pytest.mark.parametrize('absolute', [False, True])
def test_a_file_finds_its_neighbours_then_and_later(tmp_path, monkeypatch, absolute):
    written(tmp_path, **{'nets/mine.py': HELPED})
    monkeypatch.chdir(tmp_path)
    for name in ('parts', 'late'): monkeypatch.delitem(sys.modules, name, raising=False)
    before = list(sys.path)
    space = load_extractor(f'{tmp_path if absolute else "."}/nets/mine.py:make')
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    x = pictures(5)
    assert_close(next(features(space, x)), 2 * x.float().flatten(1).sum(1, keepdim=True).expand(-1, 4))
    assert sys.path == before
    for name in ('parts', 'late'): monkeypatch.delitem(sys.modules, name)


FAILING = {  # the file, the line and the error that the message names
    'on import': ('import torch\nraise OSError("no weights")', 2, 'OSError: no weights'),
    'a module that is not there': ('import torch\n\nimport nowhere_to_be_found', 3, "ModuleNotFoundError: No module named"),
    'no Python': ('import torch\n\ndef make(:', 3, 'SyntaxError: '),
    'no text': ('def make():\n    pass\n\0', None, 'Error: '),
    'a neighbour is no Python': ('import torch\nimport torn', 2, r'SyntaxError: .*torn\.py'),
    'it leaves': ('import sys\nsys.exit("wrong machine")', 2, 'SystemExit: wrong machine'),
    'it leaves in the function': ('def make():\n    raise SystemExit(3)', 2, 'SystemExit: 3'),
    'in the function': ('def make():\n    return {}["layer"]', 2, "KeyError: 'layer'"),
    'below the function': ('import json\ndef make():\n    return json.loads("{")', 3, 'JSONDecodeError: '),
    'in many lines': ('def make():\n    raise RuntimeError("missing:\\n\\tconv1\\n\\tconv2")', 2, 'RuntimeError: missing: conv1 conv2$'),
    'without a word': ('def make():\n    raise NotImplementedError', 2, 'NotImplementedError'),
    'it wants arguments': ('def make(depth): pass', None, 'TypeError: .*depth'),
    'when asked': ('def make():\n    def net(images):\n        return images.view(7)\n    return net', 3, 'RuntimeError: '),
    'when a module is asked': ('from torch import nn\nclass make(nn.Module):\n    def forward(self, images):\n        return self.head(images)',
                               4, "AttributeError: 'make' object has no attribute 'head'"),
    'when asked it leaves': ('def make():\n    return lambda images: exit(1)', 2, 'SystemExit: 1'),
}

@pytest.mark.parametrize('what', FAILING)
def test_what_a_file_raises_is_one_line_with_its_place(tmp_path, monkeypatch, what):
    text, line, error = FAILING[what]
    written(tmp_path, **{'nets/mine.py': text, 'nets/torn.py': 'x = = 1'})
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(ValueError) as caught: [*features(load_extractor('nets/mine.py:make'), pictures(5))]
    message = str(caught.value)
    place = 'nets/mine\\.py' + (f', line {line}' if line else '(, line [0-9]+)?')
    assert re.match(f'{place}: .*{error}', message) and '\n' not in message
    assert type(caught.value.__cause__).__name__ in message      # what --debug shows
    assert sys.path == before


def test_long_messages_are_cut(tmp_path):
    written(tmp_path, **{'nets/mine.py': 'def make(): raise RuntimeError("missing keys: " + "layer.weight, " * 1000)'})
    with pytest.raises(ValueError, match=r'missing keys: layer.weight, .*\[\.\.\.\]$') as caught:
        load_extractor(f'{tmp_path}/nets/mine.py:make')
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize('name, text, message', [
    ('nothing', 'weights = 3', r"nets/mine\.py has no function 'nothing'"),
    ('weights', 'weights = 3', r"nets/mine\.py has no function 'weights'"),
    ('make', 'def make(): pass', r'nets/mine\.py: make\(\) gave NoneType, expected a network'),
    ('make', 'def make(): return lambda images: [1, 2]', r'mine-make: images \(5, 3, 8, 8\) gave list, expected \(n, k\)'),
    ('make', 'def make(): return lambda images: images.float().numpy()', r'gave ndarray, expected \(n, k\)'),
    ('make', 'def make(): return lambda images: None', r'gave NoneType, expected \(n, k\)')])
def test_what_is_no_network_is_refused(tmp_path, monkeypatch, name, text, message):
    written(tmp_path, **{'nets/mine.py': text})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as caught: [*features(load_extractor(f'nets/mine.py:{name}'), pictures(5))]
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', ['raise KeyboardInterrupt', 'def make(): raise KeyboardInterrupt',
                                  'def make():\n    def net(images): raise KeyboardInterrupt\n    return net'])
def test_a_user_may_interrupt(tmp_path, text):
    written(tmp_path, **{'nets/mine.py': text})
    before = list(sys.path)
    with pytest.raises(KeyboardInterrupt): [*features(load_extractor(f'{tmp_path}/nets/mine.py:make'), pictures(5))]
    assert sys.path == before


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


@pytest.mark.parametrize('zipped', [True, False])
def test_damaged_weights_are_named(tmp_path, zipped):
    "Bytes of a pickle are its commands: changed ones raise anything from KeyError to AssertionError"
    path = tmp_path / 'damaged.pth'
    torch.save({'conv': torch.zeros(3), 'more': [1, 'x']}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for i in range(0, len(whole), len(whole) // 40):
        for damaged in (whole[:i], whole[:i] + bytes([whole[i] ^ 0x9c]) + whole[i+1:]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r'damaged\.pth holds no weights'): inception(path)


def test_weights_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    path = tmp_path / 'weights.pth'
    path.write_bytes(b'weights')
    def refuse(self): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Path, 'read_bytes', refuse)
    with pytest.raises(ValueError, match=r'cannot read .*weights\.pth: .*Permission denied'): inception(path)


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
    assert not space.fid and space.name.startswith('inception-') and feature_extractors.FID_WEIGHTS in path.name
    with pytest.raises(ValueError, match=r'x: got \(3, 2048\)'): evaluate_features(space, pictures(3), Statistics(torch.zeros(2048), torch.eye(2048)))
    monkeypatch.setattr(spaces, 'FID_WEIGHTS', space.name[-8:])
    true = inception()
    assert true.fid and true.name == 'inception-v3-compat'
    rows = 3000
    answers = FeatureExtractor(true.name, lambda images: torch.randn(len(images), 20), head=torch.randn(7, 20), fid=true.fid)
    found = evaluate_features(answers, pictures(rows), statistics(randn(rows, 20).float(), keep=rows))
    assert {'fid', 'isc', 'kid'} < set(found) and 'frechet' not in found and summary(found).startswith('fid ')
