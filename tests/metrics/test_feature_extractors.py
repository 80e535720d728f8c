"""Networks that give features, those of a user's file and Inception among them, kept references, the metrics."""
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import coulomb_gan.metrics
from coulomb_gan.data.datasets import content_digest
from coulomb_gan.metrics.feature_extractors import FEATURE_METRICS, FeatureExtractor, evaluate_features, feature_metric
from coulomb_gan.metrics.feature_extractors import features, load_extractor, reference, summary
from coulomb_gan.metrics.inception import FID_WEIGHTS, find_weights, inception
from coulomb_gan.metrics.frechet import Statistics, statistics


def pictures(n, seed=0): return torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope='module')
def extractor():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return FeatureExtractor('random-8', lambda images: net(images / 127.5 - 1))


# --- networks and references -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['two words', '', 'a/b', 'a:b'])
def test_a_name_must_name_a_file(name):
    with pytest.raises(ValueError, match="expected letters, digits, '.', '_' and '-'"): FeatureExtractor(name, len)


def test_images_in_every_form(extractor, capsys):
    x = pictures(30)
    whole = torch.cat([*features(extractor, x, batch=7)])
    floats = x.float() / 127.5 - 1
    assert_close(torch.cat([*features(extractor, floats)]), whole)
    assert_close(torch.cat([*features(extractor, 1.001 * floats)]), whole)  # rounded and clipped
    assert_close(torch.cat([*features(extractor, (b for b in floats.split(4)))]), whole)
    assert whole.shape == (30, 8) and not whole.requires_grad and capsys.readouterr().err == ''
    assert len([*features(extractor, x, batch=10, progress=True)]) == 3 and 'random-8: 100%' in capsys.readouterr().err
    with pytest.raises(ValueError, match=r'random-8: images .* expected \(n, k\)'): next(features(extractor, x[0]))


def test_a_set_against_itself_and_noise(extractor):
    x = pictures(200) // 2 + 64
    y = statistics(features(extractor, x), keep=200)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = [evaluate_features(extractor, x.float() / 127.5 - 1 + w * noise, y) for w in (0, .1, .2, .4, .8)]
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
    extractor, x = FeatureExtractor('counting', net), pictures(300)
    first = reference(extractor, x, tmp_path)
    assert (sum(seen), seen.clear()) == (300, None)
    again = reference(extractor, x, tmp_path)
    assert seen == [16] and torch.equal(again.sigma, first.sigma)
    assert reference(extractor, x[:299], tmp_path).n == 299
    assert [*tmp_path.iterdir()] != [] and len([*tmp_path.iterdir()]) == 2
    assert reference(FeatureExtractor('counting', lambda i: net(i)[:, :4]), x, tmp_path).mu.shape == (4,)
    torn = tmp_path / f'counting-{content_digest(x)}.npz'
    torn.write_bytes(torn.read_bytes()[:300])
    with pytest.warns(UserWarning, match='npz: expected an npz .* computed again') as seen_warnings:
        again = reference(extractor, x, tmp_path)
    assert len(seen_warnings) == 1 and torch.equal(again.sigma, first.sigma)
    assert torch.equal(reference(extractor, x, tmp_path).sigma, first.sigma)  # mended


def test_a_reference_is_named_after_network_and_data(tmp_path, extractor):
    x, touched = pictures(30), pictures(30)
    touched[20, 0, 4, 4] ^= 1
    reference(extractor, x, tmp_path)
    reference(extractor, touched, tmp_path)
    reference(extractor, x, tmp_path, key='manifest')
    keys = content_digest(x), content_digest(touched), 'manifest'
    assert {p.name for p in tmp_path.iterdir()} == {f'random-8-{key}.npz' for key in keys}


