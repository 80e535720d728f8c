"""One training step of the paper's image networks against a plain one written from the paper, in one process.

    python benchmarks/step.py [--side 32|64] [--batch 128] [--narrower 1] [--device cpu|cuda] [--seconds 30]
                              [--compile]

The plain step is that of plain.py, in float32. Each row gives milliseconds, how many times faster than the plain step,
the share of the matrix throughput measured here with products rounded as those of the row, and the error of the first
losses against a float64 plain step. The plain step stands a second time with the potential by `torch.cdist`, and on a
GPU a third time, since PyTorch lets convolutions round to TF32 unless told otherwise (so do ours in float32, whose
share is therefore of TF32 products). Ours stands in both orders of memory, recorded as a CUDA graph and not. With
--compile both networks also go through `torch.compile`. The last line, on a CPU, is the last convolution of D, forward
and backward, by the library and by patches.
"""
import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coulomb_gan.networks.layers import PatchConv2d
from coulomb_gan.tables import table
from coulomb_gan.training.algorithm import train_step
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.cuda_graph import WARM_UP, GraphedStep
from coulomb_gan.training.state import TrainState
from measuring import timed
from plain import CdistCoulomb, PlainStep

REPEATS = {'cpu': 1, 'cuda': 20}  # steps between two readings of the clock, which wait for a GPU


@dataclass
class Row:
    "A step, and what is measured of it."
    step: Callable  # real samples -> losses
    products: str  # how those of its convolutions are rounded: 'float32', 'TF32' or 'bfloat16'
    error: float = 0.  # of the first losses, relative
    seconds: list = field(default_factory=list)  # of a step, one for each reading of the clock


# --- the steps ----------------------------------------------------------------------------------------------------

def exactly(step, y):
    "A step with convolutions in float32 itself."
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        return step(y)


def state(e, shape, form=torch.channels_last, compiled=False):
    "The state of a run in an order of memory, its networks compiled if wanted."
    t = TrainState(e, shape)
    for net in (t.g, t.d):
        net.to(memory_format=form)
        if compiled: net.compile()
    return t


def our_rows(e, shape, products, compiled):
    "The package's step in one precision."
    precision, device = e.record.precision, e.record.device
    rows = {f'ours, {precision}': Row(GraphedStep(state(e, shape)), products)}
    rows[f'ours, {precision}, contiguous'] = Row(GraphedStep(state(e, shape, torch.contiguous_format)), products)
    if device == 'cuda':
        step = partial(train_step, state(e, shape))
        rows[f'ours, {precision}, not recorded'] = Row(step, products)
    if compiled:
        step = GraphedStep(state(e, shape, compiled=True))
        rows[f'ours, {precision}, compiled'] = Row(step, products)
    return rows


def all_rows(e, shape, compiled):
    "Name -> row, the plain one first."
    on_gpu = e.record.device == 'cuda'
    usual = 'TF32' if on_gpu else 'float32'  # of PyTorch's convolutions in float32
    rows = {'plain': Row(partial(exactly, PlainStep(e, shape)), 'float32')}
    rows['plain, cdist'] = Row(partial(exactly, PlainStep(e, shape, kind=CdistCoulomb)), 'float32')
    if on_gpu: rows['plain, TF32'] = Row(PlainStep(e, shape), 'TF32')
    for precision, products in (('float32', usual), ('bfloat16', 'bfloat16')):
        rows |= our_rows(e.changed(precision=precision), shape, products, compiled)
    return rows


# --- what is measured ---------------------------------------------------------------------------------------------

def noise(e, shape):
    "Real samples of a step."
    uniform = torch.rand(e.optim.batch, *shape, generator=torch.Generator().manual_seed(0))
    return (uniform * 2 - 1).to(e.record.device)


def throughput(device, products):
    "Best of ten square matrix products, operations a second."
    n = 8192 if device == 'cuda' else 2048
    if device == 'cpu' and products == 'bfloat16': n = 512  # without instructions for it 2048 takes a minute
    dtype = torch.bfloat16 if products == 'bfloat16' else torch.float32
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    torch.set_float32_matmul_precision('high' if products == 'TF32' else 'highest')
    seconds = [timed(lambda: a @ b, device) for _ in range(10)]
    torch.set_float32_matmul_precision('highest')  # PyTorch's default
    return 2 * n**3 / min(seconds)


