"""The plain step that step.py and mixture.py compare with: the package's slow reference, as eager as a textbook's.

The difference of every pair for the potential, D once at each side for its own loss and once more for G's, every
gradient there is, Adam parameter by parameter, the library's convolutions.
"""
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import nn

from coulomb_gan.networks.layers import PatchConv2d
from coulomb_gan.objectives.base import Batch
from coulomb_gan.objectives.coulomb import Coulomb
from coulomb_gan.objectives.reference import Player, reference_step
from coulomb_gan.training.state import TrainState


def mean_kernel(a, charges, kernel):
    "Mean over the charges at each point, through the difference of every pair, 32 points at a time."
    means = []
    for points in a.split(32):
        differences = points[:, None] - charges[None]
        r2 = differences.square().sum(-1)
        means.append(kernel.of_r2(r2).mean(1))
    return torch.cat(means)


def mean_kernel_by_cdist(a, charges, kernel):
    "The same from the library's distances: faster, and off by its rounding."
    r = torch.cdist(a, charges)
    return kernel.of_r2(r.square()).mean(1)


class PairwiseCoulomb(Coulomb):
    "The paper's objective with the potential written out."
    mean_kernel = staticmethod(mean_kernel)
    def targets(self, b):
        "The samples themselves and the potential there."
        x = b.x.detach()
        flat_x = x.flatten(1)
        flat_y = b.y.flatten(1)
        kernel = self.kernel(b)
        k_xy = self.mean_kernel(flat_x, flat_y, kernel)
        k_xx = self.mean_kernel(flat_x, flat_x, kernel)
        k_yy = self.mean_kernel(flat_y, flat_y, kernel)
        k_yx = self.mean_kernel(flat_y, flat_x, kernel)
        return x, b.y, k_xy - k_xx, k_yy - k_yx


class CdistCoulomb(PairwiseCoulomb):
    "The same with the library's distances."
    mean_kernel = staticmethod(mean_kernel_by_cdist)


def plain_player(net, lr, optim):
    "A network with its optimiser, parameter by parameter; None for no network."
    if net is None: return None
    weights = net.parameters()
    if optim.optimiser == 'rmsprop': opt = torch.optim.RMSprop(weights, lr, alpha=optim.beta2, foreach=False)
    else: opt = torch.optim.Adam(weights, lr, (optim.beta1, optim.beta2), foreach=False)
    return Player(net, opt)


def plain_state(e, shape, dtype=torch.float32):
    "Networks in PyTorch's usual order of memory, with the library's convolutions."
    t = TrainState(e, shape)
    for net in (t.g, t.d):
        if net is None: continue
        net.to(dtype=dtype, memory_format=torch.contiguous_format)
        for layer in net.modules():
            if isinstance(layer, PatchConv2d): layer.forward = partial(nn.Conv2d.forward, layer)
    return t


class PlainStep:
    "A training step of the paper's objective without schedule, weight decay or further charges, in its plain form."
    def __init__(self, e, shape, dtype=torch.float32, kind=PairwiseCoulomb):
        optim = e.optim
        self.objective = kind(**asdict(e.objective))
        self.t = plain_state(replace(e, objective=self.objective), shape, dtype)
        self.g = plain_player(self.t.g, optim.lr_g, optim)
        self.d = plain_player(self.t.d, optim.lr_d, optim)

    def draw(self, y):
        "Real samples and newly generated ones, from float32 numbers whatever the precision."
        t = self.t
        latent = t.experiment.networks.latent
        z = torch.randn(len(y), latent, generator=t.gen, device=y.device)
        x = t.g(z.to(y.dtype))
        return Batch(x, y, gen=t.gen, scheduled=t.scheduled, carried=t.carried)

    def __call__(self, y):
        "The losses of a step, each before its update."
        losses = reference_step(self.objective, self.g, self.d, draw=partial(self.draw, y))
        self.t.count()
        return [loss.detach() for loss in losses]
