"""Copies, nearest lines, words and frequencies against plain Python."""
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st

from coulomb_gan.data.text import Corpus, builtin, codes
from coulomb_gan.metrics.memorization import copied, frequencies, known_words, nearest_lines, word_set

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def small(text, length):
    "A corpus whose vocabulary is the characters of a text"
    empty = torch.zeros(0, length, dtype=torch.int16)
    found = sorted({chr(c) for c in codes(text, 'characters')} - {'`', '\ufffd'})
    return Corpus(empty, empty, ('\ufffd', '`', *found))


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


def test_words_and_frequencies():
    english = builtin()
    lines = english.decode(english.train)
    words = {w for s in lines for w in s.split(' ')} - {''}
    assert word_set(english) == words and known_words(lines, words) == 1
    count = Counter(''.join(lines))
    got = frequencies(english, english.train)
    assert [*got.values()] == sorted(got.values(), reverse=True) and got.keys() == count.keys()
    for c, share in got.items(): assert abs(share - count[c] / sum(count.values())) < 1e-12


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int16, torch.int64])
def test_copies_of_any_type(dtype):
    train = builtin().train
    assert copied(train[:50].to(dtype), train).all()


def test_frequencies_of_padding_alone():
    english = builtin()
    assert frequencies(english, english.encode([''])) == {}


def test_words_of_nothing_and_of_the_first_lines():
    english = builtin()
    words = word_set(english)
    assert known_words(['', ' '], words) is None
    assert word_set(english, limit=10) < words


ROWS = torch.ones(6, 9, dtype=torch.int16)

@pytest.mark.parametrize('use', [copied, nearest_lines])
@pytest.mark.parametrize('rows, train', [(ROWS[:, :5], ROWS), (ROWS[:0], ROWS), (ROWS, ROWS[:0]), (ROWS[0], ROWS)])
def test_unfit_lines_are_refused(use, rows, train):
    with pytest.raises(ValueError, match='expected lines of one length, some of both'): use(rows, train)
