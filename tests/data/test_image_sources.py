"""What people hand over as a source: folders with links and pipes in them, archives, damaged files, odd names."""
import ctypes
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import socket
import struct
import sys
import tarfile
import threading
import warnings
import zipfile
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
import tqdm      # here, for children without rights
from PIL import Image

from coulomb_gan.data.catalogue import prepared
from coulomb_gan.files import RunError
from coulomb_gan.data.prepare_text import FOLDER, prepare_text
from coulomb_gan.locks import locked
from coulomb_gan.data.prepare_images import CHUNK, decode, prepare
from coulomb_gan.data.image_sources import open_source
from coulomb_gan.data.text import corpus

GEN = np.random.default_rng(0)
FORK = multiprocessing.get_context('fork')      # children start with everything imported


def noise(h=16, w=16): return Image.fromarray(GEN.integers(0, 256, (h, w, 3), dtype=np.uint8))

def encoded(image, form='PNG', **options):
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()

def fill(folder, n, form='png'):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i in range(n): (Path(folder) / f'{i}.{form}').write_bytes(encoded(noise(), dict(png='PNG', jpg='JPEG')[form]))

def quietly(source, out, size=8, **options): return prepare(source, out, size, progress=False, **options)

def visible(folder): return sorted(p.name for p in Path(folder).glob('[!.]*'))

@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty folder, and the working directory"
    monkeypatch.chdir(tmp_path)
    return tmp_path

@pytest.fixture
def said(run):
    "The last line of a command that goes well"
    def said(line):
        code, out, err = run(line)
        assert code == 0, err
        return out.splitlines()[-1]
    return said

@pytest.fixture
def refused(run):
    "The one line of a command that is refused"
    def refused(line):
        code, _, err = run(line)
        err = [e for e in err if e.strip() and not e.lstrip().startswith(('images:', 'counting:', 'storing:'))]
        assert code in (1, 2) and len(err) == 1, err
        return err[0]
    return refused

def without_privileges(work):
    "Runs `work` in a child that may do no more than the permissions say, even as root; raises what it raised"
    def child():
        try:
            if os.geteuid() == 0:
                head, nothing = struct.pack('Ii', 0x20080522, 0), bytes(24)      # no capability of any kind
                assert ctypes.CDLL(None, use_errno=True).capset(head, nothing) == 0, os.strerror(ctypes.get_errno())
            sender.send((work(), None))
        except BaseException as e: sender.send((None, e))
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=child)
    process.start()
    result, error = receiver.recv()
    process.join()
    if error: raise error
    return result


# --- what cannot be entered or used is named ----------------------------------------------------------------------

def test_linked_folder_is_read_and_a_second_way_to_it_is_named(place, said):
    fill('store/cats', 20)
    fill('tree/own', 12)
    os.symlink(place / 'store/cats', 'tree/cats')
    assert said('prepare folder tree --size 8') == '32 images of 8 pixels, 4 of them held out, 0 files skipped'
    os.symlink(place / 'store', 'tree/dogs')
    assert said('prepare folder tree --size 8 --out b').endswith(
        "; 1 left out, such as 'dogs/cats': the same folder as 'cats'")
    assert json.loads(Path('b/manifest.json').read_text())['left_out'] == {'dogs/cats': "the same folder as 'cats'"}


@pytest.mark.parametrize('links,used,left_out', [
    (dict(up='.'), 3, {'up': '.'}),                                             # back to the top
    (dict(a='b', b='a'), 3, dict(a='symbolic links', b='symbolic links')),      # in a circle
    ({'own/up': '..', 'own/in': '../own'}, 3, {'own/in': 'own', 'own/up': '.'}),
    (dict(one='../other', two='../other'), 5, {'two': 'one'}),
    (dict(one='../other', around='..'), 5, {'one': 'around/other', 'around/tree': '.'}),
    (dict(all='../other', inner='../other/deep'), 5, {'inner': 'all/deep'}),
    ({'a.png': '../other/0.png', 'b.png': 'a.png'}, 5, {}),                     # files may be linked as often as one likes
    (dict(gone='nowhere'), 3, dict(gone='leads nowhere'))], ids=lambda v: '-'.join(v) if isinstance(v, dict) else None)
