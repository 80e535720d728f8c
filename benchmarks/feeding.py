"""What training from disk costs a GPU: rows resident in its memory, awaited at each step, or read beside the step.

    python benchmarks/feeding.py [--device cuda] [--rows 100000] [--batch 128] [--milliseconds 5]

Without a GPU one is simulated: a thread that computes the queued steps one after the other, each in the time given,
and leaves the processor alone meanwhile. Rows of 64 x 64 pixels are really drawn and read from a mapped file; awaited
means that the queue is empty before the rows are drawn, as where the processor must know random numbers that a GPU
made in the queue of the steps. With a GPU the step is a product of matrices that takes about that long, and the rows
go through `Prefetched`.
"""
import queue
import tempfile
import threading
import time
from pathlib import Path

import click
import numpy as np
import torch

from coulomb_gan.data import datasets
from coulomb_gan.data.datasets import Data, Samples, to_float
from coulomb_gan.data.prefetching import AHEAD, Prefetched
from measuring import print_head, print_row

SHAPE = 3, 64, 64


class SimulatedGPU:
    "Computes what is queued, in the order it came."
    def __init__(self, seconds):
        self.seconds = seconds
        self.steps = queue.Queue(AHEAD)  # the processor may be that many steps ahead
        threading.Thread(target=self.compute, daemon=True).start()

    def compute(self):
        while True:
            self.steps.get()
            time.sleep(self.seconds)
            self.steps.task_done()


def simulated(stored, batch, seconds, n_steps):
    "Milliseconds a step of each way, and those that drawing and reading takes alone."
    gpu = SimulatedGPU(seconds)
    gen = torch.Generator().manual_seed(0)
    def rows(): return to_float(stored[torch.randint(len(stored), (batch,), generator=gen)])
    kept = rows()
    def resident(): return kept
    def awaited():
        gpu.steps.join()
        return rows()
    found = {}
    for name, draw in {'resident': resident, 'awaited': awaited, 'prefetched': rows}.items():
        start = time.perf_counter()
        for _ in range(n_steps): gpu.steps.put(draw())
        gpu.steps.join()
        found[name] = (time.perf_counter() - start) / n_steps * 1e3
    start = time.perf_counter()
    for _ in range(n_steps): rows()
    return found, (time.perf_counter() - start) / n_steps * 1e3


def measured(stored, batch, seconds, n_steps, device):
    "The same on a GPU."
    data = Data(train=stored, test=stored[:1])
    gen = torch.Generator(device).manual_seed(0)
    a = torch.randn(4096, 4096, device=device)
    def product():
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20): a @ a
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / 20
    product()
    n_products = max(1, round(seconds / product()))
    def index(): return torch.randint(len(stored), (batch,), generator=gen, device=device)
    usual = datasets.fits
    resident = Prefetched(data, device)
    datasets.fits = lambda stored, device: False
    streamed, plain = Prefetched(data, device), Samples(data, device)
    datasets.fits = usual
    ways = {'resident': lambda: resident.drawn(index), 'awaited': lambda: plain[index()], 'prefetched': lambda: streamed.drawn(index)}
    found = {}
    for name, draw in ways.items():
        for timed in (False, True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(n_steps if timed else 5):
                y = draw()
                for _ in range(n_products): a @ a
                y.sum()
            torch.cuda.synchronize()
        found[name] = (time.perf_counter() - start) / n_steps * 1e3
    cpu = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for _ in range(n_steps): to_float(stored[torch.randint(len(stored), (batch,), generator=cpu)])
    return found, (time.perf_counter() - start) / n_steps * 1e3


@click.command()
@click.option('--device', default='simulated', show_default=True)
@click.option('--rows', type=int, default=100_000, show_default=True)
@click.option('--batch', type=int, default=128, show_default=True)
@click.option('--milliseconds', type=float, multiple=True, default=(2., 5., 20.), show_default=True, help='of a step')
@click.option('--steps', type=int, default=200, show_default=True)
def main(device, rows, batch, milliseconds, steps):
    "Prints a table."
    with tempfile.TemporaryDirectory() as place:
        array = np.lib.format.open_memmap(Path(place, 'rows.npy'), 'w+', np.uint8, (rows, *SHAPE))
        rng = np.random.default_rng(0)
        for start in range(0, rows, 10_000):
            block = array[start:start + 10_000]
            block[:] = rng.integers(0, 256, block.shape, dtype=np.uint8)
        array.flush()
        stored = torch.from_numpy(np.load(Path(place, 'rows.npy'), mmap_mode='c'))
        print_head('step ms', 'reading ms', 'resident ms', 'awaited ms', 'prefetched ms', 'rate against resident')
        for each in milliseconds:
            if device == 'simulated': found, reading = simulated(stored, batch, each / 1e3, steps)
            else: found, reading = measured(stored, batch, each / 1e3, steps, device)
            share = found['resident'] / found['prefetched']
            print_row(f'{each:g}', f'{reading:.2f}', *[f'{ms:.2f}' for ms in found.values()], f'{share:.0%}')


if __name__ == '__main__': main()
