"""Text from every source and in every state, n-gram tables against dictionaries, copies against plain Python."""
import gzip
import json
import lzma
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from coulomb_gan.metrics import ngrams as ngrams_module
from coulomb_gan.data.prepare_text import FOLDER, prepare_text, read_blocks, text_files
from coulomb_gan.metrics.memorization import copied, frequencies, known_words, nearest_lines, word_set
from coulomb_gan.metrics.ngrams import Ngrams, count_ngrams, jsd_bias, jsd_interval, jsd, jsds, load_models, save_models, training_models, ngram_codes
from coulomb_gan.training.run_folder import RunError
from coulomb_gan.data.text import Corpus, builtin, codes, corpus, cut, one_hot

FORK = multiprocessing.get_context('fork')      # children start with everything imported
WORDS = 'the a of house 1,000 naïve “quoted” 東京 € end . x`y ``'.split(' ')
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
LINE = st.text(st.characters(exclude_characters='\n\r\0', exclude_categories=['Cs']), min_size=1, max_size=50)


def news(n, seed=0):
    gen = np.random.default_rng(seed)
    return [' '.join(gen.choice(WORDS, gen.integers(1, 12))) for _ in range(n)]

def quietly(source, out, **options): return prepare_text(source, out, progress=False, **options)

def shown(folder):
    "All lines of a prepared folder, sorted"
    got = corpus(folder)
    return sorted(got.decode(got.train) + got.decode(got.test))

def files(folder):
    "All but those of the lock and the temporary ones, which a kill leaves behind"
    found = [p for p in folder.rglob('[!.]*') if p.is_file() and p.name != 'lock.json']
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}

def small(text, length=6, units='characters'):
    "A corpus whose vocabulary is the characters of a text"
    empty = torch.zeros(0, length, dtype=torch.int16)
    found = sorted({chr(c) for c in codes(text, units)} - {'`', '\ufffd'})
    return Corpus(empty, empty, ('\ufffd', '`', *found), units)


# --- there and back -----------------------------------------------------------------------------------------------

@QUICK
@given(st.lists(LINE, min_size=1, max_size=5), st.integers(1, 40))
def test_characters_there_and_back(lines, length):
    got = small(''.join(lines), length)
    rows = got.encode(lines)
    assert rows.shape == (len(lines), length) and got.decode(rows) == [s[:length].rstrip('`') for s in lines]
    assert torch.equal(got.encode(got.decode(rows)), rows)


@QUICK
@given(st.lists(LINE, min_size=1, max_size=5), st.integers(1, 40))
def test_bytes_there_and_back(lines, length):
    got = small(''.join(lines), length, 'bytes')
    want = [s.encode()[:length].rstrip(b'`').decode('utf-8', 'replace') for s in lines]
    assert got.decode(got.encode(lines)) == want


@QUICK
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_any_string_encodes(lines):
    "Lone surrogates and line ends included: what is outside the vocabulary is unknown"
    for units in ('characters', 'bytes'): assert (small('ab', units=units).encode(lines) < 4).all()


@QUICK
@given(st.lists(st.one_of(LINE, st.just('')), min_size=1, max_size=8), st.integers(1, 40), st.booleans(),
       st.sampled_from(['\n', '\r\n']))
def test_cut_against_string_methods(lines, length, last, end):
    text = end.join(lines) + end * last
    assume(text and (last or lines[-1]))
    for units in ('characters', 'bytes'):
        rows, sizes = cut(codes(text, units), length)
        want = [codes(s, units)[:length] for s in lines if s]
        want = [[*w, *[ord('`')] * (length - len(w))] for w in want]
        assert rows.tolist() == want and sizes.tolist() == [len(codes(s, units)) for s in lines]


