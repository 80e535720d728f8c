"""One training step of every compared method against a plain PyTorch loop of the same networks, in one process.

    python benchmarks/objectives.py [--data cifar10] [--narrower 8] [--device cpu|cuda] [--seconds 10]

The methods, networks and settings are those of Table 4, as many times narrower as asked. The plain loop is the slow
reference of `objectives.reference`: D anew at each set of samples, every gradient there is by `backward`, the optimiser
parameter by parameter, networks in PyTorch's usual order of memory. Both see the same noise. Losses are not compared
here; `tests/training/test_algorithm.py` holds the two steps equal.
"""
import argparse
import statistics
import time
from functools import partial

import torch

from coulomb_gan.networks.base import latent_vectors
from coulomb_gan.objectives.base import Batch
from coulomb_gan.objectives.reference import reference_step
from coulomb_gan.tables import table
from coulomb_gan.training.algorithm import rows_of_a_step
from coulomb_gan.training.cuda_graph import GraphedStep
from coulomb_gan.training.state import TrainState
from coulomb_gan.training.table4 import narrowed, table4
from measuring import timed
from plain import plain_player, plain_state

SHAPES = {'mixture': (2,), 'cifar10': (3, 32, 32), 'svhn': (3, 32, 32), 'celeba': (3, 64, 64), 'lsun': (3, 64, 64)}


class PlainLoop:
    "The slow reference step of a method."
    def __init__(self, e, shape):
        self.t = plain_state(e, shape)
        self.g = plain_player(self.t.g, e.optim.lr_g, e.optim)
        self.d = plain_player(self.t.d, e.optim.lr_d, e.optim)

    def draw(self, parts):
        "Real samples and newly generated ones of one update, attached to G in the last."
        t = self.t
        e = t.experiment
        z = latent_vectors(e.networks, e.optim.batch, t.gen)
        y, for_g = next(parts)
        with torch.set_grad_enabled(for_g): x = t.g(z)
        return Batch(x, y, gen=t.gen, scheduled=t.scheduled, carried=t.carried)

    def __call__(self, y):
        "One step on the real samples of all its updates."
        e = self.t.experiment
        parts = list(y.split(e.objective.n_real(e.optim.batch)))
        updates = [(y, False) for y in parts] + [(parts[-1], True)]  # G sees the last ones again
        if e.objective.simultaneous: updates = [(parts[-1], True)]
        draw = partial(self.draw, iter(updates))
        reference_step(e.objective, self.g, self.d, draw, self.t.progress.step)


def compare(e, shape, seconds):
    "Median seconds of the plain loop and of ours, in turn, at least five times; past a schedule's first steps."
    device = e.record.device
    ours = GraphedStep(TrainState(e, shape))
    loop = PlainLoop(e, shape)
    for t in (ours.t, loop.t): t.progress.step = 26  # MMD-GAN's critic schedule is at its usual count
    n = rows_of_a_step(ours.t)
    y = torch.rand(n, *shape, device=device) * 2 - 1
    times = {'plain': [], 'ours': []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times['plain']) < 5:
        times['plain'].append(timed(partial(loop, y), device))
        times['ours'].append(timed(partial(ours, y), device))
    return [statistics.median(found[1:]) for found in times.values()]


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('--data', choices=SHAPES, default='cifar10')
    parser.add_argument('--narrower', type=int, default=8, help='times as few channels as published')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=10., help='for the two timings of one method')
    return parser.parse_args()


def main():
    "A line a method."
    o = options()
    rows = []
    for method, e in table4(o.data, device=o.device).items():
        plain, ours = compare(narrowed(e, o.narrower), SHAPES[o.data], o.seconds)
        rows.append([method, e.optim.batch, f'{plain * 1e3:.1f}', f'{ours * 1e3:.1f}', f'{plain / ours:.2f}'])
    threads = torch.get_num_threads()
    print(f'{o.data}, {o.narrower} times narrower, {o.device}, {threads} threads, torch {torch.__version__}\n')
    print(table(rows, ['method', 'batch', 'plain: ms', 'ours: ms', 'times faster']))


if __name__ == '__main__': main()
