"""`nearest` of 2,000 samples among 200,000 memory-mapped images of 3x32x32 bytes, against float64 products alone.

    python benchmarks/nearest.py
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from coulomb_gan.data.datasets import to_float
from coulomb_gan.metrics.nearest_neighbours import nearest
from measuring import added_memory, in_child, print_head, print_row, processor_seconds

N_SAMPLES, N_IMAGES, SHAPE, BLOCK = 2_000, 200_000, (3, 32, 32), 1024
BEDROOMS = 3_033_042 * 64 * 64 / (N_IMAGES * 32 * 32)  # as many times the work


def images(n, gen):
    "Bytes with the correlations of pictures: coarse colours, each 4x4 pixels, and noise."
    coarse = torch.randint(40, 216, (n, 3, 8, 8), generator=gen)
    enlarged = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.randint(-40, 40, enlarged.shape, generator=gen)
    return (enlarged + noise).byte()


def mapped(folder, n, gen):
    "Such images in a file that is mapped into memory."
    path = Path(folder, 'images.npy')
    array = np.lib.format.open_memmap(path, 'w+', np.uint8, (n, *SHAPE))
    for i in range(0, n, 10_000):
        block = images(min(10_000, n - i), gen)
        array[i:i + len(block)] = block.numpy()
    array.flush()
    return torch.from_numpy(np.load(path, mmap_mode='c'))


def plain(a, b):
    "The same search with every product in float64."
    a = to_float(a).flatten(1).double()
    centre = a.mean(0)
    a = a - centre
    best = a.new_full((len(a),), torch.inf)
    index = torch.zeros(len(a), dtype=torch.long)
    for j in range(0, len(b), BLOCK):
        block = to_float(b[j:j + BLOCK]).flatten(1).double()
        b_j = block - centre
        b2 = (b_j * b_j).sum(1)
        r2 = torch.addmm(b2, a, b_j.T, alpha=-2)  # (n_a,m) @ (m,n_b) -> (n_a,n_b)
        low, at = r2.min(1)
        index = torch.where(low < best, j + at, index)
        best = torch.minimum(low, best)
    return index


def nearest_index(a, b):
    "The package's search."
    _, index = nearest(a, b, block=BLOCK)
    return index


SEARCHES = {'float64': plain, 'bounds, then differences': nearest_index}


def measure_memory(name):
    "Prints the most memory, other than mapped files, that a search of 20 blocks adds, MB."
    search = SEARCHES[name]
    with tempfile.TemporaryDirectory() as folder:
        gen = torch.Generator().manual_seed(0)
        b = mapped(folder, 20 * BLOCK, gen)
        a = images(N_SAMPLES, gen)
        search(a[:10], b[:10])  # libraries loaded
        print(added_memory(lambda: search(a, b)))


def search_all():
    "What each search finds, and its seconds of the processor."
    found, times = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        gen = torch.Generator().manual_seed(0)
        b = mapped(folder, N_IMAGES, gen)
        a = images(N_SAMPLES, gen)
        for name, search in SEARCHES.items():
            search(a[:100], b[:5000])  # libraries loaded
            found[name], times[name] = processor_seconds(search, a, b)
    return found, times


def main():
    "Both searches, then the memory of each in a process of its own."
    found, times = search_all()
    exact, ours = found.values()
    same = (exact == ours).sum()
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, blocks of {BLOCK}; '
          f'same neighbour for {same} of {N_SAMPLES}')
    print_head('products', 'processor seconds', 'extra MB', 'among 3,033,042 images of 3x64x64 (extrapolated)')
    for name, seconds in times.items():
        mb, = in_child(__file__, name)
        print_row(name, f'{seconds:.1f}', f'{mb:.0f}', f'{seconds * BEDROOMS / 60:.0f} processor minutes')
    t_exact, t_ours = times.values()
    print(f'ratio of times {t_exact / t_ours:.2f}; '
          f'the images as float32 would take {N_IMAGES * 3072 * 4 / 1e6:.0f} MB')


if __name__ == '__main__':
    if len(sys.argv) == 2: measure_memory(sys.argv[1])
    else: main()
