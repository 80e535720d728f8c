"""What the processes of a test do: `torchrun several.py FUNCTION ARGUMENTS`."""
import json
import os
import sys
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / 'training')]

import torch

import faults
from coulomb_gan.training import distributed, fit
from coulomb_gan.training.algorithm import train_step
from coulomb_gan.training.distributed import joined
from coulomb_gan.training.state import TrainState

torch.set_num_threads(1)
RANK = int(os.environ.get('RANK', 0))


def flat_state(t):
    "All that a step changes, by name"
    from tiny_runs import flat
    saved = t.state_dict()
    return {name: value for name, value in flat(saved).items() if 'seconds' not in name}


def steps(out, n):
    "Ends of all cases after n steps"
    from test_distributed import CASES, drawn, experiment_of
    torch.set_default_dtype(torch.float64)
    with joined() as world:
        ends = {}
        for name, (options, shape) in CASES.items():
            t = TrainState(experiment_of(options), shape, world)
            losses = [torch.stack(train_step(t, y)) for y in drawn(t, shape, int(n))]
            ends[name] = flat_state(t) | {'losses': torch.stack(losses), 'samples': t.sample(30, seed=1)}
        torch.save(ends, f'{out}/{world.rank}.pt')


def command(before, *line):
    "`coulomb-gan` after statements of this process, from a mapping of ranks"
    exec(json.loads(before).get(str(RANK), ''), globals())
    from coulomb_gan.reporting.cli import main
    main(list(line))


def at_line(number, act, after=False):
    "From now on, `act` at the line of metrics of that number, in every process, whether it writes or not"
    faults.at_call(fit, '_line', number, act, after)


if __name__ == '__main__': globals()[sys.argv[1]](*sys.argv[2:])
