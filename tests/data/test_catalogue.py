"""A data set is one entry: loaded by its name, prepared by its recipe, known again by its folder, and refused where damaged."""
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.data.catalogue import DATASETS, DataSet, Recipe, download, is_there, load, prepared, prepared_text
from coulomb_gan.data.catalogue import published, recipe, sentences, wanted
from coulomb_gan.data.datasets import Data, Modes, content_digest, identity
from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.data.synthetic import mixture_means
from coulomb_gan.files import RunError
from coulomb_gan.metrics.registry import metric
from coulomb_gan.reporting.reproduce import report_of
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import experiment
from made_files import fill, news, quietly


@pytest.fixture
def entries(monkeypatch):
    "The catalogue; what a test adds is taken out again"
    def add(name, **fields): monkeypatch.setitem(DATASETS, name, DataSet(**fields))
    return add


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder of 12 prepared images"
    monkeypatch.chdir(tmp_path)
    fill('tree', 12)
    quietly('tree', 'images')
    return tmp_path / 'images'


def manifest(folder, **changes):
    "Changes fields of a manifest; None takes one out"
    path = folder / 'manifest.json'
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


# --- an entry -----------------------------------------------------------------------------------------------------

def two_rings():
    "Two modes on a line"
    means = torch.tensor([[-2., 0.], [2., 0.]])
    labels = torch.arange(220) % 2
    points = means[labels] + .1 * torch.randn(220, 2, generator=torch.Generator().manual_seed(0))
    return Data(train=points[:200], test=points[200:], digest=content_digest(points), modes=Modes(means, .1))


def test_a_data_set_of_points_is_one_entry(entries, tmp_path):
    "Loaded by name, trained on, measured by its modes, found again, and reported on"
    entries('two-modes', kind='points', report='mixture', load=two_rings, published={'fid': 7.})
    data = load('two-modes')
    assert (data.name, data.kind, is_there('two-modes'), published(data)) == ('two-modes', 'points', True, {'fid': 7.})
    watched = metric('modes')
    found = watched.compute(data.test, watched.prepare(data, 20, 'cpu'))
    assert found['modes'] == 2
    e = experiment('tiny', data='two-modes', steps=2, eval_every=2, monitor='modes', latent=2)
    fit(e, tmp_path / 'run', progress=False)
    run = load_run(tmp_path / 'run')
    assert run.data.name == 'two-modes' and run.metrics[-1]['modes'] <= 2 and report_of(run) == 'mixture'


def test_a_data_set_of_images_is_one_entry(entries, said, place):
    "Prepared by its recipe with the command, known again by its name, wherever the folder lies"
    entries('shapes', kind='images', report='images', recipe=Recipe(8, crop=12, files='any pictures'), published={'fid': 3.5})
    assert said('prepare shapes tree').startswith('12 images of 8 pixels, 2 of them held out')
    data = load('data/shapes')
    assert (data.name, data.shape, len(data.train), published(data)) == ('shapes', (3, 8, 8), 10, {'fid': 3.5})
    whole = prepared(place)  # the largest square instead of the crop
    assert whole.shape == data.shape and not torch.equal(whole.train, data.train)
    (place.parent / 'data/shapes').rename(place.parent / 'elsewhere')
    assert load('elsewhere').name == 'shapes' and is_there('elsewhere') and not is_there('shapes')
    with pytest.raises(ValueError, match='shapes holds no prepared images'): load('shapes')


def test_an_unknown_name_is_refused_with_the_new_one_among_the_suggestions(entries, refused, place):
    entries('shapes', kind='images', report='images', recipe=Recipe(8, files='any pictures'))
    assert "no data set to prepare 'shape'; did you mean 'shapes'?" in refused('prepare shape tree')
    assert 'get any pictures, and give its path: coulomb-gan prepare shapes PATH' in refused('prepare shapes')
    assert 'torchvision has no download for shapes; get any pictures' in refused('prepare shapes --download')


