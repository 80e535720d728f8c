"""n-gram tables against dictionaries, their divergence against a plain loop, and tables kept on disk."""
import math
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from coulomb_gan.data.text import builtin
from coulomb_gan.metrics import ngrams as ngrams_module
from coulomb_gan.metrics.ngrams import Ngrams, count_ngrams, jsd, jsd_bias, jsd_interval, jsds
from coulomb_gan.metrics.ngrams import load_models, ngram_codes, save_models, training_models

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def loop(rows, n): return Counter(tuple(r[i:i + n]) for r in rows.tolist() for i in range(len(r) - n + 1))

def loop_jsd(p, q):
    n_p, n_q, total = sum(p.values()), sum(q.values()), 0.
    for w in {*p, *q}:
        p_w, q_w = p[w] / n_p, q[w] / n_q
        total += sum(s / 2 * math.log2(s / ((p_w + q_w) / 2)) for s in (p_w, q_w) if s)
    return total


def spelled(model):
    "The table of a model with its n-grams spelled out, by exact integers"
    step, table = min(model.size, 2**63 // model.size**(model.n - 1)), {}
    for g in range(len(model.starts) - 1):
        for i in range(model.starts[g], model.starts[g + 1]):
            value, ngram = g * step * model.size**(model.n - 1) + int(model.codes[i]), ()
            for _ in range(model.n): value, ngram = value // model.size, (value % model.size, *ngram)
            table[ngram] = int(model.counts[i])
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
    assert spelled(model) == loop(drawn(*shape), n) and model.total == shape[0] * (shape[1] - n + 1)
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
    assert spelled(count_ngrams(rows.reshape(1, -1), 100, 2)) != loop(rows, 2)


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
    (torch.zeros(0, 4).byte(), 5, 2, 'got .0, 4., expected .lines, length.'), (torch.full((3, 4), 5).byte(), 5, 2, 'expected 0 .. 4'),
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


def test_bias_of_real_lines(english, models):
    values = jsd_bias(english.test, models)
    assert [*values] == [1, 2, 3, 4, 5, 6] and sorted(values.values()) == [*values.values()]
    train = {n: loop(english.train, n) for n in (4, 6)}
    for n in train: assert abs(values[n] - loop_jsd(loop(english.test[:640], n), train[n])) < 1e-12
    assert jsds(english.test[:640], models) == values and jsds(english.train, models) == dict.fromkeys(models, 0)
    with pytest.raises(ValueError, match='got 100 held-out lines, asked for 640'):
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


def test_interval_follows_its_level_and_its_seed(english, models):
    rows = english.test[:160]
    low, high = jsd_interval(rows, models[4])
    narrow = jsd_interval(rows, models[4], level=.5, draws=100)
    assert low < narrow[0] < narrow[1] < high
    assert jsd_interval(rows, models[4]) == (low, high) != jsd_interval(rows, models[4], seed=1)
    with pytest.raises(ValueError, match='got 1 lines, expected at least two'): jsd_interval(rows[:1], models[4])


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
    for n in first: assert spelled(first[n]) == spelled(again[n])
    other = training_models(english.train[1:301], size, tmp_path, longest=3, progress=False)
    assert spelled(other[3]) == loop(english.train[1:301], 3) and len([*tmp_path.iterdir()]) == 2


def test_one_table_there_and_back(models, tmp_path):
    save_models(tmp_path / 'own.npz', {2: models[2]})
    own = load_models(tmp_path / 'own.npz')
    assert [*own] == [2] and isinstance(own[2], Ngrams) and jsd(own[2], models[2]) == 0
    assert (own[2].n, own[2].size, own[2].total) == (2, models[2].size, models[2].total)


@pytest.mark.parametrize('spoil', [lambda d: d[:-200], lambda d: b'', lambda d: b'PK' + d[2:40], lambda d: b'text'])
def test_damaged_tables(spoil, models, tmp_path):
    save_models(tmp_path / 'a.npz', {2: models[2]})
    (tmp_path / 'a.npz').write_bytes(spoil((tmp_path / 'a.npz').read_bytes()))
    with pytest.raises(ValueError, match='holds no n-gram tables') as caught: load_models(tmp_path / 'a.npz')
    assert '\n' not in str(caught.value)


def test_codes_do_not_overflow():
    for size, n in ((2048, 6), (6208, 6), (32767, 5), (2, 60)):
        rows = np.full((1, n), size - 1)
        group, code = ngram_codes(rows, size, n)
        step = min(size, 2**63 // size**(n - 1))
        assert int(group[0, 0]) * step * size**(n - 1) + int(code[0, 0]) == size**n - 1
