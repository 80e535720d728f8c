"""`coulomb-gan prepare`: options of the other kind, sources that are not there, and what a failure leaves."""
import json
from pathlib import Path

import pytest
from PIL import Image

from coulomb_gan.data.catalogue import DATASETS, load, prepared
from coulomb_gan.reporting.cli_prepare import TEXT_OPTIONS, prepare_data

WRONG = {
    'prepare celeb .': "did you mean 'celeba'?",
    'prepare digits .': 'there is no data set to prepare',      # it is built in
    'prepare': 'DATASET',
    'prepare folder a b': 'b',
    'prepare billion_word': 'training-monolingual.tokenized.shuffled',
    'prepare billion_word nowhere': 'does not exist',
    'prepare cifar10': 'cifar-10-python.tar.gz',
    'prepare lsun': 'bedroom_train_lmdb',
    'prepare lsun --download': 'torchvision has no download for lsun',
    'prepare folder nothing': 'nothing',
    'prepare folder file': 'file',
    'prepare folder texts': 'a.png',
    'prepare folder texts --size 0': '--size',
    'prepare folder texts --max-bad 2': '--max-bad',
    'prepare folder texts --workers -1': '--workers',
    'prepare folder texts --out file': 'file',
    'prepare folder texts --siz 3': '--size',
    'prepare billion_word file --units words': 'characters',
    'prepare billion_word file --limit 1': '--limit'}
IMAGE_OPTIONS = ['--size 3', '--crop 3', '--upscale', '--held-out-folder a', '--workers 1', '--max-bad .5', '--download']
TEXT = ['--length 5', '--vocabulary 10', '--units bytes', '--limit 9']


@pytest.fixture
def things(place):
    "A file, and a folder of files that are no images"
    Path('file').write_text('text')
    Path('texts').mkdir()
    Path('texts/a.png').write_text('no image')


def refused(run, line):
    "The one line on stderr, progress bars aside"
    code, out, err = run(line)
    err = [e for e in err if e.strip() and not e.lstrip().startswith('images:')]
    assert code in (1, 2) and out == '' and len(err) == 1 and err[0].startswith('coulomb-gan: ')
    return err[0]


@pytest.mark.usefixtures('things')
@pytest.mark.parametrize('line', WRONG)
def test_wrong_input_is_one_line(line, run):
    assert WRONG[line] in refused(run, line)
    assert sorted(p.name for p in Path('.').iterdir() if p.name != 'data') == ['file', 'texts']


@pytest.mark.usefixtures('things')
@pytest.mark.parametrize('dataset, option', [*(('billion_word', option) for option in IMAGE_OPTIONS),
                                             *((name, option) for name in ('celeba', 'folder') for option in TEXT)])
def test_an_option_of_the_other_kind_is_refused(dataset, option, run):
    assert f'{option.split()[0]} is not for {dataset}' in refused(run, f'prepare {dataset} file {option}')
    assert not Path('data').exists()


def test_every_option_is_of_one_kind():
    flags = {'--' + p.name.replace('_', '-') for p in prepare_data.params} - {'--dataset', '--source', '--out'}
    assert {option.split()[0] for option in TEXT} == {f'--{name}' for name in TEXT_OPTIONS}
    assert flags == {option.split()[0] for option in (*IMAGE_OPTIONS, *TEXT)}


@pytest.mark.parametrize('dataset', [name for name, entry in DATASETS.items() if entry.load is None])
def test_a_data_set_is_known_by_the_name_it_was_prepared_as(dataset, place, run):
    "Wherever the array lies"
    Path('raw').mkdir()
    if DATASETS[dataset].kind == 'text':
        Path('raw.txt').write_text(''.join(f'Line {i} of the news.\n' for i in range(50)))
        assert run(f'prepare {dataset} raw.txt --out place')[0] == 0
    else:
        for i in range(20): Image.new('RGB', (140, 140), (i, 9, 9)).save(f'raw/{i}.png')
        assert run(f'prepare {dataset} raw --out place --workers 0')[0] == 0
    assert json.loads(Path('place/manifest.json').read_text())['dataset'] == dataset == load('place').name


def test_failed_prepare_does_not_spoil_what_was_there(run, tmp_path):
    "A second source that cannot be used must not leave a blend of two data sets behind"
    for name, count, level in (('first', 20, 50), ('second', 15, 200)):
        (tmp_path / name).mkdir()
        for i in range(count): Image.new('RGB', (8, 8), (level,) * 3).save(tmp_path / name / f'{i}.png')
    for i in range(5): (tmp_path / 'second' / f'text{i}.png').write_text('no image')
    assert run('prepare folder first --size 8')[0] == 0
    assert run('prepare folder second --size 8')[0] == 2
    try: levels = prepared('data/folder').train.unique().tolist()
    except ValueError: levels = []      # refused: as good as the old images
    assert levels in ([], [50])
