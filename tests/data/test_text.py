"""Characters and bytes there and back, lines cut by array operations, and prepared folders that are mapped."""
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.data.text import Corpus, builtin, check_settings, codes, corpus, cut, one_hot
from coulomb_gan.files import RunError
from made_files import contents, news

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
LINE = st.text(st.characters(exclude_characters='\n\r\0', exclude_categories=['Cs']), min_size=1, max_size=50)
quietly = partial(prepare_text, progress=False)


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
    "Lone surrogates and line ends included: whatever is outside the vocabulary is unknown"
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


@pytest.mark.parametrize('options,want', [
    (dict(length=0), 'got length 0, expected at least 1'), (dict(size=2), 'got a vocabulary of 2, expected 3 to 32767'),
    (dict(size=32768), 'got a vocabulary of 32768'), (dict(units='words'), "got units 'words', expected one of characters, bytes")])
def test_settings_that_make_no_sense(options, want):
    with pytest.raises(ValueError, match=want): builtin(**options)
    with pytest.raises(ValueError, match=want): check_settings(**dict(length=32, size=2048, units='bytes') | options)


# --- on disk ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A text of 2,000 lines, prepared"
    place = tmp_path_factory.mktemp('place')
    (place / 'a').write_text('\n'.join(news(2000)))
    quietly(place / 'a', place / 'out')
    return place


def test_mapped_and_safe_from_writing(whole):
    before, got = contents(whole / 'out'), corpus(whole / 'out')
    assert isinstance(np.load(whole / 'out/lines.npy', mmap_mode='r'), np.memmap)
    got.train[:] = 0
    assert contents(whole / 'out') == before and corpus(whole / 'out').train.any()


def test_damage_is_noticed(whole, tmp_path):
    for name, data in (('lines.npy', contents(whole / 'out')['lines.npy'][:-1]), ('lines.npy', b'')):
        for n, d in contents(whole / 'out').items(): (tmp_path / n).write_bytes(d)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RunError, match='lines.npy is damaged'): corpus(tmp_path)


def test_the_same_on_every_run_of_python():
    "Hash seeds do not matter"
    code = 'from coulomb_gan.data.text import builtin; c = builtin(); print(c.vocabulary, c.train.double().std().item())'
    outs = {subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONHASHSEED': seed}, check=True,
                           capture_output=True, text=True).stdout for seed in '12'}
    assert len(outs) == 1


@pytest.mark.parametrize('other', [np.int64, np.float32, '>u2', np.int8])
def test_lines_of_another_type_are_not_read_as_if_they_were_of_ours(other, whole, tmp_path):
    for n, d in contents(whole / 'out').items(): (tmp_path / n).write_bytes(d)
    rows = np.load(tmp_path / 'lines.npy')
    for wrong in (rows.astype(other), rows[0]):
        np.save(tmp_path / 'lines.npy', wrong)
        with pytest.raises(RunError, match='lines.npy is damaged'): corpus(tmp_path)