def test_each_folder_is_entered_once(links, used, left_out, place):
    fill('tree/own', 3)
    fill('other', 1)
    fill('other/deep', 1)
    for name, to in links.items(): os.symlink(to, Path('tree', name))
    with open_source(place / 'tree') as found:
        assert len(found.items) == used
        assert found.left_out.keys() == left_out.keys()
        assert all(words in found.left_out[name] for name, words in left_out.items())
        for name in found.items: assert found.open(name).size == (16, 16)


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
       make_folder_without_a_list: 'Permission denied'}

@pytest.mark.parametrize('make', ODD, ids=lambda f: f.__name__)
def test_whatever_a_folder_holds_besides_is_named(make, place):
    fill('tree', 12)
    make(Path('tree/odd'))
    manifest = without_privileges(lambda: quietly('tree', 'out'))
    os.chmod('tree/odd', 0o700) if make.__name__.startswith(('make_for', 'make_folder')) else None
    assert (manifest['count'], manifest['left_out'], manifest['skipped']) == (12, {'odd': ODD[make]}, {})
    assert json.loads(Path('out/manifest.json').read_text()) == manifest


@pytest.mark.parametrize('make', ODD, ids=lambda f: f.__name__)
def test_part_of_a_text_that_cannot_be_read_is_named(make, place):
    Path(FOLDER).mkdir()
    part = Path(FOLDER, 'news.en-00002-of-00100')
    for number in (1, 3): Path(FOLDER, f'news.en-0000{number}-of-00100').write_text('one line\nand another\n')
    make(part)
    manifest = without_privileges(lambda: prepare_text('.', 'out', progress=False))
    reason = 'a folder' if part.is_dir() else ODD[make]
    assert (manifest['count'], manifest['left_out']) == (4, {part.name: reason})


def test_what_a_text_folder_holds_besides_is_told_in_the_last_line(place, said):
    Path('news').mkdir()
    Path('news/news.en-00001-of-00100').write_text('one line\nand another\n')
    Path('news/news.en-2-of-100').write_text('one line\nand another\n')
    Path('news/more').mkdir()
    Path('news/.hidden').touch()
    assert said('prepare billion_word news').endswith(
        "; 2 left out, such as 'more': not named news.en-*-of-*")


def test_folder_that_may_not_be_entered_is_refused(place):
    fill('tree', 3)
    os.chmod('tree', 0)
    Path(FOLDER).mkdir(mode=0)
    try:
        with pytest.raises(RunError, match='cannot read tree: Permission denied'):
            without_privileges(lambda: quietly('tree', 'out'))
        with pytest.raises(RunError, match=f'cannot read {FOLDER}: Permission denied'):
            without_privileges(lambda: prepare_text('.', 'out', progress=False))
    finally:
        for name in ('tree', FOLDER): os.chmod(name, 0o700)


def test_where_nothing_can_be_used_the_reason_is_told(place, refused):
    Path('tree').mkdir()
    os.symlink('nowhere', 'tree/pictures')
    assert "tree holds no file that can be used, such as 'pictures': a link that leads nowhere" in refused('prepare folder tree')
    Path(FOLDER).mkdir()
    os.symlink('nowhere', f'{FOLDER}/news.en-00001-of-00100')
    assert "such as 'news.en-00001-of-00100': a link that leads nowhere" in refused(f'prepare billion_word {FOLDER}')


def test_array_does_not_lie_in_a_folder_that_is_read_through_a_link(place, refused):
    fill('store', 12)
    Path('tree').mkdir()
    os.symlink(place / 'store', 'tree/all')
    assert 'store/out lies inside of tree/all' in refused('prepare folder tree --size 8 --out store/out')


def test_tree_without_links_is_the_source_it_was(place):
    "Real folders go first: arrays that were prepared before links were followed are still recognised"
    fill('tree/z', 3)
    with open_source(place / 'tree') as found: before = found.digest
    os.symlink('z', 'tree/a')
    with open_source(place / 'tree') as found: assert (found.digest, [*found.left_out]) == (before, ['a'])


def zipped(path, change):
    "Twelve pictures; `change` spoils the record of the last in both places where it stands"
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(12): archive.writestr(f'{i:02}.png', encoded(noise()))
    data = bytearray(Path(path).read_bytes())
    for mark, at in ((b'PK\3\4', 6), (b'PK\1\2', 8)): change(data, data.rfind(mark) + at)
    Path(path).write_bytes(data)

def encrypt(data, at): data[at] |= 1
def deflate64(data, at): data[at + 2] = 9
def patch(data, at): data[at] |= 32

