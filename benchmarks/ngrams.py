"""N-gram tables and divergences against dictionaries and loops, in one process: time ratio and extra memory.

    python benchmarks/ngrams.py               some 20,000 lines, a minute
    python benchmarks/ngrams.py 10000000      and ten million lines: prepared, counted, searched; minutes
"""
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.data.text import Corpus, builtin
from coulomb_gan.metrics.memorization import copied, nearest_lines
from coulomb_gan.metrics.ngrams import count_ngrams, jsd
from measuring import added_memory, in_child, print_head, print_row, processor_seconds

N_LINES, LENGTH, WIDE = 20_000, 32, 2048
COMPARED = 640  # lines in a divergence


def lines(n, size=None):
    "Halves of real lines put together, one character in 200 replaced at random: as rich in n-grams as news text."
    english = builtin(LENGTH)
    gen = np.random.default_rng(0)
    source = english.train.numpy().astype(np.int16)
    if size is None: size = len(english.vocabulary)
    rows = np.empty((n, LENGTH), np.int16)
    for at in range(0, n, 1 << 18):
        block = rows[at:at + (1 << 18)]
        for half in (slice(LENGTH // 2), slice(LENGTH // 2, None)):
            chosen = gen.integers(0, len(source), len(block))
            block[:, half] = source[chosen, half]
        noise = gen.random(block.shape, dtype=np.float32) < .005
        block[noise] = gen.integers(0, size, noise.sum())
    return torch.from_numpy(rows), size


def loop(rows, size, n):
    "A dictionary of all n-grams."
    return Counter(tuple(row[i:i + n]) for row in rows.tolist() for i in range(len(row) - n + 1))


def loop_jsd(p, q):
    "The divergence of two such dictionaries, bits."
    n_p = sum(p.values())
    n_q = sum(q.values())
    total = 0.
    for gram in {*p, *q}:
        p_w = p[gram] / n_p
        q_w = q[gram] / n_q
        for share in (p_w, q_w):
            if share: total += share * math.log2(2 * share / (p_w + q_w)) / 2
    return total


FORMS = {'loop': (loop, loop_jsd), 'ours': (count_ngrams, jsd)}


def measure_memory(name, n):
    "Prints the most memory that counting adds, MB."
    count, _ = FORMS[name]
    rows, size = lines(N_LINES)
    count(rows[:100], size, n)  # libraries loaded
    print(added_memory(lambda: count(rows, size, n)))


# --- many lines ---------------------------------------------------------------------------------------------------

def wide_vocabulary(size):
    "The built-in characters and as many further ones as it takes."
    english = builtin(LENGTH).vocabulary
    further = range(0x4e00, 0x4e00 + size - len(english))
    return *english, *map(chr, further)


def write_text(path, rows, size):
    "A text file of the lines, each a little longer than what will be kept."
    shown = Corpus(rows, rows, wide_vocabulary(size))
    with open(path, 'w', encoding='utf-8') as file:
        for block in rows.split(1 << 16):
            file.writelines(f'{line} and so on\n' for line in shown.decode(block))


def prepared(rows, size):
    "Prints the time and memory from a text file to the array."
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, 'text')
        out = Path(folder, 'out')
        write_text(text, rows, size)
        start = time.perf_counter()
        mb = added_memory(lambda: prepare_text(text, out, LENGTH, size, progress=False))
        seconds = time.perf_counter() - start
        print(f'prepared in {seconds:.0f} s from {text.stat().st_size / 1e6:.0f} MB of text; at most {mb:.0f} MB')


def count_all(rows, held_out, size):
    "A row for each n, and the tables of all of them."
    models = {}
    for n in range(1, 7):
        models[n], t_count = processor_seconds(count_ngrams, rows, size, n)
        own = count_ngrams(held_out, size, n)
        value, t_query = processor_seconds(jsd, own, models[n])
        print_row(n, f'{t_count:.1f}', len(models[n].codes), f'{value:.4f}', f'{t_query * 1e3:.1f}')
    return models


def table(n_lines):
    "Preparation, tables and searches with many lines over 2048 characters; all tables are kept."
    rows, size = lines(n_lines, WIDE)
    print(f'\n{n_lines} lines of {LENGTH}, {size} characters', flush=True)
    prepared(rows, size)
    held_out = rows[-COMPARED:]
    rows = rows[:-COMPARED]
    print_head('n', 'seconds', 'different n-grams', f'JSD of {COMPARED} lines', 'ms')
    start = time.perf_counter()
    mb = added_memory(lambda: count_all(rows, held_out, size))
    seconds = time.perf_counter() - start
    print(f'{seconds:.0f} s in all; at most {mb:.0f} MB besides the lines, the tables included')
    searched = rows[:1_000_000]
    _, t_copied = processor_seconds(copied, held_out, rows)
    _, t_nearest = processor_seconds(nearest_lines, held_out[:20], searched)
    print(f'copies among {COMPARED} lines in {t_copied:.1f} s; '
          f'nearest of {len(searched)} lines for 20 in {t_nearest:.1f} s')


# --- both forms ---------------------------------------------------------------------------------------------------

def compare(rows, held_out, size, n):
    "Prints a row: both forms at one n."
    t_count, t_query, value, mb = {}, {}, {}, {}
    for name, (count, divergence) in FORMS.items():
        q, t_count[name] = processor_seconds(count, rows, size, n)
        p = count(held_out, size, n)
        value[name], t_query[name] = processor_seconds(divergence, p, q)
        mb[name], = in_child(__file__, name, n)
    faster = t_count['loop'] / t_count['ours']
    faster_query = t_query['loop'] / t_query['ours']
    off = abs(value['loop'] - value['ours'])
    print_row(n, f'{t_count["loop"]:.2f}', f'{t_count["ours"]:.3f}', f'{faster:.0f}',
              f'{t_query["loop"] * 1e3:.1f}', f'{t_query["ours"] * 1e3:.2f}', f'{faster_query:.0f}',
              f'{mb["loop"]:.0f}', f'{mb["ours"]:.0f}', f'{off:.0e}')


def main(n_lines):
    "The comparison, then many lines if asked."
    rows, size = lines(N_LINES)
    held_out = builtin(LENGTH).test[:COMPARED]
    print(f'numpy {np.__version__}; {N_LINES} lines of {LENGTH}, {size} characters; {COMPARED} lines compared')
    print_head('n', 'loop s', 'ours s', 'ratio', 'loop ms a JSD', 'ours ms', 'ratio', 'loop MB', 'ours MB',
               'difference')
    for n in (1, 4, 6): compare(rows, held_out, size, n)
    if n_lines: table(n_lines)


if __name__ == '__main__':
    if len(sys.argv) == 3: measure_memory(sys.argv[1], int(sys.argv[2]))
    elif len(sys.argv) == 2: main(int(sys.argv[1]))
    else: main(0)
