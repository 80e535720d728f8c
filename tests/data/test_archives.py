"""Zips and tars: packed, joined, cut, spoilt, pointing outside, or without room to unpack them."""
import io
import os
import random
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from coulomb_gan.data.archives import reading
from coulomb_gan.data.image_sources import open_source
from coulomb_gan.data.prepare_images import decode
from coulomb_gan.files import RunError
from faults import fill_the_disk, in_child
from made_files import MODES, encoded, fill, fill_cifar, noise, quietly, tarred, zipped

OUTSIDE = ['../a.png', 'a/../../a.png', '/a.png', '\\a.png', 'C:\\a.png', 'C:/a.png', 'a\\..\\b.png']


# --- a zip --------------------------------------------------------------------------------------------------------

def spoil_last_entry(path, change):
    "Spoils the record of the last entry in both places where it stands"
    data = bytearray(path.read_bytes())
    for mark, at in ((b'PK\3\4', 6), (b'PK\1\2', 8)): change(data, data.rfind(mark) + at)
    path.write_bytes(data)

def encrypt(data, at): data[at] |= 1
def deflate64(data, at): data[at + 2] = 9
def patch(data, at): data[at] |= 32

@pytest.mark.parametrize('change,words', [(encrypt, 'encrypted'), (deflate64, 'not supported'), (patch, 'patch')])
def test_entry_of_a_zip_that_cannot_be_unpacked_is_named(change, words, place, said):
    spoil_last_entry(zipped('a.zip'), change)
    line = said('prepare folder a.zip --size 8')
    assert line.startswith("11 images of 8 pixels, 2 of them held out, 1 file skipped, such as '11.png': ")
    assert words in line


def test_entry_with_a_wrong_checksum_is_skipped(place):
    whole = bytearray(zipped('a.zip', 3, 'BMP', 8).read_bytes())
    whole[150] ^= 1
    Path('a.zip').write_bytes(whole)
    skipped = quietly('a.zip', 'out', max_bad=.5)['skipped']
    assert list(skipped) == ['00.bmp'] and 'CRC' in skipped['00.bmp']


@pytest.mark.parametrize('name', OUTSIDE)
def test_zip_that_points_outside_is_refused(name, place, refused):
    zipped('bad.zip', 20)
    with zipfile.ZipFile('bad.zip', 'a') as archive: archive.writestr(name, encoded(noise()))
    assert 'points outside' in refused('prepare folder bad.zip --size 8') and not Path('data').exists()


# --- a tar --------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize('name', OUTSIDE)
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


def test_second_tar_behind_the_first_is_named(place, said):
    for name in ('a', 'b'):
        fill(name, 12)
        tarred(f'{name}.tar', name, name, 'w')
    Path('both.tar').write_bytes(b''.join(Path(f'{name}.tar').read_bytes() for name in 'ab'))
    assert said('prepare folder both.tar --size 8').endswith(
        "12 images of 8 pixels, 2 of them held out, 0 files skipped; 1 left out, such as '(behind the end)': "
        'more bytes, as when two tars are joined by `cat`')


def test_tar_of_something_else_and_a_changed_tar_are_noticed(place, refused):
    fill('tree', 12)
    tarred('a.tar', 'tree', 'tree')
    quietly('a.tar', 'out')
    os.utime('tree/3.png', (1, 1))
    tarred('a.tar', 'tree', 'tree')
    assert 'source_digest was' in refused('prepare folder a.tar --size 8 --out out')
    Path('notes').mkdir()
    for i in range(3): Path(f'notes/{i}').write_text('not an image')
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


# --- unpacking ----------------------------------------------------------------------------------------------------

def test_unpacked_tar_takes_no_room_when_the_process_is_gone(place, monkeypatch):
    fill('tree', 12)
    tarred('a.tar.gz', 'tree', 'tree')
    Path('room').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(place / 'room'))
    with open_source('a.tar.gz') as found: assert found.items and not os.listdir('room')


def test_tar_that_finds_no_room_is_one_line_with_advice(place):
    fill('tree', 60)
    tarred('a.tar.gz', 'tree', 'tree')
    def starved():
        fill_the_disk(20_000)
        with pytest.raises(RunError, match='no room in .* to unpack a.tar.gz; free some space or set TMPDIR'):
            with open_source('a.tar.gz'): pass
    assert in_child(starved) == 0


@pytest.mark.parametrize('error,kind,words', [
    (EOFError('ended early'), ValueError, 'a is damaged: ended early'), (OSError('not packed'), ValueError, 'a is damaged: not packed'),
    (OSError(5, 'Input/output error'), RunError, 'cannot read a: Input/output error'),
    (ValueError('said already'), ValueError, 'said already'), (RunError('said already'), RunError, 'said already'),
    (MemoryError('out of memory'), MemoryError, 'out of memory')], ids=str)
def test_what_an_unpacker_raises_is_damage_or_a_failure_of_the_system(error, kind, words):
    with pytest.raises(kind) as caught:
        with reading('a'): raise error
    assert str(caught.value) == words


# --- shorter than it claims ---------------------------------------------------------------------------------------

def make_tar(mode):
    def make(path):
        fill('tree', 12)
        tarred(path, 'tree', 'tree', mode)
    return make

def make_cifar_tar(path):
    fill_cifar('cifar-10-batches-py')
    tarred(path, 'cifar-10-batches-py', 'cifar-10-batches-py', 'w:gz')

SOURCES = {'a.zip': zipped, 'a.tar': make_tar('w'), 'a.tar.gz': make_tar('w:gz'), 'a.tar.bz2': make_tar('w:bz2'),
           'a.tar.xz': make_tar('w:xz'), 'cifar-10-python.tar.gz': make_cifar_tar}

@pytest.mark.parametrize('name', SOURCES)
def test_archive_cut_anywhere_is_refused_by_name(name, place, refused):
    SOURCES[name](name)
    whole = Path(name).read_bytes()
    end = len(whole) - 10240 if name == 'a.tar' else len(whole) - 1      # a tar ends with up to 20 blocks of zeros
    sizes = {600, *np.linspace(601, end, 12).astype(int)}
    if name == 'a.tar': sizes |= {*range(1024, end, 1024)}      # between two files, too
    for size in sorted(sizes):
        Path(name).write_bytes(whole[:size])
        assert f'{name} is damaged' in refused(f'prepare folder {name} --size 8')
        assert not Path('data').exists()


@pytest.mark.parametrize('seed', range(4))
def test_spoilt_tar_gives_images_or_one_line(seed, place):
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