@pytest.mark.parametrize('change,words', [(encrypt, 'encrypted'), (deflate64, 'not supported'), (patch, 'patch')])
def test_entry_of_a_zip_that_cannot_be_unpacked_is_named(change, words, place, said):
    zipped('a.zip', change)
    line = said('prepare folder a.zip --size 8')
    assert line.startswith("11 images of 8 pixels, 2 of them held out, 1 file skipped, such as '11.png': ")
    assert words in line


def batch_file(n=4): return pickle.dumps({b'data': GEN.integers(0, 256, (n, 3072), dtype=np.uint8), b'labels': [1] * n}, 3)

def fill_cifar(folder, missing=()):
    Path(folder).mkdir()
    for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']:
        if name not in missing: Path(folder, name).write_bytes(batch_file())
    Path(folder, 'batches.meta').touch()

@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('missing,held_out', [('data_batch_1', 4), ('data_batch_5', 4), ('test_batch', 2)])
def test_missing_batch_is_named(missing, held_out, packed, place, said):
    fill_cifar('cifar', [missing])
    if packed:
        with tarfile.open('cifar.tgz', 'w:gz') as archive: archive.add('cifar')
    line = said('prepare cifar10 cifar.tgz' if packed else 'prepare cifar10 cifar')
    assert line == (f"20 images of 32 pixels, {held_out} of them held out, 0 files skipped; 1 left out, "
                    f"such as '{missing}': missing")


def fill_lmdb(path, n=12):
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as view:
        for i in range(n): view.put(f'{i:040x}'.encode(), encoded(noise(64, 64)))

def test_what_lies_beside_the_data_is_named(place):
    fill_lmdb('rooms')
    fill_cifar('cifar')
    for folder in ('rooms', 'cifar'):
        Path(folder, 'more.png').write_bytes(encoded(noise()))
        with open_source(folder) as found: assert found.left_out == {'more.png': 'not part of the data'}


# --- a tar of pictures --------------------------------------------------------------------------------------------

MODES = {'a.tar': 'w', 'a.tar.gz': 'w:gz', 'a.tar.bz2': 'w:bz2', 'a.tar.xz': 'w:xz'}

def tarred(path, folder, name, mode=None, **options):
    with tarfile.open(path, mode or MODES[path], **options) as archive: archive.add(folder, name)
    return Path(path)

