"""`nearest` of 2,000 samples among 200,000 memory-mapped images of 3x32x32 bytes, against float64 products alone.

    python benchmarks/nearest.py
"""
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from coulomb_gan.data.datasets import to_float
from coulomb_gan.metrics.nearest_neighbours import nearest
from potentials import in_child

N_SAMPLES, N_IMAGES, SHAPE, BLOCK = 2_000, 200_000, (3, 32, 32), 1024
BEDROOMS = 3_033_042 * 64 * 64 / (N_IMAGES * 32 * 32)  # as many times the work


def images(n, gen):
    "Bytes with the correlations of pictures: coarse colours, each 4x4 pixels, and noise."
    coarse = torch.randint(40, 216, (n, 3, 8, 8), generator=gen).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (coarse + torch.randint(-40, 40, coarse.shape, generator=gen)).byte()


def mapped(folder, n, gen):
    path = Path(folder) / 'images.npy'
    array = np.lib.format.open_memmap(path, 'w+', np.uint8, (n, *SHAPE))
    for i in range(0, n, 10_000): array[i:i+10_000] = images(min(10_000, n - i), gen).numpy()
    array.flush()
    return torch.from_numpy(np.load(path, mmap_mode='c'))


def plain(a, b):
    "The same search with every product in float64."
    a = to_float(a).flatten(1).double()
    centre = a.mean(0)
    a, best, index = a - centre, a.new_full((len(a),), torch.inf), torch.zeros(len(a), dtype=torch.long)
    for j in range(0, len(b), BLOCK):
        b_j = to_float(b[j:j+BLOCK]).flatten(1).double() - centre
        low, at = torch.addmm((b_j * b_j).sum(1), a, b_j.T, alpha=-2).min(1)  # (n_a,m) @ (m,n_b) -> (n_a,n_b)
        index, best = torch.where(low < best, j + at, index), torch.minimum(low, best)
    return index


def nearest_index(a, b): return nearest(a, b, block=BLOCK)[1]

SEARCHES = {'float64': plain, 'float32, then float64': nearest_index}


def processor_seconds(search, a, b):
    "Of all threads together: other work on the machine does not count."
    start = time.process_time()
    return search(a, b), time.process_time() - start


def measure_memory(name):
    "Prints the most memory, other than mapped files, that a search of 20 blocks adds, MB; looked at every 2 ms (Linux)."
    def now(): return int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0]) / 1024
    with tempfile.TemporaryDirectory() as folder:
        gen = torch.Generator().manual_seed(0)
        b, a = mapped(folder, 20 * BLOCK, gen), images(N_SAMPLES, gen)
        SEARCHES[name](a[:10], b[:10])  # libraries loaded
        seen, done = [now()], threading.Event()
        def watch():
            while not done.wait(.002): seen.append(now())
        watcher = threading.Thread(target=watch)
        watcher.start()
        SEARCHES[name](a, b)
        done.set()
        watcher.join()
    print(max(seen) - seen[0])


def main():
    gen, times, found = torch.Generator().manual_seed(0), {}, []
    with tempfile.TemporaryDirectory() as folder:
        b, a = mapped(folder, N_IMAGES, gen), images(N_SAMPLES, gen)
        for name, search in SEARCHES.items():
            search(a[:100], b[:5000])  # libraries loaded
            index, times[name] = processor_seconds(search, a, b)
            found.append(index)
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, blocks of {BLOCK}; '
          f'same neighbour for {(found[0] == found[1]).sum()} of {N_SAMPLES}')
    print('| products | processor seconds | extra MB | among 3,033,042 images of 3x64x64 (extrapolated) |')
    print('|---|---|---|---|')
    for name, t in times.items():
        mb, = in_child(__file__, name)
        print(f'| {name} | {t:.1f} | {mb:.0f} | {t * BEDROOMS / 60:.0f} processor minutes |')
    print(f'ratio of times {times["float64"] / times["float32, then float64"]:.2f}; '
          f'the images as float32 would take {N_IMAGES * 3072 * 4 / 1e6:.0f} MB')


if __name__ == '__main__': measure_memory(sys.argv[1]) if len(sys.argv) == 2 else main()
