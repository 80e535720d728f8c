"""Made-up files: images, the forms in which sets of them are handed over, texts, and odd things that a folder may hold."""
import io
import os
import pickle
import socket
import struct
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image
from scipy.io import savemat

from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.data.text import corpus

GEN = np.random.default_rng(0)


# --- images -------------------------------------------------------------------------------------------------------

def noise(h=16, w=16): return Image.fromarray(GEN.integers(0, 256, (h, w, 3), dtype=np.uint8))

def encoded(image, form='PNG', **options):
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()

def fill(folder, n, form='png'):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i in range(n): Path(folder, f'{i}.{form}').write_bytes(encoded(noise(), dict(png='PNG', jpg='JPEG')[form]))

def quietly(source, out, size=8, **options): return prepare(source, out, size, progress=False, **options)

def visible(folder): return sorted(p.name for p in Path(folder).glob('[!.]*'))

def contents(folder):
    "All files but those of the lock and the temporary ones, which a kill leaves behind"
    found = [p for p in Path(folder).rglob('[!.]*') if p.is_file() and p.name != 'lock.json']
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


# --- forms of a set -----------------------------------------------------------------------------------------------

def zipped(path, n=12, form='PNG', side=16):
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(n): archive.writestr(f'{i:02}.{form.lower()}', encoded(noise(side, side), form))
    return Path(path)

MODES = {'a.tar': 'w', 'a.tar.gz': 'w:gz', 'a.tar.bz2': 'w:bz2', 'a.tar.xz': 'w:xz'}

def tarred(path, folder, name, mode=None, **options):
    with tarfile.open(path, mode or MODES[path], **options) as archive: archive.add(folder, name)
    return Path(path)

def fill_lmdb(path, n=12, shape=(64, 64), form='PNG'):
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as view:
        for i in range(n): view.put(f'{i:040x}'.encode(), encoded(noise(*shape), form))


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

BATCHES = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']

def fill_cifar(folder, n=4, missing=()):
    "Six batches of n images, and the pixels `(6, n, 3, 32, 32)` and labels `(6, n)` in them"
    pixels, labels = GEN.integers(0, 256, (6, n, 3072), dtype=np.uint8), GEN.integers(0, 10, (6, n))
    Path(folder).mkdir(parents=True)
    for name, p, l in zip(BATCHES, pixels, labels.tolist()):
        if name not in missing: Path(folder, name).write_bytes(batch_file(p, l))
    Path(folder, 'batches.meta').touch()
    return pixels.reshape(6, n, 3, 32, 32), labels

SVHN = 'train_32x32.mat', 'test_32x32.mat'

def mat_file(pixels, digits):
    "As the two files of SVHN are stored: number of the image last, 10 for the digit 0"
    y = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
    savemat(buffer := io.BytesIO(), dict(X=pixels.transpose(2, 3, 1, 0), y=y), do_compression=True)
    return buffer.getvalue()

def fill_svhn(folder, n=12, missing=()):
    "Two files of n images, and the pixels `(2, n, 3, 32, 32)` and digits `(2, n)` in them"
    pixels, digits = GEN.integers(0, 256, (2, n, 3, 32, 32), dtype=np.uint8), GEN.integers(0, 10, (2, n))
    Path(folder).mkdir(parents=True)
    for name, p, d in zip(SVHN, pixels, digits):
        if name not in missing: Path(folder, name).write_bytes(mat_file(p, d))
    return pixels, digits


# --- texts --------------------------------------------------------------------------------------------------------

WORDS = 'the a of house 1,000 naïve “quoted” 東京 € end . x`y ``'.split(' ')

def news(n, seed=0):
    "Lines of words"
    gen = np.random.default_rng(seed)
    return [' '.join(gen.choice(WORDS, gen.integers(1, 12))) for _ in range(n)]

def shown(folder):
    "All lines of a prepared folder, sorted"
    got = corpus(folder)
    return sorted(got.decode(got.train) + got.decode(got.test))


# --- odd things in a folder ---------------------------------------------------------------------------------------

def make_pipe(path): os.mkfifo(path)
def make_socket(path):
    with socket.socket(socket.AF_UNIX) as s: s.bind(str(path))
def make_device(path): path.symlink_to('/dev/zero')
def make_dangling(path): path.symlink_to('nowhere')
def make_forbidden_file(path):
    path.write_bytes(encoded(noise()))
    path.chmod(0)
def make_forbidden_folder(path):
    fill(path, 2)
    path.chmod(0)
def make_folder_without_a_list(path):
    fill(path, 2)
    path.chmod(0o300)

ODD = {make_pipe: 'neither a file nor a folder', make_socket: 'neither a file nor a folder',
       make_device: 'neither a file nor a folder', make_dangling: 'a link that leads nowhere',
       make_forbidden_file: 'Permission denied', make_forbidden_folder: 'Permission denied',
       make_folder_without_a_list: 'Permission denied'}      # how it is made -> why it is not used