@pytest.mark.parametrize('name', MODES)
@pytest.mark.parametrize('top', ['tree', '.'])
@pytest.mark.parametrize('form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_gives_the_array_of_its_folder(name, top, form, place):
    fill('tree', 12)
    fill('tree/deep', 2, 'jpg')
    Path('tree/.hidden').write_bytes(encoded(noise()))
    tarred(name, 'tree', top, format=form)
    assert quietly(name, 'b', workers=3)['digest'] == quietly('tree', 'a')['digest']
    assert quietly(name, 'b')['left_out'] == {}


def test_links_and_pipes_in_a_tar_are_named(place, said):
    fill('tree', 12)
    os.symlink('0.png', 'tree/link.png')
    os.link('tree/0.png', 'tree/hard.png')
    os.mkfifo('tree/pipe')
    tarred('a.tar.gz', 'tree', 'tree')
    with open_source('a.tar.gz') as found:
        assert len(found.items) == 12 and len(found.left_out) == 3
        assert found.left_out['tree/link.png'] == "a link to '0.png'"
        assert found.left_out['tree/pipe'] == 'neither a file nor a folder'
    assert "12 images of 8 pixels, 2 of them held out, 0 files skipped; 3 left out, such as " in said('prepare folder a.tar.gz --size 8')


@pytest.mark.parametrize('name', ['../a.png', 'a/../../a.png', '/a.png', 'C:\\a.png', '\\a.png'])
def test_tar_that_points_outside_is_refused(name, place, refused):
    with tarfile.open('bad.tar', 'w') as archive:
        for inner in ('good.png', name):
            data = encoded(noise())
            member = tarfile.TarInfo(inner)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert 'points outside' in refused('prepare folder bad.tar --size 8') and not Path('data').exists()


@pytest.mark.parametrize('name', MODES)
def test_tar_is_read_by_many_threads_at_once(name, place):
    fill('tree', 60)
    tarred(name, 'tree', 'tree')
    with open_source(name) as found:
        want = {n: np.asarray(found.open(n)).tobytes() for n in found.items}
        assert len(want) == 60
        wrong = []
        def read(seed):
            for n in random.Random(seed).sample(sorted(want), len(want)):
                if np.asarray(found.open(n)).tobytes() != want[n]: wrong.append(n)
        threads = [threading.Thread(target=read, args=[seed]) for seed in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert not wrong


def test_unpacked_tar_takes_no_room_when_the_process_is_gone(place, monkeypatch):
    fill('tree', 12)
    tarred('a.tar.gz', 'tree', 'tree')
    Path('room').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(place / 'room'))
    with open_source('a.tar.gz') as found: assert found.items and not os.listdir('room')


def test_second_tar_behind_the_first_is_named(place, said):
    for name in ('a', 'b'):
        fill(name, 12)
        tarred(f'{name}.tar', name, name, 'w')
    Path('both.tar').write_bytes(b''.join(Path(f'{name}.tar').read_bytes() for name in 'ab'))
    assert said('prepare folder both.tar --size 8').endswith(
        "12 images of 8 pixels, 2 of them held out, 0 files skipped; 1 left out, such as '(behind the end)': "
        'more bytes, as when two tars are joined by `cat`')


def test_tar_that_finds_no_room_is_one_line_with_advice(place):
    fill('tree', 60)
    tarred('a.tar.gz', 'tree', 'tree')
    def starved():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(RunError, match='no room in .* to unpack a.tar.gz; free some space or set TMPDIR'):
            with open_source('a.tar.gz'): pass
    child = FORK.Process(target=starved)
    child.start()
    child.join()
    assert child.exitcode == 0


def test_tar_of_something_else_and_a_changed_tar_are_noticed(place, refused):
    fill('tree', 12)
    tarred('a.tar', 'tree', 'tree')
    quietly('a.tar', 'out')
    os.utime('tree/3.png', (1, 1))
    tarred('a.tar', 'tree', 'tree')
    assert 'source_digest was' in refused('prepare folder a.tar --size 8 --out out')
    Path('notes').mkdir()
    for i in range(3): Path(f'notes/{i}').write_text('no image')
    tarred('a.tar.xz', 'notes', 'notes')
    assert 'files of a.tar.xz cannot be used' in refused('prepare folder a.tar.xz --size 8')


def test_zstd_is_read_or_named(place, refused):
    fill('tree', 12)
    tarred('a.tar', 'tree', 'tree')
    try: from compression.zstd import compress
    except ImportError: compress = pytest.importorskip('zstandard').compress if 'zstandard' in sys.modules else None
    if compress is None:
        Path('a.tar.zst').write_bytes(b'\x28\xb5\x2f\xfd' + bytes(50))
        assert 'a.tar.zst is packed with zstd: pip install zstandard' in refused('prepare folder a.tar.zst')
        return
    Path('a.tar.zst').write_bytes(compress(Path('a.tar').read_bytes()))
    assert quietly('a.tar.zst', 'b')['digest'] == quietly('tree', 'a')['digest']


@pytest.mark.parametrize('seed', range(4))
def test_spoilt_tar_gives_pictures_or_one_line(seed, place):
    fill('tree', 5)
    whole = tarred('a.tar', 'tree', 'tree', 'w').read_bytes()
    rng = random.Random(seed)
    for _ in range(150):
        spoilt = bytearray(whole)
        at = 512 * rng.randrange(len(whole) // 512) + rng.choice([rng.randrange(512), 124, 156, 345])
        spoilt[at:at + 8] = rng.choice([rng.randbytes(8), b'\x80' + rng.randbytes(7), b'\xff' * 8, bytes(8)])
        head = spoilt[at - at % 512:][:512]
        if rng.random() < .5 and len(head) == 512:      # as if it were written like that
            total = sum(head[:148]) + sum(head[156:]) + 8 * 32
            spoilt[at - at % 512 + 148:at - at % 512 + 156] = b'%06o\0 ' % total
        Path('spoilt.tar').write_bytes(spoilt)
        try:
            with open_source('spoilt.tar') as found:
                for name in found.items: assert isinstance(decode(found, name, 8), (str, np.ndarray))
        except ValueError as e: assert 'spoilt.tar' in str(e) and '\n' not in str(e)


# --- what is only told about a picture ----------------------------------------------------------------------------

def chunk(kind, body, spoilt=False):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body) ^ spoilt)

def segment(kind, body): return b'\xff' + bytes([kind]) + struct.pack('>H', len(body) + 2) + body