def test_another_answer_under_the_old_name_is_noticed(tmp_path, extractor):
    x = pictures(30)
    def scaled(size): return FeatureExtractor(extractor.name, lambda images: size * extractor.net(images))
    first = reference(extractor, x, tmp_path, key='key')
    assert torch.equal(reference(scaled(1 + 1e-5), x, tmp_path, key='key').mu, first.mu)
    assert_close(reference(scaled(1.01), x, tmp_path, key='key').mu, 1.01 * first.mu, rtol=1e-5, atol=0)


def test_digest_reads_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / 'x.npy', pictures(20).numpy())
    mapped = torch.from_numpy(np.load(tmp_path / 'x.npy', mmap_mode='c'))
    assert content_digest(mapped) == content_digest(pictures(20)) != content_digest(pictures(20, seed=1))


def test_a_plain_function_from_a_file(tmp_path):
    (tmp_path / 'mean.py').write_text('scale = 2\ndef colours(): return lambda images: scale * images.float().mean((2, 3))\n')
    extractor = load_extractor(f'{tmp_path}/mean.py:colours')
    assert_close(next(features(extractor, pictures(5))), 2 * pictures(5).float().mean((2, 3)))
    for spec in ('', 'colours', f'{tmp_path}/mean.py', f'{tmp_path}:colours', f'{tmp_path}/none.py:colours'):
        with pytest.raises(ValueError, match='expected FILE.py:FUNCTION with a file'): load_extractor(spec)
    with pytest.raises(ValueError, match=r"mean\.py has no function 'nothing'"): load_extractor(f'{tmp_path}/mean.py:nothing')


def test_a_module_from_a_file_is_evaluated(tmp_path):
    "Its dropout is off, and it keeps no gradients."
    (tmp_path / 'random.py').write_text('''
from torch import nn
def make(): return nn.Sequential(Floats(), nn.Flatten(), nn.Linear(192, 4), nn.Dropout(.5))
class Floats(nn.Module):
    def forward(self, images): return images / 255
''')
    extractor = load_extractor(f'{tmp_path}/random.py:make')
    first, again = (next(features(extractor, pictures(5))) for _ in range(2))
    assert extractor.name == 'random-make' and torch.equal(first, again) and not first.requires_grad and not extractor.fid


@pytest.mark.parametrize('cache', ['file', 'file/below'])
def test_statistics_are_not_lost_with_their_cache(tmp_path, extractor, cache):
    "A folder that cannot be made, here since a file is in its place, stands for one that is read-only"
    (tmp_path / 'file').write_text('in the way')
    x = pictures(50)
    with pytest.warns(UserWarning, match=rf'{cache}/random-8-key\.npz cannot be written') as seen:
        s = reference(extractor, x, tmp_path / cache, key='key')
    assert len(seen) == 1 and '\n' not in str(seen[0].message)
    assert torch.equal(s.sigma, statistics(features(extractor, x)).sigma)


def test_empty_batches_of_images_are_skipped(extractor):
    x = pictures(30)
    shown = []
    def net(images):
        shown.append(len(images))
        return extractor.net(images)
    batches = [x[:0], x[:10], x[:0], x[10:], x[:0]]
    assert [len(f) for f in features(FeatureExtractor('shown', net), batches)] == [10, 20] == shown
    found, whole = (evaluate_features(extractor, images, statistics(features(extractor, x))) for images in (batches, x))
    assert found == pytest.approx(whole, abs=1e-9)
    assert [*features(extractor, x[:0])] == []
    with pytest.raises(ValueError, match='got 0 rows'): evaluate_features(extractor, [x[:0]], statistics(features(extractor, x)))


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.int8, torch.bool])
def test_images_of_other_integers_are_refused(extractor, dtype):
    with pytest.raises(ValueError, match=rf'random-8: got images of {dtype}, expected uint8, or floats'):
        next(features(extractor, pictures(5).to(dtype)))


