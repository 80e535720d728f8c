"""The forms of a set, from the command line: CIFAR-10, CelebA, LSUN and folders, damaged, incomplete, with odd names."""
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from coulomb_gan.data.catalogue import prepared
from coulomb_gan.data.batch_files import read_batch, read_svhn
from coulomb_gan.data.image_sources import open_source
from faults import in_child
from made_files import GEN, SVHN, batch_file, encoded, fill, fill_cifar, fill_lmdb, fill_svhn, mat_file, noise, quietly, tarred


def rows(images, labels): return sorted((i.tobytes(), int(l)) for i, l in zip(np.asarray(images), labels))


# --- CIFAR-10 -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('form', ['folder', 'archive'])
def test_cifar_keeps_pixels_labels_and_its_test_batch(form, place, said):
    pixels, labels = fill_cifar('cifar-10-batches-py', 20)
    source = 'cifar-10-batches-py'
    if form == 'archive': source = tarred('cifar-10-python.tar.gz', source, source, 'w:gz')
    assert said(f'prepare cifar10 {source}') == '120 images of 32 pixels, 20 of them held out, 0 files skipped'
    got = prepared('data/cifar10')
    assert rows(got.train, got.train_labels) == rows(pixels[:5].reshape(100, 3, 32, 32), labels[:5].ravel())
    assert rows(got.test, got.test_labels) == rows(pixels[5], labels[5])


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('missing,held_out', [('data_batch_1', 4), ('data_batch_5', 4), ('test_batch', 2)])
def test_missing_batch_is_named(missing, held_out, packed, place, said):
    fill_cifar('cifar', missing=[missing])
    if packed: tarred('cifar.tgz', 'cifar', 'cifar', 'w:gz')
    line = said('prepare cifar10 cifar.tgz' if packed else 'prepare cifar10 cifar')
    assert line == (f"20 images of 32 pixels, {held_out} of them held out, 0 files skipped; 1 left out, "
                    f"such as '{missing}': missing")


class Evil:
    def __init__(self, *call): self.call = call
    def __reduce__(self): return self.call

@pytest.mark.parametrize('call', [(os.system, ('touch touched',)), (eval, ('1',)), (np.load, ('x',)),
                                  (getattr, ('a', 'lower'))], ids=lambda c: c[0].__name__)
def test_pickle_that_calls_is_refused(call, place, refused):
    fill_cifar('cifar')
    Path('cifar/test_batch').write_bytes(pickle.dumps({b'data': Evil(*call), b'labels': []}, 2))
    assert 'has no place in a CIFAR-10 batch' in refused('prepare cifar10 cifar')
    assert not Path('touched').exists() and not Path('data').exists()


PIXELS = GEN.integers(0, 256, (4, 3072), dtype=np.uint8)

def test_damaged_batches_are_refused():
    whole = batch_file(PIXELS, [1, 2, 3, 4])
    for at in [*range(0, 400, 3), *range(len(whole) - 100, len(whole))]:
        for bad in (whole[:at], whole[:at] + b'\xff' + whole[at + 1:], whole[:at] + b'.' + whole[at + 1:]):
            try: pixels, labels = read_batch(bad)
            except ValueError as e: assert 'not a CIFAR-10 batch' in str(e)
            else: assert pixels.shape == (4, 3, 32, 32) and len(labels) == 4


@pytest.mark.parametrize('data', [
    b'', b'not a pickle', pickle.dumps([1]), batch_file(PIXELS, [1]), batch_file(PIXELS / 255, [1] * 4),
    batch_file(PIXELS[:, :-1], [1] * 4), batch_file(PIXELS, 'abcd')],
    ids=['empty', 'text', 'list', 'too few labels', 'floats', 'other shape', 'labels in words'])
def test_other_files_are_not_batches(data):
    with pytest.raises(ValueError, match='not a CIFAR-10 batch'): read_batch(data)


def test_batch_cut_anywhere_is_refused_by_name(place, refused):
    fill_cifar('cifar')
    whole = Path('cifar/data_batch_3').read_bytes()
    for size in np.linspace(0, len(whole) - 1, 7).astype(int):
        Path('cifar/data_batch_3').write_bytes(whole[:size])
        assert 'cifar: data_batch_3: not a CIFAR-10 batch' in refused('prepare cifar10 cifar')


