"""Runs that are perturbed, killed, stopped, damaged and starved of disk space."""
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from coulomb_gan.training import cuda_graph
from coulomb_gan.training import evaluation
from coulomb_gan.training import run_folder
from coulomb_gan.training import fit
from coulomb_gan.training.algorithm import slim
from coulomb_gan.reporting.cli import main
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.training.config import Experiment
from coulomb_gan.files import RunError, write_json
from coulomb_gan.training.run_folder import load_checkpoint, newest_checkpoint, read_metrics, save_checkpoint
from coulomb_gan.training.fit import Interrupted, fit, load_run

TINY = Experiment(latent=4, width_g=16, width_d=16, depth_g=1, depth_d=1, batch=16, steps=12, lr_g=1e-3, lr_d=1e-3, decay='none',
                  log_every=3, eval_every=6, eval_samples=50)


def run(e, out, **options): return fit(e, out, progress=False, **options)

def records(out): return [{k: v for k, v in r.items() if k != 'seconds'} for r in read_metrics(out)]

def steps_saved(out): return sorted(int(p.stem) for p in Path(out, 'checkpoints').glob('*.pt'))


def flat(value, name=''):
    "Every tensor and number of a nested state under its path"
    if not isinstance(value, (dict, list, tuple)): return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, part in items for k, v in flat(part, f'{name}.{key}').items()}


def same(a, b): return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

def state(out): return {k: v for k, v in flat(newest_checkpoint(out)).items() if k not in ('.schedule.seconds', '.schedule.looking')}


def assert_same_end(a, b):
    "Two run folders hold the same metrics and, bit for bit, the same newest state"
    assert records(a) == records(b)
    one, other = state(a), state(b)
    assert one.keys() == other.keys() and len(one) > 30
    assert [k for k in one if not same(one[k], other[k])] == []


# --- every field changes behaviour --------------------------------------------------------------------------------

class Change(NamedTuple):
    value: object  # what the field is changed to
    seen: str  # where that must show, a key of `observed`
    base: dict = {}  # what must differ from TINY for it to show


CHANGES = {
    'data': Change('mixture', 'shape'),
    'networks': Change('dcgan', 'layers', dict(data='images', width_g=8, width_d=4)),
    'latent': Change(5, 'shapes'),
    'width_g': Change(17, 'shapes'),
    'width_d': Change(17, 'shapes'),
    'depth_g': Change(2, 'layers'),
    'depth_d': Change(2, 'layers'),
    'd': Change(2., 'weights'),
    'eps': Change(2., 'weights'),
    'eps_end': Change(.1, 'weights'),
    'objective': Change('direct', 'weights'),
    'self_term': Change(.5, 'weights'),
    'charges': Change(5, 'weights'),
    'memory': Change(32, 'weights'),
    'activation_d': Change('elu', 'weights'),
    'batch_norm_d': Change(False, 'layers', dict(data='images', networks='dcgan', width_g=8, width_d=4)),
    'batch_norm_g': Change(False, 'layers'),
    'hinge_spread': Change(5., 'weights'),
    'distance': Change('digits', 'watched', dict(eval_samples=100)),
    'smoothing': Change(.5, 'weights'),
    'alternating': Change(True, 'weights'),
    'batch': Change(17, 'weights'),
    'steps': Change(14, 'files'),
    'lr_g': Change(2e-3, 'weights'),
    'lr_d': Change(2e-3, 'weights'),
    'beta1': Change(.5, 'weights'),
    'beta2': Change(.9, 'weights'),
    'weight_decay': Change(.1, 'weights'),
    'decay': Change('exponential', 'rates'),
    'lr_end': Change(.5, 'rates', dict(decay='exponential')),
    'patience': Change(3, 'rates', dict(decay='plateau', patience=1, eval_every=1, steps=24, lr_g=1e-9)),
    'ema': Change(.9, 'samples'),
    'precision': Change('bfloat16', 'weights'),
    'seed': Change(1, 'weights'),
    'log_every': Change(4, 'lines'),
    'eval_every': Change(4, 'files'),
    'eval_samples': Change(51, 'energy'),
}
ONLY_WATCH = ['log_every', 'eval_every', 'eval_samples', 'distance']


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "A prepared folder of 60 random colour images"
    folder, gen = tmp_path_factory.mktemp('images'), torch.Generator().manual_seed(0)
    (folder / 'raw').mkdir()
    for i in range(60):
        pixels = torch.randint(256, (16, 16, 3), generator=gen, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / 'raw' / f'{i}.png')
    prepare(folder / 'raw', folder / 'prepared', 16)
    return str(folder / 'prepared')