@pytest.mark.parametrize('size', [1., 1e5, 1e20])
def test_metrics_of_large_features(size):
    "Cubes of products of features leave float32 from a size of a million on; distances and shares only scale"
    w = torch.randn(192, 4, generator=torch.Generator().manual_seed(0))
    def found(size):
        extractor = FeatureExtractor('wide', lambda images: size * (images.flatten(1) / 255.) @ w)
        return evaluate_features(extractor, pictures(60), statistics(features(extractor, pictures(60, seed=1)), keep=60))
    plain, scaled = found(1.), found(size)
    assert all(math.isfinite(scaled[name]) for name in ('kid', 'kid_std'))
    assert (scaled['precision'], scaled['recall']) == (plain['precision'], plain['recall'])
    assert scaled['frechet'] / size**2 == pytest.approx(plain['frechet'], rel=1e-4)


def test_a_published_reference_leaves_the_distance(extractor):
    s = statistics(features(extractor, pictures(50)))
    found = evaluate_features(extractor, pictures(40, seed=1), Statistics(s.mu, s.sigma))
    assert [*found][:2] == ['frechet', 'bias'] and {'kid', 'precision', 'recall', 'n_kept', 'isc'}.isdisjoint(found)
    assert (found['space'], found['n'], found['n_reference']) == ('random-8', 40, None)


def test_no_more_images_than_features_are_refused(extractor):
    y = statistics(features(extractor, pictures(50)), keep=50)
    with pytest.raises(ValueError, match=r'x: got \(8, 8\), expected \(n, k\)'): evaluate_features(extractor, pictures(8), y)


def test_the_name_of_the_distance_hangs_on_the_network(extractor):
    y = statistics(features(extractor, pictures(50)), keep=50)
    head = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    official = FeatureExtractor(extractor.name, extractor.net, head=head, fid=True)
    found = evaluate_features(official, pictures(40, seed=1), y)
    assert [*found][:9] == ['fid', 'bias', 'kid', 'kid_std', 'precision', 'recall', 'n_kept', 'isc', 'isc_std']
    assert [*found][-3:] == ['space', 'n', 'n_reference'] and 'frechet' not in found
    assert found['fid'] == evaluate_features(extractor, pictures(40, seed=1), y)['frechet']


def test_numbers_that_are_not_finite_are_refused(extractor):
    head = torch.full((3, 8), torch.finfo(torch.float32).max)
    wide = FeatureExtractor('wide', lambda images: 1e3 * extractor.net(images), head=head)
    with pytest.raises(ValueError, match='wide: got isc, isc_std not finite'):
        evaluate_features(wide, pictures(50), statistics(features(wide, pictures(50))))


def test_an_unknown_number_of_real_images_is_called_so(extractor):
    s = statistics(features(extractor, pictures(50)))
    line = summary(evaluate_features(extractor, pictures(50), Statistics(s.mu, s.sigma)))
    assert line.endswith('50 samples against an unknown number of real images in random-8')


# --- the registry -------------------------------------------------------------------------------------------------

SCRATCH = '''
from coulomb_gan.metrics.feature_extractors import feature_metric

@feature_metric('scratch')
def scratch(x, y, extractor):
    if y.features is None: return {}
    return dict(width=x.sigma.trace().item(), width_std=.25, most=12345)
'''

@pytest.fixture
def registered(monkeypatch):
    "The registry as it is before and after, whatever the test enters."
    before = dict(FEATURE_METRICS)
    yield FEATURE_METRICS
    FEATURE_METRICS.clear()
    FEATURE_METRICS.update(before)


def test_the_metrics_of_this_room_come_first():
    assert [*FEATURE_METRICS][:4] == ['frechet', 'kid', 'precision-recall', 'inception-score']


def test_a_new_metric_appears_in_result_and_summary(extractor, registered):
    x, y = pictures(40, seed=1), statistics(features(extractor, pictures(50)), keep=50)
    before = evaluate_features(extractor, x, y)
    seen = []
    @feature_metric('scratch')
    def scratch(*arguments):
        seen.append(arguments)
        return dict(scratch=.5)
    found = evaluate_features(extractor, x, y)
    assert found == before | dict(scratch=.5) and [*found][-4:] == ['scratch', 'space', 'n', 'n_reference']
    assert summary(found) == summary(before).replace(';', ', scratch 0.5;')
    (s, real, network), = seen
    assert real is y and network is extractor and torch.equal(s.features, torch.cat([*features(extractor, x)]))