# --- SVHN ---------------------------------------------------------------------------------------------------------

def test_svhn_keeps_pixels_digits_and_its_test_file(place, said):
    pixels, digits = fill_svhn('svhn', 30)
    assert said('prepare svhn svhn') == '60 images of 32 pixels, 30 of them held out, 0 files skipped'
    got = prepared('data/svhn')
    assert rows(got.train, got.train_labels) == rows(pixels[0], digits[0]) and got.name == 'svhn'
    assert rows(got.test, got.test_labels) == rows(pixels[1], digits[1]) and {*got.test_labels.tolist()} <= {*range(10)}


def test_svhn_is_what_torchvision_reads(place, monkeypatch):
    datasets = pytest.importorskip('torchvision.datasets')
    fill_svhn('svhn', 20)
    monkeypatch.setattr(datasets.SVHN, '_check_integrity', lambda self: True, raising=False)
    monkeypatch.setattr('torchvision.datasets.svhn.check_integrity', lambda *args: True)
    for split, file in zip(('train', 'test'), SVHN):
        theirs = datasets.SVHN('svhn', split=split)
        pixels, digits = read_svhn(Path('svhn', file).read_bytes())
        assert np.array_equal(theirs.data, pixels) and theirs.labels.tolist() == digits


def test_missing_file_of_svhn_is_named(place, said, refused):
    "Without the test file a tenth is held out; the test file alone trains nothing"
    for folder, missing in zip(('train', 'test'), reversed(SVHN)): fill_svhn(folder, 12, missing=[missing])
    assert said('prepare svhn train') == ("12 images of 32 pixels, 2 of them held out, 0 files skipped; 1 left out, "
                                          f"such as '{SVHN[1]}': missing")
    assert 'test holds test_32x32.mat alone, which is for testing; get train_32x32.mat too' in refused('prepare svhn test')


def test_svhn_cut_anywhere_is_refused_by_name(place, refused):
    fill_svhn('svhn')
    whole = Path('svhn/train_32x32.mat').read_bytes()
    for size in np.linspace(0, len(whole) - 1, 7).astype(int):
        Path('svhn/train_32x32.mat').write_bytes(whole[:size])
        assert 'svhn: train_32x32.mat: not an SVHN file' in refused('prepare svhn svhn')


def test_damaged_svhn_is_refused_or_read_as_long_as_it_is():
    whole = mat_file(GEN.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8), np.arange(3))
    for at in [*range(0, 400, 5), *range(len(whole) - 100, len(whole), 3)]:
        for bad in (whole[:at], whole[:at] + b'\xff' + whole[at + 1:]):
            try: pixels, digits = read_svhn(bad)
            except ValueError as e: assert 'not an SVHN file' in str(e) and '\n' not in str(e)
            else: assert pixels.shape == (3, 3, 32, 32) and len(digits) == 3


# --- CelebA, LSUN -------------------------------------------------------------------------------------------------

def test_celeba_zip_is_cropped_in_the_centre(place, said):
    faces = [noise(218, 178) for _ in range(12)]
    with zipfile.ZipFile('img_align_celeba.zip', 'w') as archive:
        archive.writestr('img_align_celeba/', b'')
        for i, face in enumerate(faces): archive.writestr(f'img_align_celeba/{i + 1:06}.jpg', encoded(face))
    assert said('prepare celeba img_align_celeba.zip') == '12 images of 64 pixels, 2 of them held out, 0 files skipped'
    got, want = prepared('data/celeba'), []
    for face in faces:
        middle = face.crop((35, 55, 143, 163)).resize((64, 64), Image.Resampling.LANCZOS)
        want.append((np.asarray(middle).transpose(2, 0, 1).tobytes(), 0))
    assert rows(torch.cat([got.train, got.test]), [0] * 12) == sorted(want)
    with zipfile.ZipFile('img_align_celeba.zip') as archive: archive.extractall('unpacked')
    said('prepare celeba unpacked/img_align_celeba --out data/again')
    arrays = [np.sort(np.load(f'data/{name}/images.npy').reshape(12, -1), 0) for name in ('celeba', 'again')]
    assert (arrays[0] == arrays[1]).all()


