"""Nine objectives on small problems whose answer is known: up to ten seeds, 2,000 steps, stored for two pages to read.

    python benchmarks/many_paths.py nbs/experiments/many_paths.json [--problems lines-2 ...] [--methods coulomb ...]

Networks are small and settings ours, one pair of rates for every objective. What the file has already is not run again,
so an interrupted call is continued by the same command. Where a loss is a mean over samples all seeds run side by side;
where it compares samples with one another, or carries a weight, one after the other. In float64 and single-threaded,
so that a row can be run again elsewhere.
"""
import argparse
import json
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from coulomb_gan.data.datasets import digits, to_float
from coulomb_gan.metrics.mode_coverage import mode_coverage
from coulomb_gan.networks.autoencoder import Autoencoder, CodeDiscriminator
from coulomb_gan.networks.mlp import mlp
from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.began import BEGAN
from coulomb_gan.objectives.coulomb import Coulomb, ExactForce
from coulomb_gan.objectives.dragan import DRAGAN
from coulomb_gan.objectives.gan_gp import GANGP
from coulomb_gan.objectives.mmd_gan import MMDGAN
from coulomb_gan.objectives.standard import Minimax, NonSaturating
from coulomb_gan.objectives.wasserstein import WGANGP
from coulomb_gan.training.algorithm import differentiate

METHODS = {
    'minimax': Minimax(),
    'non-saturating': NonSaturating(),
    'gan-gp': GANGP(),
    'dragan': DRAGAN(),
    'wgan-gp': WGANGP(critic_steps=1),
    'began': BEGAN(),
    'mmd-gan': MMDGAN(critic_steps=1, more_critic_steps=1),
    'coulomb': Coulomb(),
    'exact-force': ExactForce(),
    'non-saturating, r1 = 1': NonSaturating(r1=1.),
    'wgan-gp, 5 critic steps': WGANGP(),
}
MORE_CRITIC_STEPS = 'wgan-gp, 5 critic steps'  # in 2-D only
ONE_BY_ONE = BEGAN, MMDGAN, Coulomb, ExactForce
BATCH, STEPS, EVERY = 32, 2_000, 100  # samples of an update; steps; steps between measurements
BETAS = .5, .999  # of Adam
WIDTH = 32  # of every hidden layer
RELU = partial(nn.LeakyReLU, .2)


class Linears(nn.Module):
    "Linear layers side by side, `(count, n, n_in) -> (count, n, n_out)`."
    def __init__(self, layers):
        super().__init__()
        weights = [layer.weight.detach().T for layer in layers]
        biases = [layer.bias.detach() for layer in layers]
        self.weight = nn.Parameter(torch.stack(weights))
        self.bias = nn.Parameter(torch.stack(biases)[:, None])

    def forward(self, rows): return torch.baddbmm(self.bias, rows, self.weight)


class SideBySide(nn.Module):
    "Networks of one shape; a batch has equally many rows for each, network after network."
    def __init__(self, nets):
        super().__init__()
        self.count = len(nets)
        self.layers = nn.ModuleList()
        for layers in zip(*nets):
            linear = isinstance(layers[0], nn.Linear)
            self.layers.append(Linears(layers) if linear else layers[0])

    def forward(self, a):
        rows = a.unflatten(0, (self.count, -1))
        for layer in self.layers: rows = layer(rows)
        return rows.flatten(0, 1)


def side_by_side(nets): return SideBySide(nets) if len(nets) > 1 else nets[0]


@dataclass(frozen=True)
class Lines:
    "Data on a line of length 1 in m dimensions; G is affine and starts as a parallel line at distance 1."
    m: int
    rate: float = 1e-3  # of both networks

    def start(self, gen):
        "A generator, and the line's direction `(m,)`."
        offset, line = torch.eye(self.m).double()[:2]
        g = nn.Sequential(nn.Linear(1, self.m, dtype=torch.float64))
        g[0].weight.data = line[:, None].clone()
        g[0].bias.data = offset.clone()
        return g, line

    def data(self, line, gen): return self.latents(BATCH, gen) * line

    def latents(self, n, gen): return torch.rand(n, 1, generator=gen).double() - .5

    def watched(self): return torch.tensor([[0.], [1.]]).double()

    def generator(self, net): return net

    def measure(self, x, line):
        "The squared Wasserstein distance of order 2 to the data; x is G at 0 and 1."
        bias = x[0]
        weight = x[1] - bias
        shape = weight.square().sum() + 1 - 2 * (weight @ line).abs()
        return bias.square().sum() + shape / 12


