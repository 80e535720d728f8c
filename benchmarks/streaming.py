"""A million charges against 10,000 points in 64 dimensions: extra memory and time of the streamed sums.

    python benchmarks/streaming.py
"""
import sys
import time

import torch

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import force, potential
from measuring import in_child, peak, print_head, print_row

N_CHARGES, N_POINTS, M = 1_000_000, 10_000, 64
SUMS = {'potential': potential, 'force': force}


def measure(name):
    "Prints the extra peak memory (MB) and the seconds of one sum, half of the charges of each sign."
    gen = torch.Generator().manual_seed(0)
    a = torch.rand(N_POINTS, M, generator=gen)
    x = torch.rand(N_CHARGES // 2, M, generator=gen)
    y = torch.rand(N_CHARGES // 2, M, generator=gen)
    SUMS[name](a[:10], x[:10], y[:10], Plummer())  # libraries loaded
    before = peak()
    start = time.perf_counter()
    SUMS[name](a, x, y, Plummer())
    seconds = time.perf_counter() - start
    print(peak() - before, seconds)


def main():
    "Each sum in a process of its own."
    pairs = N_CHARGES * N_POINTS
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, {pairs:.0e} pairs in {M} dimensions')
    print_head('sum', 'extra MB', 'seconds', 'pairs a second', 'all pairs at once would take')
    for name in SUMS:
        mb, seconds = in_child(__file__, name)
        print_row(name, f'{mb:.0f}', f'{seconds:.0f}', f'{pairs / seconds:.1e}', f'{pairs * 8 / 1e9:.0f} GB')


if __name__ == '__main__':
    if len(sys.argv) == 2: measure(sys.argv[1])
    else: main()
