"""N processes make the run of one, whatever the objective; and where one of them fails, all stop and say it once."""
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.files import RunError
from coulomb_gan.objectives.base import OBJECTIVES
from coulomb_gan.reporting.cli import main
from coulomb_gan.reporting.sections import headline
from coulomb_gan.training import distributed
from coulomb_gan.training import fit as fitting
from coulomb_gan.training.algorithm import rows_of_a_step
from coulomb_gan.training.launched import joined
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.run_folder import read_metrics
from coulomb_gan.training.safeguards import NotFinite
from faults import at_call, die, fill_the_disk, send
from several import ip, on_machines, steps, together, why_no_networks
from tiny_runs import VARIANTS, result, steps_saved, tiny, train

WORKER = Path(__file__).parents[1] / 'several.py'
STEPS = 20
CASES = {name: (options, (1, 8, 8)) for name, options in VARIANTS.items()}
IMAGES = dict(networks='dcgan', width_g=8, width_d=4)
CASES |= {f'{name}, batch norm in D': (IMAGES | dict(objective=name), (1, 16, 16)) for name in ('coulomb', 'non-saturating')}
CASES |= {'text': (dict(networks='text', width_g=4, width_d=4), (6, 5)), 'ema': (dict(ema=.9), (1, 8, 8)),
          'penalty in 2-D': (dict(objective='wgan-gp'), (2,)),
          'evenly spread samples, then fresh charges': (dict(objective='exact-force', sobol=True, fresh=25, fresh_from=.5), (2,)),
          'muon': (dict(optimiser='muon', depth_g=2, depth_d=2), (1, 8, 8))}


def experiment_of(options): return tiny(batch=24, **options)

def drawn(t, shape, n):
    "Real samples for n steps"
    gen = torch.Generator().manual_seed(1)
    for _ in range(n): yield 2 * torch.rand(rows_of_a_step(t), *shape, generator=gen) - 1


def torchrun(n, *arguments, restarts=0, wait=600):
    "Runs a function of several.py in n processes of this machine"
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}',
                f'--max-restarts={restarts}', WORKER]
    return subprocess.run([*map(str, launcher), *map(str, arguments)], text=True, capture_output=True, timeout=wait)


@pytest.fixture(scope='module')
def of_one(tmp_path_factory):
    "What one process makes of all cases"
    out = tmp_path_factory.mktemp('one')
    steps(out, STEPS)
    torch.set_default_dtype(torch.float32)
    return torch.load(out / '0.pt')


@pytest.mark.parametrize('n', [2, 3, 4])
def test_several_processes_make_the_run_of_one(n, of_one, tmp_path):
    "In float64; 20 steps of Adam enlarge roundings of 1e-16, and a wrong gradient would show at 1e-3"
    done = torchrun(n, 'steps', tmp_path, STEPS)
    assert done.returncode == 0, done.stderr
    for rank in range(n):
        ends = torch.load(tmp_path / f'{rank}.pt')
        for case in CASES:
            for name, value in of_one[case].items():
                if isinstance(value, torch.Tensor): assert_close(ends[case][name], value, rtol=1e-6, atol=1e-8)


def test_cases_name_every_objective(): assert {*OBJECTIVES} <= {*CASES}


# --- a run --------------------------------------------------------------------------------------------------------

LINE = 'train tiny --steps 12 --batch 24 --decay none --log-every 3 --eval-every 6 --eval-samples 50 --no-batch-norm-g'

def run_experiment():
    "The settings of that line"
    return experiment('tiny', steps=12, batch=24, decay='none', log_every=3, eval_every=6, eval_samples=50, batch_norm_g=False)

def training(out, options='', before=None):
    "What a process does: the command, after `before(rank)`"
    def work(rank):
        torch.set_num_threads(1)
        if before: before(rank)
        main([*LINE.split(), *options.split(), '--out', str(out)])
    return work


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The run of one process"
    out = tmp_path_factory.mktemp('undisturbed') / 'run'
    with pytest.raises(SystemExit): main([*LINE.split(), '--out', str(out)])
    return out


def assert_alike(out, other):
    "Two runs agree to the rounding of float32 that a dozen steps have enlarged; a step moves the losses by 1e-3"
    lines, others = read_metrics(out), read_metrics(other)
    assert [line['step'] for line in lines] == [line['step'] for line in others]
    for one, two in zip(lines, others):
        for name in ('loss_d', 'loss_g', 'energy'): assert_close(one.get(name), two.get(name), rtol=1e-4, atol=1e-6)
    assert_close(load_run(out).sample(10), load_run(other).sample(10), rtol=0, atol=1e-4)


def at_step(step, act):
    "In this process `act` is done when so many steps have been made"
    return at_call(fitting.FiniteLosses, 'see', step, act)


def messages(ended): return [line for line in ended.said if line.startswith('coulomb-gan: ')]


