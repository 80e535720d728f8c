"""One training step of the paper's image networks against a plain one written from the paper, in one process.

    python benchmarks/step.py [--side 32|64] [--batch 128] [--device cpu|cuda] [--seconds 30] [--compile]

The plain step: eager float32, library convolutions, all pairwise differences, D once for its own loss and once more for
G's, every gradient there is, Adam parameter by parameter. Each row gives milliseconds, how many times faster than the
plain step, the share of the matrix throughput measured here in that row's precision, and the error of the first losses
against a float64 plain step. On a GPU the plain step stands twice, since PyTorch lets convolutions round to TF32 unless
told otherwise, and ours in both orders of memory, recorded as a CUDA graph and not. With --compile both networks also
go through `torch.compile`. The last line, on a CPU, is the last convolution of D, forward and backward, by the library
and by patches.
"""
import argparse
import statistics
import time
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coulomb_gan.training.algorithm import State, train_step
from coulomb_gan.training.cuda_graph import WARM_UP, Stepper
from coulomb_gan.training.config import Experiment
from coulomb_gan.networks.layers import PatchConv2d

OTHER = {'cpu': 'channels-last', 'cuda': 'contiguous'}  # order of memory that the package does not choose
FORMATS = {'contiguous': torch.contiguous_format, 'channels-last': torch.channels_last}
REPEATS = {'cpu': 1, 'cuda': 20}  # steps between two looks at the clock, which wait for a GPU


def plain_potential(a, x, y, e):
    "Mean kernel to y minus mean kernel to x, through the difference of every pair, 32 rows at a time."
    def mean_k(p, c): return ((((p[:, None] - c[None])**2).sum(-1) + e.eps**2)**(-e.d / 2)).mean(1)
    return torch.cat([mean_k(p, y) - mean_k(p, x) for p in a.split(32)])


def plain_step(s, e, y):
    x = s.g(torch.randn(len(y), e.latent, generator=s.gen, device=y.device, dtype=torch.float32).to(y.dtype))
    with torch.no_grad():
        flat = x.flatten(1), y.flatten(1)
        phi_x, phi_y = (plain_potential(c, *flat, e) for c in flat)
    s.opt_d.zero_grad()
    loss_d = ((s.d(x.detach()).squeeze(1) - phi_x)**2).mean() + ((s.d(y).squeeze(1) - phi_y)**2).mean()
    loss_d.backward()
    s.opt_g.zero_grad()
    held = [p.grad.clone() for p in s.d.parameters()]
    loss_g = -s.d(x).mean()
    loss_g.backward()
    for p, grad in zip(s.d.parameters(), held): p.grad = grad
    s.opt_d.step()
    s.opt_g.step()
    return loss_d.detach(), loss_g.detach()


def state(e, shape, form=torch.preserve_format, dtype=torch.float32, plain=False, compiled=False):
    s = State(e, shape)
    for net in (s.g, s.d):
        net.to(dtype=dtype, memory_format=form)
        if compiled: net.compile()
    if plain:
        s.opt_g, s.opt_d = (torch.optim.Adam(net.parameters(), lr, (e.beta1, e.beta2), foreach=False)
                            for net, lr in ((s.g, e.lr_g), (s.d, e.lr_d)))
        for layer in s.d.modules():
            if isinstance(layer, PatchConv2d): layer.forward = partial(nn.Conv2d.forward, layer)
    return s


def exactly(step, *given):
    "The step with convolutions in float32 itself"
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        return step(*given)


def wait(device):
    if device == 'cuda': torch.cuda.synchronize()


def timed(call, device, repeats=1):
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats): call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def throughput(device, dtype):
    "Best of ten square matrix products, operations a second."
    n = 8192 if device == 'cuda' else 2048
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    return 2 * n**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def last_convolution(batch, device):
    "Seconds of D's 4x4 convolution with all gradients: the library's, and as a product over patches."
    conv = PatchConv2d(512, 1024, 5, 2, 2, bias=False).to(device)
    a = torch.randn(batch, 512, 4, 4, device=device, requires_grad=True)
    def call(forward): torch.autograd.grad(forward(a).sum(), (a, *conv.parameters()))
    forms = partial(nn.Conv2d.forward, conv), conv
    return [min(timed(lambda: call(forward), device) for _ in range(5)) for forward in forms]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--side', type=int, default=32)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--device', choices=REPEATS, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=30., help='for all timings of one row')
    parser.add_argument('--compile', action='store_true', help='also through torch.compile')
    o = parser.parse_args()
    shape, gen = (3, o.side, o.side), torch.Generator().manual_seed(0)
    e = Experiment(networks='dcgan', latent=16 if o.side == 32 else 32, width_g=1024, width_d=128, batch=o.batch,
                   device=o.device)
    y = (torch.rand(o.batch, *shape, generator=gen) * 2 - 1).to(o.device)

    plain = partial(state, form=torch.contiguous_format, plain=True)
    exact = torch.stack(plain_step(plain(e, shape, dtype=torch.float64), e, y.double()))
    rows = {'plain': partial(exactly, plain_step, plain(e, shape), e)}
    if o.device == 'cuda': rows['plain, TF32'] = partial(plain_step, plain(e, shape), e)
    for precision in ('float32', 'bfloat16'):
        own = replace(e, precision=precision)
        rows[f'ours, {precision}'] = Stepper(state(own, shape), own)
        other = OTHER[o.device]
        rows[f'ours, {precision}, {other}'] = Stepper(state(own, shape, FORMATS[other]), own)
        if o.device == 'cuda': rows[f'ours, {precision}, not recorded'] = partial(train_step, state(own, shape), own)
        if o.compile: rows[f'ours, {precision}, compiled'] = Stepper(state(own, shape, compiled=True), own)
    errors, times, repeats = {}, {name: [] for name in rows}, REPEATS[o.device]
    for name, step in rows.items():
        errors[name] = ((torch.stack(step(y)).double() - exact).abs() / exact.abs()).max().item()
        for _ in range(WARM_UP * (o.device == 'cuda')): step(y)  # records
    end = time.perf_counter() + o.seconds * len(rows)
    while time.perf_counter() < end or len(times['plain']) < 3:  # in turn, so that a slow minute hits all alike
        for name, step in rows.items(): times[name].append(timed(lambda: step(y), o.device, repeats))

    with FlopCounterMode(display=False) as counter: train_step(state(e, shape), e, y)
    flops = counter.get_total_flops()
    best = {dtype: throughput(o.device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(f'{o.batch} images of {shape}, {o.device}, {torch.get_num_threads()} threads: {flops / 1e9:.0f} GFLOP a step; '
          + ', '.join(f'{str(dtype)[6:]} products {v / 1e12:.2f} TFLOP/s' for dtype, v in best.items()))
    print('\n| step | ms | times faster | of matrix throughput | error of first losses |\n|---|---|---|---|---|')
    for name, t in times.items():
        t, dtype = statistics.median(t), torch.bfloat16 if 'bfloat16' in name else torch.float32
        share = f'{flops / t / best[dtype]:.0%}'
        print(f"| {name} | {t * 1e3:.2f} | {statistics.median(times['plain']) / t:.2f} | {share} | {errors[name]:.1e} |")
    if o.device == 'cuda': return  # where both are the library's
    library, patches = last_convolution(o.batch, o.device)
    print(f'\nlast convolution of D: {library * 1e3:.0f} ms, by patches {patches * 1e3:.0f} ms, '
          f'{library / patches:.1f} times faster')


if __name__ == '__main__': main()
