"""Every source format on small made-up files, and preparations that are killed, starved, fed with rubbish and repeated."""
import io
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from coulomb_gan.data import datasets as data_module
from coulomb_gan.data.datasets import Data, Samples
from coulomb_gan.data.catalogue import prepared
from coulomb_gan.training.config import Experiment
from coulomb_gan.files import RunError
from coulomb_gan.data.image_decoding import to_rgb
from coulomb_gan.data.prepare_images import CHUNK, decode, prepare
from coulomb_gan.data.image_sources import Source, open_source, read_batch
from coulomb_gan.training.fit import fit

GEN = np.random.default_rng(0)
FORK = multiprocessing.get_context('fork')      # children start with everything imported


def noise(h, w): return Image.fromarray(GEN.integers(0, 256, (h, w, 3), dtype=np.uint8))

def encoded(image, form='PNG', **options):
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()

def quietly(source, out, size, **options): return prepare(source, out, size, progress=False, **options)

def files(folder):
    "All but those of the lock and the temporary ones, which a kill leaves behind"
    found = [p for p in folder.rglob('[!.]*') if p.is_file() and p.name != 'lock.json']
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}

TAKES_OVER = pytest.mark.filterwarnings('ignore:.*it is taken over')


@pytest.fixture
def run(run):
    "The shared `run`, without the progress bar on stderr"
    def quiet(line):
        code, out, err = run(line)
        return code, out, [e for e in err if e.strip() and not e.lstrip().startswith('images:')]
    return quiet


# --- the four formats, from the command line ----------------------------------------------------------------------

class Python2(pickle._Pickler):
    "Writes strings of bytes as Python 2 wrote its strings"
    dispatch = dict(pickle._Pickler.dispatch)
    def save_bytes(self, s):
        self.write(pickle.BINSTRING + struct.pack('<i', len(s)) + s)
        self.memoize(s)
    dispatch[bytes] = save_bytes


def batch_file(pixels, labels):
    "As the batches of CIFAR-10 are stored"
    batch = {b'batch_label': b'a batch', b'labels': labels, b'data': pixels, b'filenames': [b'a.png'] * len(labels)}
    Python2(buffer := io.BytesIO(), 2).dump(batch)
    return buffer.getvalue().replace(b'numpy._core.multiarray', b'numpy.core.multiarray')


