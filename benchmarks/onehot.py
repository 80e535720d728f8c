"""What it would save to treat real texts as indices rather than as one-hot rows, against a training step of the pair.

    python benchmarks/onehot.py [--width 512] [--depth 5] [--seconds 2]

Two places: the potentials, where every distance to a text is a sum of gathered entries or a count of unlike characters, and
the first layer of D on real texts, forward and backward, where a product with one-hot rows is a lookup of columns. Errors
are the largest against the general form, of the kernel at 0 and of the largest output or gradient. The last line is the
convolution of the residual block, forward and backward, by the library and by `ToomConv1d`. Times are the least of
some repeats, of the processor, so that other work on the machine hardly counts.
"""
import argparse
import time

import torch
from torch.nn.functional import conv1d, embedding, one_hot

from coulomb_gan.training.algorithm import State, adam, train_step
from coulomb_gan.training.config import Experiment
from coulomb_gan.field.kernels import Plummer, squared_distances
from coulomb_gan.field.potential import potentials
from coulomb_gan.networks.text import ToomConv1d
from coulomb_gan.networks.text import text_discriminator, text_generator

LENGTH, LATENT, SIZES, KERNEL = 32, 32, [(v, n) for v in (100, 256, 2048) for n in (64, 128)], Plummer(1, 1)


def index_potentials(x, y, kernel):
    "`potentials` of generated rows `x (n, length, v)` and real indices `y (n, length)`."
    n, length, v = x.shape
    r2_xx = squared_distances(x.flatten(1), x.flatten(1)).fill_diagonal_(0)
    entries = x.flatten(1)[:, (y + v * torch.arange(length)).flatten()].view(n, -1, length)  # x[i, t, y[j, t]]
    r2_xy = (x.flatten(1).double()**2).sum(1, keepdim=True) + length - 2 * entries.sum(2, dtype=torch.float64)
    r2_yy = 2 * (y[:, None] != y).sum(2)
    k_xx, k_xy, k_yy = (kernel.of_r2(r2_ij.float()) for r2_ij in (r2_xx, r2_xy, r2_yy))
    return k_xy.mean(1) - k_xx.mean(1), k_yy.mean(1) - k_xy.mean(0)


def first_layer(rows, weight, bias):
    "D's first layer on one-hot rows `(n, length, v)`."
    return conv1d(rows.transpose(1, 2), weight, bias)


def index_first_layer(y, weight, bias):
    "The same on indices `(n, length)`: columns of the weights."
    return (embedding(y, weight[:, :, 0].T) + bias).transpose(1, 2)


def seconds(call, budget):
    "Least over at least two repeats, after one warm-up; of the processor, all threads together."
    call()
    times, end = [], time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 2:
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def state(v, n, o):
    "A run of the text pair."
    e, shape = Experiment(latent=LATENT, batch=n), (LENGTH, v)
    s = State(e, (2,))
    s.g, s.d = text_generator(LATENT, shape, o.width, o.depth), text_discriminator(shape, o.width, o.depth)
    s.opt_g, s.opt_d = adam(s.g, e.lr_g, e), adam(s.d, e.lr_d, e)
    return e, s


def worst(found, expected, unit=None):
    "Largest difference, in units of the largest expected entry or of `unit`."
    return max(((a - b).abs().max() / (unit or b.abs().max())).item() for a, b in zip(found, expected))


def rows(v, n, o):
    "One row of the table for each place."
    e, s = state(v, n, o)
    y = torch.randint(v, (n, LENGTH))
    hot, first = one_hot(y, v).float(), s.d[1]
    with torch.no_grad(): x = s.g(torch.randn(n, LATENT))
    up = torch.randn(n, o.width, LENGTH)
    def gradients(layer, data):
        out = layer(data, first.weight, first.bias)
        return out, *torch.autograd.grad(out, (first.weight, first.bias), up)
    places = {'potentials': (lambda: potentials(x.flatten(1), hot.flatten(1), KERNEL, finite=False),
                             lambda: index_potentials(x, y, KERNEL), KERNEL.eps**-KERNEL.d),
              'first layer of D': (lambda: gradients(first_layer, hot), lambda: gradients(index_first_layer, y), None)}
    step = seconds(lambda: train_step(s, e, hot), o.seconds)
    for place, (general, index, unit) in places.items():
        error, t, t_index = worst(index(), general(), unit), seconds(general, o.seconds / 4), seconds(index, o.seconds / 4)
        yield (v, n, place, f'{t * 1e3:.2f}', f'{t_index * 1e3:.2f}', f'{t / t_index:.1f}', f'{error:.0e}',
               f'{step * 1e3:.0f}', f'{(t - t_index) / step:.1%}')


def convolution(n, o):
    "Seconds of one convolution of the block with all gradients: the library's, and by eight products."
    conv, x = ToomConv1d(o.width, o.width), torch.randn(n, o.width, LENGTH, requires_grad=True)
    forms = lambda: conv1d(x, conv.weight, conv.bias, padding=2), lambda: conv(x)
    up = torch.randn(n, o.width, LENGTH)
    return [seconds(lambda: torch.autograd.grad(form(), (x, *conv.parameters()), up), o.seconds) for form in forms]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--width', type=int, default=512)
    parser.add_argument('--depth', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=2., help='for the steps of one row, at least two')
    o = parser.parse_args()
    torch.manual_seed(0)
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, width {o.width}, depth {o.depth}, {LENGTH} positions')
    print('| V | batch | place | one-hot ms | indices ms | ratio | error | step ms | saved of the step |')
    print('|---|---|---|---|---|---|---|---|---|')
    for v, n in SIZES:
        for row in rows(v, n, o): print(f'| {" | ".join(map(str, row))} |', flush=True)
    for n in (64, 128):
        library, products = convolution(n, o)
        print(f'convolution of the block, batch {n}: library {library * 1e3:.1f} ms, eight products {products * 1e3:.1f} ms, '
              f'{library / products:.2f} times faster')


if __name__ == '__main__': main()