@dataclass(frozen=True)
class Planes:
    "Standard Gaussian data on a subspace of k dimensions in m; G is affine and starts as a parallel one at distance 1."
    m: int
    k: int = 3
    rate: float = 1e-3  # of both networks

    def start(self, gen):
        "A generator, and an orthonormal basis of the subspace `(m, k)`."
        offset, *basis = torch.eye(self.m).double()[:self.k + 1]
        plane = torch.stack(basis, 1)
        g = nn.Sequential(nn.Linear(self.k, self.m, dtype=torch.float64))
        g[0].weight.data = plane.clone()
        g[0].bias.data = offset.clone()
        return g, plane

    def data(self, plane, gen): return self.latents(BATCH, gen) @ plane.T

    def latents(self, n, gen): return torch.randn(n, self.k, generator=gen).double()

    def watched(self): return torch.eye(self.k + 1)[:, 1:].double()

    def generator(self, net): return net

    def measure(self, x, plane):
        "The squared Wasserstein distance of order 2 of the two Gaussians; x is G at 0 and at the unit vectors."
        bias = x[0]
        weight = (x[1:] - bias).T
        shared = torch.linalg.matrix_norm(plane.T @ weight, 'nuc')
        return bias.square().sum() + weight.square().sum() + self.k - 2 * shared


@dataclass(frozen=True)
class Spheres(Planes):
    "Data even on the unit sphere of a subspace of k dimensions in m; G is affine in points of a sphere."
    def latents(self, n, gen): return nn.functional.normalize(super().latents(n, gen))

    def measure(self, x, plane):
        """The squared Wasserstein distance of order 2 of two ellipsoids; x as of `Planes`.

        For laws of one elliptical family it is that of Gaussians of the same covariance (Gelbrich, 1990), which is
        the basis times its transpose over k.
        """
        bias = x[0]
        whole = super().measure(x, plane)
        return bias.square().sum() + (whole - bias.square().sum()) / self.k


@dataclass(frozen=True)
class Modes:
    "Gaussians in 2-D; G is an MLP, or adds one to a cloud at the first mode."
    centres: tuple  # of the modes
    std: float  # of each
    beside: bool  # whether G starts as exactly the first mode
    latent: int = 2
    rate: float = 1e-3

    def start(self, gen):
        g = mlp(2, 2, WIDTH, 2, False).double()
        if self.beside: nn.init.zeros_(g[-1].weight)
        if self.beside: nn.init.zeros_(g[-1].bias)
        return g, torch.tensor(self.centres).double()

    def data(self, centres, gen):
        which = torch.randint(len(centres), (BATCH,), generator=gen)
        return centres[which] + self.std * torch.randn(BATCH, 2, generator=gen).double()

    def latents(self, n, gen): return torch.randn(n, 2, generator=gen).double()

    def watched(self): return self.latents(1_000, torch.Generator().manual_seed(0))

    def generator(self, net):
        if not self.beside: return net
        return lambda z: self.std * z + net(z)

    def measure(self, x, centres):
        "Modes that have a tenth of their samples or more, share of the last mode, share within three widths."
        cover = mode_coverage(x, centres, self.std)
        return torch.tensor([cover['modes'], cover['counts'][-1] / len(x), cover['within_3sigma']])


@dataclass(frozen=True)
class Digits:
    "Handwritten digits of 8 by 8 pixels; both networks are MLPs."
    latent: int = 16
    rate: float = 1e-3

    def start(self, gen):
        images = digits().train.flatten(1)
        return mlp(16, 64, 128, 2, False).double(), to_float(images).double()

    def data(self, images, gen): return images[torch.randint(len(images), (BATCH,), generator=gen)]

    def latents(self, n, gen): return torch.randn(n, 16, generator=gen).double()

    def watched(self): return self.latents(len(held_out()), torch.Generator().manual_seed(0))

    def generator(self, net): return net

    def measure(self, x, images):
        "Mean distance of pairs, over that of held-out digits; what an independent critic sees between the two."
        y = held_out()
        return torch.tensor([torch.pdist(x).mean() / torch.pdist(y).mean(), critic_distance(x, y)])


def held_out(): return to_float(digits().test.flatten(1)).double()


def digits_critic(): return mlp(64, 1, 64, 2, False, RELU).double()