@pytest.mark.parametrize('n', [1, 2, 3])
def test_run_of_several_processes(n, undisturbed, tmp_path):
    out = tmp_path / 'run'
    ended = together(n, training(out), tmp_path)
    assert ended.codes == [0] * n and not messages(ended), ended.said
    assert_alike(out, undisturbed)
    assert result(out)['world_size'] == n and steps_saved(out) == [6, 12]
    assert sorted(p.name for p in (out / 'samples').iterdir()) == ['12.png', '6.png']


QUARTERS = """
import torch
def quarters(): return see
def see(images):
    with open('seen', 'a') as file: file.write(f'{len(images)}\\n')
    return torch.nn.functional.avg_pool2d(images.float(), 4).flatten(1)
"""

def test_an_evaluation_is_shared(tmp_path, monkeypatch):
    "Each process sees a third of the 51 samples, in both evaluations; the numbers are those of one process"
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'net.py').write_text(QUARTERS)
    ends = {}
    for n in (1, 3):
        ended = together(n, training(tmp_path / str(n), '--eval-samples 51 --monitor net.py:quarters'), tmp_path)
        assert ended.codes == [0] * n, ended.said
        seen = (tmp_path / 'seen').read_text().split()
        (tmp_path / 'seen').unlink()
        assert [seen.count(str(rows)) for rows in (51, 17)] == ([2, 0] if n == 1 else [0, 6])
        ends[n] = [line for line in read_metrics(tmp_path / str(n)) if 'frechet' in line]
    for one, three in zip(ends[1], ends[3], strict=True):
        for name in ('energy', 'frechet'): assert_close(one[name], three[name], rtol=1e-4, atol=1e-6)


def test_a_run_stopped_at_one_of_two_goes_on_with_three(undisturbed, tmp_path):
    out = tmp_path / 'run'
    def stop(rank):
        if rank == 1: at_step(5, lambda: send(signal.SIGTERM))
    ended = together(2, training(out, before=stop), tmp_path)
    assert ended.codes == [130, 130]
    assert messages(ended) == ['coulomb-gan: SIGTERM: stopped at step 5; the same command continues there']
    assert steps_saved(out) == [5]
    assert together(3, training(out), tmp_path).codes == [0, 0, 0]
    assert_alike(out, undisturbed)


def test_batch_norm_by_own_rows_is_another_method_and_the_report_says_so(tmp_path):
    ends = {}
    for options in ('--batch-norm-g', '--batch-norm-g --no-sync-batch-norm'):
        out = tmp_path / str(len(options))
        assert together(2, training(out, options), tmp_path).codes == [0, 0]
        ends[options] = read_metrics(out)[0]['loss_g']
    one, other = ends.values()
    assert abs(one - other) > 1e-4
    assert '(2 processes, batch norm by the rows of each)' in headline(load_run(out), 'images')


MINE = '''
from dataclasses import dataclass
from coulomb_gan.objectives.base import Objective

@dataclass(frozen=True)
class Mine(Objective):
    def loss_d(self, d, b):
        d_x = d.net(b.x)
        return (d_x - d_x.mean()).square().mean() + (d(b.y) - 1).square().mean() + d_x.square().mean()
    def loss_g(self, d, b): return (d(b.x).mean() - 1).square() + (b.x.std(0) - 1).square().mean()
'''

def test_objective_of_a_user_is_written_for_one_process(tmp_path):
    "It knows nothing of rows: D called as a network, means and deviations over the whole batch"
    (tmp_path / 'mine.py').write_text(MINE)
    for n in (1, 3):
        ended = together(n, training(tmp_path / str(n), f"--objective {tmp_path / 'mine.py'}:Mine"), tmp_path)
        assert ended.codes == [0] * n, ended.said
    assert_alike(tmp_path / '1', tmp_path / '3')


# --- failures -----------------------------------------------------------------------------------------------------

def at(rank, act): return lambda own: act() if own == rank else None

def poison(step, y): step.t.weights[0].data.fill_(torch.nan)

def poisoned(): at_call(fitting.GraphedStep, '__call__', 5, poison, after=True)

def out_of_disk(): at_step(8, lambda: fill_the_disk(10_000))

def broken():
    def fail(): raise KeyError('a fault of our own')
    at_step(8, fail)


LOST = 'lost another one (.*); the same command continues from the newest checkpoint'
KILLED = lambda: at_step(8, die)
FAILURES = {      # what happens to whom of three, exit codes, what is said, the last checkpoint
    'killed': (at(1, KILLED), [1, -9, 1], LOST, 6),
    'first one killed': (at(0, KILLED), [-9, 1, 1], LOST, 6),
    'NaN at one': (at(1, poisoned), [1, 1, 1], '^coulomb-gan: the loss is not finite at step 6; there is no checkpoint', 0),
    'disk full at the first': (at(0, out_of_disk), [1, 1, 1], 'cannot write .*: File too large', 6),
    'disk full at another': (at(2, out_of_disk), [0, 0, 0], None, 12),
    'unknown error': (at(2, broken), [1, 1, 1], LOST, 6),
}


