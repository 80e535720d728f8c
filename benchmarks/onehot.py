"""What it would save to treat real texts as indices rather than as one-hot rows, against a training step of the pair.

    python benchmarks/onehot.py [--width 512] [--depth 5] [--seconds 2]

Two places: the potentials, where every distance to a text is a sum of gathered entries or a count of unlike characters,
and the first layer of D on real texts, forward and backward, where a product with one-hot rows is a lookup of columns.
Errors are the largest against the general form, of the kernel at 0 and of the largest output or gradient. The last line
is the convolution of the residual block, forward and backward, by the library and by `ToomConv1d`. Times are the least
of some repeats, of the processor, so that other work on the machine hardly counts.
"""
import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import conv1d, embedding, one_hot

from coulomb_gan.field.distances import squared_distances
from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import potentials
from coulomb_gan.networks.text import ToomConv1d
from coulomb_gan.training.algorithm import train_step
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.state import TrainState
from measuring import print_head, print_row, processor_seconds

LENGTH, LATENT = 32, 32
SIZES = [(v, n) for v in (100, 256, 2048) for n in (64, 128)]  # characters, texts
KERNEL = Plummer(d=1, eps=1)


# --- the two places -----------------------------------------------------------------------------------------------

def index_potentials(x, y, kernel):
    "`potentials` of generated rows `x (n, length, v)` and real indices `y (n, length)`."
    n, length, v = x.shape
    flat = x.flatten(1)
    r2_xx = squared_distances(flat, flat).fill_diagonal_(0)
    at = y + v * torch.arange(length)
    entries = flat[:, at.flatten()].view(n, -1, length)  # x[i, t, y[j, t]]
    x2 = (flat.double()**2).sum(1, keepdim=True)
    r2_xy = x2 + length - 2 * entries.sum(2, dtype=torch.float64)
    unlike = y[:, None] != y
    r2_yy = 2 * unlike.sum(2)
    k_xx = kernel.of_r2(r2_xx.float())
    k_xy = kernel.of_r2(r2_xy.float())
    k_yy = kernel.of_r2(r2_yy.float())
    return k_xy.mean(1) - k_xx.mean(1), k_yy.mean(1) - k_xy.mean(0)


def first_layer(rows, weight, bias):
    "D's first layer on one-hot rows `(n, length, v)`."
    return conv1d(rows.transpose(1, 2), weight, bias)


def index_first_layer(y, weight, bias):
    "The same on indices `(n, length)`: columns of the weights."
    columns = weight[:, :, 0].T
    return (embedding(y, columns) + bias).transpose(1, 2)


def gradients(layer, rows, conv, up):
    "Output and gradients of a form of the first layer."
    out = layer(rows, conv.weight, conv.bias)
    return out, *torch.autograd.grad(out, (conv.weight, conv.bias), up)


@dataclass
class Place:
    "Where indices could stand for one-hot rows."
    name: str
    general: Callable  # gives a tuple of tensors
    index: Callable  # gives the same from indices
    unit: float | None = None  # of the errors; None: the largest expected entry


def places(t, y, hot, o):
    "Both of them, for one batch."
    n = len(y)
    latent = torch.randn(n, LATENT)
    with torch.no_grad(): x = t.g(latent)
    flat_x = x.flatten(1)
    flat_y = hot.flatten(1)
    conv = t.d[1]
    up = torch.randn(n, o.width, LENGTH)
    return [
        Place('potentials', general=lambda: potentials(flat_x, flat_y, KERNEL, finite=False),
              index=lambda: index_potentials(x, y, KERNEL), unit=KERNEL.eps**-KERNEL.d),
        Place('first layer of D', general=lambda: gradients(first_layer, hot, conv, up),
              index=lambda: gradients(index_first_layer, y, conv, up))]


# --- what is measured ---------------------------------------------------------------------------------------------

def seconds(call, budget):
    "Least over at least two repeats, after one warm-up."
    call()
    times = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 2:
        _, each = processor_seconds(call)
        times.append(each)
    return min(times)


def worst(place):
    "Largest difference of the two forms."
    errors = []
    for found, expected in zip(place.index(), place.general()):
        unit = expected.abs().max() if place.unit is None else place.unit
        error = (found - expected).abs().max() / unit
        errors.append(error.item())
    return max(errors)


def print_rows(v, n, o):
    "A row of the table for each place."
    e = Experiment().changed(networks='text', latent=LATENT, batch=n, width_g=o.width, width_d=o.width,
                             depth_g=o.depth, depth_d=o.depth)
    t = TrainState(e, (LENGTH, v))
    y = torch.randint(v, (n, LENGTH))
    hot = one_hot(y, v).float()
    t_step = seconds(lambda: train_step(t, hot), o.seconds)
    for place in places(t, y, hot, o):
        error = worst(place)
        t_general = seconds(place.general, o.seconds / 4)
        t_index = seconds(place.index, o.seconds / 4)
        saved = (t_general - t_index) / t_step
        print_row(v, n, place.name, f'{t_general * 1e3:.2f}', f'{t_index * 1e3:.2f}', f'{t_general / t_index:.1f}',
                  f'{error:.0e}', f'{t_step * 1e3:.0f}', f'{saved:.1%}')


def print_convolution(n, o):
    "A line: one convolution of the block with all gradients, by the library and by eight products."
    conv = ToomConv1d(o.width, o.width)
    x = torch.randn(n, o.width, LENGTH, requires_grad=True)
    up = torch.randn(n, o.width, LENGTH)
    inputs = [x, *conv.parameters()]
    library = seconds(lambda: torch.autograd.grad(conv1d(x, conv.weight, conv.bias, padding=2), inputs, up), o.seconds)
    products = seconds(lambda: torch.autograd.grad(conv(x), inputs, up), o.seconds)
    print(f'convolution of the block, batch {n}: library {library * 1e3:.1f} ms, '
          f'eight products {products * 1e3:.1f} ms, {library / products:.2f} times faster')


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('--width', type=int, default=512)
    parser.add_argument('--depth', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=2., help='for the steps of one row, at least two')
    return parser.parse_args()


def main():
    "All sizes, then the convolution."
    o = options()
    torch.manual_seed(0)
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, width {o.width}, depth {o.depth}, '
          f'{LENGTH} positions')
    print_head('V', 'batch', 'place', 'one-hot ms', 'indices ms', 'ratio', 'error', 'step ms', 'saved of the step')
    for v, n in SIZES: print_rows(v, n, o)
    for n in (64, 128): print_convolution(n, o)


if __name__ == '__main__': main()