def test_a_metric_on_a_page_of_its_own_is_found(extractor, registered, tmp_path, monkeypatch):
    "One further module in the chapter is enough: nothing names it."
    (tmp_path / 'scratch_metric.py').write_text(SCRATCH)
    monkeypatch.setattr(coulomb_gan.metrics, '__path__', [*coulomb_gan.metrics.__path__, str(tmp_path)])
    name = 'coulomb_gan.metrics.scratch_metric'
    monkeypatch.delitem(sys.modules, name, raising=False)
    y = statistics(features(extractor, pictures(50)), keep=50)
    try: found = evaluate_features(extractor, pictures(40, seed=1), y)
    finally: sys.modules.pop(name, None)
    assert 'scratch' in registered and ', width ' in summary(found) and ' ± 0.25, most 12,345; 40 samples' in summary(found)
    assert 'width_std' not in summary(found)
    published = evaluate_features(extractor, pictures(40, seed=1), Statistics(y.mu, y.sigma))
    assert 'width' not in published


def test_a_name_is_given_once(registered):
    with pytest.raises(ValueError, match="'kid' is taken by _kid"): feature_metric('kid')(len)


def test_a_new_metric_must_be_finite(extractor, registered):
    feature_metric('scratch')(lambda x, y, extractor: dict(scratch=math.nan))
    with pytest.raises(ValueError, match='random-8: got scratch not finite'):
        evaluate_features(extractor, pictures(40), statistics(features(extractor, pictures(50))))


def test_a_summary_shows_every_number():
    found = dict(a=1.23456, b=2., b_std=.125, c_std=3., d=12345, reference='file', space='net', n=1000, n_reference=None)
    line = 'a 1.235, b 2 ± 0.12, c_std 3, d 12,345; 1,000 samples against an unknown number of real images in net'
    assert summary(found) == line


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
    extractor = load_extractor(f'{tmp_path if absolute else "."}/nets/mine.py:make')
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    x = pictures(5)
    assert_close(next(features(extractor, x)), 2 * x.float().flatten(1).sum(1, keepdim=True).expand(-1, 4))
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
    absent = r'does not exist. FID needs weights-inception\S+pth \(96 MB\) from https'
    with pytest.raises(ValueError, match=f'checkpoints.* {absent}'): inception()
    for without in (find_weights, inception):
        with pytest.raises(ValueError, match=rf'absent\.pth {absent}'): without(tmp_path / 'absent.pth')
    torch.save({'a': Payload(tmp_path / 'run')}, tmp_path / 'code.pth')
    (tmp_path / 'text.pth').write_text('weights')
    torch.save({'conv': torch.zeros(3)}, tmp_path / 'other.pth')
    torch.save([1], tmp_path / 'list.pth')
    torch.save(Path, tmp_path / 'class.pth')
    for name in ('code', 'text', 'other', 'list', 'class'):
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
    extractor = inception()
    assert not extractor.fid and extractor.name.startswith('inception-') and FID_WEIGHTS in path.name
    published = Statistics(torch.zeros(2048), torch.eye(2048))
    with pytest.raises(ValueError, match=r'x: got \(3, 2048\)'): evaluate_features(extractor, pictures(3), published)
    monkeypatch.setattr('coulomb_gan.metrics.inception.FID_WEIGHTS', extractor.name[-8:])
    true = inception()
    assert true.fid and true.name == 'inception-v3-compat'
    rows = 3000
    answers = FeatureExtractor(
        true.name, lambda images: torch.randn(len(images), 20), head=torch.randn(7, 20), fid=true.fid)
    found = evaluate_features(answers, pictures(rows), statistics(torch.randn(rows, 20), keep=rows))
    assert {'fid', 'isc', 'kid'} < set(found) and 'frechet' not in found and summary(found).startswith('fid ')
