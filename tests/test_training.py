"""Runs that are perturbed, killed, stopped, damaged and starved of disk space."""
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from coulomb_gan import capture, monitor, training
from coulomb_gan.algorithm import slim
from coulomb_gan.commands import main
from coulomb_gan.prepare import prepare
from coulomb_gan.experiment import Experiment
from coulomb_gan.runs import RunError, load_checkpoint, newest_checkpoint, read_metrics, save_checkpoint
from coulomb_gan.training import Interrupted, fit, load_run

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
    'self_charge': Change(.5, 'weights'),
    'charges': Change(5, 'weights'),
    'memory': Change(32, 'weights'),
    'activation_d': Change('elu', 'weights'),
    'batch_norm_g': Change(False, 'layers'),
    'spread_d': Change(5., 'weights'),
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


@pytest.fixture
def started():
    "Starts `coulomb-gan train` as a process that does not outlive the test"
    processes = []
    def start(out):
        code = 'from coulomb_gan.commands import main; main()'
        processes.append(subprocess.Popen([sys.executable, '-c', code, 'train', 'digits', *OPTIONS, '--out', str(out)],
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]
    yield start
    for p in processes:
        if p.poll() is None: p.kill()
        p.communicate()


def last_step(out):
    lines = read_metrics(out)
    return lines[-1]['step'] if lines else 0


def wait_for(process, condition):
    "Until the condition holds while the process still runs"
    end = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, 'the process makes no progress'
        time.sleep(.005)


def test_killed_three_times_ends_the_same(whole, started, tmp_path):
    out, moments = tmp_path / 'run', random.Random(0)
    for step in (40, 150, 270):
        process = started(out)
        wait_for(process, lambda: last_step(out) >= step)
        time.sleep(moments.uniform(0, .2))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (out / 'result.json').exists() and last_step(out) < LONG.steps
    assert newest_checkpoint(out)['schedule']['step'] >= 240
    run(load_run(out).experiment, out)
    assert_same_end(out, whole)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_saves_and_says_how_to_go_on(number, whole, started, tmp_path):
    out = tmp_path / 'run'
    process = started(out)
    wait_for(process, lambda: last_step(out) >= 40)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130 and 'Traceback' not in err
    message = [line for line in err.splitlines() if line.startswith('coulomb-gan: ')]
    step = newest_checkpoint(out)['schedule']['step']
    assert 40 <= step < LONG.steps
    assert message == [f'coulomb-gan: {number.name}: stopped at step {step}; the same command continues there']
    assert err.splitlines()[-1] == message[0]
    with pytest.raises(SystemExit) as done: main(['train', 'digits', *OPTIONS, '--out', str(out)])
    assert done.value.code == 0
    assert_same_end(out, whole)
    assert (out / 'result.json').exists()


def test_full_disk_is_one_line_and_leaves_what_was_saved(whole, started, tmp_path):
    out = tmp_path / 'run'
    process = started(out)
    wait_for(process, lambda: len(steps_saved(out)) >= 2)
    smallest = min(p.stat().st_size for p in out.glob('checkpoints/[0-9]*.pt'))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (smallest // 2, smallest // 2))
    _, err = process.communicate()
    last = err.splitlines()[-1]
    assert process.returncode == 1 and 'Traceback' not in err
    assert last.startswith('coulomb-gan: cannot write') and 'what was saved before is intact' in last
    assert '.pt' in last
    assert 2 <= len(steps_saved(out)) <= 3 and max(steps_saved(out)) < LONG.steps
    for path in out.glob('checkpoints/[0-9]*.pt'): assert load_checkpoint(path)['schedule']['step'] == int(path.stem)
    assert not list(out.rglob('*.part'))
    run(load_run(out).experiment, out)
    assert_same_end(out, whole)


# --- the same without processes: stop at a chosen step ------------------------------------------------------------

def stop_at(step, monkeypatch):
    "SIGTERM comes when the line of `step` has been written"
    def append_metrics(out, record, write=training.append_metrics):
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


@pytest.mark.parametrize('options', [dict(charges=8, memory=48), dict(objective='direct', charges=8, memory=32, self_charge=0.),
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
    def train_step(s, e, y, step=capture.train_step):
        losses = step(s, e, y)
        copy = lambda net: torch.cat([p.detach().flatten().clone() for p in net.parameters()])
        seen.append((copy(s.g), copy(s.average), s.opt_g.param_groups[0]['lr'], s.opt_d.param_groups[-1]['lr']))
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    return run(e, out), seen


def test_average_follows_its_recursion_and_is_what_is_sampled(tmp_path, monkeypatch):
    e = replace(TINY, ema=.3)      # reached at the fourth step, so that both branches are seen
    r, seen = watched_fit(e, tmp_path / 'run', monkeypatch)
    average = torch.cat([p.flatten() for p in training.State(e, (1, 8, 8)).g.parameters()])
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
    def train_step(s, e, y, step=capture.train_step):
        losses = step(s, e, y)
        return tuple(torch.full_like(l, torch.nan if s.step == 8 else l.item()) for l in losses)
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError, match=r'not finite at step 8; the last good one is 6\.pt'):
        run(TINY, tmp_path / 'run')


def test_stop_after_the_loss_broke_does_not_save_it(tmp_path, monkeypatch):
    def train_step(s, e, y, step=capture.train_step):
        losses = step(s, e, y)
        if s.step == 14: signal.raise_signal(signal.SIGTERM)
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError): run(EXPLODING, tmp_path / 'run')
    assert all_finite(tmp_path / 'run')


def test_weights_that_break_at_an_evaluation_are_not_saved(tmp_path, monkeypatch):
    "The loss of a step is known before its update: the update may break the weights"
    def train_step(s, e, y, step=capture.train_step):
        losses = step(s, e, y)
        if s.step == 12:
            with torch.no_grad(): next(s.g.parameters()).fill_(torch.nan)
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError, match=r'step 12.*6\.pt'): run(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == [6]


def test_discriminator_that_breaks_at_an_evaluation_is_not_saved(tmp_path, monkeypatch):
    def train_step(s, e, y, step=capture.train_step):
        losses = step(s, e, y)
        if s.step == 6:
            with torch.no_grad(): next(s.d.parameters()).fill_(torch.nan)
        return losses
    monkeypatch.setattr(capture, 'train_step', train_step)
    with pytest.raises(RunError): run(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == []
