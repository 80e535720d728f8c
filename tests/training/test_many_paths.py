"""The small games of benchmarks/many_paths.py: side by side as alone, and step for step the slow reference."""
import copy

import pytest
import torch
from many_paths import METHODS, PROBLEMS, SideBySide, discriminator, play
from torch import nn
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch
from coulomb_gan.objectives.gan_gp import GANGP
from coulomb_gan.objectives.penalties import GradientPenalty
from coulomb_gan.objectives.reference import Player, reference_step

AT_THE_DATA = GANGP(penalty=GradientPenalty(at='data'))  # draws nothing


@pytest.mark.parametrize('objective', [METHODS['non-saturating'], METHODS['minimax'], AT_THE_DATA])
def test_side_by_side_is_as_alone(objective):
    "Gradients of penalties lie otherwise in memory, which a fused optimiser would misread; 1e-9: rounding in 40 steps"
    problem = PROBLEMS['lines-10']
    together = play(objective, problem, [0, 1], steps=40, every=20)
    for i, seed in enumerate([0, 1]):
        alone = play(objective, problem, [seed], steps=40, every=20)
        assert_close(together[:, i], alone[:, 0], rtol=1e-9, atol=0)
    assert not torch.allclose(together[-1, 0], together[-1, 1])


def test_networks_side_by_side():
    nets = [discriminator('scalar', 5) for _ in range(3)]
    a = torch.randn(3, 8, 5).double()
    each = torch.cat([net(rows) for net, rows in zip(nets, a)])
    assert_close(SideBySide(copy.deepcopy(nets))(a.flatten(0, 1)), each)


@pytest.mark.parametrize('name', ['non-saturating', 'coulomb', 'began', 'mmd-gan', 'exact-force'])
def test_step_is_the_reference(name):
    "The same draws through the slow step, ten times; 1e-9: rounding"
    objective, problem, gen = METHODS[name], PROBLEMS['lines-2'], torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    g, line = problem.start(gen)
    g = nn.Sequential(*g)
    problem.data(line, gen)  # `play` draws a batch to learn the dimension
    net = discriminator(objective.head, 2)
    players = [Player(n, torch.optim.Adam(n.parameters(), lr=1e-3, betas=(.5, .999))) if n else None for n in (g, net)]
    carried = {key: value.double() for key, value in objective.start((2,), 'cpu').items()}

    def draw():
        y = problem.data(line, gen)
        return Batch(g(problem.latents(32, gen)), y, gen, scheduled=objective.scheduled(0.), carried=carried)

    for step in range(10): reference_step(objective, *players, draw, step)
    with torch.no_grad(): ours = problem.measure(g(problem.watched()), line)
    assert_close(play(objective, problem, [0], steps=10, every=10)[-1, 0], ours, rtol=1e-9, atol=0)


def test_distance_of_lines():
    "Against a sample of 1,000 quantiles: both laws of one number along their lines"
    problem = PROBLEMS['lines-2']
    g, line = problem.start(torch.Generator())
    g[0].weight.data *= .7
    u = (torch.arange(1000).double()[:, None] + .5) / 1000 - .5
    with torch.no_grad(): squared = (g(u) - u * line).square().sum(1).mean()
    assert_close(problem.measure(g(problem.watched()), line), squared, rtol=1e-5, atol=0)
