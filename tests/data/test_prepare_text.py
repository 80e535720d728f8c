"""Text from every form of a source and in every state; preparations that are killed, starved, repeated and named."""
import gzip
import json
import lzma
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from coulomb_gan.data.prepare_text import FOLDER, prepare_text, read_blocks, text_files
from coulomb_gan.data.text import corpus
from coulomb_gan.files import RunError
from faults import at_call, die, fill_the_disk, held, in_child, without_privileges
from made_files import ODD, contents, news, shown, visible

quietly = partial(prepare_text, progress=False)


# --- sources ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('units', ['characters', 'bytes'])
def test_all_forms_of_a_source_give_one_array(units, tmp_path):
    lines = news(3000)
    text = '\n'.join(lines).encode()
    (tmp_path / 'a.txt').write_bytes(text)
    (tmp_path / 'a.txt.gz').write_bytes(gzip.compress(text))
    (tmp_path / 'a.txt.xz').write_bytes(lzma.compress(text))
    (tmp_path / 'dos.txt').write_bytes(b'\xef\xbb\xbf' + text.replace(b'\n', b'\r\n\r\n'))
    for i, pack in enumerate([bytes, gzip.compress, lzma.compress]):
        part = tmp_path / f'bench/{FOLDER}/news.en-0000{i + 1}-of-00100{["", ".gz", ".xz"][i]}'
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(pack('\n'.join(lines[1000 * i:1000 * i + 1000]).encode()))
    arrays = set()
    for name in ('a.txt', 'a.txt.gz', 'a.txt.xz', 'dos.txt', 'bench', f'bench/{FOLDER}'):
        manifest = quietly(tmp_path / name, tmp_path / 'out' / name, units=units)
        assert (manifest['count'], manifest['skipped']) == (3000, 2999 * (name == 'dos.txt'))
        arrays.add((tmp_path / 'out' / name / 'lines.npy').read_bytes())
    assert len(arrays) == 1
    want = [s.encode()[:32].decode('utf-8', 'replace') if units == 'bytes' else s[:32] for s in lines]
    assert shown(tmp_path / 'out/a.txt') == sorted(s.rstrip('`') for s in want)


def test_order_is_random_but_fixed(tmp_path):
    "A sorted file: held-out lines come from everywhere"
    (tmp_path / 'a').write_text('\n'.join(f'{i:05}' for i in range(20_000)))
    quietly(tmp_path / 'a', tmp_path / 'out')
    got = corpus(tmp_path / 'out')
    numbers = np.array(got.decode(got.test)).astype(int)
    assert len(numbers) == 2000
    assert abs(numbers.mean() - 10_000) < 4 * 20_000 / 12**.5 / 2000**.5
    assert not {*numbers} & {int(s) for s in got.decode(got.train)}


def test_at_most_ten_thousand_are_held_out(tmp_path):
    (tmp_path / 'a').write_text('\n'.join(f'{i:06}' for i in range(120_000)))
    quietly(tmp_path / 'a', tmp_path / 'out', length=6)
    got = corpus(tmp_path / 'out')
    assert (len(got.train), len(got.test), got.train.dtype) == (110_000, 10_000, torch.uint8)


@pytest.mark.parametrize('size', [3, 10, 255, 256, 257, 2048])
def test_capped_vocabulary(size, tmp_path):
    "The oracle counts with a dictionary; an index takes two bytes from 257 entries on"
    gen = np.random.default_rng(size)
    lines = [''.join(map(chr, gen.geometric(.005, 40) + 0x3000)) for _ in range(300)]
    (tmp_path / 'a').write_text('\n'.join(lines), encoding='utf-8')
    manifest = quietly(tmp_path / 'a', tmp_path / 'out', size=size)
    count = Counter(''.join(s[:32] for s in lines))
    kept = sorted(count, key=lambda c: (-count[c], c))[:size - 2]
    assert manifest['vocabulary'] == ['\ufffd', '`', *kept]
    assert manifest['unknown'] == sum(k for c, k in count.items() if c not in kept)
    assert np.load(tmp_path / 'out/lines.npy').dtype == (np.uint8 if len(kept) + 2 <= 256 else np.uint16)
    assert shown(tmp_path / 'out') == sorted(''.join(c if c in kept else '\ufffd' for c in s[:32]) for s in lines)