@pytest.mark.parametrize('case', FAILURES)
def test_all_stop_together_and_say_it_once(case, undisturbed, tmp_path):
    before, codes, message, last = FAILURES[case]
    out = tmp_path / 'run'
    ended = together(3, training(out, before=before), tmp_path)
    assert ended.codes == codes, ended.said
    said = messages(ended)
    assert len(said) == (message is not None) and all(re.search(message, line) for line in said), ended.said
    assert max(steps_saved(out), default=0) == last
    again = together(2, training(out), tmp_path)
    assert again.codes == [0, 0], again.said
    assert_alike(out, undisturbed)


def test_a_run_error_of_any_kind_has_the_same_words_everywhere():
    sent = []
    def world(rank):
        def exchange(own, group):
            sent.append(own)
            return [sent[0], None]
        return SimpleNamespace(size=2, rank=rank, exchange=exchange)
    with pytest.raises(NotFinite): distributed._raise_first(world(0), NotFinite('the loss is not finite'), None)
    with pytest.raises(RunError, match='^the loss is not finite$'): distributed._raise_first(world(1), None, None)


def test_frozen_process_is_waited_for_so_long_and_no_longer(tmp_path):
    def work(rank):
        if rank == 1: at_step(4, lambda: send(signal.SIGSTOP))
        with joined(timeout=5) as world: train(run_experiment(), tmp_path / 'run', world=world)
    ended = together(2, work, tmp_path, frozen=[1])
    assert ended.codes == [1, -9]
    assert any(line.startswith('coulomb_gan.training.distributed.Lost: process 0 of 2 lost another one') for line in ended.said)


def test_restarted_by_torchrun(undisturbed, tmp_path):
    "The second process is killed, once; the launcher starts all again"
    out, once = tmp_path / 'run', tmp_path / 'once'
    before = (f"import os, pathlib, faults; from coulomb_gan.training import fit as fitting; once = pathlib.Path({str(once)!r})\n"
              "def kill(): once.touch(); faults.die()\n"
              "if os.environ['RANK'] == '1' and not once.exists(): faults.at_call(fitting.FiniteLosses, 'see', 8, kill)")
    done = torchrun(2, 'command', before, *LINE.split(), '--out', out, restarts=1)
    assert done.returncode == 0 and once.exists(), done.stderr
    assert_alike(out, undisturbed)


# --- machines -----------------------------------------------------------------------------------------------------

@pytest.fixture
def networks():
    if reason := why_no_networks(): pytest.skip(reason)


@pytest.mark.parametrize('n', [2, 4])
def test_machines_with_addresses_of_their_own(n, networks, undisturbed, tmp_path):
    out = tmp_path / 'run'
    ended = on_machines(n, training(out), tmp_path)
    assert ended.codes == [0] * n, ended.said
    assert_alike(out, undisturbed)


@pytest.mark.parametrize('n', [2, 4])
def test_cable_that_is_cut(n, networks, undisturbed, tmp_path):
    "Nobody hears of it: only the time-out ends the run, on both sides; the last machine has no way to say that it did"
    out = tmp_path / 'run'
    def work(rank):
        if rank == n - 1: at_step(8, lambda: ip('link set cable down'))
        with joined(timeout=5) as world: train(run_experiment(), out, world=world)
    ended = on_machines(n, work, tmp_path)
    assert ended.codes == [1] * n, ended.said
    assert steps_saved(out) == [6]
    assert together(2, training(out), tmp_path).codes == [0, 0]
    assert_alike(out, undisturbed)


# --- what cannot begin --------------------------------------------------------------------------------------------

def refused(tmp_path, options, n=2):
    ended = together(n, lambda rank: training(tmp_path / 'run', options[min(rank, len(options) - 1)])(rank), tmp_path)
    assert len({*ended.codes}) == 1 and ended.codes[0] in (1, 2) and not (tmp_path / 'run').exists(), ended.said
    said, = messages(ended)
    return said


def test_batch_that_cannot_be_shared(tmp_path):
    assert refused(tmp_path, ['--batch 25']).endswith('2 processes cannot share a batch of 25 evenly; use --batch 24')

def test_other_data(tmp_path):
    assert 'in data; give all processes the same' in refused(tmp_path, ['', '--data mixture'])

def test_other_code(tmp_path):
    "A file of the same name, as two machines may have it"
    def work(rank):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / f'{rank}/mine.py').write_text(MINE + f'# {rank}')
        os.chdir(tmp_path / str(rank))
        training(tmp_path / 'run', '--objective mine.py:Mine')(rank)
    ended = together(2, work, tmp_path)
    said, = messages(ended)
    assert ended.codes == [1, 1] and 'in code; give all' in said

def test_half_an_environment(monkeypatch, run):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert run('train tiny')[::2] == (1, ['coulomb-gan: WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set: '
                                          'several processes are started by torchrun'])

def test_other_settings(tmp_path):
    assert 'in settings; give all processes the same' in refused(tmp_path, ['', '--eps 2'])