def observed(r):
    "What can be seen of a run, by kind"
    weights = {k: v for part in ('g', 'd') for k, v in flat(getattr(r.state, part).state_dict(), part).items()}
    lines = r.metrics
    return dict(weights=torch.cat([w.flatten() for w in weights.values()]).tolist(), layers=sorted(weights),
                shapes=[tuple(w.shape) for w in weights.values()], shape=r.sample(1).shape,
                samples=r.sample(8).tolist(), energy=[m['energy'] for m in lines if 'energy' in m],
                watched=['frechet' in m for m in lines],
                lines=[m['step'] for m in lines], rates=[m['lr_factor'] for m in lines],
                files=sorted(p.name for p in r.out.rglob('*.*') if p.suffix in ('.pt', '.png')))


@pytest.fixture(scope='module')
def observe(tmp_path_factory):
    statistics = tmp_path_factory.mktemp('statistics')
    def look(e):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(monitor, 'STATISTICS', statistics)
            return observed(run(e, tmp_path_factory.mktemp('run')))
    return cache(look)


def test_every_field_is_perturbed():
    "The device is the exception: it must not change a run, only be there"
    assert {*CHANGES, 'device'} == {f.name for f in fields(Experiment)}


def pair(name, images):
    change = CHANGES[name]
    base = replace(TINY, **{k: images if v == 'images' else v for k, v in change.base.items()})
    return base, replace(base, **{name: change.value})


@pytest.mark.parametrize('name', CHANGES)
def test_field_changes_behaviour(name, observe, images):
    base, changed = map(observe, pair(name, images))
    seen = CHANGES[name].seen
    assert base[seen] != changed[seen]


@pytest.mark.parametrize('name', ONLY_WATCH)
def test_watching_does_not_change_the_weights(name, observe, images):
    base, changed = map(observe, pair(name, images))
    assert base['weights'] == changed['weights']


def test_a_run_repeats_bit_for_bit(tmp_path):
    for out in ('a', 'b'): run(TINY, tmp_path / out)
    assert_same_end(tmp_path / 'a', tmp_path / 'b')


def test_the_comparison_can_fail(tmp_path):
    for seed in (0, 1): run(replace(TINY, seed=seed), tmp_path / str(seed))
    with pytest.raises(AssertionError): assert_same_end(tmp_path / '0', tmp_path / '1')