def test_limit_counts_kept_lines_across_files(tmp_path):
    (tmp_path / FOLDER).mkdir()
    for i in range(3): (tmp_path / FOLDER / f'news.en-0000{i}-of-00100').write_text('\n\n'.join(news(50, i)))
    with open(tmp_path / FOLDER / 'news.en-00002-of-00100', 'ab') as file: file.write(b'\n\xff')
    want = [s[:32].rstrip('`') for i in range(3) for s in news(50, i)]
    for limit in (2, 50, 51, 149, 150):
        quietly(tmp_path, tmp_path / f'{limit}', limit=limit)
        assert shown(tmp_path / f'{limit}') == sorted(want[:limit])
    with pytest.raises(ValueError, match='news.en-00002-of-00100, line 100: byte 0xff is not UTF-8'):
        quietly(tmp_path, tmp_path / 'all')
    assert not contents(tmp_path / 'all')


def test_blocks_change_nothing(tmp_path):
    "A text of several blocks of 16 MB, with lines much longer than a row"
    lines = [f'{i} ' + 'é' * (i % 5000) for i in range(8000)]
    (tmp_path / 'a').write_text('\n'.join(lines), encoding='utf-8')
    blocks = [rows for rows, _ in read_blocks(text_files(tmp_path / 'a')[0], 'characters', 20, 10**7)]
    rows = np.concatenate(blocks)
    assert len(blocks) > 2 and [r.tobytes().decode('utf-32-le') for r in rows] == [s[:20].ljust(20, '`') for s in lines]


def random_bytes(n): return np.random.default_rng(0).bytes(n)

@pytest.mark.parametrize('name,data,want', [
    ('a', b'', '0 empty lines and 0 others, expected at least two'),
    ('a', b'\n\r\n\n', '3 empty lines and 0 others'),
    ('a', b'one line', '0 empty lines and 1 others'),
    ('a', b'a\nb\nc\n', 'each of a single character'),
    ('a', b'aaa\naaa', 'all of one character'),
    ('a', b'ok\n\xe9t\xe9\n', 'a, line 2: byte 0xe9 is not UTF-8'),
    ('a', b'ok\nok\nab\xc3', 'a, line 3: byte 0xc3 is not UTF-8'),
    ('a', b'ok\nok\xed\xa0\x80', 'a, line 2: byte 0xed is not UTF-8'),
    ('a', b'ok\n' * 5 + b'\0', 'a, line 6: byte 0x00 has no place in a text file'),
    ('a', random_bytes(5000), 'has no place in a text file'),
    ('a', gzip.compress(b'good\n' * 9), 'a, line 1: byte'), ('a', lzma.compress(b'good\n' * 9), 'a, line 1: byte'),
    ('a.gz', b'no gzip', 'a.gz is damaged'), ('a.xz', b'no xz at all', 'a.xz is damaged'),
    ('a.gz', gzip.compress(b'ok\nok\n')[:-5], 'a.gz is damaged'),
    ('a.xz', lzma.compress(random_bytes(999).hex().encode())[:-50], 'a.xz is damaged'),
    ('a.gz', gzip.compress(b'x' * 99, mtime=0)[:12] + b'spoilt' * 9, 'a.gz is damaged')])