@pytest.mark.parametrize('name', DATASETS)
def test_every_entry_is_complete(name):
    entry = DATASETS[name]
    assert entry.kind in ('images', 'points', 'text') and entry.report in ('images', 'mixture', 'text')
    assert entry.recipe is None or (entry.kind == 'images' and entry.load is None)
    assert entry.load is not None or entry.recipe is not None or entry.kind == 'text'
    assert {*entry.published} <= {'fid', 'jsd'}
    assert is_there(name) == (entry.load is not None)
    if not entry.load: return
    data = load(name)
    assert (data.name, data.kind) == (name, entry.kind) and len(data.digest) == 16
    assert load(name).digest == data.digest


def test_no_two_built_in_sets_are_the_same():
    digests = [load(name).digest for name, entry in DATASETS.items() if entry.load]
    assert len({*digests}) == len(digests) == 4


def test_the_narrow_mixture_has_a_tenth_of_the_variance():
    narrow = load('mixture-narrow')
    assert narrow.modes.std == .1**.5
    spread = (narrow.train - mixture_means()[narrow.train_labels]).var(0)
    assert_close(spread, torch.full((2,), .1), rtol=.02, atol=0)  # four standard errors


def test_the_sentences_are_those_of_this_python():
    texts = sentences()
    assert texts.digest == load('text-builtin').digest and texts.name == ''
    assert texts.kind == 'text' and texts.shape == (32, len(texts.corpus.vocabulary))


# --- names of prepared folders ------------------------------------------------------------------------------------

# folder, `dataset` in its manifest, name in the catalogue
IMAGES = [
    ('images', None, ''), ('images', '', ''), ('images', 'celeba', 'celeba'), ('images', 'unheard-of', ''),
    ('celeba', None, 'celeba'), ('celeba', '', 'celeba'), ('celeba', 'lsun', 'lsun'), ('celeba', 'unheard-of', ''),
    ('celeba', 'billion_word', ''), ('billion_word', None, ''), ('mixture', None, ''), ('digits', None, 'digits'),
]
TEXTS = [
    ('text', None, ''), ('text', 'billion_word', 'billion_word'), ('text', 'celeba', ''), ('celeba', None, ''),
    ('billion_word', None, 'billion_word'), ('billion_word', 'celeba', ''), ('text-builtin', None, 'text-builtin'),
]


@pytest.mark.parametrize('folder, dataset, name', IMAGES)
def test_name_of_a_folder_of_images(folder, dataset, name, place, monkeypatch):
    "What the manifest says, else the folder; a name of a set of another kind is none"
    place.rename(place.parent / folder)
    manifest(place.parent / folder, dataset=dataset)
    data = prepared(folder)
    assert data.name == name and published(data) == (DATASETS[name].published if name else {})
    assert prepared(place.parent / folder).name == prepared(f'./{folder}/').name == name
    monkeypatch.chdir(folder)
    assert prepared('.').name == name


@pytest.fixture
def lines(tmp_path, monkeypatch):
    "A folder of prepared lines"
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'news.txt').write_text('\n'.join(news(40)))
    prepare_text('news.txt', 'text', progress=False)
    return tmp_path / 'text'


@pytest.mark.parametrize('folder, dataset, name', TEXTS)
def test_name_of_a_folder_of_text(folder, dataset, name, lines):
    if folder != 'text': lines.rename(lines.parent / folder)
    manifest(lines.parent / folder, dataset=dataset)
    data = prepared_text(folder)
    assert data.name == name and published(data) == (DATASETS[name].published if name else {})


def test_a_built_in_name_goes_before_a_folder_of_that_name(place):
    place.rename(place.parent / 'digits')
    assert load('digits').shape == (1, 8, 8) and load('./digits').shape == (3, 8, 8)


@pytest.mark.parametrize('name, numbers', [
    ('celeba', {'fid': 9.3}), ('cifar10', {'fid': 27.3}), ('lsun', {'fid': 31.2}), ('billion_word', {'jsd': {4: .35, 6: .74}}),
    ('svhn', {}), ('folder', {}), ('digits', {}), ('', {}), ('unheard-of', {})])
def test_published_numbers_are_those_of_known_names(name, numbers):
    assert published(Data(torch.zeros(1), torch.zeros(1), name=name)) == numbers