def test_missing_cuda_device_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(RunError, match='no CUDA device; use --device cpu'):
        run(replace(TINY, device='cuda'), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('device', ['gpu', '', 'cuda:x', 'meta'])
def test_device_that_cannot_train_is_refused(device, tmp_path):
    with pytest.raises((ValueError, RunError)) as caught: run(replace(TINY, device=device), tmp_path / 'run')
    assert repr(device) in str(caught.value) and '\n' not in str(caught.value)


# --- stopped and continued ----------------------------------------------------------------------------------------

LONG = replace(TINY, steps=600, eval_every=30, log_every=7, ema=.99, smoothing=.1, decay='exponential')
OPTIONS = [part for f in fields(Experiment) if f.name in ('latent', 'width_g', 'width_d', 'depth_g', 'depth_d', 'batch', 'steps',
           'log_every', 'eval_every', 'eval_samples', 'ema', 'smoothing', 'lr_g', 'lr_d', 'decay', 'lr_end',
           'distance')
           for part in ('--' + f.name.replace('_', '-'), str(getattr(LONG, f.name)))]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "LONG without a break"
    out = tmp_path_factory.mktemp('whole') / 'run'
    with pytest.raises(SystemExit) as done: main(['train', 'digits', *OPTIONS, '--out', str(out)])
    assert done.value.code == 0
    return out


def last_step(out):
    lines = read_metrics(out)
    return lines[-1]['step'] if lines else 0


# What happens to the process is done by the process itself, at a moment that is counted and not timed.
AT_CALL = """
import os, resource, signal, sys
from coulomb_gan import files
from coulomb_gan.training import fit
calls = 0
def at_call(module, name, number, act):
    kept = getattr(module, name)
    def counted(*args, **options):
        global calls
        calls += 1
        if calls == number: act()
        return kept(*args, **options)
    setattr(module, name, counted)
def send(number): os.kill(os.getpid(), number)
def fill_the_disk(): resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
{hook}
from coulomb_gan.reporting.cli import main
main()
"""


def train_in_a_process(out, hook):
    "`coulomb-gan train` as a process of its own in which something happens; exit code and lines on stderr"
    command = [sys.executable, '-c', AT_CALL.format(hook=hook), 'train', 'digits', *OPTIONS, '--out', str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize('module, name, numbers', [
    ('training', 'append_metrics', (20, 30, 25)),     # between two lines of metrics
    ('files.os', 'replace', (8, 12, 13)),              # a file is complete under its temporary name
    ('files.os', 'fsync', (9, 13, 12))])               # in the middle of writing a file
def test_killed_three_times_ends_the_same(module, name, numbers, whole, tmp_path):
    out, steps = tmp_path / 'run', []
    for number in numbers:
        code, _ = train_in_a_process(out, f'at_call({module}, {name!r}, {number}, lambda: send(signal.SIGKILL))')
        assert code == -signal.SIGKILL and not (out / 'result.json').exists()
        steps.append(last_step(out))
    assert 0 < steps[0] < steps[1] < steps[2] < LONG.steps
    with pytest.warns(UserWarning, match='was left by process .* taken over'): run(load_run(out).experiment, out)
    assert_same_end(out, whole)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_saves_and_says_how_to_go_on(number, whole, tmp_path):
    out = tmp_path / 'run'
    code, err = train_in_a_process(out, f"at_call(training, 'append_metrics', 9, lambda: send({int(number)}))")
    assert code == 130 and 'Traceback' not in ''.join(err)
    message = [line for line in err if line.startswith('coulomb-gan: ')]
    step = newest_checkpoint(out)['schedule']['step']
    assert 40 <= step < LONG.steps
    assert message == [f'coulomb-gan: {number.name}: stopped at step {step}; the same command continues there']
    assert err[-1] == message[0]
    with pytest.raises(SystemExit) as done: main(['train', 'digits', *OPTIONS, '--out', str(out)])
    assert done.value.code == 0
    assert_same_end(out, whole)
    assert (out / 'result.json').exists()


def test_full_disk_is_one_line_and_leaves_what_was_saved(whole, tmp_path):
    out = tmp_path / 'run'
    code, err = train_in_a_process(out, "at_call(training, 'save_checkpoint', 3, fill_the_disk)")
    assert code == 1 and 'Traceback' not in ''.join(err)
    assert err[-1].startswith('coulomb-gan: cannot write') and 'what was saved before is intact' in err[-1]
    assert '.pt' in err[-1]
    assert steps_saved(out) == [30, 60]
    for path in out.glob('checkpoints/[0-9]*.pt'): assert load_checkpoint(path)['schedule']['step'] == int(path.stem)
    assert not list(out.rglob('*.part'))
    run(load_run(out).experiment, out)
    assert_same_end(out, whole)


# --- the same without processes: stop at a chosen step ------------------------------------------------------------

def stop_at(step, monkeypatch):
    "SIGTERM comes when the line of `step` has been written"
    def append_metrics(out, record, write=fit.append_metrics):
        write(out, record)
        if record['step'] == step: signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(training, 'append_metrics', append_metrics)


def stopped(e, out, step, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(Interrupted, match=f'SIGTERM: stopped at step {step};'): run(e, out)
    return out


MIDDLE = replace(TINY, steps=36)


@pytest.fixture(scope='module')
def middle(tmp_path_factory): return run(MIDDLE, tmp_path_factory.mktemp('middle') / 'run').out


@pytest.mark.parametrize('step', [3, 15, 18, 33])
def test_stopped_at_a_step_ends_the_same(step, middle, tmp_path, monkeypatch):
    out = stopped(MIDDLE, tmp_path / 'run', step, monkeypatch)
    assert max(steps_saved(out)) == step
    run(MIDDLE, out)
    assert_same_end(out, middle)


@pytest.mark.parametrize('options', [dict(charges=8, memory=48), dict(objective='direct', charges=8, memory=32, self_term=0.),
                                     dict(objective='wgan-gp'), dict(distance='digits', eval_samples=80),
                                     dict(data='text-builtin', networks='text', distance='ngrams', eval_samples=640)], ids=str)
def test_stopped_with_charges_and_other_games_ends_the_same(options, tmp_path, monkeypatch):
    "Remembered charges are part of the state; at step 15 the memory has gone round"
    monkeypatch.setattr(monitor, 'STATISTICS', tmp_path / 'statistics')
    e = replace(MIDDLE, steps=24, **options)
    run(e, tmp_path / 'whole')
    run(e, stopped(e, tmp_path / 'broken', 15, monkeypatch))
    assert_same_end(tmp_path / 'broken', tmp_path / 'whole')


def test_slim_checkpoint_samples_but_does_not_continue(middle, tmp_path, monkeypatch):
    out = shutil.copytree(middle, tmp_path / 'run')
    newest = out / 'checkpoints' / f'{MIDDLE.steps}.pt'
    save_checkpoint(newest, slim(load_checkpoint(newest)))
    # half precision keeps eleven bits of weights of size 1, a few layers deep
    torch.testing.assert_close(load_run(out).sample(5), load_run(middle).sample(5), rtol=0, atol=.02)
    assert newest.stat().st_size < (middle / 'checkpoints' / newest.name).stat().st_size / 2
    half = stopped(MIDDLE, tmp_path / 'half', 15, monkeypatch)
    for path in half.glob('checkpoints/*.pt'): save_checkpoint(path, slim(load_checkpoint(path)))
    with pytest.raises(RunError, match='slim checkpoint, which cannot be continued'): run(MIDDLE, half)


def flip(data): return data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:]


@pytest.mark.parametrize('damage', [flip, lambda b: b[:len(b) // 2], lambda b: b'', lambda b: b'\0' * len(b)],
                         ids=['flipped bit', 'cut', 'empty', 'zeros'])
def test_damaged_newest_checkpoint_is_passed_over(damage, middle, tmp_path, monkeypatch):
    out = stopped(MIDDLE, tmp_path / 'run', 15, monkeypatch)
    newest = out / 'checkpoints' / '15.pt'
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match='15.pt is damaged'): run(MIDDLE, out)
    assert_same_end(out, middle)


def test_a_reader_beside_a_trainer_follows_it_to_newer_checkpoints(middle, tmp_path, monkeypatch):
    "Between the listing and the reading the trainer has saved twice and removed what was listed"
    out = shutil.copytree(middle, tmp_path / 'run')
    names = sorted((out / 'checkpoints').glob('*.pt'))
    older, old, newer = out / 'checkpoints/30.pt', out / 'checkpoints/36.pt', out / 'checkpoints/42.pt'
    assert names[-1] == old
    def load(path, read=run_folder.load_checkpoint):
        if path == old and old.exists():
            old.rename(newer)
            older.unlink()
        return read(path)
    monkeypatch.setattr(runs, 'load_checkpoint', load)
    assert newest_checkpoint(out)['schedule']['step'] == 36 and newer.exists()


def test_all_checkpoints_damaged_starts_again(middle, tmp_path, monkeypatch):
    out = stopped(MIDDLE, tmp_path / 'run', 15, monkeypatch)
    for path in out.glob('checkpoints/*.pt'): path.write_bytes(b'')
    with pytest.warns(UserWarning, match='is damaged'): run(MIDDLE, out)
    assert_same_end(out, middle)


def test_torn_last_line_is_dropped(middle, tmp_path, monkeypatch):
    out = stopped(MIDDLE, tmp_path / 'run', 15, monkeypatch)
    with open(out / 'metrics.jsonl', 'a') as f: f.write('{"step": 18, "loss')
    run(MIDDLE, out)
    assert_same_end(out, middle)


def test_lines_after_the_checkpoint_are_written_again(middle, tmp_path, monkeypatch):
    out = stopped(MIDDLE, tmp_path / 'run', 15, monkeypatch)
    (out / 'checkpoints' / '15.pt').unlink()
    assert last_step(out) == 15 and max(steps_saved(out)) == 12
    run(MIDDLE, out)
    assert_same_end(out, middle)


def test_missing_result_is_written_without_training(middle, tmp_path):
    out = shutil.copytree(middle, tmp_path / 'run')
    result = json.loads((out / 'result.json').read_text())
    (out / 'result.json').unlink()
    run(MIDDLE, out)
    assert json.loads((out / 'result.json').read_text()) == result


def test_finished_run_is_not_trained_again(middle, tmp_path):
    out = shutil.copytree(middle, tmp_path / 'run')
    def written():
        return {p: p.stat().st_mtime_ns for p in out.rglob('*') if p.is_file() and p.name != 'metrics.jsonl'}
    before, lines = written(), (out / 'metrics.jsonl').read_bytes()
    again = run(MIDDLE, out)
    assert written() == before and (out / 'metrics.jsonl').read_bytes() == lines
    assert torch.equal(again.sample(5), load_run(out).sample(5))


def test_contradicting_settings_are_named(middle, tmp_path):
    out = shutil.copytree(middle, tmp_path / 'run')
    with pytest.raises(RunError) as caught: run(replace(MIDDLE, batch=8, eps=2., ema=.5), out)
    message = str(caught.value)
    for part in ('batch was 16 and is now 8', 'eps was 1.0 and is now 2.0', 'ema was 0.0 and is now 0.5'):
        assert part in message
    assert 'steps' not in message and '\n' not in message


def test_resume_false_refuses_a_run(middle, tmp_path):
    out = shutil.copytree(middle, tmp_path / 'run')
    with pytest.raises(RunError, match='holds a run already'): run(MIDDLE, out, resume=False)


# --- more steps after the end -------------------------------------------------------------------------------------

@pytest.mark.parametrize('decay', ['none', 'plateau'])
def test_a_finished_run_goes_on_as_if_it_had_been_made_longer(decay, tmp_path):
    e = replace(TINY, decay=decay)
    run(e, tmp_path / 'grown')
    for out in ('grown', 'whole'): run(replace(e, steps=24), tmp_path / out)
    assert_same_end(tmp_path / 'grown', tmp_path / 'whole')
    ends = [json.loads((tmp_path / out / 'result.json').read_text()) for out in ('grown', 'whole')]
    assert [end['steps'] for end in ends] == [24, 24]
    assert json.loads((tmp_path / 'grown/result-12.json').read_text())['steps'] == 12
    assert ends[0]['energy_train'] == ends[1]['energy_train']


@pytest.mark.parametrize('moment', ['the settings are written', 'the old result is gone', 'the first new line is written'])
def test_killed_while_it_begins_to_go_on_it_goes_on(moment, tmp_path, monkeypatch):
    run(TINY, tmp_path / 'grown')
    name = {'the settings are written': 'restore', 'the old result is gone': 'rewind_metrics',
            'the first new line is written': 'append_metrics'}[moment]
    def die(*args, **options): raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, name, die)
        run(replace(TINY, steps=24), tmp_path / 'grown')
    for out in ('grown', 'whole'): run(replace(TINY, steps=24), tmp_path / out)
    assert_same_end(tmp_path / 'grown', tmp_path / 'whole')
    assert json.loads((tmp_path / 'grown/result.json').read_text())['steps'] == 24


@pytest.mark.parametrize('options', [dict(decay='exponential'), dict(decay='cosine'), dict(eps_end=.5)], ids=str)
def test_a_schedule_over_all_steps_cannot_be_made_longer(options, tmp_path):
    e = replace(TINY, **options)
    out = run(e, tmp_path / 'run').out
    before = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
    with pytest.raises(RunError, match='steps was 12 and is now 24 .*starts anew'): run(replace(e, steps=24), out)
    assert {p: p.read_bytes() for p in out.rglob('*') if p.is_file()} == before


def test_fewer_steps_than_made_are_another_run(tmp_path):
    run(TINY, tmp_path / 'run')
    with pytest.raises(RunError, match='steps was 12 and is now 6'): run(replace(TINY, steps=6), tmp_path / 'run')


def test_a_run_that_ended_at_its_second_plateau_has_ended(tmp_path, monkeypatch):
    monitored([1.] * 9, monkeypatch)
    e = replace(TINY, decay='plateau', patience=1, steps=60)
    assert run(e, tmp_path / 'run').state.step < 60
    assert run(e, tmp_path / 'run').state.step == 18      # the same settings load it
    with pytest.raises(RunError, match='ended at its second plateau, at step 18'):
        run(replace(e, steps=120), tmp_path / 'run')


# --- one writer, one data set -------------------------------------------------------------------------------------

def test_a_second_trainer_is_refused_while_the_first_trains(tmp_path, monkeypatch):
    seen = []
    def append_metrics(out, record, write=fit.append_metrics):
        write(out, record)
        if record['step'] == 6: seen.append(train_in_a_process(out, ''))
    monkeypatch.setattr(training, 'append_metrics', append_metrics)
    run(TINY, tmp_path / 'run')
    (code, err), = seen
    assert code == 1 and 'in use by process' in err[-1] and 'since 20' in err[-1]
    assert [r['step'] for r in read_metrics(tmp_path / 'run')] == [3, 6, 9, 12]


def test_a_run_that_lost_its_folder_stops_before_it_saves(tmp_path, monkeypatch):
    "Its machine slept for an hour, and another one took over"
    def append_metrics(out, record, write=fit.append_metrics):
        write(out, record)
        if record['step'] == 12: write_json(out / 'lock.json', dict(host='other', pid=1, since=0., beat=0.))
    monkeypatch.setattr(training, 'append_metrics', append_metrics)
    with pytest.raises(RunError, match='taken over by process 1 on other'): run(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == [6]


def test_copies_among_the_checkpoints_are_left_alone(middle, tmp_path):
    out = shutil.copytree(middle, tmp_path / 'run')
    names = ['36_backup.pt', '36 (1).pt', '36-copy.pt', '036x.pt', '\u0663.pt', 'notes.txt']
    for name in names: (out / 'checkpoints' / name).write_bytes(b'kept by a user')
    run(MIDDLE, out)
    assert load_run(out).state.step == 36
    assert all((out / 'checkpoints' / name).read_bytes() == b'kept by a user' for name in names)


@pytest.fixture
def places(tmp_path, monkeypatch):
    "Two prepared folders of pictures of one size, and a run on the first"
    monkeypatch.chdir(tmp_path)
    for name, seed in (('one', 0), ('two', 1)):
        gen = torch.Generator().manual_seed(seed)
        (tmp_path / f'raw-{name}').mkdir()
        for i in range(30):
            pixels = torch.randint(256, (8, 8, 3), generator=gen, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / f'raw-{name}' / f'{i}.png')
        prepare(tmp_path / f'raw-{name}', tmp_path / 'data' / name, 8, progress=False)
    run(replace(TINY, data='data/one'), 'runs/one')
    return tmp_path


def test_other_data_under_the_same_name_are_refused(places):
    shutil.rmtree('data/one')
    Path('data/two').rename('data/one')
    for again in (lambda: run(replace(TINY, data='data/one'), 'runs/one'), lambda: load_run('runs/one')):
        with pytest.raises(RunError, match="was trained on other data: digest was '[0-9a-f]{16}' and is now"): again()


def test_the_same_data_elsewhere_continue_the_run_once_named(places):
    Path('data/one').rename('moved')
    with pytest.raises(RunError, match='name their folder with --data'): load_run('runs/one')
    assert load_run('runs/one', data='moved').sample(2).shape == (2, 3, 8, 8)
    assert run(replace(TINY, data='moved'), 'runs/one').state.step == TINY.steps
    assert load_run('runs/one').experiment.data == 'moved'     # remembered from now on
    with pytest.raises(RunError, match='other data'): run(replace(TINY, data='data/two'), 'runs/one')


def test_a_run_folder_works_from_any_working_directory(places, monkeypatch):
    want = load_run('runs/one').sample(3)
    for where, name in (('runs/one', '.'), ('data', '../runs/one'), ('/', str(places / 'runs/one'))):
        monkeypatch.chdir(places / where if where != '/' else '/')
        assert torch.equal(load_run(name).sample(3), want)


def test_run_and_data_moved_together_are_found(places, monkeypatch):
    (places / 'new').mkdir()
    for name in ('runs', 'data'): shutil.move(name, places / 'new')
    monkeypatch.chdir('/')
    assert load_run(places / 'new/runs/one').state.step == TINY.steps


def test_a_folder_of_version_0_1_is_accepted_and_gets_the_identity(places):
    path = Path('runs/one/config.json')
    old = json.loads(path.read_text())
    for key in ('dataset', 'batch_norm_d'): del old[key]
    path.write_text(json.dumps(old))
    assert load_run('runs/one').state.step == TINY.steps
    with pytest.warns(UserWarning, match='does not say which data it was trained on'):
        run(replace(TINY, data='data/one'), 'runs/one')
    run(replace(TINY, data='data/one'), 'runs/one')      # said once
    assert json.loads(path.read_text())['dataset']['train'] == 27


def test_one_sample_is_too_few_to_train_on(tmp_path):
    (tmp_path / 'raw').mkdir()
    for i in range(2): Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / 'raw' / f'{i}.png')
    prepare(tmp_path / 'raw', tmp_path / 'data', 8, progress=False)
    with pytest.raises(ValueError, match='has 1 training sample, expected 2 or more'):
        run(replace(TINY, data=str(tmp_path / 'data')), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_without_git_a_run_has_no_commit(tmp_path, monkeypatch):
    def run_git(*args, **options): raise FileNotFoundError('git')
    monkeypatch.setattr(run_folder.subprocess, 'run', run_git)
    r = run(TINY, tmp_path / 'run')
    assert json.loads((r.out / 'result.json').read_text())['commit'] is None


def test_a_gradient_penalty_refuses_a_discriminator_with_batch_norm(images, tmp_path):
    "Batch norm couples the samples, so the slope of D at one of them is not a slope"
    e = replace(TINY, data=images, networks='dcgan', width_g=8, width_d=4, objective='wgan-gp')
    with pytest.raises(ValueError, match='use --no-batch-norm-d'): run(e, tmp_path / 'run')
    assert run(replace(e, batch_norm_d=False), tmp_path / 'run').state.step == TINY.steps


def test_settings_that_cannot_run_leave_the_folder_free(tmp_path):
    "A pair that cannot be built (dcgan needs a side of 16 or more) must not claim the folder"
    with pytest.raises(ValueError, match='side'): run(replace(TINY, networks='dcgan'), tmp_path / 'run')
    assert run(TINY, tmp_path / 'run').state.step == TINY.steps


def test_run_trained_on_a_gpu_is_loaded_and_continued_here(tmp_path, monkeypatch):
    "A CUDA generator's state is 16 bytes, seed and offset, and no state for one on the CPU"
    out = stopped(MIDDLE, tmp_path / 'run', 15, monkeypatch)
    saved = newest_checkpoint(out)
    save_checkpoint(out / 'checkpoints' / '15.pt', dict(saved, gen=torch.zeros(16, dtype=torch.uint8), device='cuda'))
    assert load_run(out).sample(3).isfinite().all()
    assert run(MIDDLE, out).state.step == MIDDLE.steps


# --- averages and schedules ---------------------------------------------------------------------------------------

def watched_fit(e, out, monkeypatch):
    "The run, and after each step: generator weights, average weights, both learning rates"
    seen = []
    def train_step(s, e, y, step=cuda_graph.train_step):
        losses = step(s, e, y)
        copy = lambda net: torch.cat([p.detach().flatten().clone() for p in net.parameters()])
        seen.append((copy(s.g), copy(s.average), s.opt_g.param_groups[0]['lr'], s.opt_d.param_groups[-1]['lr']))
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    return run(e, out), seen


def test_average_follows_its_recursion_and_is_what_is_sampled(tmp_path, monkeypatch):
    e = replace(TINY, ema=.3)      # reached at the fourth step, so that both branches are seen
    r, seen = watched_fit(e, tmp_path / 'run', monkeypatch)
    average = torch.cat([p.flatten() for p in fit.State(e, (1, 8, 8)).g.parameters()])
    for step, (g, got, *_) in enumerate(seen, 1):
        decay = min(.3, step / (step + 9))
        average = decay * average + (1 - decay) * g
        # a few float32 roundings a step of weights below 2, soon forgotten
        torch.testing.assert_close(got, average, rtol=0, atol=1e-6)
    assert not torch.equal(seen[-1][0], seen[-1][1])
    z = torch.randn(16, e.latent, generator=torch.Generator().manual_seed(1))
    assert torch.equal(r.sample(16), r.state.average(z).clamp(-1, 1))


def test_average_does_not_change_training(tmp_path):
    with_, without = (run(replace(TINY, ema=ema), tmp_path / str(ema)).state.g.state_dict() for ema in (.9, 0.))
    assert all(torch.equal(with_[k], without[k]) for k in with_)


def monitored(values, monkeypatch):
    values = iter(values)
    monkeypatch.setattr(monitor, 'monitor', lambda x, e, data: next(values))


def test_first_plateau_drops_the_rates_and_second_ends_the_run(tmp_path, monkeypatch):
    monitored([3., 2., 2.5, 2.5, 1., 1.5, 1.5], monkeypatch)
    e = replace(TINY, decay='plateau', patience=2, lr_end=.1, steps=60, eval_every=6, log_every=60)
    r, seen = watched_fit(e, tmp_path / 'run', monkeypatch)
    assert [m['lr_factor'] for m in r.metrics] == [1, 1, 1, 1, .1, .1, .1]      # each of its own step
    # rates are products of the same two floats, so equal
    assert [lr for *_, lr, _ in seen] == [e.lr_g] * 24 + [e.lr_g * .1] * 18
    assert [lr for *_, lr in seen] == [e.lr_d] * 24 + [e.lr_d * .1] * 18
    result = json.loads((r.out / 'result.json').read_text())
    assert (result['steps'], result['best_step']) == (42, 30)
    assert steps_saved(r.out) == [30, 36, 42]
    assert run(e, r.out).state.step == 42


def test_plateau_survives_a_stop(tmp_path, monkeypatch):
    values = [3., 2., 2.5, 2.5, 2.5, 2.5, 2.5]
    e = replace(TINY, decay='plateau', patience=2, steps=60)
    for out, break_at in (('whole', None), ('broken', 18)):
        with monkeypatch.context() as patch:
            monitored(values, patch)
            if break_at: stopped(e, tmp_path / out, break_at, monkeypatch)
            run(e, tmp_path / out)
    assert last_step(tmp_path / 'whole') == 36
    assert_same_end(tmp_path / 'broken', tmp_path / 'whole')


def test_exponential_decay_reaches_its_end(tmp_path, monkeypatch):
    e = replace(TINY, decay='exponential', lr_end=.01)
    r, seen = watched_fit(e, tmp_path / 'run', monkeypatch)
    # one power and one product in float64
    want = [e.lr_g * .01 ** (t / e.steps) for t in range(e.steps)]
    assert [lr for *_, lr, _ in seen] == pytest.approx(want, rel=1e-12)
    assert r.metrics[-1]['lr_factor'] == pytest.approx(.01, rel=1e-12)


def test_no_decay_ignores_plateaus(tmp_path, monkeypatch):
    monitored([1.] * 9, monkeypatch)
    e = replace(TINY, decay='none', patience=1, steps=24)
    assert [m['lr_factor'] for m in run(e, tmp_path / 'run').metrics] == [1.] * 8


# --- losses that are not finite -----------------------------------------------------------------------------------

# The softening shrinks by 10^(9/40) a step, so k(0) = eps^-8 and then its square leave float32 after a dozen steps.
EXPLODING = replace(TINY, steps=40, d=8., eps_end=1e-9, eval_every=5, log_every=5)


def all_finite(out): return all(v.isfinite().all() for v in state(out).values() if isinstance(v, torch.Tensor))


def test_loss_that_is_not_finite_names_the_step_and_the_checkpoint(tmp_path):
    out = tmp_path / 'run'
    with pytest.raises(RunError, match=r'not finite at step 1[1-4]; the last good one is 10\.pt') as caught:
        run(EXPLODING, out)
    assert '\n' not in str(caught.value)
    assert steps_saved(out) == [5, 10] and last_step(out) == 10
    assert all_finite(out)


def test_named_step_is_the_first_that_is_not_finite(tmp_path, monkeypatch):
    def train_step(s, e, y, step=cuda_graph.train_step):
        losses = step(s, e, y)
        return tuple(torch.full_like(l, torch.nan if s.step == 8 else l.item()) for l in losses)
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError, match=r'not finite at step 8; the last good one is 6\.pt'):
        run(TINY, tmp_path / 'run')


def test_stop_after_the_loss_broke_does_not_save_it(tmp_path, monkeypatch):
    def train_step(s, e, y, step=cuda_graph.train_step):
        losses = step(s, e, y)
        if s.step == 14: signal.raise_signal(signal.SIGTERM)
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError): run(EXPLODING, tmp_path / 'run')
    assert all_finite(tmp_path / 'run')


def test_weights_that_break_at_an_evaluation_are_not_saved(tmp_path, monkeypatch):
    "The loss of a step is known before its update: the update may break the weights"
    def train_step(s, e, y, step=cuda_graph.train_step):
        losses = step(s, e, y)
        if s.step == 12:
            with torch.no_grad(): next(s.g.parameters()).fill_(torch.nan)
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError, match=r'step 12.*6\.pt'): run(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == [6]


def test_discriminator_that_breaks_at_an_evaluation_is_not_saved(tmp_path, monkeypatch):
    def train_step(s, e, y, step=cuda_graph.train_step):
        losses = step(s, e, y)
        if s.step == 6:
            with torch.no_grad(): next(s.d.parameters()).fill_(torch.nan)
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError): run(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == []
