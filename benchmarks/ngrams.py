"""N-gram tables and divergences against dictionaries and loops, in one process: time ratio and extra memory.

    python benchmarks/ngrams.py               some 20,000 lines, a minute
    python benchmarks/ngrams.py 10000000      and ten million lines: prepared, counted, searched; minutes
"""
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.metrics.memorization import copied, nearest_lines
from coulomb_gan.metrics.ngrams import count_ngrams, jsd
from coulomb_gan.data.text import Corpus, builtin
from potentials import in_child

N_LINES, LENGTH, WIDE = 20_000, 32, 2048


def lines(n, size=None):
    "Halves of real lines put together, one character in 200 replaced at random: as rich in windows as news text."
    english, gen = builtin(LENGTH), np.random.default_rng(0)
    source, size = english.train.numpy().astype(np.int16), size or len(english.vocabulary)
    rows = np.empty((n, LENGTH), np.int16)
    for at in range(0, n, 1 << 18):
        block = rows[at:at + (1 << 18)]
        for half in (slice(LENGTH // 2), slice(LENGTH // 2, None)):
            block[:, half] = source[gen.integers(0, len(source), len(block)), half]
        noise = gen.random(block.shape, dtype=np.float32) < .005
        block[noise] = gen.integers(0, size, noise.sum())
    return torch.from_numpy(rows), size


def loop(rows, size, n):
    return Counter(tuple(r[i:i + n]) for r in rows.tolist() for i in range(len(r) - n + 1))


def loop_jsd(p, q):
    n_p, n_q, total = sum(p.values()), sum(q.values()), 0.
    for w in {*p, *q}:
        p_w, q_w = p[w] / n_p, q[w] / n_q
        total += sum(s * math.log2(2 * s / (p_w + q_w)) for s in (p_w, q_w) if s) / 2
    return total


FORMS = {'loop': (loop, loop_jsd), 'ours': (count_ngrams, jsd)}


def seconds(call, *args):
    start = time.process_time()
    return call(*args), time.process_time() - start


def added_memory(call):
    "The most memory, other than mapped files, that a call adds, MB; looked at every 2 ms (Linux)."
    def now(): return int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0]) / 1024
    seen, done = [now()], threading.Event()
    def watch():
        while not done.wait(.002): seen.append(now())
    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return max(seen) - seen[0]


def measure_memory(name, n):
    "Prints the most memory that counting adds, MB."
    rows, size = lines(N_LINES)
    FORMS[name][0](rows[:100], size, n)  # libraries loaded
    print(added_memory(lambda: FORMS[name][0](rows, size, n)))


def prepared(rows, size):
    "Prints the time and memory from a text file to the array."
    english = builtin(LENGTH).vocabulary
    shown = Corpus(rows, rows, (*english, *map(chr, range(0x4e00, 0x4e00 + size - len(english)))))
    with tempfile.TemporaryDirectory() as folder:
        with open(f'{folder}/text', 'w', encoding='utf-8') as file:
            for block in rows.split(1 << 16): file.writelines(f'{s} and so on\n' for s in shown.decode(block))
        start = time.perf_counter()
        mb = added_memory(lambda: prepare_text(f'{folder}/text', f'{folder}/out', LENGTH, size, progress=False))
        size_mb = Path(folder, 'text').stat().st_size / 1e6
        print(f'prepared in {time.perf_counter() - start:.0f} s from {size_mb:.0f} MB of text; at most {mb:.0f} MB')


def table(n_lines):
    "Preparation, tables and searches with many lines over 2048 characters; all tables are kept."
    rows, size = lines(n_lines, WIDE)
    print(f'\n{n_lines} lines of {LENGTH}, {size} characters', flush=True)
    prepared(rows, size)
    held_out, rows, models = rows[-640:], rows[:-640], {}
    print('| n | seconds | different windows | JSD of 640 lines | ms |\n|---|---|---|---|---|', flush=True)
    def build():
        for n in range(1, 7):
            models[n], t = seconds(count_ngrams, rows, size, n)
            value, t_query = seconds(jsd, count_ngrams(held_out, size, n), models[n])
            print(f'| {n} | {t:.1f} | {len(models[n].codes)} | {value:.4f} | {t_query * 1e3:.1f} |', flush=True)
    start = time.perf_counter()
    mb = added_memory(build)
    print(f'{time.perf_counter() - start:.0f} s in all; at most {mb:.0f} MB besides the lines, the tables included')
    print(f'copies among 640 lines in {seconds(copied, held_out, rows)[1]:.1f} s; nearest of '
          f'{min(len(rows), 1_000_000)} lines for 20 in {seconds(nearest_lines, held_out[:20], rows[:1_000_000])[1]:.1f} s')


def main(n_lines):
    (rows, size), held_out = lines(N_LINES), builtin(LENGTH).test[:640]
    print(f'numpy {np.__version__}; {N_LINES} lines of {LENGTH}, {size} characters; 640 lines compared')
    print('| n | loop s | ours s | ratio | loop ms a JSD | ours ms | ratio | loop MB | ours MB | difference |')
    print('|---|---|---|---|---|---|---|---|---|---|')
    for n in (1, 4, 6):
        build, query, value, mb = {}, {}, {}, {}
        for name, (count, divergence) in FORMS.items():
            (q, build[name]), p = seconds(count, rows, size, n), count(held_out, size, n)
            value[name], query[name] = seconds(divergence, p, q)
            mb[name], = in_child(__file__, name, n)
        print(f'| {n} | {build["loop"]:.2f} | {build["ours"]:.3f} | {build["loop"] / build["ours"]:.0f} '
              f'| {query["loop"] * 1e3:.1f} | {query["ours"] * 1e3:.2f} | {query["loop"] / query["ours"]:.0f} '
              f'| {mb["loop"]:.0f} | {mb["ours"]:.0f} | {abs(value["loop"] - value["ours"]):.0e} |', flush=True)
    if n_lines: table(n_lines)


if __name__ == '__main__':
    measure_memory(sys.argv[1], int(sys.argv[2])) if len(sys.argv) == 3 else main(int([*sys.argv, 0][1]))
