"""`coulomb-gan evaluate --images`: the page, its numbers, and refusals before anything is computed."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coulomb_gan.data.catalogue import load
from coulomb_gan.data.datasets import digits, to_float
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.metrics.feature_extractors import FeatureExtractor
from coulomb_gan.reporting import evaluate_images as module
from coulomb_gan.reporting.reproduce import evaluate_run, render
from coulomb_gan.reporting.generate import share_run
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import experiment
from coulomb_gan.reporting.evaluate_images import Given, data_set, energy_of, evaluate_images, measure_at_hand, space_table
from pages import check_notebook, check_page, make_pictures, numbers, shown_here

METRICS = {'n_samples', 'energy', 'energy_bias', 'energy_copies', 'energy_interval', 'birthday', 'nearest_median', 'pixels-8x8'}


def write(folder, images):
    Path(folder).mkdir()
    for i, pixels in enumerate(images): Image.fromarray(pixels[0].numpy()).save(Path(folder, f'{i:03}.png'))


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    "Dimmed digits as files, and a report in a folder with a network of one's own"
    place = tmp_path_factory.mktemp('given')
    write(place / 'dimmed', digits().test[:300] // 2)
    rows = FeatureExtractor('rows', lambda images: images.float().mean(2).flatten(1) / 255)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        page = evaluate_images(place / 'dimmed', 'digits', place / 'page', [rows], progress=False)
    return place, page


def test_the_page_shows_everything_and_no_place(rendered):
    place, page = rendered
    assert page == place / 'page/report.html'
    check_page(place / 'page', 4, str(place))
    check_notebook(place / 'page', 4, str(place))
    text = page.read_text()
    for words in ('300 images of dimmed', 'Fréchet distance (not FID)', 'finite-sample bias', 'KID', 'precision', 'recall',
                  'Closest pairs', 'Nearest training images'): assert words in text
    assert 'learning rates' not in text and text.index('Samples') < text.index('Distances in feature spaces')


def test_the_numbers_are_those_of_the_functions(rendered):
    place, _ = rendered
    result = json.loads((place / 'page/result.json').read_text())
    data = digits()
    assert (result['images'], result['n'], result['data'], result['data_digest']) == ('dimmed', 300, 'digits', data.digest)
    found = result['metrics']
    assert METRICS | {'rows', 'digits-classifier-64'} <= found.keys()
    assert all(np.isfinite(n) for n in numbers(result) if isinstance(n, float))
    assert {'frechet', 'bias', 'kid', 'kid_error', 'precision', 'recall'} <= found['pixels-8x8'].keys()
    assert found['energy_interval'][0] > 0 and found['energy'] > 10 * abs(found['energy_bias'])
    again = Given(place, data.test[:300] // 2, data, 'dimmed', 'digits')
    (place / 'result.json').write_text('{"metrics": {}}')
    assert measure_at_hand(again)['pixels-8x8'] == found['pixels-8x8']


def test_one_file(tmp_path, monkeypatch, run):
    "Page and numbers alone, from the command line, of an archive of few colour images and a prepared folder"
    make_pictures(tmp_path / 'raw', count=60, side=12)
    prepare(tmp_path / 'raw', tmp_path / 'data/tints', 12, progress=False, workers=0)
    x = load(tmp_path / 'data/tints').train[:20].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / 'made.npz', samples=x)
    code, out, _ = run('evaluate --images made.npz --data tints --out pages/made.html')
    assert (code, out) == (0, 'open pages/made.html\n')
    assert sorted(p.name for p in Path('pages').iterdir()) == ['made.html', 'made.json']
    text = Path('pages/made.html').read_text()
    assert 'pixels-8x8: 20 images, and the distance needs more than 192' in text and 'Traceback' not in text
    assert json.loads(Path('pages/made.json').read_text())['data'] == 'tints'


def test_two_images_are_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save('two.npy', digits().test[:2, 0].numpy())
    text, figures = shown_here('given_images', images='two.npy', data_path='digits', out='page')
    assert '2 images of two.npy' in text and figures >= 3


REFUSED = {
    'one image': ('one', 'digits', {}, 'got 1 image, expected 2 or more'),
    'no folder': ('nothing', 'digits', {}, 'nothing does not exist'),
    'points': ('dimmed', 'mixture', {}, 'mixture holds points, expected a data set of images'),
    'text': ('dimmed', 'text-builtin', {}, 'text-builtin holds text'),
    'no data': ('dimmed', 'cifar10', {}, 'cifar10 holds no prepared images'),
    'sizes': ('large', 'digits', {}, "'000.png' has 9x9 pixels, the data have 8x8"),
    'inside': ('dimmed', 'digits', dict(out=Path('dimmed/page')), 'lies inside of'),
    'a wide network': ('dimmed', 'digits', dict(extractors=[FeatureExtractor('wide', lambda x: x.float().flatten(1).repeat(1, 5))]),
                       'wide: 5 samples and 1,347 real images; expected more than 320'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_bad_input_is_refused_before_anything_is_computed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write('dimmed', digits().test[:5])
    write('one', digits().test[:1])
    write('large', torch.zeros(3, 1, 9, 9, dtype=torch.uint8))
    def computed(*args, **options): raise AssertionError('computed')
    for function in ('execute', 'evaluate_features', 'write_json', 'write_whole'): monkeypatch.setattr(module, function, computed)
    images, data, options, words = REFUSED[name]
    with pytest.raises(ValueError) as error: evaluate_images(Path(images), data, progress=False, **options)
    assert words in str(error.value) and '\n' not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['dimmed', 'large', 'one']


def test_energy_needs_sixteen_a_side_and_sees_a_shift():
    y = to_float(digits().test)
    assert energy_of(y[:15], y) is None and energy_of(y[:16], y).n == 8
    assert energy_of((y + .3).clamp(-1, 1), y).energy_low > 0


def test_tables_name_what_is_fid():
    found = dict(frechet=1., bias=.5, n=10, n_reference=20)
    assert 'not FID' in space_table('net', found) and 'KID' not in space_table('net', found)
    ours = space_table('inception', dict(fid=1., bias=.5, kid=.1, n=10, n_reference=None))
    assert '| FID | 1 |' in ours and 'not FID' not in ours and 'published statistics' in ours
    assert data_set('digits').shape == (1, 8, 8)


def test_the_folder_of_a_run_keeps_its_own_numbers(tmp_path):
    out = tmp_path / 'run'
    fit(experiment('tiny', steps=2, eval_every=2, eval_samples=20), out, progress=False)
    before = (out / 'result.json').read_bytes()
    write(tmp_path / 'images', digits().test[:20])
    with pytest.raises(ValueError, match='is a run folder, whose own numbers would be lost'):
        evaluate_images(tmp_path / 'images', 'digits', out, progress=False)
    extractor = FeatureExtractor('flat', lambda images: images.flatten(1).float())
    fit(experiment('tiny', steps=2, eval_every=2, eval_samples=20, seed=1), tmp_path / 'other', progress=False)
    for way in (lambda: evaluate_run(tmp_path / 'other', extractor, to=out), lambda: render(tmp_path / 'other', to=out)):
        with pytest.raises(ValueError, match='is the folder of another run'): way()
    assert (out / 'result.json').read_bytes() == before
    share_run(load_run(out), tmp_path / 'shared')  # a copy of the run may have its numbers
    assert evaluate_run(out, FeatureExtractor('few', lambda images: images.flatten(1)[:, :4].float()), to=tmp_path / 'shared',
                        samples=30, cache=tmp_path, progress=False)['n'] == 30