def operations(e, shape, y):
    "Floating-point operations in the matrix products and convolutions of a step."
    t = TrainState(e, shape)
    with FlopCounterMode(display=False) as counter: train_step(t, y)
    return counter.get_total_flops()


def first_errors(rows, e, shape, y):
    "The relative error of each row's first losses; on a GPU further steps, so that it is recorded."
    losses = PlainStep(e, shape, torch.float64)(y.double())
    exact = torch.stack(losses)
    for row in rows.values():
        found = torch.stack(row.step(y)).double()
        errors = (found - exact).abs() / exact.abs()
        row.error = errors.max().item()
        if e.record.device != 'cuda': continue
        for _ in range(WARM_UP): row.step(y)


def time_all(rows, y, device, seconds):
    "All rows in turn, so that a slow minute hits all alike, at least three times."
    end = time.perf_counter() + seconds * len(rows)
    newest = list(rows.values())[-1]
    while time.perf_counter() < end or len(newest.seconds) < 3:
        for row in rows.values():
            row.seconds.append(timed(lambda: row.step(y), device, REPEATS[device]))


def last_convolution(batch, device):
    "Seconds of D's 4x4 convolution with all gradients: the library's, and as a product over patches."
    conv = PatchConv2d(512, 1024, kernel_size=5, stride=2, padding=2, bias=False).to(device)
    a = torch.randn(batch, 512, 4, 4, device=device, requires_grad=True)
    inputs = [a, *conv.parameters()]
    found = []
    for form in (partial(nn.Conv2d.forward, conv), conv):
        repeats = [timed(lambda: torch.autograd.grad(form(a).sum(), inputs), device) for _ in range(5)]
        found.append(min(repeats))
    return found


# --- the tables ---------------------------------------------------------------------------------------------------

def report(rows, flops, best):
    "A line a row."
    plain = statistics.median(rows['plain'].seconds)
    lines = []
    for name, row in rows.items():
        seconds = statistics.median(row.seconds)
        share = flops / seconds / best[row.products]
        lines.append([name, f'{seconds * 1e3:.2f}', f'{plain / seconds:.2f}', f'{share:.0%} of {row.products}',
                      f'{row.error:.1e}'])
    return table(lines, ['step', 'ms', 'times faster', 'of matrix throughput', 'error of first losses'])


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('--side', type=int, default=32)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--narrower', type=int, default=1, help='times as few channels as the paper has')
    parser.add_argument('--device', choices=REPEATS, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=30., help='for all timings of one row')
    parser.add_argument('--compile', action='store_true', help='also through torch.compile')
    return parser.parse_args()


def main():
    "All rows on one batch of noise."
    o = options()
    shape = 3, o.side, o.side
    latent = 16 if o.side == 32 else 32
    e = Experiment().changed(
        networks='dcgan', latent=latent, width_g=1024 // o.narrower, width_d=128 // o.narrower, batch=o.batch,
        device=o.device)
    y = noise(e, shape)

    rows = all_rows(e, shape, o.compile)
    first_errors(rows, e, shape, y)
    time_all(rows, y, o.device, o.seconds)
    flops = operations(e, shape, y)
    kinds = dict.fromkeys(row.products for row in rows.values())
    best = {products: throughput(o.device, products) for products in kinds}

    rates = ', '.join(f'{products} products {rate / 1e12:.2f} TFLOP/s' for products, rate in best.items())
    threads = torch.get_num_threads()
    nets = e.networks
    print(f'{o.batch} images of {shape}, widths {nets.width_g} and {nets.width_d}, {o.device}, {threads} threads: '
          f'{flops / 1e9:.0f} GFLOP a step; {rates}\n')
    print(report(rows, flops, best))
    if o.device == 'cuda': return  # where both are the library's
    library, patches = last_convolution(o.batch, o.device)
    print(f'\nlast convolution of D: {library * 1e3:.0f} ms, by patches {patches * 1e3:.0f} ms, '
          f'{library / patches:.1f} times faster')


if __name__ == '__main__': main()
