"""N processes make the run of one, whatever the objective; and where one fails, all stop."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.objectives.base import OBJECTIVES
from coulomb_gan.training.algorithm import rows_of_a_step
from several import steps
from test_algorithm import COUPLED, IMAGES
from tiny_runs import GAMES, TINY, VARIANTS, tiny

WORKER = Path(__file__).parents[1] / 'several.py'
STEPS = 50
CASES = {name: (options, (1, 8, 8)) for name, options in VARIANTS.items()}
CASES |= {f'{name}, batch norm in D': (IMAGES | COUPLED[name], (1, 16, 16)) for name in ('coulomb', 'non-saturating')}
CASES |= {'text': (dict(networks='text', width_g=4, width_d=4), (6, 5)), 'ema': (dict(ema=.9), (1, 8, 8)),
          'penalty in 2-D': (dict(objective='wgan-gp'), (2,))}


def experiment_of(options): return tiny(batch=24, **options)

def drawn(t, shape, n):
    "Real samples for n steps"
    gen = torch.Generator().manual_seed(1)
    for _ in range(n): yield 2 * torch.rand(rows_of_a_step(t), *shape, generator=gen) - 1


def torchrun(n, *arguments, **options):
    "Runs a function of several.py in n processes of this machine"
    line = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', str(n), '--standalone', str(WORKER), *map(str, arguments)]
    return subprocess.run(line, text=True, capture_output=True, timeout=600, **options)


@pytest.fixture(scope='module')
def of_one(tmp_path_factory):
    "What one process makes of all cases"
    out = tmp_path_factory.mktemp('one')
    steps(out, STEPS)
    torch.set_default_dtype(torch.float32)
    return torch.load(out / '0.pt')


@pytest.mark.parametrize('n', [2, 3, 4])
def test_several_processes_make_the_run_of_one(n, of_one, tmp_path):
    "In float64; 50 steps of Adam enlarge roundings of 1e-16, and a wrong gradient would show at 1e-3"
    done = torchrun(n, 'steps', tmp_path, STEPS)
    assert done.returncode == 0, done.stderr
    for rank in range(n):
        ends = torch.load(tmp_path / f'{rank}.pt')
        worst = {}
        for case in CASES:
            for name, value in of_one[case].items():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    worst[case] = max(worst.get(case, 0), (ends[case][name] - value).abs().max().item())
        print(worst)
