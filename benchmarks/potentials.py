"""`potentials` against a plain pairwise-difference version, in one process: time ratio and extra memory.

    python benchmarks/potentials.py
"""
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import potentials

SIZES = [(128, 2), (128, 3072), (128, 12288), (512, 3072)]
KERNEL = Plummer(1, 1)


def plain(x, y, kernel):
    "The textbook form: every pair's difference, float32, one potential after the other."
    k = lambda a, b: kernel.of_r2(((a[:, None] - b[None]) ** 2).sum(-1)).mean(1)
    return k(x, y) - k(x, x), k(y, y) - k(y, x)


FORMS = {'plain': plain, 'ours': lambda x, y, kernel: potentials(x, y, kernel)}


def sample(n, m):
    gen = torch.Generator().manual_seed(0)
    return torch.rand(2, n, m, generator=gen) * 2 - 1


def seconds(form, x, y, budget=2.):
    "Median over repeats that fill about `budget` seconds, after one warm-up."
    form(x, y, KERNEL)
    times, end = [], time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        form(x, y, KERNEL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def in_child(script, *args):
    "The numbers a script prints when run with `args` in a fresh process, whose memory peak is its own."
    child = subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True, check=True)
    return [float(v) for v in child.stdout.split()]


def peak():
    "Highest resident memory of this process so far, MB (Linux)."
    return int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1024


def measure_memory(name, n, m):
    "Prints the peak memory that one call adds, MB."
    x, y = sample(n, m)
    potentials(*sample(8, 8), KERNEL)  # libraries loaded, thread pools started
    before = peak()
    FORMS[name](x, y, KERNEL)
    print(peak() - before)


def oracle(x, y):
    "float64 pairwise differences, row by row."
    c = torch.cat([x, y]).double()
    k = c.new_empty(len(c), len(c))  # made first: small results between large temporaries would pin the heap
    for i, p in enumerate(c): k[i] = KERNEL.of_r2(((p - c) ** 2).sum(1))
    return k[:, len(x):].mean(1) - k[:, :len(x)].mean(1)


def main():
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, {KERNEL}')
    print('| n x m | plain ms | ours ms | ratio | plain MB | ours MB | memory | worst error / k(0) |')
    print('|---|---|---|---|---|---|---|---|')
    for n, m in SIZES:
        x, y = sample(n, m)
        t_plain, t_ours = (seconds(FORMS[f], x, y) for f in ('plain', 'ours'))
        (mb_plain,), (mb_ours,) = (in_child(__file__, f, n, m) for f in ('plain', 'ours'))
        error = (torch.cat(potentials(x, y, KERNEL)) - oracle(x, y)).abs().max().item()
        print(f'| {n} x {m} | {t_plain * 1e3:.2f} | {t_ours * 1e3:.2f} | {t_plain / t_ours:.1f} | {mb_plain:.1f} '
              f'| {mb_ours:.1f} | {mb_ours / max(mb_plain, 1e-9):.1%} | {error:.1e} |', flush=True)


if __name__ == '__main__':
    measure_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) == 4 else main()