def make_cifar(folder, n=20):
    pixels, labels = GEN.integers(0, 256, (6, n, 3072), dtype=np.uint8), GEN.integers(0, 10, (6, n))
    folder.mkdir(parents=True)
    for name, p, l in zip([*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'], pixels, labels.tolist()):
        (folder / name).write_bytes(batch_file(p, l))
    return pixels.reshape(6, n, 3, 32, 32), labels


def rows(images, labels): return sorted((i.tobytes(), int(l)) for i, l in zip(np.asarray(images), labels))


@pytest.mark.parametrize('form', ['folder', 'archive'])
def test_cifar_keeps_pixels_labels_and_its_test_batch(form, run, tmp_path):
    pixels, labels = make_cifar(tmp_path / 'cifar-10-batches-py')
    source = 'cifar-10-batches-py'
    if form == 'archive':
        with tarfile.open('cifar-10-python.tar.gz', 'w:gz') as archive: archive.add(source)
        source = 'cifar-10-python.tar.gz'
    assert run(f'prepare cifar10 {source}') == (0, '120 images of 32 pixels, 20 of them held out, 0 files skipped\n', [])
    got = prepared('data/cifar10')
    assert rows(got.train, got.train_labels) == rows(pixels[:5].reshape(100, 3, 32, 32), labels[:5].ravel())
    assert rows(got.test, got.test_labels) == rows(pixels[5], labels[5])


def test_celeba_zip_is_cropped_in_the_centre(run, tmp_path):
    faces = [noise(218, 178) for _ in range(12)]
    with zipfile.ZipFile('img_align_celeba.zip', 'w') as archive:
        archive.writestr('img_align_celeba/', b'')
        for i, face in enumerate(faces): archive.writestr(f'img_align_celeba/{i + 1:06}.jpg', encoded(face))
    assert run('prepare celeba img_align_celeba.zip')[:2] == \
        (0, '12 images of 64 pixels, 2 of them held out, 0 files skipped\n')
    got, want = prepared('data/celeba'), []
    for face in faces:
        middle = face.crop((35, 55, 143, 163)).resize((64, 64), Image.Resampling.LANCZOS)
        want.append((np.asarray(middle).transpose(2, 0, 1).tobytes(), 0))
    assert rows(torch.cat([got.train, got.test]), [0] * 12) == sorted(want)
    with zipfile.ZipFile('img_align_celeba.zip') as archive: archive.extractall('unpacked')
    assert run('prepare celeba unpacked/img_align_celeba --out data/again')[0] == 0
    arrays = [np.sort(np.load(f'data/{name}/images.npy').reshape(12, -1), 0) for name in ('celeba', 'again')]
    assert (arrays[0] == arrays[1]).all()


def test_lsun_database(run, tmp_path):
    with lmdb.open(str(tmp_path / 'bedroom_train_lmdb'), map_size=1 << 24) as env, env.begin(write=True) as view:
        for i in range(20): view.put(f'{i:040x}'.encode(), encoded(noise(80, 100), 'JPEG'))
    for _ in range(2):      # a second time it is found finished
        assert run('prepare lsun bedroom_train_lmdb')[:2] == \
            (0, '20 images of 64 pixels, 2 of them held out, 0 files skipped\n')
    assert prepared('data/lsun').train.shape == (18, 3, 64, 64)
    (tmp_path / 'bad').mkdir()
    (tmp_path / 'bad/data.mdb').write_bytes(b'x' * 9000)
    code, _, err = run('prepare lsun bad')
    assert code == 2 and len(err) == 1 and 'no LMDB' in err[0]


def test_nested_folders_with_bad_files(run, tmp_path):
    for i in range(30):
        (tmp_path / f'tree/{i % 3}/{i % 2}').mkdir(parents=True, exist_ok=True)
        noise(70 + i, 90).save(tmp_path / f'tree/{i % 3}/{i % 2}/{i}.jpg')
    noise(63, 90).save(tmp_path / 'tree/small.png')
    (tmp_path / 'tree/text.jpg').write_text('no image')
    (tmp_path / 'tree/empty.png').touch()
    (tmp_path / 'tree/torn.jpg').write_bytes((tmp_path / 'tree/0/0/0.jpg').read_bytes()[:-2000])
    (tmp_path / 'tree/.DS_Store').write_text('hidden')
    code, _, err = run('prepare folder tree')
    assert code == 2 and len(err) == 1 and 'more than 10% of all 34' in err[0]
    said = run('prepare folder tree --max-bad .2')[1]
    assert said.startswith('30 images of 64 pixels, 3 of them held out, 4 files skipped, such as ')
    skipped = json.loads((tmp_path / 'data/folder/manifest.json').read_text())['skipped']
    assert skipped.keys() == {'small.png', 'text.jpg', 'empty.png', 'torn.jpg'}
    assert skipped['text.jpg'] == skipped['empty.png'] == 'no image'
    assert 'truncated' in skipped['torn.jpg'] and '63 pixels' in skipped['small.png']
    assert not any(str(tmp_path) in reason for reason in skipped.values())
    assert run('prepare folder tree --upscale --out up')[1].startswith('31 images')


# --- pictures of every mode, and rubbish --------------------------------------------------------------------------

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr',
                                  'HSV', 'I', 'I;16', 'I;16B'])