def critic_distance(x, y, new_critic=digits_critic, steps=300, betas=BETAS):
    "The Wasserstein distance as a new WGAN-GP critic finds it on every second sample and reads it on the others."
    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(0)
    critic = new_critic()
    opt = adam(critic, 1e-3, betas)
    n = min(len(x), len(y))
    for _ in range(steps):
        rows = 2 * torch.randint(n // 2, (2, 64), generator=gen)
        b = Batch(x[rows[0]], y[rows[1]], gen)
        differentiate(WGANGP().loss_d(Passes(critic, separate=True), b), list(critic.parameters()))
        opt.step()
    with torch.no_grad(): return (critic(y[1::2]).mean() - critic(x[1::2]).mean()).item()


RING = tuple((2 * math.cos(i * math.pi / 4), 2 * math.sin(i * math.pi / 4)) for i in range(8))
PROBLEMS = {f'lines-{m}': Lines(m) for m in (2, 10, 100, 1000)}
PROBLEMS |= {f'planes-{m}': Planes(m) for m in (10, 100)}
PROBLEMS |= {f'spheres-{m}': Spheres(m) for m in (10, 100)}
PROBLEMS['two-modes'] = Modes(((0., 0.), (10., 0.)), std=.5, beside=True, rate=3e-3)
PROBLEMS['eight-modes'] = Modes(RING, std=.1, beside=False)
PROBLEMS['digits'] = Digits()


def discriminator(head, m):
    "A small one of the wanted head, for points of m dimensions."
    if head is None: return None
    if head == 'scalar': return mlp(m, 1, WIDTH, 2, False, RELU).double()
    encoder = mlp(m, 2, WIDTH, 1, False, RELU)
    decoder = mlp(2, m, WIDTH, 1, False, RELU)
    kind = Autoencoder if head == 'reconstruction' else CodeDiscriminator
    return kind(encoder, decoder).double()


def adam(net, rate, betas=BETAS): return torch.optim.Adam(net.parameters(), lr=rate, betas=betas, fused=True)


def play(objective, problem, seeds, steps=STEPS, every=EVERY):
    "Measurements `(steps / every + 1, seeds, ...)` of as many games, in which all seeds run side by side."
    # networks and data of each seed
    gens = [torch.Generator().manual_seed(seed) for seed in seeds]
    gen = torch.Generator().manual_seed(seeds[0] + 1_000)  # of penalties
    starts, ds = [], []
    for seed, own in zip(seeds, gens):
        torch.manual_seed(seed)
        starts.append(problem.start(own))
        ds.append(discriminator(objective.head, len(problem.data(starts[-1][1], own)[0])))
    net = side_by_side([g for g, _ in starts])
    g = problem.generator(net)
    d = side_by_side(ds) if objective.head else None
    weights_g = list(net.parameters())
    weights_d = list(d.parameters()) if d else []
    opt_g = adam(net, problem.rate)
    opt_d = adam(d, problem.rate) if d else None
    shape = problem.data(starts[0][1], gen)[0].shape
    carried = {name: value.double() for name, value in objective.start(shape, 'cpu').items()}
    watched = problem.watched()

    def passes(): return Passes(d, separate=True, head=objective.head) if d else None

    def batch(for_g):
        "Real samples and generated ones, seed after seed."
        y = torch.cat([problem.data(what, own) for (_, what), own in zip(starts, gens)])
        z = torch.cat([problem.latents(BATCH, own) for own in gens])
        with torch.set_grad_enabled(for_g): x = g(z)
        return Batch(x, y, gen, scheduled=objective.scheduled(0.), carried=carried)

    def measured():
        with torch.no_grad(): x = g(watched.repeat(len(seeds), 1))
        parts = x.unflatten(0, (len(seeds), -1))
        return torch.stack([problem.measure(x_s, what) for x_s, (_, what) in zip(parts, starts)])

    found = [measured()]
    for step in range(steps):
        # D, one update or more; where both move at once, from the samples that G moves from
        if d and not objective.simultaneous:
            for _ in range(objective.critic_steps_at(step)):
                differentiate(len(seeds) * objective.loss_d(passes(), batch(for_g=False)), weights_d)
                opt_d.step()
                objective.constrain(d)
        b, d_now = batch(for_g=True), passes()
        at_once = d and objective.simultaneous
        if at_once: differentiate(objective.loss_d(d_now, b), weights_d, keep_graph=True)

        # G
        differentiate(len(seeds) * objective.loss_g(d_now, b), weights_g)
        objective.finish(d_now, b)
        if at_once: opt_d.step()
        opt_g.step()
        if (step + 1) % every == 0: found.append(measured())
    return torch.stack(found)


def linear_discriminator(head):
    "Without bias, for points of one dimension; every weight 1/2."
    if head is None: return None
    d = nn.Linear(1, 1, bias=False)
    if head == 'reconstruction': d = Autoencoder(d, nn.Linear(1, 1, bias=False))
    if head == 'code': d = CodeDiscriminator(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    for p in d.parameters(): nn.init.constant_(p, .5)
    return d.double()


def point_game(objective, steps=1_200, h=.1):
    "The generated point after each step of gradient descent of rate h; the real point is 0, D linear, steps in turn."
    theta = torch.ones(1, 1).double().requires_grad_()
    y = torch.zeros(4, 1).double()
    gen = torch.Generator().manual_seed(0)
    d = linear_discriminator(objective.head)
    carried = {name: value.double() for name, value in objective.start((1,), 'cpu').items()}
    path = []
    for _ in range(steps):
        if d:
            b = Batch(theta.detach().expand(4, 1), y, gen, carried=carried)
            weights = list(d.parameters())
            loss = objective.loss_d(Passes(d, separate=True, head=objective.head), b)
            gradients = torch.autograd.grad(loss, weights)
            for p, gradient in zip(weights, gradients): p.data -= h * gradient
            objective.constrain(d)
        b = Batch(theta.expand(4, 1), y, gen, carried=carried)
        d_now = Passes(d, separate=True, head=objective.head) if d else None
        to_theta, = torch.autograd.grad(objective.loss_g(d_now, b), theta)
        objective.finish(d_now, b)
        theta.data -= h * to_theta
        path.append(theta.item())
    return path


def signals(objective, problem, at):
    "The slope of L_G along the offset of `Lines` after so many updates of D, G held; a list as long as `at`."
    gen = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    g, line = problem.start(gen)
    d = discriminator(objective.head, problem.m)
    opt = adam(d, problem.rate) if d else None
    carried = {name: value.double() for name, value in objective.start((problem.m,), 'cpu').items()}
    found = []
    for step in range(max(at) + 1):
        y = torch.cat([problem.data(line, gen) for _ in range(4)])
        b = Batch(g(problem.latents(len(y), gen)), y, gen, scheduled=objective.scheduled(0.), carried=carried)
        d_now = Passes(d, separate=True, head=objective.head) if d else None
        if step in at:
            differentiate(objective.loss_g(d_now, b), list(g.parameters()), keep_graph=True)
            found.append(g[0].bias.grad[0].item())
        if not d: continue
        b.x = b.x.detach()
        differentiate(objective.loss_d(Passes(d, separate=True, head=objective.head), b), list(d.parameters()))
        opt.step()
        objective.constrain(d)
        objective.finish(Passes(d, separate=True, head=objective.head), b)
    return found


def seeds_of(method, problem):
    "Ten on lines, spaces and spheres; three on modes and digits, of MMD-GAN, which takes long, mostly one."
    if problem.startswith(('lines', 'planes', 'spheres')): return list(range(10))
    return [0] if method == 'mmd-gan' and problem != 'two-modes' else [0, 1, 2]


def games(method, problem):
    "Measurements `(seeds, times, ...)` of all seeds."
    objective = METHODS[method]
    seeds = seeds_of(method, problem)
    groups = [[seed] for seed in seeds] if isinstance(objective, ONE_BY_ONE) else [seeds]
    every = STEPS if problem == 'digits' else EVERY
    found = [play(objective, PROBLEMS[problem], group, every=every) for group in groups]
    return torch.cat(found, 1).transpose(0, 1)


def rounded(values):
    "Nested lists of numbers of four digits."
    if isinstance(values, list): return [rounded(v) for v in values]
    return float(f'{values:.4g}')


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('file', type=Path)
    parser.add_argument('--problems', nargs='+', choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    return parser.parse_args()


def main():
    "Fills the file, one problem and method after the other."
    o = options()
    torch.set_num_threads(1)
    found = json.loads(o.file.read_text()) if o.file.exists() else {}
    for problem in o.problems:
        for method in o.methods:
            if method in found.setdefault(problem, {}): continue
            if method == MORE_CRITIC_STEPS and problem != 'lines-2': continue
            start = time.process_time()
            values = games(method, problem)
            seconds = time.process_time() - start
            found[problem][method] = {'seconds': round(seconds, 1), 'found': rounded(values.tolist())}
            text = json.dumps(found).replace('}, ', '},\n')
            o.file.write_text(text + '\n')
            print(f'{problem}, {method}: {seconds:.1f} s', flush=True)


if __name__ == '__main__': main()
