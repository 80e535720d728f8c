"""`potentials` against a plain pairwise-difference version, in one process: time ratio and extra memory.

    python benchmarks/potentials.py
"""
import statistics
import sys
import time

import torch

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import potentials
from measuring import in_child, peak, print_head, print_row

SIZES = [(128, 2), (128, 3072), (128, 12288), (512, 3072)]
KERNEL = Plummer(d=1, eps=1)


def mean_kernel(a, charges, kernel):
    "Mean over the charges at each point, through the difference of every pair."
    differences = a[:, None] - charges[None]
    r2 = (differences ** 2).sum(-1)
    return kernel.of_r2(r2).mean(1)


def plain(x, y, kernel):
    "The textbook form in float32, one potential after the other."
    phi_x = mean_kernel(x, y, kernel) - mean_kernel(x, x, kernel)
    phi_y = mean_kernel(y, y, kernel) - mean_kernel(y, x, kernel)
    return phi_x, phi_y


FORMS = {'plain': plain, 'ours': potentials}


def sample(n, m):
    "Uniform points, generated ones and real ones."
    gen = torch.Generator().manual_seed(0)
    return torch.rand(2, n, m, generator=gen) * 2 - 1


def seconds(form, x, y, budget=2.):
    "Median over repeats that fill about `budget` seconds, after one warm-up."
    form(x, y, KERNEL)
    times = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        form(x, y, KERNEL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


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
    for i, point in enumerate(c):
        r2 = ((point - c) ** 2).sum(1)
        k[i] = KERNEL.of_r2(r2)
    at_generated, at_real = k.split(len(x), dim=1)
    return at_real.mean(1) - at_generated.mean(1)


def main():
    "A row a size."
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, {KERNEL}')
    print_head('n x m', 'plain ms', 'ours ms', 'ratio', 'plain MB', 'ours MB', 'memory', 'worst error / k(0)')
    for n, m in SIZES:
        x, y = sample(n, m)
        t_plain = seconds(plain, x, y)
        t_ours = seconds(potentials, x, y)
        mb_plain, = in_child(__file__, 'plain', n, m)
        mb_ours, = in_child(__file__, 'ours', n, m)
        share = mb_ours / max(mb_plain, 1e-9)
        error = torch.cat(potentials(x, y, KERNEL)) - oracle(x, y)
        print_row(f'{n} x {m}', f'{t_plain * 1e3:.2f}', f'{t_ours * 1e3:.2f}', f'{t_plain / t_ours:.1f}',
                  f'{mb_plain:.1f}', f'{mb_ours:.1f}', f'{share:.1%}', f'{error.abs().max().item():.1e}')


if __name__ == '__main__':
    if len(sys.argv) == 4: measure_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else: main()