def test_lsun_database(place, said, refused):
    fill_lmdb('bedroom_train_lmdb', 20, (80, 100), 'JPEG')
    for _ in range(2):      # a second time it is found finished
        assert said('prepare lsun bedroom_train_lmdb') == '20 images of 64 pixels, 2 of them held out, 0 files skipped'
    assert prepared('data/lsun').train.shape == (18, 3, 64, 64)
    Path('bad').mkdir()
    Path('bad/data.mdb').write_bytes(b'x' * 9000)
    assert 'not an LMDB' in refused('prepare lsun bad')


def test_database_cut_anywhere_is_refused_and_kills_nobody(place):
    "Whoever reads beyond the end of a mapped file dies of SIGBUS: so a child reads"
    fill_lmdb('rooms')
    whole = Path('rooms/data.mdb').read_bytes()
    for size in (0, 100, 4096, 8191, 8192, 8200, 12288, 16384, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        Path('rooms/data.mdb').write_bytes(whole[:size])
        def work():
            with pytest.raises(ValueError, match='rooms') as caught: quietly('rooms', 'out')
            assert '\n' not in str(caught.value)
        assert in_child(work) == 0, f'cut to {size} bytes'


def test_sound_database_with_free_pages_behind_its_end_is_read(place):
    "Pages that were freed before they were written need not be in the file"
    for seed in range(400):
        rng = random.Random(seed)
        shutil.rmtree('rooms', ignore_errors=True)
        with lmdb.open('rooms', map_size=1 << 26) as env:
            for _ in range(rng.randrange(1, 4)):
                with env.begin(write=True) as view:
                    for _ in range(rng.randrange(1, 200)):
                        key = b'%d' % rng.randrange(60)
                        if rng.random() < .5: view.delete(key)
                        else: view.put(key, bytes(rng.choice([10, 500, 2100, 9000, 30000])))
            claimed = (env.info()['last_pgno'] + 1) * env.stat()['psize']
            entries = env.stat()['entries']
        if os.path.getsize('rooms/data.mdb') < claimed and entries: break
    else: pytest.skip('this LMDB writes every page')
    with open_source('rooms') as found: assert len(found.items) == entries


# --- all of them --------------------------------------------------------------------------------------------------

def test_what_lies_beside_the_data_is_named(place):
    fill_lmdb('rooms')
    fill_cifar('cifar')
    for folder in ('rooms', 'cifar'):
        Path(folder, 'more.png').write_bytes(encoded(noise()))
        with open_source(folder) as found: assert found.left_out == {'more.png': 'not part of the data'}


@pytest.mark.parametrize('name', ['file', 'nowhere'])
def test_other_places_hold_no_images(name, place):
    Path('file').write_bytes(b'PK but no zip')
    with pytest.raises(ValueError, match=f'{name} holds no images; expected'): open_source(name)


NAMES = [b'\xff.png', b'caf\xc3\xa9.png', b'caf\xe9.png', b'two\nlines.png', b'car\rriage.png', b'\xe2\x80\xa8.png', b'"\'`.png',
         b'\x1b[31m.png', b'back\\slash.png', b' .png', 'e\u0301.png'.encode(), b'a' * 251 + b'.png']

@pytest.mark.parametrize('form', ['folder', 'tar', 'tar.gz'])
@pytest.mark.parametrize('good', [True, False], ids=['images', 'no images'])
def test_odd_names_are_read_recorded_and_told(good, form, place, said):
    fill('tree', 30)
    for name in NAMES: Path('tree', os.fsdecode(name)).write_bytes(encoded(noise()) if good else b'not an image')
    if form != 'folder': tarred(f'tree.{form}', 'tree', 'tree', 'w' if form == 'tar' else 'w:gz')
    source = 'tree' if form == 'folder' else f'tree.{form}'
    line = said(f'prepare folder {source} --size 8 --max-bad .5 --out out')
    assert line.startswith(f'{42 if good else 30} images of 8 pixels')
    assert line.encode('utf-8').isascii() and line.isprintable()
    manifest = quietly(source, 'out')      # found again
    assert len(manifest['skipped']) == (0 if good else 12)
    assert len(prepared('out').train) + len(prepared('out').test) == manifest['count']
