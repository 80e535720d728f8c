"""Networks of the tests' own, for objectives whose discriminator returns more than a number."""
from dataclasses import dataclass, fields, replace
from math import prod
from typing import ClassVar

import torch
from torch import nn

from coulomb_gan.networks.mlp import MLP


class Encoder(nn.Module):
    "Codes of samples; a decoder lies beside it"
    def __init__(self, shape, width, codes=3):
        super().__init__()
        n = prod(shape)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(n, width), nn.Tanh(), nn.Linear(width, codes))
        self.decoder = nn.Sequential(nn.Linear(codes, width), nn.Tanh(), nn.Linear(width, n), nn.Unflatten(1, shape))
    def forward(self, a): return self.encoder(a)


class Autoencoder(Encoder):
    "What becomes of samples that are encoded and decoded"
    def forward(self, a): return self.decoder(self.encoder(a))


@dataclass(frozen=True)
class TinyReconstruction(MLP):
    "The generator of an MLP against an autoencoder"
    name: ClassVar[str] = 'tiny-reconstruction'
    heads: ClassVar[tuple] = ('reconstruction',)
    def discriminator(self, shape, *head): return Autoencoder(shape, self.width_d)


@dataclass(frozen=True)
class TinyCode(MLP):
    "The generator of an MLP against an encoder"
    name: ClassVar[str] = 'tiny-code'
    heads: ClassVar[tuple] = ('code',)
    def discriminator(self, shape, *head): return Encoder(shape, self.width_d)


OF_HEAD = {'reconstruction': TinyReconstruction, 'code': TinyCode}


def playable(e):
    "An experiment, with networks from above where its own have no such discriminator"
    head = e.objective.head
    if head in (None, *e.networks.heads): return e
    sizes = {field.name: getattr(e.networks, field.name) for field in fields(MLP) if hasattr(e.networks, field.name)}
    return replace(e, networks=OF_HEAD[head](**sizes))


def discriminator(head, m=2):
    "A discriminator of points, by what it returns; always the same one"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if head == 'scalar': return nn.Sequential(nn.Linear(m, 8), nn.Tanh(), nn.Linear(8, 1))
        return Autoencoder((m,), width=8) if head == 'reconstruction' else Encoder((m,), width=8)
