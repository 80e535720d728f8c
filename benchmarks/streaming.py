"""A million charges against 10,000 points in 64 dimensions: extra memory and time of the streamed sums.

    python benchmarks/streaming.py
"""
import sys
import time

import torch

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import force, potential
from potentials import in_child, peak

N_CHARGES, N_POINTS, M = 1_000_000, 10_000, 64
SUMS = {'potential': potential, 'force': force}


def measure(name):
    "Extra peak memory (MB) and seconds of one sum, half of the charges of each sign."
    gen = torch.Generator().manual_seed(0)
    a, x, y = (torch.rand(n, M, generator=gen) for n in (N_POINTS, N_CHARGES // 2, N_CHARGES // 2))
    SUMS[name](a[:10], x[:10], y[:10], Plummer())  # libraries loaded
    before, start = peak(), time.perf_counter()
    SUMS[name](a, x, y, Plummer())
    print(peak() - before, time.perf_counter() - start)


def main():
    pairs = N_CHARGES * N_POINTS
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, {pairs:.0e} pairs in {M} dimensions')
    print('| sum | extra MB | seconds | pairs a second | all pairs at once would take |')
    print('|---|---|---|---|---|')
    for name in SUMS:
        mb, seconds = in_child(__file__, name)
        print(f'| {name} | {mb:.0f} | {seconds:.0f} | {pairs / seconds:.1e} | {pairs * 8 / 1e9:.0f} GB |', flush=True)


if __name__ == '__main__':
    measure(sys.argv[1]) if len(sys.argv) == 2 else main()
