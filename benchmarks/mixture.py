"""Steps a second of the 25 Gaussians' two small networks, against a plain eager loop written from the paper.

    python benchmarks/mixture.py [--batch 128] [--device cpu|cuda] [--seconds 20] [--compile]

One thread on a CPU; on a GPU ours is recorded as a CUDA graph, and stands a second time without. The plain loop is that
of plain.py. Both start from the same weights and see the same samples; the last column is the largest difference
between their losses over the first hundred steps, relative to the plain one's. Times are of the processor on a CPU, so
that other work on the machine counts little. With --compile another row has both networks through `torch.compile`.
"""
import argparse
import statistics
import time
from functools import partial

import torch

from coulomb_gan.data.catalogue import load
from coulomb_gan.data.prefetching import Prefetched
from coulomb_gan.tables import table
from coulomb_gan.training.algorithm import train_step
from coulomb_gan.training.cuda_graph import GraphedStep
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.state import TrainState
from plain import PlainStep

SHAPE = 2,  # of one sample
STEPS = 100  # of one timing


def compiled(t):
    "A state whose networks go through `torch.compile`."
    for net in (t.g, t.d): net.compile()
    return t


def all_steps(e, with_compiled):
    "Name -> step."
    steps = {'plain': PlainStep(e, SHAPE), 'ours': GraphedStep(TrainState(e, SHAPE))}
    if e.record.device == 'cuda': steps['ours, not recorded'] = partial(train_step, TrainState(e, SHAPE))
    if with_compiled: steps['ours, compiled'] = GraphedStep(compiled(TrainState(e, SHAPE)))
    return steps


def run(step, e, real):
    "Losses of some steps, `(STEPS, 2)`, and seconds a step."
    device = e.record.device
    draw = torch.Generator(device).manual_seed(1)
    clock = time.thread_time if device == 'cpu' else time.perf_counter
    losses = []
    start = clock()
    for _ in range(STEPS):
        rows = torch.randint(len(real), (e.optim.batch,), generator=draw, device=device)
        losses.append(torch.stack(step(real[rows])))
    losses = torch.stack(losses).cpu()  # waits for a GPU
    return losses, (clock() - start) / STEPS


def time_all(steps, e, real, seconds):
    "Name -> seconds a step, all in turn, so that a slow minute hits all alike, at least five times."
    times = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times['plain']) < 5:
        for name, step in steps.items():
            _, each = run(step, e, real)
            times[name].append(each)
    return times


def report(times, first):
    "A line a step, from its times and its first losses."
    plain = statistics.median(times['plain'])
    lines = []
    for name, seconds in times.items():
        each = statistics.median(seconds)
        off = (first[name] - first['plain']).abs() / first['plain'].abs()
        lines.append([name, f'{each * 1e3:.2f}', f'{1 / each:.0f}', f'{plain / each:.2f}', f'{off.max().item():.1e}'])
    return table(lines, ['step', 'ms', 'steps/s', 'times faster', 'largest difference of losses'])


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=20., help='for all timings')
    parser.add_argument('--compile', action='store_true', help='also through torch.compile')
    return parser.parse_args()


def main():
    "The preset's networks by Algorithm 1 as released."
    o = options()
    torch.set_num_threads(1)
    e = experiment('mixture', batch=o.batch, device=o.device, eps_end=None, decay='none', weight_decay=0.,
                   lr_g=1e-4, lr_d=1e-4)
    real = Prefetched(load('mixture'), o.device)
    steps = all_steps(e, o.compile)
    first = {name: run(step, e, real)[0] for name, step in steps.items()}
    times = time_all(steps, e, real, o.seconds)
    nets = e.networks
    print(f'batch {o.batch}, G {nets.depth_g} x {nets.width_g}, D {nets.depth_d} x {nets.width_d}, {o.device}, '
          f'torch {torch.__version__}')
    print(report(times, first))


if __name__ == '__main__': main()
