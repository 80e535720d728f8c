"""The streamed sums beside chunked `torch.cdist` and KeOps, in one process, with their errors; then a million charges.

    python benchmarks/streaming.py [--pairs-only]

First table: potentials' and forces' sums over uniform points of the unit cube and over normal ones, seconds and the largest error of a mean over charges in
units of k(0), or of the largest pull of one charge. `cdist` is four lines in float32, at the best of several chunks.
At 3,072 coordinates the bare float32 product of the two sets stands beside them. KeOps is measured if it is installed
(`pip install pykeops`). All take turns, the fastest of five counts.
Second table: a million charges against 10,000 points in 64 dimensions, extra memory and time, each in a process of its own.
"""
import sys
import time
from importlib.util import find_spec

import torch

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.pair_sums import kernel_sums, pull_sums
from coulomb_gan.field.potential import force, potential
from measuring import in_child, peak, print_head, print_row

KERNEL = Plummer(d=1, eps=1)
SIZES = [(3, 4_000, 40_000), (64, 4_000, 40_000), (3072, 2_000, 4_000)]  # coordinates, points, charges
LAWS = {'uniform': torch.rand, 'normal': torch.randn}
CHUNKS = [50, 100, 200, 1_000, 4_000]  # points at a time, of cdist
TURNS = 5
N_CHARGES, N_POINTS, M = 1_000_000, 10_000, 64
LARGEST_PULL = 2 / 3**1.5  # of this kernel, at r^2 = 1/2


# --- the other ways -----------------------------------------------------------------------------------------------

def cdist_sums(a, b, chunk):
    "`S_i = sum_j k(a_i, b_j)`."
    sums = [torch.cdist(p, b).square_().add_(1).rsqrt_().sum(1) for p in a.split(chunk)]
    return torch.cat(sums)


def cdist_pulls(a, b, chunk):
    "`P_i = sum_j 2 f'(r_ij^2) (a_i - b_j)`."
    pulls = []
    for p in a.split(chunk):
        k = torch.cdist(p, b).square_().add_(1).rsqrt_()
        w = k * k * k
        pulls.append(w @ b - p * w.sum(1, keepdim=True))
    return torch.cat(pulls)


def keops_differences(a, b):
    "All differences, not computed."
    from pykeops.torch import LazyTensor
    return LazyTensor(a[:, None]) - LazyTensor(b[None])


def keops_sums(a, b):
    "`S_i`, compiled."
    difference = keops_differences(a, b)
    r2 = difference.square().sum(-1)
    return (r2 + 1).rsqrt().sum(1)[:, 0]


def keops_pulls(a, b):
    "`P_i`, compiled."
    difference = keops_differences(a, b)
    r2 = difference.square().sum(-1)
    k = (r2 + 1).rsqrt()
    return -(k * k * k * difference).sum(1)


OURS = {'sums': kernel_sums, 'pulls': pull_sums}
CDIST = {'sums': cdist_sums, 'pulls': cdist_pulls}
KEOPS = {'sums': keops_sums, 'pulls': keops_pulls}


# --- side by side -------------------------------------------------------------------------------------------------

def ways(kind, a, b):
    "Name -> call."
    calls = {'ours': lambda: OURS[kind](a, b, KERNEL)}
    for chunk in CHUNKS:
        calls[f'cdist {chunk}'] = lambda chunk=chunk: CDIST[kind](a, b, chunk)
    if find_spec('pykeops') and a.shape[1] <= 64: calls['KeOps'] = lambda: KEOPS[kind](a, b)
    calls['product'] = lambda: a @ b.T
    return calls


def seconds(calls):
    "The fastest of some turns of each."
    times = {name: [] for name in calls}
    for call in calls.values(): call()  # compiled, libraries loaded
    for _ in range(TURNS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: min(of_all) for name, of_all in times.items()}


def largest_error(kind, got, a, b):
    "Of a mean over the charges."
    exact = OURS[kind](a.double(), b.double(), KERNEL)
    unit = LARGEST_PULL if kind == 'pulls' else 1.
    error = (got.double() - exact).abs().max().item()
    return error / len(b) / unit


def compare(kind, law, m, n_a, n_b):
    "A row of the table."
    gen = torch.Generator().manual_seed(0)
    draw = LAWS[law]
    a = draw(n_a, m, generator=gen)
    b = draw(n_b, m, generator=gen)
    calls = ways(kind, a, b)
    times = seconds(calls)
    product = times.pop('product')
    ours = times.pop('ours')
    keops = times.pop('KeOps', None)
    chunk = min(times, key=times.get)
    shown = [f'{keops:.3f}', f'{keops / ours:.1f}'] if keops else ['', '']
    print_row(f'{kind}, {law}, {n_a:,} × {n_b:,} × {m}', f'{ours:.3f}', f'{times[chunk]:.3f} ({chunk[6:]})', *shown,
              f'{times[chunk] / ours:.2f}', f'{ours / product:.2f}',
              f'{largest_error(kind, calls["ours"](), a, b):.0e}', f'{largest_error(kind, calls[chunk](), a, b):.0e}')


# --- a million charges --------------------------------------------------------------------------------------------

def measure(name):
    "Prints the extra peak memory (MB) and the seconds of one reading, half of the charges of each sign."
    read = {'potential': potential, 'force': force}[name]
    gen = torch.Generator().manual_seed(0)
    a = torch.rand(N_POINTS, M, generator=gen)
    x = torch.rand(N_CHARGES // 2, M, generator=gen)
    y = torch.rand(N_CHARGES // 2, M, generator=gen)
    read(a[:100], x[:1000], y[:1000], KERNEL)  # libraries loaded
    before = peak()
    start = time.perf_counter()
    read(a, x, y, KERNEL)
    taken = time.perf_counter() - start
    print(peak() - before, taken)


def main(pairs_only):
    "Both tables."
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, {KERNEL}\n')
    print_head('sums', 'ours, s', 'cdist, s (chunk)', 'KeOps, s', 'times faster than KeOps', 'than cdist',
               'in products', 'our error', 'error of cdist')
    for m, n_a, n_b in SIZES:
        for law in LAWS:
            for kind in OURS: compare(kind, law, m, n_a, n_b)
    if pairs_only: return
    pairs = N_CHARGES * N_POINTS
    print()
    print_head(f'{N_CHARGES:,} charges, {N_POINTS:,} points, m = {M}', 'extra MB', 'seconds', 'pairs a second')
    for name in ('potential', 'force'):
        mb, taken = in_child(__file__, name)
        print_row(name, f'{mb:.0f}', f'{taken:.0f}', f'{pairs / taken:.1e}')


if __name__ == '__main__':
    if sys.argv[1:] and sys.argv[1] != '--pairs-only': measure(sys.argv[1])
    else: main('--pairs-only' in sys.argv)
