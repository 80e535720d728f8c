"""Steps a second of the 25 Gaussians' two small networks, against a plain eager loop written from the paper.

    python benchmarks/mixture.py [--batch 128] [--device cpu|cuda] [--seconds 20] [--compile]

One thread on a CPU; on a GPU ours is recorded as a CUDA graph, and stands a second time without. The plain loop: all
pairwise differences, D once at each side for its own loss and once more for G's, every gradient there is, Adam
parameter by parameter. Both start from the same weights and see the same samples; the last column is the largest
difference between their losses over the first hundred steps, relative to the plain one's. Times are of the processor on
a CPU, so that other work on the machine counts little. With --compile another row has both networks through
`torch.compile`.
"""
import argparse
import statistics
import time
from dataclasses import replace
from functools import partial

import torch

from coulomb_gan.training.algorithm import State, train_step
from coulomb_gan.training.cuda_graph import Stepper
from coulomb_gan.data.datasets import Samples
from coulomb_gan.data.catalogue import load
from coulomb_gan.training.presets import experiment


def plain_step(s, e, y):
    "Algorithm 1 from P8-P10, as one would write it down."
    x = s.g(torch.randn(len(y), e.latent, generator=s.gen, device=y.device))
    with torch.no_grad():
        def mean_k(a, c): return (((a[:, None] - c[None])**2).sum(-1) + e.eps**2).pow(-e.d / 2).mean(1)
        phi_x, phi_y = (mean_k(a, y) - mean_k(a, x) for a in (x, y))
    s.opt_d.zero_grad()
    loss_d = ((s.d(x.detach()).squeeze(1) - phi_x)**2).mean() + ((s.d(y).squeeze(1) - phi_y)**2).mean()
    loss_d.backward()
    held = [p.grad.clone() for p in s.d.parameters()]
    s.opt_g.zero_grad()
    loss_g = -s.d(x).mean()
    loss_g.backward()
    for p, grad in zip(s.d.parameters(), held): p.grad = grad
    s.opt_d.step()
    s.opt_g.step()
    with torch.no_grad():
        weight = 1 - min(e.ema, (s.step + 1) / (s.step + 10))
        for average, p in zip(s.average.parameters(), s.g.parameters()): average.lerp_(p, weight)
    s.schedule['step'] += 1
    return loss_d.detach(), loss_g.detach()


def state(e, plain=False, compiled=False):
    s = State(e, (2,))
    if plain:
        s.opt_g, s.opt_d = (torch.optim.Adam(net.parameters(), lr, (e.beta1, e.beta2), foreach=False)
                            for net, lr in ((s.g, e.lr_g), (s.d, e.lr_d)))
    if compiled:
        for net in (s.g, s.d): net.compile()
    return s


def run(step, e, real, n):
    "Losses of n steps `(n, 2)`, and seconds a step."
    draw, losses = torch.Generator(e.device).manual_seed(1), []
    clock = time.thread_time if e.device == 'cpu' else time.perf_counter
    start = clock()
    for _ in range(n):
        index = torch.randint(len(real), (e.batch,), generator=draw, device=e.device)
        losses.append(torch.stack(step(real[index])))
    losses = torch.stack(losses).cpu()  # waits for a GPU
    return losses, (clock() - start) / n


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=20., help='for all timings')
    parser.add_argument('--compile', action='store_true', help='also through torch.compile')
    o = parser.parse_args()
    torch.set_num_threads(1)
    e = replace(experiment('mixture'), batch=o.batch, device=o.device, eps_end=None, decay='none', weight_decay=0.,
                lr_g=1e-4, lr_d=1e-4, charges=0, memory=0, objective='coulomb', self_term=1.)
    real = Samples(load('mixture'), o.device)
    rows = {'plain': partial(plain_step, state(e, plain=True), e), 'ours': Stepper(state(e), e)}
    if o.device == 'cuda': rows['ours, not recorded'] = partial(train_step, state(e), e)
    if o.compile: rows['ours, compiled'] = Stepper(state(e, compiled=True), e)
    first = {name: run(step, e, real, 100)[0] for name, step in rows.items()}
    times, end = {name: [] for name in rows}, time.perf_counter() + o.seconds
    while time.perf_counter() < end or len(times['plain']) < 5:  # in turn, so that a slow minute hits all alike
        for name, step in rows.items(): times[name].append(run(step, e, real, 100)[1])
    print(f'batch {e.batch}, G {e.depth_g} x {e.width_g}, D {e.depth_d} x {e.width_d}, {e.device}, torch {torch.__version__}')
    print('| step | ms | steps/s | times faster | largest difference of losses |\n|---|---|---|---|---|')
    for name, t in times.items():
        ms, plain = statistics.median(t) * 1e3, statistics.median(times['plain']) * 1e3
        off = ((first[name] - first['plain']).abs() / first['plain'].abs()).max().item()
        print(f'| {name} | {ms:.2f} | {1e3 / ms:.0f} | {plain / ms:.2f} | {off:.1e} |')


if __name__ == '__main__': main()