def test_every_mode_becomes_rgb(mode):
    assert (to_rgb(Image.new(mode, (5, 7))).mode, to_rgb(Image.new(mode, (5, 7))).size) == ('RGB', (5, 7))


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'PPM', 'TGA', 'ICO'])
def test_rubbish_gives_words_and_never_an_exception(form):
    whole = encoded(noise(24, 24), form)
    broken = [whole[:n] for n in range(0, len(whole), max(1, len(whole) // 40))]
    broken += [whole[:at] + GEN.bytes(4) + whole[at + 4:] for at in GEN.integers(0, len(whole), 60)]
    broken += [whole[:at] + bytes(4) + whole[at + 4:] for at in range(0, min(120, len(whole)), 2)]
    source = Source({}, lambda i: Image.open(io.BytesIO(broken[i])))
    got = [decode(source, i, 16) for i in range(len(broken))]
    assert all(isinstance(g, str) and g or isinstance(g, np.ndarray) and g.shape == (3, 16, 16) for g in got)
    assert got[0] == 'no image' and all(isinstance(g, str) for g in got[:20])


@pytest.mark.parametrize('error', [MemoryError(), OSError(5, 'Input/output error'), PermissionError(13, 'denied')],
                         ids=lambda e: type(e).__name__)
def test_failure_of_the_system_is_not_the_fault_of_the_picture(error):
    def fail(name): raise error
    with pytest.raises(RunError, match="cannot read 'a': .*; the same command goes on"): decode(Source({}, fail), 'a', 16)


def test_entry_with_a_wrong_checksum_is_skipped(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        for i in range(3): archive.writestr(f'{i}.bmp', encoded(noise(8, 8), 'BMP'))
    whole = bytearray((tmp_path / 'a.zip').read_bytes())
    whole[150] ^= 1
    (tmp_path / 'a.zip').write_bytes(whole)
    skipped = quietly(tmp_path / 'a.zip', tmp_path / 'out', 8, max_bad=.5)['skipped']
    assert list(skipped) == ['0.bmp'] and 'CRC' in skipped['0.bmp']


class Evil:
    def __init__(self, *call): self.call = call
    def __reduce__(self): return self.call


@pytest.mark.parametrize('call', [(os.system, ('touch touched',)), (eval, ('1',)), (np.load, ('x',)),
                                  (getattr, ('a', 'lower'))], ids=lambda c: c[0].__name__)
def test_pickle_that_calls_is_refused(call, run, tmp_path):
    make_cifar(tmp_path / 'cifar')
    (tmp_path / 'cifar/test_batch').write_bytes(pickle.dumps({b'data': Evil(*call), b'labels': []}, 2))
    code, _, err = run('prepare cifar10 cifar')
    assert (code, len(err)) == (2, 1) and 'has no place in a CIFAR-10 batch' in err[0]
    assert not (tmp_path / 'touched').exists() and not (tmp_path / 'data').exists()


def test_damaged_batches_are_refused():
    whole = batch_file(GEN.integers(0, 256, (4, 3072), dtype=np.uint8), [1, 2, 3, 4])
    for at in [*range(0, 400, 3), *range(len(whole) - 100, len(whole))]:
        for bad in (whole[:at], whole[:at] + b'\xff' + whole[at + 1:], whole[:at] + b'.' + whole[at + 1:]):
            try: pixels, labels = read_batch(bad)
            except ValueError as e: assert 'no CIFAR-10 batch' in str(e)
            else: assert pixels.shape == (4, 3, 32, 32) and len(labels) == 4


@pytest.mark.parametrize('name', ['../a.png', 'a/../../a.png', '/a.png', '\\a.png', 'C:\\a.png', 'a\\..\\b.png'])
def test_zip_that_points_outside_is_refused(name, run):
    with zipfile.ZipFile('bad.zip', 'w') as archive:
        for i in range(20): archive.writestr(f'{i}.png', encoded(noise(8, 8)))
        archive.writestr(name, encoded(noise(8, 8)))
    code, _, err = run('prepare folder bad.zip --size 8')
    assert (code, len(err)) == (2, 1) and 'points outside' in err[0] and not Path('data').exists()


# --- killed, starved, changed, repeated ---------------------------------------------------------------------------

@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "Two chunks and a bit of small images, three files that are none, and the array of them made in one go"
    place = tmp_path_factory.mktemp('place')
    (place / 'tree').mkdir()
    for i in range(2 * CHUNK + 100): (place / f'tree/{i}.bmp').write_bytes(encoded(noise(8, 8), 'BMP'))
    for i in range(3): (place / f'tree/text{i}.png').write_text('no image')
    quietly(place / 'tree', place / 'whole', 8, workers=0)
    return place / 'tree'


def in_child(work):
    "The exit code of `work` in a process of its own; minus the signal that killed it"
    child = FORK.Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def die_at(name, n, after, work):
    "Work that is killed by SIGKILL at the n-th call of a function of `os`, before or after it is carried out"
    def run():
        old, calls = getattr(os, name), iter(range(1, 1000))
        def counted(*args):
            last = next(calls) == n
            if last and not after: os.kill(os.getpid(), signal.SIGKILL)
            old(*args)
            if last: os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, counted)
        work()
    return run


@TAKES_OVER
@pytest.mark.parametrize('name,after', [('fsync', False), ('replace', False), ('replace', True)])
def test_killed_at_every_point_where_something_reaches_the_disk(name, after, tree, tmp_path):
    whole = files(tree.parent / 'whole')
    for n in range(1, 100):
        out = tmp_path / str(n)
        code = in_child(die_at(name, n, after, lambda: quietly(tree, out, 8, workers=2)))
        assert code in (0, -signal.SIGKILL)
        done = files(out)
        if 'images.npy' in done: assert done['images.npy'] == whole['images.npy']      # never under its name too early
        quietly(tree, out, 8)
        assert {k: v for k, v in files(out).items() if k in whole} == whole
        if code == 0: break
    assert n == (10 if name == 'fsync' else 7)      # the lock, 3 chunks, 3 records, array, manifest; no fsync without


def test_command_killed_goes_on_where_it_was(tree, tmp_path):
    "The real thing: another interpreter, SIGKILL after the first record, the same command again"
    main_ = 'from coulomb_gan.commands import main; main()'
    dies = """if 1:
        import os, signal
        from coulomb_gan.data import growing_arrays
        write_json = growing_arrays.write_json
        def record_and_die(path, values):
            write_json(path, values)
            os.kill(os.getpid(), signal.SIGKILL)
        growing_arrays.write_json = record_and_die
        """
    line = f'prepare folder {tree} --out {tmp_path}/out --size 8 --workers 1'.split()
    first = subprocess.run([sys.executable, '-c', dies + main_, *line], stderr=subprocess.DEVNULL)
    assert first.returncode == -signal.SIGKILL
    command = [sys.executable, '-c', main_, *line]
    assert not (tmp_path / 'out/images.npy').exists()
    done = json.loads((tmp_path / 'out/.progress.json').read_text())['done']
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith('1124 images of 8 pixels, 113 of them held out, 3 files skipped, such as ')
    assert f'{done}/1127' in again.stderr      # the bar starts there
    assert files(tmp_path / 'out') == files(tree.parent / 'whole')


def test_full_disk_is_one_line_and_loses_nothing(tree, tmp_path):
    def starved():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        with pytest.raises(RunError, match='cannot write') as caught: quietly(tree, tmp_path / 'out', 8)
        assert '\n' not in str(caught.value)
    assert in_child(starved) == 0
    assert json.loads((tmp_path / 'out/.progress.json').read_text())['done'] == CHUNK
    quietly(tree, tmp_path / 'out', 8)
    assert files(tmp_path / 'out')['images.npy'] == files(tree.parent / 'whole')['images.npy']


def test_failing_disk_stops_the_work_and_loses_nothing(tree, tmp_path, monkeypatch):
    "What is done is kept, and nothing is listed as bad"
    old, calls = Image.open, iter(range(10_000))
    def failing(file):
        if next(calls) > CHUNK + 100: raise OSError(5, 'Input/output error', str(file))
        return old(file)
    monkeypatch.setattr('PIL.Image.open', failing)
    with pytest.raises(RunError, match='Input/output error'): quietly(tree, tmp_path / 'out', 8, workers=0)
    monkeypatch.undo()
    assert json.loads((tmp_path / 'out/.progress.json').read_text())['done'] == CHUNK
    quietly(tree, tmp_path / 'out', 8)
    assert files(tmp_path / 'out') == files(tree.parent / 'whole')


@TAKES_OVER
def test_other_settings_and_other_sources_are_noticed(tree, tmp_path):
    shutil.copytree(tree.parent / 'whole', tmp_path / 'out')
    before = files(tmp_path / 'out')
    in_child(die_at('replace', 2, True, lambda: quietly(tree, tmp_path / 'part', 8)))      # behind the first record
    shutil.copytree(tree, tmp_path / 'tree')      # the same files elsewhere are the same source
    quietly(tmp_path / 'tree', tmp_path / 'out', 8)
    (tmp_path / 'tree/7.bmp').write_bytes(encoded(noise(8, 9), 'BMP'))
    for out in ('out', 'part'):
        for change in (dict(crop=8), dict(upscale=True), dict(size=4)):
            with pytest.raises(ValueError, match=f'{[*change][0]} was .* and is now .*. Remove it or choose another'):
                quietly(tree, tmp_path / out, **dict(size=8) | change)
        with pytest.raises(ValueError, match='source_digest was'): quietly(tmp_path / 'tree', tmp_path / out, 8)
    assert files(tmp_path / 'out') == before


def test_named_folder_is_held_out(run, tmp_path):
    for i in range(12):
        (tmp_path / f'tree/{"test" if i < 4 else "train"}').mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / f'tree/{"test" if i < 4 else "train"}/{i}.png')
    assert run('prepare folder tree --size 8 --held-out-folder test')[1].startswith('12 images of 8 pixels, 4 of them')
    got = prepared('data/folder')
    assert sorted(got.test[:, 0, 0, 0].tolist()) == [0, 1, 2, 3] and len(got.train) == 8
    code, _, err = run('prepare folder tree --size 8 --held-out-folder tests --out b')
    assert code == 2 and 'tests' in err[0]


# --- fetching -----------------------------------------------------------------------------------------------------

def test_download_goes_through_torchvision(run, monkeypatch):
    fetched = []
    def fetch(root, download):
        fetched.append((root, download))
        make_cifar(Path(root) / 'cifar-10-batches-py')
    monkeypatch.setattr('torchvision.datasets.CIFAR10', fetch)
    assert run('prepare cifar10 --download')[1].startswith('120 images')
    assert fetched == [(Path('data/downloads'), True)]


@pytest.mark.parametrize('line,want', [
    ('prepare cifar10', 'get cifar-10-python.tar.gz'), ('prepare celeba', 'get img_align_celeba.zip'),
    ('prepare lsun', 'get the folder bedroom_train_lmdb'), ('prepare folder', 'coulomb-gan prepare folder PATH'),
    ('prepare lsun --download', 'no download for lsun; get the folder'),
    ('prepare celeba --download', 'the download failed (no route); get img_align_celeba.zip')])
def test_without_a_source_the_message_says_what_to_get(line, want, run, monkeypatch):
    def fail(root, download): raise OSError('no route')
    monkeypatch.setattr('torchvision.datasets.CelebA', fail)
    code, _, err = run(line)
    assert code in (1, 2) and len(err) == 1 and want in err[0]


# --- where minibatches are drawn ----------------------------------------------------------------------------------

def test_streamed_run_equals_resident_run(tmp_path, monkeypatch):
    e = Experiment(latent=4, width_g=16, width_d=16, depth_g=1, depth_d=1, batch=16, steps=20, eval_every=20,
                   eval_samples=50)
    resident = fit(e, tmp_path / 'resident', progress=False).sample(20)
    monkeypatch.setattr(data_module, 'fits', lambda stored, device: False)
    streamed = fit(e, tmp_path / 'streamed', progress=False).sample(20)
    assert torch.equal(streamed, resident)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_streamed_rows_on_a_gpu(monkeypatch):
    stored = Data(torch.randint(256, (100, 3, 8, 8), dtype=torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    index = torch.randint(100, (20,), device='cuda')
    resident = Samples(stored, 'cuda')
    monkeypatch.setattr(data_module, 'fits', lambda stored, device: False)
    streamed = Samples(stored, 'cuda')
    assert (resident.stored.device.type, streamed.stored.device.type) == ('cuda', 'cpu')
    assert streamed[index].device.type == 'cuda' and torch.equal(streamed[index], resident[index])


def test_unknown_file_is_no_source(tmp_path):
    (tmp_path / 'file').write_bytes(b'PK but no zip')
    with pytest.raises(ValueError, match='holds no images'): open_source(tmp_path / 'file')
