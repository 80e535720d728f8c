"""Runs of a fraction of a second: made, stopped at a chosen step, and compared bit for bit."""
import json
import signal
from pathlib import Path

import pytest
import torch

from coulomb_gan.objectives.base import OBJECTIVES
from coulomb_gan.training import fit as fitting
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.run_folder import newest_checkpoint, read_metrics
from coulomb_gan.training.safeguards import Interrupted
from faults import at_call, send
from tiny_networks import playable

SHORT = dict(steps=12, decay='none', log_every=3, eval_every=6, eval_samples=50)
TINY = experiment('tiny', **SHORT)

# every registered objective, and what an objective may have beside its losses
GAMES = {name: dict(objective=name) for name in OBJECTIVES}
GAMES['mmd-gan'] |= dict(critic_steps=2, more_critic_steps=2)
VARIANTS = GAMES | {
    'more charges': dict(charges=8, replay=40, self_term=.5),
    'smoothing': dict(smoothing=.5),
    'smoothing with more charges': dict(smoothing=.5, charges=8, replay=40, self_term=.5),
    'alternating': dict(alternating=True),
    'annealed': dict(eps=3., eps_end=.5),
    'exact force of more charges': dict(objective='exact-force', charges=8, replay=40, self_term=0., eps_end=.5),
    'one critic step': dict(objective='wgan-gp', critic_steps=1),
    'penalty at the data': dict(objective='non-saturating', r1=1.),
    'minimax with penalty at the data': dict(objective='minimax', r1=1.),
    'dragan, gaussian noise': dict(objective='dragan', penalty_noise='gaussian'),
    'dragan, uniform noise, one-sided': dict(objective='dragan', penalty_noise='uniform', penalty_one_sided=True),
}


def tiny(**options):
    "TINY with other options, and networks that the objective can play with"
    return playable(TINY.changed(**options))


def train(e, out, **options): return fitting.fit(e, out, progress=False, **options)

def stopped(e, out, step, **options):
    "A run folder whose training got SIGTERM when the line of `step` had been written"
    line, remainder = divmod(step, e.record.log_every)
    assert not remainder and e.record.eval_every % e.record.log_every == 0
    at_the_line = at_call(fitting, 'append_metrics', line, lambda: send(signal.SIGTERM), after=True)
    with at_the_line, pytest.raises(Interrupted, match=f'SIGTERM: stopped at step {step};'): train(e, out, **options)
    return out


# --- what a run folder holds --------------------------------------------------------------------------------------

def records(out):
    "The lines of metrics, but for the time they took"
    return [{name: value for name, value in line.items() if name != 'seconds'} for line in read_metrics(out)]

def last_step(out): return max((line['step'] for line in read_metrics(out)), default=0)

def steps_saved(out): return sorted(int(p.stem) for p in Path(out, 'checkpoints').glob('*.pt'))

def result(out): return json.loads(Path(out, 'result.json').read_text())

def contents(out):
    "Every file of a run folder, byte for byte"
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in Path(out).rglob('*') if p.is_file()}


def flat(value, name=''):
    "Every tensor and number of a nested state under its path"
    if not isinstance(value, (dict, list, tuple)): return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: found for own, part in items for key, found in flat(part, f'{name}.{own}').items()}

def state(out):
    "The newest checkpoint, but for the time it took"
    saved = flat(newest_checkpoint(out))
    return {name: value for name, value in saved.items() if name not in ('.progress.seconds', '.progress.eval_seconds')}


def same(a, b): return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

def assert_same_state(one, other):
    "Two flat states agree bit for bit"
    assert one.keys() == other.keys() and len(one) > 30
    assert [name for name in one if not same(one[name], other[name])] == []

def assert_same_end(a, b):
    "Two run folders hold the same metrics and, bit for bit, the same newest state"
    assert records(a) == records(b)
    assert_same_state(state(a), state(b))