def test_one_hot():
    rows = torch.randint(9, (5, 7), dtype=torch.int16)
    assert torch.equal(one_hot(rows, 9), torch.nn.functional.one_hot(rows.long(), 9).float())


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
    with pytest.raises(ValueError, match='news.en-00002-of-00100, line 100: byte 0xff is no UTF-8'):
        quietly(tmp_path, tmp_path / 'all')
    assert not files(tmp_path / 'all')


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
    ('a', b'ok\n\xe9t\xe9\n', 'a, line 2: byte 0xe9 is no UTF-8'),
    ('a', b'ok\nok\nab\xc3', 'a, line 3: byte 0xc3 is no UTF-8'),
    ('a', b'ok\nok\xed\xa0\x80', 'a, line 2: byte 0xed is no UTF-8'),
    ('a', b'ok\n' * 5 + b'\0', 'a, line 6: byte 0x00 has no place in a text file'),
    ('a', random_bytes(5000), 'has no place in a text file'),
    ('a.gz', b'no gzip', 'a.gz is damaged'), ('a.xz', b'no xz at all', 'a.xz is damaged'),
    ('a.gz', gzip.compress(b'ok\nok\n')[:-5], 'a.gz is damaged'),
    ('a.xz', lzma.compress(random_bytes(999).hex().encode())[:-50], 'a.xz is damaged'),
    ('a.gz', gzip.compress(b'x' * 99, mtime=0)[:12] + b'spoilt' * 9, 'a.gz is damaged')])
def test_what_is_no_text_is_named_in_one_line(name, data, want, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as caught: quietly(tmp_path / name, tmp_path / 'out')
    assert want in str(caught.value) and '\n' not in str(caught.value) and name in str(caught.value)
    assert not files(tmp_path / 'out')


def test_bytes_take_what_is_no_utf8(tmp_path):
    (tmp_path / 'a').write_bytes('été\nété été\n'.encode('latin-1'))
    quietly(tmp_path / 'a', tmp_path / 'out', units='bytes')
    got = corpus(tmp_path / 'out')
    assert got.vocabulary == ('\ufffd', '`', 'é', 't', ' ') and shown(tmp_path / 'out')[0] == '\ufffdt\ufffd'


@pytest.mark.parametrize('source,options,want', [
    ('none', {}, 'none does not exist; expected a text file'), ('folder', {}, 'folder holds no news.en-'),
    ('a', dict(length=0), 'got length 0'), ('a', dict(length=-3), 'got length -3'),
    ('a', dict(size=1), 'got a vocabulary of 1'), ('a', dict(size=2), 'got a vocabulary of 2'),
    ('a', dict(size=70_000), 'got a vocabulary of 70000'), ('a', dict(units='words'), "got units 'words'"),
    ('a', dict(limit=0), 'got a limit of 0 lines')])
def test_settings_and_places_that_make_no_sense(source, options, want, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'a').write_text('\n'.join(news(9)))
    with pytest.raises(ValueError, match=want): quietly(tmp_path / source, tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads everything')
def test_forbidden_file(tmp_path):
    (tmp_path / 'a').write_text('ok\nok\n')
    (tmp_path / 'a').chmod(0)
    with pytest.raises(RunError, match='cannot read .*a: Permission denied'): quietly(tmp_path / 'a', tmp_path / 'out')


# --- on disk ------------------------------------------------------------------------------------------------------

def in_child(work):
    "The exit code of `work` in a process of its own; minus the signal that killed it"
    child = FORK.Process(target=work)
    child.start()
    child.join()
    return child.exitcode


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp('place')
    (place / 'a').write_text('\n'.join(news(2000)))
    quietly(place / 'a', place / 'out')
    return place


@pytest.mark.filterwarnings('ignore:.*it is taken over')
@pytest.mark.parametrize('name,after', [('fsync', False), ('replace', False), ('replace', True)])
def test_killed_at_every_write(name, after, whole, tmp_path):
    def work(n):
        old, calls = getattr(os, name), iter(range(1, 100))
        def counted(*args):
            last = next(calls) == n
            if last and not after: os.kill(os.getpid(), signal.SIGKILL)
            old(*args)
            if last: os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, counted)
        quietly(whole / 'a', tmp_path / str(n))
    for n in range(1, 9):
        code = in_child(lambda: work(n))
        assert code in (0, -signal.SIGKILL)
        if code and not (after and n == 3):      # the last of all: the manifest has its name
            with pytest.raises(ValueError, match='holds no prepared text'): corpus(tmp_path / str(n))
        quietly(whole / 'a', tmp_path / str(n))
        assert files(tmp_path / str(n)) == files(whole / 'out')
        if code == 0: break
    assert n == 4      # the lock, the array, the manifest; no fourth write


def test_full_disk_is_one_line(whole, tmp_path):
    def starved():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(RunError, match='cannot write .*lines.npy') as caught: quietly(whole / 'a', tmp_path / 'out')
        assert '\n' not in str(caught.value)
    assert in_child(starved) == 0
    assert not files(tmp_path / 'out')


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
    before = files(tmp_path)
    with pytest.raises(ValueError, match='holds another data set'): quietly(whole / 'a', tmp_path)
    assert files(tmp_path) == before


def test_mapped_and_safe_from_writing(whole):
    before, got = files(whole / 'out'), corpus(whole / 'out')
    assert isinstance(np.load(whole / 'out/lines.npy', mmap_mode='r'), np.memmap)
    got.train[:] = 0
    assert files(whole / 'out') == before and corpus(whole / 'out').train.any()


def test_damage_is_noticed(whole, tmp_path):
    for name, data in (('lines.npy', files(whole / 'out')['lines.npy'][:-1]), ('lines.npy', b'')):
        for n, d in files(whole / 'out').items(): (tmp_path / n).write_bytes(d)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RunError, match='lines.npy is damaged'): corpus(tmp_path)