# --- what is in a prepared folder ---------------------------------------------------------------------------------

def test_the_last_rows_are_held_out(place):
    rows = np.load(place / 'images.npy')
    for held_out, n in ((None, 2), (1, 1), (5, 5)):
        manifest(place, held_out=held_out)
        data = load(place)
        assert (len(data.train), len(data.test)) == (12 - n, n)
        assert np.array_equal(torch.cat([data.train, data.test]).numpy(), rows)
        assert data.train_labels is None and data.test_labels is None


def test_classes_come_with_their_images(place):
    np.save(place / 'labels.npy', np.arange(12, dtype=np.uint8))
    data = load(place)
    assert data.train_labels.tolist() == [*range(10)] and data.test_labels.tolist() == [10, 11]
    assert data.train_labels.dtype == torch.int64


def test_digest_is_that_of_the_manifest_or_of_the_contents(place, lines):
    assert load(place).digest == json.loads((place / 'manifest.json').read_text())['digest'][:16]
    for folder in (place, lines):
        manifest(folder, digest=None)
        data = load(folder)
        parts = [data.train, data.test] if folder is lines else [torch.cat([data.train, data.test])]
        assert data.digest == content_digest(*parts)


def test_nothing_that_is_written_to_the_tensors_reaches_the_file(place):
    before = (place / 'images.npy').read_bytes()
    data = load(place)
    data.train.zero_()
    assert (place / 'images.npy').read_bytes() == before and load(place).train.any()


def test_texts_of_the_same_indices_and_another_vocabulary_are_other_data(lines):
    one = identity(load(lines))
    letters = json.loads((lines / 'manifest.json').read_text())['vocabulary']
    manifest(lines, vocabulary=letters[:2] + letters[:1:-1])
    other = identity(load(lines))
    assert [key for key in one if one[key] != other[key]] == ['vocabulary']


# --- damage and refusals ------------------------------------------------------------------------------------------

