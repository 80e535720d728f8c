"""An array that grows is killed, starved of disk space and damaged; it is continued, or a damaged file is named."""
import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from coulomb_gan.data.prepare_images import CHUNK
from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.files import RunError
from faults import at_call, die, fill_the_disk, in_child
from made_files import contents, encoded, fill, fill_cifar, noise, quietly, visible


@pytest.mark.filterwarnings('ignore:.*it is taken over')
@pytest.mark.parametrize('name,after', [('fsync', False), ('replace', False), ('replace', True)])
def test_killed_at_every_point_where_something_reaches_the_disk(name, after, tree, tmp_path):
    whole = contents(tree.parent / 'whole')
    for number in range(1, 100):
        out = tmp_path / str(number)
        def work():
            at_call(os, name, number, die, after)
            quietly(tree, out, workers=2)
        code = in_child(work)
        assert code in (0, -signal.SIGKILL)
        done = contents(out)
        if 'images.npy' in done: assert done['images.npy'] == whole['images.npy']      # never under its name too early
        quietly(tree, out)
        assert {k: v for k, v in contents(out).items() if k in whole} == whole
        if code == 0: break
    assert number == (10 if name == 'fsync' else 7)      # the lock, 3 chunks, 3 records, array, manifest; no fsync without


def test_full_disk_is_one_line_and_loses_nothing(tree, tmp_path):
    def starved():
        fill_the_disk(150_000)
        with pytest.raises(RunError, match='cannot write') as caught: quietly(tree, tmp_path / 'out')
        assert '\n' not in str(caught.value)
    assert in_child(starved) == 0
    assert json.loads((tmp_path / 'out/.progress.json').read_text())['done'] == CHUNK
    quietly(tree, tmp_path / 'out')
    assert contents(tmp_path / 'out')['images.npy'] == contents(tree.parent / 'whole')['images.npy']


# --- damaged ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['images.npy', 'labels.npy', 'manifest.json'])
def test_damaged_file_of_a_finished_folder_is_named(name, place, refused):
    fill_cifar('cifar')
    quietly('cifar', 'out', 32)
    whole = Path('out', name).read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 2):
        Path('out', name).write_bytes(whole[:size])
        line = refused('prepare cifar10 cifar --out out')
        assert f'out/{name} is damaged' in line and 'remove the folder and prepare again' in line
    Path('out', name).write_bytes(whole)
    assert quietly('cifar', 'out', 32)['count'] == 24


@pytest.fixture
def stopped(place, monkeypatch):
    "A preparation that stopped behind its first record"
    Path('tree').mkdir()
    for i in range(CHUNK + 100): Path(f'tree/{i}.bmp').write_bytes(encoded(noise(8, 8), 'BMP'))
    old, calls = Image.open, iter(range(10_000))
    def failing(file):
        if next(calls) > CHUNK: raise OSError(5, 'Input/output error', str(file))
        return old(file)
    monkeypatch.setattr('PIL.Image.open', failing)
    with pytest.raises(RunError): quietly('tree', 'out', workers=0)
    monkeypatch.setattr('PIL.Image.open', old)
    return place


def cut(path, size): path.write_bytes(path.read_bytes()[:size])
def forget(key):
    def change(path): path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    return change

@pytest.mark.parametrize('name,change', [
    ('.progress.json', lambda p: cut(p, 0)), ('.progress.json', lambda p: cut(p, 99)), ('.progress.json', lambda p: cut(p, -3)),
    ('.progress.json', forget('count')), ('.progress.json', forget('done')), ('.progress.json', forget('skipped')),
    ('.progress.json', lambda p: p.write_text('[1, 2]')), ('.progress.json', lambda p: p.write_bytes(b'\xff{}')),
    ('.images.npy.part', lambda p: cut(p, 0)), ('.images.npy.part', lambda p: cut(p, 128)), ('.images.npy.part', lambda p: cut(p, -1))])
def test_damaged_file_of_a_stopped_preparation_is_named(name, change, stopped, refused):
    change(Path('out', name))
    line = refused('prepare folder tree --size 8 --out out')
    assert f'out/{name} is damaged' in line and 'remove the folder and prepare again' in line


def test_stopped_preparation_goes_on(stopped):
    whole = quietly('tree', 'whole')
    assert quietly('tree', 'out') == whole and visible('out') == visible('whole')


# --- another array ------------------------------------------------------------------------------------------------

def test_images_do_not_replace_a_text_and_a_text_no_images(place, refused):
    fill('tree', 12)
    Path('a').write_text('one line\nand another\n')
    quietly('tree', 'images')
    prepare_text('a', 'lines', progress=False)
    assert 'lines holds another data set' in refused('prepare folder tree --size 8 --out lines')
    assert 'images holds another data set' in refused('prepare billion_word a --out images')
    assert (visible('images'), visible('lines')) == (['images.npy', 'manifest.json'], ['lines.npy', 'manifest.json'])