BOMB = b'\0' + zlib.compress(bytes(1 << 22))
EXIF = b'Exif\0\0'
CHUNKS = {
    'comment with a wrong checksum': chunk(b'tEXt', b'a\0b', True), 'comment in an unknown packing': chunk(b'zTXt', b'a\0\7b'),
    'comment that swells': chunk(b'zTXt', b'a\0' + BOMB), 'comment that is no zlib': chunk(b'zTXt', b'a\0\0b'),
    'short international comment': chunk(b'iTXt', b'a'), 'empty profile': chunk(b'iCCP', b''),
    'profile with a wrong checksum': chunk(b'iCCP', b'icc\0' + BOMB, True), 'profile that swells': chunk(b'iCCP', b'icc\0' + BOMB),
    'profile in an unknown packing': chunk(b'iCCP', b'icc\0\7b'), 'profile that is no zlib': chunk(b'iCCP', b'icc\0\0b'),
    'short gamma': chunk(b'gAMA', b'a'), 'short primaries': chunk(b'cHRM', b'abc'), 'empty intent': chunk(b'sRGB', b''),
    'short resolution': chunk(b'pHYs', b'abc'), 'empty time': chunk(b'tIME', b''), 'EXIF of no kind': chunk(b'eXIf', b'no TIFF'),
    'EXIF with a wrong checksum': chunk(b'eXIf', b'II*\0', True), 'short EXIF': chunk(b'eXIf', b'II*\0'),
    'empty EXIF': chunk(b'eXIf', b''), 'animation of no frames': chunk(b'acTL', bytes(8)), 'short animation': chunk(b'acTL', b'a'),
    'short frame': chunk(b'fcTL', b'abc'), 'private chunk': chunk(b'abCd', b'x')}
