"""The streamed sums beside chunked `torch.cdist` and KeOps, in one process, with their errors; then a million charges.

    python benchmarks/streaming.py [--pairs-only] [--device cuda [--scale .01]]

First table: potentials' and forces' sums over uniform points of the unit cube and over normal ones, seconds and the
largest error of a mean over charges in units of k(0), or of the largest pull of one charge. `cdist` is four lines in
float32, at the chunk that is fastest in five turns beforehand. At 3,072 coordinates the bare float32 product of the two
sets stands beside them. KeOps is measured if it is installed (`pip install pykeops`). All take turns, the fastest of
five counts.
Second table: a million charges against 10,000 points in 64 dimensions, extra memory and time, each in a process of its
own.
With --device one table only, of that device: the package, the Triton kernels of fused_sums.py at the best of several
tiles, `cdist`, and KeOps. With a --scale, fewer points and charges, and one turn: a rehearsal. On a CPU the kernels
need TRITON_INTERPRET=1 in the environment.
"""
import os
import time
import traceback
from importlib.util import find_spec

import click
import torch

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.pair_sums import kernel_sums, pull_sums
from coulomb_gan.field.potential import force, potential
from measuring import in_child, peak, print_head, print_row

KERNEL = Plummer(d=1, eps=1)
SIZES = [(3, 4_000, 40_000), (64, 4_000, 40_000), (3072, 2_000, 4_000)]  # coordinates, points, charges
LAWS = {'uniform': torch.rand, 'normal': torch.randn}
CHUNKS = [50, 100, 200, 1_000, 4_000]  # points at a time, of cdist
TILES = [(64, 64, 16, 8), (64, 64, 32, 4), (64, 128, 16, 8)]  # points, charges, coordinates, warps of fused_sums.py
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

def in_chunks(kind, a, b):
    "Name -> call, of `cdist`."
    return {f'cdist {chunk}': lambda chunk=chunk: CDIST[kind](a, b, chunk) for chunk in CHUNKS}


def ways(kind, a, b):
    "Name -> call, without `cdist`."
    calls = {'ours': lambda: OURS[kind](a, b, KERNEL)}
    if find_spec('pykeops') and a.shape[1] <= 64: calls['KeOps'] = lambda: KEOPS[kind](a, b)
    calls['product'] = lambda: a @ b.T
    return calls


def seconds(calls, wait=lambda: None, turns=TURNS):
    "The fastest of some turns of each; `wait` until a GPU has done its work."
    times = {name: [] for name in calls}
    for call in calls.values(): call()  # compiled, libraries loaded
    for _ in range(turns):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            times[name].append(time.perf_counter() - start)
    return {name: min(of_all) for name, of_all in times.items()}


def fastest(times, way):
    "The name of the fastest call of one way, None if there is none."
    names = [name for name in times if name.split()[0] == way]
    return min(names, key=times.get, default=None)


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
    chunks = in_chunks(kind, a, b)
    chunk = fastest(seconds(chunks), 'cdist')
    calls = ways(kind, a, b)
    calls[chunk] = chunks[chunk]
    times = seconds(calls)
    ours = times['ours']
    shown = [f'{times["KeOps"]:.3f}', f'{times["KeOps"] / ours:.1f}'] if 'KeOps' in times else ['', '']
    print_row(f'{kind}, {law}, {n_a:,} × {n_b:,} × {m}', f'{ours:.3f}', f'{times[chunk]:.3f} ({chunk[6:]})', *shown,
              f'{times[chunk] / ours:.2f}', f'{ours / times["product"]:.2f}',
              f'{largest_error(kind, calls["ours"](), a, b):.0e}', f'{largest_error(kind, calls[chunk](), a, b):.0e}')


# --- on a device --------------------------------------------------------------------------------------------------

def fused_ways(kind, a, b):
    "Name -> call, of the Triton kernels; none where they cannot run."
    if not find_spec('triton'): return {}
    if not a.is_cuda and os.environ.get('TRITON_INTERPRET') != '1': return {}
    import fused_sums
    sums = {'sums': fused_sums.kernel_sums, 'pulls': fused_sums.pull_sums}[kind]
    tiles = [fused_sums.Tile(*sizes) for sizes in TILES]
    return {f'fused {"/".join(map(str, tile))}': lambda tile=tile: sums(a, b, KERNEL, tile) for tile in tiles}


def working(calls):
    "Those that do not fail; of the others, what they said."
    done = {}
    for name, call in calls.items():
        try: call()
        except Exception:
            print(f'\n{name} failed:', flush=True)
            traceback.print_exc(limit=-1)
        else: done[name] = call
    return done


def compare_on(device, turns, kind, law, m, n_a, n_b):
    "A row of the table of a device."
    gen = torch.Generator().manual_seed(0)
    draw = LAWS[law]
    a = draw(n_a, m, generator=gen).to(device)
    b = draw(n_b, m, generator=gen).to(device)
    calls = working(ways(kind, a, b) | in_chunks(kind, a, b) | fused_ways(kind, a, b))
    times = seconds(calls, torch.cuda.synchronize if a.is_cuda else lambda: None, turns)
    best = [fastest(times, way) for way in ('ours', 'fused', 'cdist', 'KeOps')]
    shown = [f'{1e3 * times[name]:.2f} {name.partition(" ")[2]}' if name else '' for name in best]
    errors = [f'{largest_error(kind, calls[name](), a, b):.0e}' if name else '' for name in best]
    product = f'{1e3 * times["product"]:.2f}' if 'product' in times else ''
    print_row(f'{kind}, {law}, {n_a:,} × {n_b:,} × {m}', *shown, product, *errors)


def on_device(device, scale):
    "Its table."
    hardware = torch.cuda.get_device_name() if device == 'cuda' else 'CPU'
    print(f'torch {torch.__version__}, {hardware}, {KERNEL}; tiles: points/charges/coordinates/warps\n')
    print_head('sums', 'ours, ms', 'fused, ms (tile)', 'cdist, ms (chunk)', 'KeOps, ms', 'product, ms',
               'our error', 'of fused', 'of cdist', 'of KeOps')
    turns = TURNS if scale == 1 else 1
    for m, *counts in SIZES:
        n_a, n_b = (int(n * scale) for n in counts)
        for law in LAWS:
            for kind in OURS: compare_on(device, turns, kind, law, m, n_a, n_b)


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


@click.command(help=__doc__.splitlines()[0])
@click.argument('reading', type=click.Choice(['potential', 'force']), required=False)
@click.option('--pairs-only', is_flag=True, help='no million charges')
@click.option('--device', type=click.Choice(['cuda', 'cpu']), help='the table of a device instead')
@click.option('--scale', default=1., show_default=True, help='share of its points and charges')
def command(reading, pairs_only, device, scale):
    "The tables, or what a process of its own measures."
    if reading: measure(reading)
    elif device: on_device(device, scale)
    else: main(pairs_only)


if __name__ == '__main__': command()