def test_what_is_not_text_is_named_in_one_line(name, data, want, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as caught: quietly(tmp_path / name, tmp_path / 'out')
    assert want in str(caught.value) and '\n' not in str(caught.value) and name in str(caught.value)
    assert not contents(tmp_path / 'out')


def test_bytes_take_what_is_not_utf8(tmp_path):
    (tmp_path / 'bad').write_bytes(b'good\n' * 9 + b'a\0\n')
    with pytest.raises(ValueError, match='bad, line 10: byte 0x00 has no place'): quietly(tmp_path / 'bad', tmp_path / 'out', units='bytes')
    (tmp_path / 'a').write_bytes('été\nété été\n'.encode('latin-1'))
    quietly(tmp_path / 'a', tmp_path / 'out', units='bytes')
    got = corpus(tmp_path / 'out')
    assert got.vocabulary == ('\ufffd', '`', 'é', 't', ' ') and shown(tmp_path / 'out')[0] == '\ufffdt\ufffd'


@pytest.mark.parametrize('source,options,want', [
    ('none', {}, 'none does not exist; expected a text file'), ('folder', {}, 'folder holds no news.en-'),
    ('a', dict(length=0), 'got length 0'), ('a', dict(length=-3), 'got length -3'),
    ('a', dict(size=1), 'got a vocabulary of 1'), ('a', dict(size=2), 'got a vocabulary of 2'),
    ('a', dict(size=70_000), 'got a vocabulary of 70000'), ('a', dict(units='words'), "got units 'words'"),
    ('a', dict(limit=0), 'got a limit of 0 lines'), ('a', dict(limit=1), 'got a limit of 1 lines')])
def test_settings_and_places_that_make_no_sense(source, options, want, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'a').write_text('\n'.join(news(9)))
    with pytest.raises(ValueError, match=want): quietly(tmp_path / source, tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


# --- what cannot be read is named ---------------------------------------------------------------------------------

@pytest.mark.parametrize('make', ODD, ids=lambda f: f.__name__)
def test_part_that_cannot_be_read_is_named(make, place):
    Path(FOLDER).mkdir()
    part = Path(FOLDER, 'news.en-00002-of-00100')
    for number in (1, 3): Path(FOLDER, f'news.en-0000{number}-of-00100').write_text('one line\nand another\n')
    make(part)
    manifest = without_privileges(lambda: quietly('.', 'out'))
    reason = 'a folder' if part.is_dir() else ODD[make]
    assert (manifest['count'], manifest['left_out']) == (4, {part.name: reason})


def test_whatever_the_folder_holds_besides_is_told_in_the_last_line(place, said):
    Path('news').mkdir()
    Path('news/news.en-00001-of-00100').write_text('one line\nand another\n')
    Path('news/news.en-2-of-100').write_text('one line\nand another\n')
    Path('news/more').mkdir()
    Path('news/.hidden').touch()
    assert said('prepare billion_word news').endswith(
        "; 2 left out, such as 'more': not named news.en-*-of-*")


def test_folder_that_may_not_be_entered_is_refused(place):
    Path(FOLDER).mkdir(mode=0)
    try:
        with pytest.raises(RunError, match=f'cannot read {FOLDER}: Permission denied'):
            without_privileges(lambda: quietly('.', 'out'))
    finally: os.chmod(FOLDER, 0o700)


def test_where_nothing_can_be_read_the_reason_is_told(place, refused):
    Path(FOLDER).mkdir()
    os.symlink('nowhere', f'{FOLDER}/news.en-00001-of-00100')
    assert "such as 'news.en-00001-of-00100': a link that leads nowhere" in refused(f'prepare billion_word {FOLDER}')


def test_file_that_may_not_be_read_is_refused(place):
    Path('a').write_text('ok\nok\n')
    Path('a').chmod(0)
    with pytest.raises(RunError, match='cannot read a: Permission denied'): without_privileges(lambda: quietly('a', 'out'))


def test_text_is_utf8_and_split_at_newlines_alone(place):
    "U+2028 and its like end lines for Python's own reader"
    lines = ['one\u2028line', 'another\x0bone', 'form\x0cfeed', 'next\x85line', 'file\x1cseparator', 'carriage\rreturn']
    Path('a').write_bytes('\n'.join(lines).encode())
    manifest = quietly('a', 'out')
    assert shown('out') == sorted(lines)
    assert json.loads(Path('out/manifest.json').read_bytes().decode('utf-8')) == manifest


# --- on disk ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A text of 2,000 lines, prepared"
    place = tmp_path_factory.mktemp('place')
    (place / 'a').write_text('\n'.join(news(2000)))
    quietly(place / 'a', place / 'out')
    return place


@pytest.mark.filterwarnings('ignore:.*it is taken over')
@pytest.mark.parametrize('name,after', [('fsync', False), ('replace', False), ('replace', True)])
def test_killed_at_every_write(name, after, whole, tmp_path):
    for n in range(1, 9):
        def work():
            at_call(os, name, n, die, after)
            quietly(whole / 'a', tmp_path / str(n))
        code = in_child(work)
        assert code in (0, -signal.SIGKILL)
        if code and not (after and n == 3):      # the last of all: the manifest has its name
            with pytest.raises(ValueError, match='holds no prepared text'): corpus(tmp_path / str(n))
        quietly(whole / 'a', tmp_path / str(n))
        assert contents(tmp_path / str(n)) == contents(whole / 'out')
        if code == 0: break
    assert n == 4      # the lock, the array, the manifest; no fourth write


def test_full_disk_is_one_line(whole, tmp_path):
    def starved():
        fill_the_disk(20_000)
        with pytest.raises(RunError, match='cannot write .*lines.npy') as caught: quietly(whole / 'a', tmp_path / 'out')
        assert '\n' not in str(caught.value)
    assert in_child(starved) == 0
    assert not contents(tmp_path / 'out')


def test_place_that_is_a_file(whole, tmp_path):
    with pytest.raises(RunError, match='cannot write'): quietly(whole / 'a', whole / 'a/out')


def test_finished_is_left_alone_and_other_settings_are_refused(whole, tmp_path):
    before = {p.name: p.stat().st_mtime_ns for p in (whole / 'out').iterdir()}
    assert quietly(whole / 'a', whole / 'out') == json.loads((whole / 'out/manifest.json').read_text())
    for options in (dict(length=16), dict(size=9), dict(units='bytes'), dict(limit=99)):
        with pytest.raises(ValueError, match=f'{[*options][0]} was .* and is now .*Remove it or choose another'):
            quietly(whole / 'a', whole / 'out', **options)
    (tmp_path / 'a').write_text('\n'.join(news(2001)))
    with pytest.raises(ValueError, match='source_bytes was'): quietly(tmp_path / 'a', whole / 'out')
    assert {p.name: p.stat().st_mtime_ns for p in (whole / 'out').iterdir()} == before


def test_images_are_not_overwritten(whole, tmp_path):
    (tmp_path / 'manifest.json').write_text('{"size": 64, "count": 9}')
    (tmp_path / 'images.npy').write_bytes(b'precious')
    before = contents(tmp_path)
    with pytest.raises(ValueError, match='holds another data set'): quietly(whole / 'a', tmp_path)
    assert contents(tmp_path) == before


def test_bars_are_written_to_stderr(whole, tmp_path, capsys):
    prepare_text(whole / 'a', tmp_path / 'out')
    out, err = capsys.readouterr()
    assert out == '' and 'counting' in err and 'storing: 100%' in err


# --- the name of the data set -------------------------------------------------------------------------------------

@pytest.mark.parametrize('first,then', [('', 'billion_word'), ('billion_word', ''), ('billion_word', 'another')])
def test_finished_folder_keeps_the_name_it_has(first, then, place):
    Path('a').write_text('one line\nand another\n')
    manifest = quietly('a', 'out', dataset=first)
    before = contents('out')
    assert quietly('a', 'out', dataset=then) == manifest and contents('out') == before
    assert manifest['dataset'] == first


def test_older_manifest_without_a_name_stays_valid(place):
    Path('a').write_text('one line\nand another\n')
    manifest = quietly('a', 'out')
    del manifest['dataset']
    Path('out/manifest.json').write_text(json.dumps(manifest))
    for dataset in ('', 'billion_word'): assert quietly('a', 'out', dataset=dataset) == manifest
    assert shown('out') == ['and another', 'one line']


# --- in use, read-only --------------------------------------------------------------------------------------------

def test_second_preparation_into_one_folder_is_refused(place, run):
    Path('a').write_text('one line\nand another\n')
    line = 'prepare billion_word a --out out'
    with held('out') as other: code, _, err = run(line)
    assert (code, len(err)) == (1, 1) and f'out is in use by process {other.pid} on ' in err[0]
    assert run(line)[0] == 0      # and goes on when the other is gone
    assert visible('out') == ['lines.npy', 'manifest.json']


def test_finished_folder_answers_where_nothing_may_be_written(place):
    Path('a').write_text('one line\nand another\n')
    manifest = quietly('a', 'out')
    for p in Path('out').iterdir(): p.chmod(0o444)
    os.chmod('out', 0o555)
    assert without_privileges(lambda: quietly('a', 'out')) == manifest


@pytest.mark.parametrize('out', ['closed', 'closed/out', 'closed/a/b'])
def test_place_that_may_not_be_written_is_refused_before_anything_is_read(out, place, monkeypatch):
    Path('a').write_text('one line\nand another\n')
    Path('closed').mkdir(mode=0o555)
    opened = []
    monkeypatch.setattr('coulomb_gan.data.prepare_text.read_blocks', lambda *args: opened.append(args))
    def refused():
        with pytest.raises(RunError, match=f'cannot write {out}'): quietly('a', out)
        return opened
    assert without_privileges(refused) == []


@pytest.mark.parametrize('name', ['lines.npy', 'manifest.json'])
def test_damaged_file_of_a_finished_text_is_named(name, place, refused):
    Path('a').write_text('one line\nand another\n' * 50)
    quietly('a', 'out')
    whole = Path('out', name).read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 2):
        Path('out', name).write_bytes(whole[:size])
        line = refused('prepare billion_word a --out out')
        assert f'out/{name} is damaged' in line and 'remove the folder and prepare again' in line