SEGMENTS = {
    'EXIF of no kind': segment(0xe1, EXIF + b'no TIFF'), 'short EXIF': segment(0xe1, EXIF + b'II*\0'),
    'EXIF that ends early': segment(0xe1, EXIF + b'II*\0\x08\0\0\0\xff\xff' + b'abc'),
    'EXIF with a value beyond its end': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\0\1\1\x1a\0\5\0\0\0\1\0\0\0\x99\0\0\0\0'),
    'orientation in words': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\1a\0\0\0\0\0\0\0'),
    'orientation 9': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x09\0\0\0\0\0\0'),
    'orientation that is beyond the end': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\1\0' + 3 * b'\1\x12\0\7\0\xff\xff\xff\0\0\0\0'),
    'profile': segment(0xe2, b'ICC_PROFILE\0\1\5garbage'), 'short profile': segment(0xe2, b'ICC_PROFILE\0'),
    'several pictures that are none': segment(0xe2, b'MPF\0garbage'),
    'several pictures of zero': segment(0xe2, b'MPF\0II*\0\x08\0\0\0\0\0\0\0\0\0'),
    'Photoshop': segment(0xed, b'Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\1a'), 'short Adobe': segment(0xee, b'Adobe'),
    'short JFIF': segment(0xe0, b'JFIF'), 'comment like a marker': segment(0xfe, b'\xff\xd8\xff'), 'empty comment': segment(0xfe, b''),
    'XMP that is no XML': segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0<bad')}

def first(data, size=8):
    "What `decode` makes of a file alone in a folder"
    Path('alone').mkdir(exist_ok=True)
    Path('alone/a').write_bytes(data)
    with open_source('alone') as found: return decode(found, 'a', size)

@pytest.mark.parametrize('behind', [False, True], ids=['before the pixels', 'behind the pixels'])
@pytest.mark.parametrize('name', CHUNKS)
def test_damage_beside_the_pixels_of_a_png_costs_nothing(name, behind, place):
    whole = encoded(noise())
    at = len(whole) - 12 if behind else 33
    got = first(whole[:at] + CHUNKS[name] + whole[at:])
    assert isinstance(got, np.ndarray), got
    assert (got == first(whole)).all()


@pytest.mark.parametrize('name', SEGMENTS)
def test_damage_beside_the_pixels_of_a_jpeg_costs_nothing(name, place):
    whole = encoded(noise(), 'JPEG')
    got = first(whole[:2] + SEGMENTS[name] + whole[2:])
    assert isinstance(got, np.ndarray), got
    assert (got == first(whole)).all()


@pytest.mark.parametrize('form', ['WEBP', 'AVIF', 'TIFF', 'PNG', 'JPEG'])
@pytest.mark.parametrize('options', [dict(exif=EXIF + b'no TIFF header'), dict(exif=EXIF + b'II*\0'),
                                     dict(icc_profile=b'no profile'), dict(comment=b'\xff\xfe')], ids=str)
def test_damage_beside_the_pixels_costs_nothing_in_any_form(form, options, place):
    image = noise()
    try: data = encoded(image, form, **options)
    except Exception: pytest.skip(f'Pillow does not write this into {form}')
    got = first(data)
    assert isinstance(got, np.ndarray), got
    assert (got == first(encoded(image, form))).all()


@pytest.mark.parametrize('form,damage', [('PNG', CHUNKS['comment with a wrong checksum']), ('JPEG', SEGMENTS['short profile'])])
@pytest.mark.parametrize('turn', range(1, 9))
def test_damage_elsewhere_leaves_the_orientation(turn, form, damage, place):
    exif = Image.Exif()
    exif[0x0112] = turn
    whole = encoded(noise(8, 12), form, exif=exif)
    at = 33 if form == 'PNG' else 2
    got = first(whole[:at] + damage + whole[at:])
    assert isinstance(got, np.ndarray), got
    assert (got == first(whole)).all()


def test_a_picture_that_is_turned_comes_out_upright(place):
    "The eight ways to hold a camera, against numpy"
    a = np.asarray(noise(8, 8))
    ways = [a, a[:, ::-1], a[::-1, ::-1], a[::-1], a.transpose(1, 0, 2), np.rot90(a, -1), a[::-1, ::-1].transpose(1, 0, 2),
            np.rot90(a)]
    for turn, want in enumerate(ways, 1):
        exif = Image.Exif()
        exif[0x0112] = turn
        assert (first(encoded(Image.fromarray(a), exif=exif)) == want.transpose(2, 0, 1)).all()


@pytest.mark.parametrize('spoil', [
    lambda png: png[:len(png) // 2], lambda png: png.replace(b'IDAT', b'IDAX'), lambda png: png[:20] + b'x' + png[21:],
    lambda png: png[:60] + b'xxxx' + png[64:]], ids=['half', 'no pixels', 'size', 'pixels'])
def test_damaged_pixels_are_not_taken_for_a_damaged_comment(spoil, place):
    whole = encoded(noise())
    with_comment = whole[:33] + CHUNKS['comment with a wrong checksum'] + whole[33:]
    assert isinstance(first(spoil(whole)), str) and isinstance(first(spoil(with_comment)), str)


@pytest.mark.parametrize('limit,used', [(16 * 16, True), (16 * 16 - 1, True), (16 * 16 // 2, True), (16 * 8 - 1, False)])
def test_picture_too_large_for_pillow_is_named(limit, used, place, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
    got = first(encoded(noise()))
    assert isinstance(got, np.ndarray) if used else 'decompression bomb' in got


def test_warnings_of_pillow_stop_no_thread_and_come_back(place):
    whole = encoded(noise(), 'JPEG')
    several = whole[:2] + SEGMENTS['several pictures that are none'] + whole[2:]
    Path('tree').mkdir()
    for i in range(200): Path(f'tree/{i}.jpg').write_bytes(several)
    before = list(warnings.filters)
    manifest = quietly('tree', 'out', workers=8)
    assert (manifest['count'], manifest['skipped'], warnings.filters) == (200, {}, before)
    with pytest.raises(UserWarning): Image.open(io.BytesIO(several))


# --- shorter than it claims ---------------------------------------------------------------------------------------

def make_zip(path):
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(12): archive.writestr(f'{i}.png', encoded(noise()))

def make_tar(mode):
    def make(path):
        fill('tree', 12)
        tarred(path, 'tree', 'tree', mode)
    return make

def make_cifar_tar(path):
    fill_cifar('cifar-10-batches-py')
    tarred(path, 'cifar-10-batches-py', 'cifar-10-batches-py', 'w:gz')

SOURCES = {'a.zip': make_zip, 'a.tar': make_tar('w'), 'a.tar.gz': make_tar('w:gz'), 'a.tar.bz2': make_tar('w:bz2'),
           'a.tar.xz': make_tar('w:xz'), 'cifar-10-python.tar.gz': make_cifar_tar}

@pytest.mark.parametrize('name', SOURCES)
def test_archive_cut_anywhere_is_refused_by_name(name, place, refused):
    SOURCES[name](name)
    whole = Path(name).read_bytes()
    end = len(whole) - 10240 if name == 'a.tar' else len(whole) - 1      # a tar ends with up to 20 blocks of zeros
    for size in sorted({600, *np.linspace(601, end, 12).astype(int)}):
        Path(name).write_bytes(whole[:size])
        assert f'{name} is damaged' in refused(f'prepare folder {name} --size 8')
        assert not Path('data').exists()


def test_batch_cut_anywhere_is_refused_by_name(place, refused):
    fill_cifar('cifar')
    whole = Path('cifar/data_batch_3').read_bytes()
    for size in np.linspace(0, len(whole) - 1, 7).astype(int):
        Path('cifar/data_batch_3').write_bytes(whole[:size])
        assert 'cifar: data_batch_3: no CIFAR-10 batch' in refused('prepare cifar10 cifar')


def test_database_cut_anywhere_is_refused_and_kills_nobody(place):
    "Whoever reads beyond the end of a mapped file dies of SIGBUS: so a child reads"
    fill_lmdb('rooms')
    whole = Path('rooms/data.mdb').read_bytes()
    for size in (0, 100, 4096, 8191, 8192, 8200, 12288, 16384, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        Path('rooms/data.mdb').write_bytes(whole[:size])
        def work():
            with pytest.raises(ValueError, match='rooms') as caught: quietly('rooms', 'out')
            assert '\n' not in str(caught.value)
        child = FORK.Process(target=work)
        child.start()
        child.join()
        assert child.exitcode == 0, f'cut to {size} bytes'


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


@pytest.mark.parametrize('name', ['lines.npy', 'manifest.json'])
def test_damaged_file_of_a_finished_text_is_named(name, place, refused):
    Path('a').write_text('one line\nand another\n' * 50)
    prepare_text('a', 'out', progress=False)
    whole = Path('out', name).read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 2):
        Path('out', name).write_bytes(whole[:size])
        line = refused('prepare billion_word a --out out')
        assert f'out/{name} is damaged' in line and 'remove the folder and prepare again' in line


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


# --- in use, read-only --------------------------------------------------------------------------------------------

def hold(folder, ready, done):
    with locked(folder):
        ready.set()
        done.wait()

@pytest.mark.parametrize('line', ['prepare folder tree --size 8 --out out', 'prepare billion_word a --out out'])
def test_second_preparation_into_one_folder_is_refused(line, place, run):
    fill('tree', 12)
    Path('a').write_text('one line\nand another\n')
    ready, done = FORK.Event(), FORK.Event()
    other = FORK.Process(target=hold, args=['out', ready, done])
    other.start()
    assert ready.wait(600)
    code, _, err = run(line)
    done.set()
    other.join()
    assert (code, len(err)) == (1, 1) and f'out is in use by process {other.pid} on ' in err[0]
    assert run(line)[0] == 0      # and goes on when the other is gone
    assert visible('out') == [('images.npy', 'lines.npy')['word' in line], 'manifest.json']


def test_two_at_once_make_one_array(place):
    fill('tree', 60)
    def work():
        try: quietly('tree', 'out')
        except RunError as e: assert 'is in use by' in str(e)      # just begun, it does not say by whom
    both = [FORK.Process(target=work) for _ in range(2)]
    for p in both: p.start()
    for p in both: p.join()
    assert [p.exitcode for p in both] == [0, 0] and visible('out') == ['images.npy', 'manifest.json']
    assert quietly('tree', 'out')['digest'] == quietly('tree', 'again')['digest']


def test_finished_folder_answers_where_nothing_may_be_written(place):
    fill('tree', 12)
    Path('a').write_text('one line\nand another\n')
    images, lines = quietly('tree', 'images'), prepare_text('a', 'lines', progress=False)
    for folder in ('images', 'lines'):
        for p in Path(folder).iterdir(): p.chmod(0o444)
        os.chmod(folder, 0o555)
    assert without_privileges(lambda: quietly('tree', 'images')) == images
    assert without_privileges(lambda: prepare_text('a', 'lines', progress=False)) == lines
    with locked('elsewhere'): assert quietly('tree', 'images') == images


@pytest.mark.parametrize('out', ['closed', 'closed/out', 'closed/a/b'])
def test_place_that_may_not_be_written_is_refused_before_anything_is_decoded(out, place, monkeypatch):
    fill('tree', 12)
    Path('a').write_text('one line\nand another\n')
    Path('closed').mkdir(mode=0o555)
    opened = []
    monkeypatch.setattr('PIL.Image.open', opened.append)
    monkeypatch.setattr('coulomb_gan.data.prepare_text.read_blocks', lambda *args: opened.append(args))
    for work in (lambda: quietly('tree', out), lambda: prepare_text('a', out, progress=False)):
        def refused():
            with pytest.raises(RunError, match=f'cannot write {out}'): work()
            return opened
        assert without_privileges(refused) == []


def test_no_tar_is_unpacked_for_a_place_that_cannot_be_written(place, refused, monkeypatch):
    opened = []
    monkeypatch.setattr('coulomb_gan.data.prepare_images.open_source', opened.append)
    Path('file').touch()
    assert 'cannot write file/out' in refused('prepare folder a.tar.xz --out file/out') and not opened


def test_nothing_is_downloaded_for_a_place_that_cannot_be_written(place, refused, monkeypatch):
    fetched = []
    monkeypatch.setattr('coulomb_gan.reporting.cli_prepare.fetch', lambda *args: fetched.append(args))
    Path('file').touch()
    assert 'cannot write file/out' in refused('prepare cifar10 --download --out file/out') and not fetched


def test_images_do_not_replace_a_text_and_a_text_no_images(place, refused):
    fill('tree', 12)
    Path('a').write_text('one line\nand another\n')
    quietly('tree', 'images')
    prepare_text('a', 'lines', progress=False)
    assert 'lines holds another data set' in refused('prepare folder tree --size 8 --out lines')
    assert 'images holds another data set' in refused('prepare billion_word a --out images')
    assert (visible('images'), visible('lines')) == (['images.npy', 'manifest.json'], ['lines.npy', 'manifest.json'])


# --- odd names ----------------------------------------------------------------------------------------------------

NAMES = [b'\xff.png', b'caf\xc3\xa9.png', b'caf\xe9.png', b'two\nlines.png', b'car\rriage.png', b'\xe2\x80\xa8.png', b'"\'`.png',
         b'\x1b[31m.png', b'back\\slash.png', b' .png', 'e\u0301.png'.encode(), b'a' * 251 + b'.png']

@pytest.mark.parametrize('form', ['folder', 'tar', 'tar.gz'])
@pytest.mark.parametrize('good', [True, False], ids=['pictures', 'no pictures'])
def test_odd_names_are_read_recorded_and_told(good, form, place, said):
    fill('tree', 30)
    for name in NAMES: Path('tree', os.fsdecode(name)).write_bytes(encoded(noise()) if good else b'no image')
    if form != 'folder': tarred(f'tree.{form}', 'tree', 'tree', 'w' if form == 'tar' else 'w:gz')
    source = 'tree' if form == 'folder' else f'tree.{form}'
    line = said(f'prepare folder {source} --size 8 --max-bad .5 --out out')
    assert line.startswith(f'{42 if good else 30} images of 8 pixels')
    assert line.encode('utf-8').isascii() and line.isprintable()
    manifest = quietly(source, 'out')      # found again
    assert len(manifest['skipped']) == (0 if good else 12)
    assert len(prepared('out').train) + len(prepared('out').test) == manifest['count']


def test_odd_names_survive_a_stop(place, monkeypatch):
    Path('tree').mkdir()
    for i in range(CHUNK + 30): Path('tree', os.fsdecode(b'\xff%d.png' % i)).write_bytes(encoded(noise(8, 8), 'BMP'))
    old, calls = Image.open, iter(range(10_000))
    def failing(file):
        if next(calls) > CHUNK: raise OSError(5, 'Input/output error')
        return old(file)
    monkeypatch.setattr('PIL.Image.open', failing)
    with pytest.raises(RunError, match=r"cannot read '\\udcff\d+.png'"): quietly('tree', 'out', workers=0)
    monkeypatch.setattr('PIL.Image.open', old)
    assert quietly('tree', 'out')['digest'] == quietly('tree', 'whole')['digest']


def test_odd_names_among_what_is_left_out(place, said):
    fill('tree', 12)
    os.symlink('nowhere', os.fsdecode(b'tree/\xff\n'))
    assert said('prepare folder tree --size 8').endswith(r"; 1 left out, such as '\udcff\n': a link that leads nowhere")


def test_text_is_utf8_and_split_at_newlines_alone(place):
    "U+2028 and its like end lines for Python's own reader"
    lines = ['one\u2028line', 'another\x0bone', 'form\x0cfeed', 'next\x85line', 'file\x1cseparator', 'carriage\rreturn']
    Path('a').write_bytes('\n'.join(lines).encode())
    manifest = prepare_text('a', 'out', progress=False)
    got = corpus('out')
    assert sorted(got.decode(got.train) + got.decode(got.test)) == sorted(lines)
    assert json.loads(Path('out/manifest.json').read_bytes().decode('utf-8')) == manifest