def test_bars_are_written_to_stderr(whole, tmp_path, capsys):
    prepare_text(whole / 'a', tmp_path / 'out')
    out, err = capsys.readouterr()
    assert out == '' and 'counting' in err and 'storing: 100%' in err


def test_the_same_on_every_run_of_python():
    "Hash seeds do not matter"
    code = 'from coulomb_gan.text import builtin; c = builtin(); print(c.vocabulary, c.train.double().std().item())'
    outs = {subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONHASHSEED': seed}, check=True,
                           capture_output=True, text=True).stdout for seed in '12'}
    assert len(outs) == 1


# --- n-grams ------------------------------------------------------------------------------------------------------

def loop(rows, n): return Counter(tuple(r[i:i + n]) for r in rows.tolist() for i in range(len(r) - n + 1))

def loop_jsd(p, q):
    n_p, n_q, total = sum(p.values()), sum(q.values()), 0.
    for w in {*p, *q}:
        p_w, q_w = p[w] / n_p, q[w] / n_q
        total += sum(s / 2 * math.log2(s / ((p_w + q_w) / 2)) for s in (p_w, q_w) if s)
    return total


def windows(model):
    "The table of a model with its windows spelled out, by exact integers"
    step, table = min(model.size, 2**63 // model.size**(model.n - 1)), {}
    for g in range(len(model.starts) - 1):
        for i in range(model.starts[g], model.starts[g + 1]):
            value, window = g * step * model.size**(model.n - 1) + int(model.codes[i]), ()
            for _ in range(model.n): value, window = value // model.size, (value % model.size, *window)
            table[window] = int(model.counts[i])
    return table


ROWS = st.tuples(st.integers(2, 40), st.integers(1, 12), st.sampled_from([2, 3, 100, 256, 1448, 2048, 6208]),
                 st.integers(0, 9999))

def drawn(n_lines, length, size, seed):
    "Rows with many repeats and with the extreme indices"
    gen = np.random.default_rng(seed)
    some = np.unique([0, size - 1, *gen.integers(0, size, 3)])
    dtype = np.uint8 if size <= 256 else np.int16
    return torch.from_numpy(gen.choice(some, (n_lines, length)).astype(dtype))


@QUICK
@given(ROWS, st.integers(1, 6), st.sampled_from([1, 7, 1 << 18]))
def test_counts_are_exact(shape, n, block):
    assume(n <= shape[1])
    old, ngrams_module.BLOCK = ngrams_module.BLOCK, block
    try: model = count_ngrams(drawn(*shape), shape[2], n)
    finally: ngrams_module.BLOCK = old
    assert windows(model) == loop(drawn(*shape), n) and model.total == shape[0] * (shape[1] - n + 1)
    assert all((np.diff(model.codes[a:b]) > 0).all() for a, b in zip(model.starts, model.starts[1:]))


@QUICK
@given(ROWS, st.integers(1, 6))
def test_jsd_against_the_loop(shape, n):
    assume(n <= shape[1])
    a, b = drawn(*shape), drawn(shape[0] // 2 + 1, *shape[1:3], shape[3] + 1)
    p, q = (count_ngrams(rows, shape[2], n) for rows in (a, b))
    assert abs(jsd(p, q) - loop_jsd(loop(a, n), loop(b, n))) < 1e-12
    assert 0 <= jsd(p, q) <= 1 and abs(jsd(p, q) - jsd(q, p)) < 1e-15 and jsd(p, p) == 0
    assert jsd(count_ngrams(a, shape[2], n), count_ngrams(a.repeat(3, 1), shape[2], n)) == 0      # only shares count


def test_disjoint_is_one_and_wrong_variants_differ():
    a, b = torch.zeros(5, 8, dtype=torch.uint8), torch.ones(7, 8, dtype=torch.uint8)
    for n in range(1, 7): assert jsd(count_ngrams(a, 2, n), count_ngrams(b, 2, n)) == 1
    rows = drawn(9, 8, 100, 0)
    assert windows(count_ngrams(rows.reshape(1, -1), 100, 2)) != loop(rows, 2)


def test_every_field_of_a_table_counts():
    a, b = (count_ngrams(drawn(30, 12, 100, seed), 100, 2) for seed in (0, 1))
    base = jsd(a, b)
    for field, value in dict(codes=a.codes + 1, counts=a.counts[::-1] + np.arange(len(a.counts))).items():
        assert jsd(replace(a, **{field: value}), b) != base
    for field, value in dict(n=3, size=99).items():
        with pytest.raises(ValueError, match='expected equal ones'): jsd(replace(a, **{field: value}), b)
    assert jsd(replace(a, starts=np.array([0, 1])), b) != base if len(a.codes) > 1 else True
    assert [f.name for f in fields(Ngrams)] == ['n', 'size', 'codes', 'counts', 'starts']


@pytest.mark.parametrize('rows,size,n,want', [
    (torch.zeros(3, 4).byte(), 5, 5, 'got n 5, expected at most the length of a line, 4'),
    (torch.zeros(3, 4).byte(), 5, 0, 'got n 0'), (torch.zeros(3, 4).byte(), 5, -1, 'got n -1'),
    (torch.zeros(0, 4).byte(), 5, 2, 'got no lines'), (torch.full((3, 4), 5).byte(), 5, 2, 'expected 0 .. 4'),
    (torch.full((3, 4), -1), 5, 2, 'got indices -1 .. -1'), (torch.zeros(3, 9).byte(), 2048, 7, 'size.* <= 2.63')])
def test_bad_rows(rows, size, n, want):
    with pytest.raises(ValueError, match=want): count_ngrams(rows, size, n)


@pytest.fixture(scope='module')
def english(): return builtin()

@pytest.fixture(scope='module')
def models(english): return training_models(english.train, len(english.vocabulary), progress=False)


def test_known_value():
    "p = (1/2, 1/2), q = (1, 0): H(3/4, 1/4) - 1/2"
    p, q = (count_ngrams(torch.tensor([row]), 2, 1) for row in ([0, 1], [0, 0]))
    assert abs(jsd(p, q) - (-.75 * math.log2(.75) - .25 * math.log2(.25) - .5)) < 1e-15


def test_floor_of_real_lines(english, models):
    values = jsd_bias(english.test, models)
    assert [*values] == [1, 2, 3, 4, 5, 6] and sorted(values.values()) == [*values.values()]
    train = {n: loop(english.train, n) for n in (4, 6)}
    for n in train: assert abs(values[n] - loop_jsd(loop(english.test[:640], n), train[n])) < 1e-12
    assert jsds(english.test[:640], models) == values and jsds(english.train, models) == dict.fromkeys(models, 0)
    with pytest.raises(ValueError, match='got 100 held-out lines, expected at least 640'):
        jsd_bias(english.test[:100], models)


def test_interval_against_halves_counted_anew(english, models):
    rows, n_draws = english.test[:40], 30
    low, high = jsd_interval(rows, models[3], draws=n_draws, seed=5)
    gen = np.random.default_rng(5)
    halves = gen.permuted(np.tile(np.arange(40) % 2, (n_draws, 1)), axis=1).astype(bool)
    values = np.array([jsd(count_ngrams(rows[torch.from_numpy(h)], models[3].size, 3), models[3]) for h in halves])
    want = np.quantile(values, [.025, .975]) - values.mean() + jsds(rows, models)[3]
    assert np.allclose((low, high), want, rtol=0, atol=1e-12)
    assert jsd_interval(rows, models[3], seed=5, draws=n_draws) == (low, high)


def test_interval_in_several_groups():
    rows = drawn(30, 12, 2048, 3)
    model = count_ngrams(drawn(60, 12, 2048, 4), 2048, 6)
    low, high = jsd_interval(rows, model, draws=20)
    assert len(model.starts) == 9 and low <= jsd(count_ngrams(rows, 2048, 6), model) <= high


def test_tables_are_kept_and_belong_to_their_lines(english, models, tmp_path, capsys):
    size = len(english.vocabulary)
    first = training_models(english.train[:300], size, tmp_path, longest=3)
    assert 'n-grams' in capsys.readouterr().err
    stamps = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = training_models(english.train[:300], size, tmp_path, longest=3)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == stamps and len(stamps) == 1
    for n in first: assert windows(first[n]) == windows(again[n])
    other = training_models(english.train[1:301], size, tmp_path, longest=3, progress=False)
    assert windows(other[3]) == loop(english.train[1:301], 3) and len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize('spoil', [lambda d: d[:-200], lambda d: b'', lambda d: b'PK' + d[2:40], lambda d: b'text'])
def test_damaged_tables(spoil, models, tmp_path):
    save_models(tmp_path / 'a.npz', {2: models[2]})
    (tmp_path / 'a.npz').write_bytes(spoil((tmp_path / 'a.npz').read_bytes()))
    with pytest.raises(ValueError, match='holds no n-gram tables') as caught: load_models(tmp_path / 'a.npz')
    assert '\n' not in str(caught.value)


def test_window_codes_do_not_overflow():
    for size, n in ((2048, 6), (6208, 6), (32767, 5), (2, 60)):
        rows = np.full((1, n), size - 1)
        group, code = ngram_codes(rows, size, n)
        step = min(size, 2**63 // size**(n - 1))
        assert int(group[0, 0]) * step * size**(n - 1) + int(code[0, 0]) == size**n - 1


# --- memorising ---------------------------------------------------------------------------------------------------

def few_lines(characters, length): return st.lists(st.text(characters, max_size=length), min_size=1, max_size=6)


def edit_distance(a, b):
    row = [*range(len(b) + 1)]
    for i, c in enumerate(a, 1):
        old, row = row, [i]
        for j, d in enumerate(b, 1): row.append(min(old[j] + 1, row[-1] + 1, old[j - 1] + (c != d)))
    return row[-1]


@QUICK
@given(few_lines('abc', 9), few_lines('abc', 9))
def test_nearest_line_against_the_textbook(train, lines):
    got = small('abc', 9)
    distance, place = nearest_lines(got.encode(lines), got.encode(train))
    want = [[edit_distance(a, b) for b in train] for a in lines]
    assert (distance.tolist(), place.tolist()) == ([min(w) for w in want], [w.index(min(w)) for w in want])


@pytest.mark.parametrize('length', [1, 64, 65, 150])
def test_nearest_line_at_extreme_distances(length):
    got = small('ab', length)
    for a, b, want in (('a', 'b', length), ('a', 'a', 0), ('a', '', length), ('', 'b', length)):
        rows, train = got.encode([a * length]), got.encode([b * length])
        assert nearest_lines(rows, train)[0].item() == want


@QUICK
@given(few_lines('ab', 4), few_lines('ab', 4))
def test_copies(train, lines):
    got = small('ab', 4)
    assert copied(got.encode(lines), got.encode(train)).tolist() == [s in train for s in lines]


def test_words_and_frequencies(english):
    lines = english.decode(english.train)
    words = {w for s in lines for w in s.split(' ')} - {''}
    assert word_set(english) == words and known_words(lines, words) == 1
    count = Counter(''.join(lines))
    got = frequencies(english, english.train)
    assert [*got.values()] == sorted(got.values(), reverse=True) and got.keys() == count.keys()
    for c, share in got.items(): assert abs(share - count[c] / sum(count.values())) < 1e-12