CUTS = {'empty': lambda whole: b'', 'half': lambda whole: whole[:len(whole) // 2], 'a byte short': lambda whole: whole[:-1],
        'another file': lambda whole: b'not this'}


@pytest.mark.parametrize('cut', CUTS)
@pytest.mark.parametrize('file', ['images.npy', 'labels.npy', 'manifest.json'])
def test_a_damaged_file_is_named(file, cut, place):
    np.save(place / 'labels.npy', np.arange(12))
    whole = (place / file).read_bytes().rstrip()
    (place / file).write_bytes(CUTS[cut](whole))
    with pytest.raises(RunError, match=f'{file} is damaged') as error: load(place)
    assert 'prepare' in str(error.value)


WRONG_ARRAYS = {
    'images of floats': ('images.npy', np.zeros((12, 3, 8, 8)), r'images.npy holds float64 \(12, 3, 8, 8\), expected uint8'),
    'images in rows': ('images.npy', np.zeros((12, 192), np.uint8), r'images.npy holds uint8 \(12, 192\), expected'),
    'fewer images': ('images.npy', np.zeros((11, 3, 8, 8), np.uint8), r'images.npy is damaged .*expected 12 rows'),
    'classes as floats': ('labels.npy', np.zeros(12), r'labels.npy holds float64 \(12,\), expected classes'),
    'classes below 0': ('labels.npy', np.full(12, -1), 'labels.npy holds int64 .12,., expected classes'),
    'classes in rows': ('labels.npy', np.zeros((12, 1), int), r'labels.npy holds int64 \(12, 1\), expected classes'),
    'fewer classes': ('labels.npy', np.zeros(11), r'labels.npy is damaged .*expected 12 rows'),
}


@pytest.mark.parametrize('name', WRONG_ARRAYS)
def test_another_array_is_refused(name, place):
    file, array, words = WRONG_ARRAYS[name]
    np.save(place / file, array)
    with pytest.raises(RunError, match=words): load(place)


@pytest.mark.parametrize('held_out', [13, -1, 1000])
def test_more_held_out_than_there_are_is_refused(held_out, place):
    manifest(place, held_out=held_out)
    with pytest.raises(RunError, match=f'manifest.json is damaged .it holds out {held_out} of 12 images'): load(place)


@pytest.mark.parametrize('wrong', [dict(held_out='3'), dict(held_out=2.5), dict(digest=5), dict(dataset=[])])
def test_a_manifest_changed_by_hand_is_named_with_its_entry(wrong, place):
    manifest(place, **wrong)
    with pytest.raises(RunError, match=f'manifest.json is damaged .its {[*wrong][0]} is'): load(place)


@pytest.mark.parametrize('wrong', [dict(vocabulary=7), dict(units=5), dict(vocabulary=''), dict(vocabulary=None)])
def test_a_manifest_of_text_changed_by_hand_is_named_with_its_entry(wrong, lines):
    manifest(lines, **wrong)
    with pytest.raises(RunError, match=f'manifest.json is damaged .*{[*wrong][0]}'): load(lines)


@pytest.mark.parametrize('missing', ['images.npy', 'manifest.json'])
def test_an_unfinished_folder_is_no_data(missing, place):
    (place / missing).unlink()
    with pytest.raises(ValueError, match='holds no prepared images; make them with `coulomb-gan prepare`'): load(place)
    assert is_there(str(place)) == (missing != 'manifest.json')


def test_a_folder_of_text_without_a_manifest_is_no_data(lines):
    (lines / 'manifest.json').unlink()
    with pytest.raises(ValueError, match='holds no prepared text; make it with `coulomb-gan prepare`'): load(lines)


@pytest.mark.parametrize('name', ['', 'cifar11', 'celeba', 'no/such/folder'])
def test_what_is_no_data_set_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_there(name)
    with pytest.raises(ValueError, match='holds no prepared images'): load(name)


# --- getting the files --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', [name for name, entry in DATASETS.items() if entry.recipe])
def test_what_to_get_is_said_with_the_command(name):
    assert recipe(name).files in wanted(name) and wanted(name).endswith(f'coulomb-gan prepare {name} PATH')


@pytest.mark.parametrize('name, words', [
    ('celebs', "no data set 'celebs'; did you mean 'celeba'"), ('digits', "no data set 'digits'"),
    ('billion_word', "no data set 'billion_word'"), ('', 'expected one of cifar10')])
def test_only_images_that_are_prepared_have_a_recipe(name, words):
    for ask in (recipe, wanted):
        with pytest.raises(ValueError, match=words): ask(name)


@pytest.mark.parametrize('name, fetcher, place', [('cifar10', 'CIFAR10', 'cifar-10-batches-py'),
                                                  ('celeba', 'CelebA', 'celeba/img_align_celeba')])
def test_torchvision_fetches_what_it_can(name, fetcher, place, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(f'torchvision.datasets.{fetcher}', lambda folder, download: asked.append((folder, download)))
    assert download(name, tmp_path) == tmp_path / place and asked == [(tmp_path, True)]


def test_svhn_is_fetched_part_by_part_into_a_folder_of_its_own(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr('torchvision.datasets.SVHN', lambda folder, split, download: asked.append((folder, split, download)))
    assert download('svhn', tmp_path) == tmp_path / 'svhn'
    assert asked == [(tmp_path / 'svhn', 'train', True), (tmp_path / 'svhn', 'test', True)]


@pytest.mark.parametrize('error, reason', [
    (OSError('no route'), 'no route'), (OSError(), 'OSError'), (RuntimeError('quota exceeded'), 'quota exceeded'),
    (ModuleNotFoundError("No module named 'gdown'"), "No module named 'gdown'")])
def test_a_download_that_fails_says_what_to_get(error, reason, tmp_path, monkeypatch):
    def fail(folder, download): raise error
    monkeypatch.setattr('torchvision.datasets.CelebA', fail)
    with pytest.raises(RunError, match=rf'the download failed \({reason}\); get img_align_celeba.zip'):
        download('celeba', tmp_path)


@pytest.mark.parametrize('name', ['lsun', 'folder'])
def test_what_torchvision_cannot_fetch(name, tmp_path):
    with pytest.raises(ValueError, match=f'no download for {name}; get '): download(name, tmp_path)
