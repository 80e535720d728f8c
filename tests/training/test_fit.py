"""Runs that are repeated, killed, stopped, starved of disk space, made longer, fought over, and fed from memory."""
import os
import shutil
import signal
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData

from coulomb_gan.data.catalogue import DATASETS, DataSet, load
from coulomb_gan.data.datasets import Data, Modes, content_digest
from coulomb_gan.data.in_memory import from_memory
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.files import RunError, write_json
from coulomb_gan.metrics import registry
from coulomb_gan.metrics.digits_classifier import train_classifier
from coulomb_gan.reporting.cli import main
from coulomb_gan.training import evaluation
from coulomb_gan.training import fit as fitting
from coulomb_gan.training.loading import IN_MEMORY, load_run
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.run_folder import load_checkpoint, newest_checkpoint, read_config, read_metrics
from faults import FORK, at_call, command, die, fill_the_disk, in_child, send
from tiny_runs import (tiny, GAMES, SHORT, TINY, VARIANTS, assert_same_end, contents, last_step, records, result, steps_saved,
                       stopped, train)


# --- equal, and told apart ----------------------------------------------------------------------------------------

@pytest.fixture
def place(tmp_path, monkeypatch):
    "A working directory, where statistics are kept; the classifier of digits is trained for a moment"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, 'train_classifier', partial(train_classifier, epochs=1))


RUNS = VARIANTS | {
    'average and decay': dict(ema=.9, decay='exponential'),
    'plateaus': dict(decay='plateau', patience=1, lr_g=1e-9),
    'points': dict(data='mixture', monitor='modes'),
    'classifier': dict(monitor='digits', eval_samples=80),
    'text': dict(data='text-builtin', networks='text', width_g=4, width_d=4, monitor='ngrams', eval_samples=640),
    'mixed precision': dict(precision='bfloat16'),
    'batch norm in D': dict(data='PICTURES', networks='dcgan', width_g=8, width_d=4),
}


@pytest.mark.parametrize('name', GAMES)
def test_two_runs_are_equal_bit_for_bit(name, tmp_path):
    e = tiny(**GAMES[name])
    for out in ('one', 'other'): train(e, tmp_path / out)
    assert_same_end(tmp_path / 'one', tmp_path / 'other')


@pytest.mark.parametrize('name', RUNS)
def test_a_stopped_run_continues_bit_for_bit(name, images, place):
    "At step 9 a replay buffer of 40 has gone round, and the last evaluation was at step 6"
    options = {option: images if value == 'PICTURES' else value for option, value in RUNS[name].items()}
    e = tiny(**options)
    train(e, 'whole')
    train(e, stopped(e, 'broken', 9))
    assert_same_end('broken', 'whole')


def test_the_comparison_can_fail(tmp_path):
    for seed in (0, 1): train(TINY.changed(seed=seed), tmp_path / str(seed))
    with pytest.raises(AssertionError): assert_same_end(tmp_path / '0', tmp_path / '1')


MIDDLE = TINY.changed(steps=36)


@pytest.fixture(scope='module')
def middle(tmp_path_factory): return train(MIDDLE, tmp_path_factory.mktemp('middle') / 'run').out


@pytest.mark.parametrize('step', [3, 15, 18, 33])
def test_stopped_at_a_step_ends_the_same(step, middle, tmp_path):
    out = stopped(MIDDLE, tmp_path / 'run', step)
    assert max(steps_saved(out)) == step and not (out / 'result.json').exists()
    train(MIDDLE, out)
    assert_same_end(out, middle)


def test_stopped_again_and_again_ends_the_same(middle, tmp_path):
    for _ in range(5): out = stopped_at_once(MIDDLE, tmp_path / 'run')
    assert last_step(out) == 15
    train(MIDDLE, out)
    assert_same_end(out, middle)


def stopped_at_once(e, out):
    "A run that goes on until its next line of metrics"
    def ask(): signal.raise_signal(signal.SIGTERM)
    with at_call(fitting, 'append_metrics', 1, ask, after=True), pytest.raises(fitting.Interrupted): train(e, out)
    return out


def test_finished_run_is_not_trained_again(middle, tmp_path):
    out = shutil.copytree(middle, tmp_path / 'run')
    def written(): return {p: p.stat().st_mtime_ns for p in out.rglob('*') if p.is_file()}
    before = written()
    again = train(MIDDLE, out)
    assert written() == before
    assert torch.equal(again.sample(5), load_run(out).sample(5))


def test_resume_false_refuses_a_run(middle, tmp_path):
    out = shutil.copytree(middle, tmp_path / 'run')
    before = contents(out)
    with pytest.raises(RunError, match='holds a run already'): train(MIDDLE, out, resume=False)
    assert contents(out) == before


# --- what happens to a process ------------------------------------------------------------------------------------

MORE = SHORT | dict(steps=300, eval_every=30, log_every=7, ema=.99, smoothing=.1, decay='exponential')
LONG = experiment('tiny', **MORE)
FLAGS = [(f'--{name.replace("_", "-")}', str(value)) for name, value in MORE.items()]
LINE = ['train', 'tiny', *(word for flag in FLAGS for word in flag)]
IMPORT = 'from coulomb_gan.training import fit\n'


@pytest.fixture(scope='module')
def whole(tmp_path_factory): return train(LONG, tmp_path_factory.mktemp('whole') / 'run').out


def in_child_that(happens, out):
    "Exit code of the command in a fork in which something happens"
    def work():
        happens()
        main([*LINE, '--out', str(out)])
    return in_child(work)


@pytest.mark.filterwarnings('ignore:.*it is taken over')
@pytest.mark.parametrize('owner, name, numbers', [
    (fitting, 'append_metrics', (10, 15, 12)),      # between two lines of metrics
    (os, 'replace', (6, 9, 10)),                    # a file is complete under its temporary name
    (os, 'fsync', (7, 10, 9)),                      # in the middle of writing a file
], ids=['append_metrics', 'replace', 'fsync'])
def test_killed_three_times_ends_the_same(owner, name, numbers, whole, tmp_path):
    out, steps = tmp_path / 'run', []
    for number in numbers:
        assert in_child_that(lambda: at_call(owner, name, number, die), out) == -signal.SIGKILL
        assert not (out / 'result.json').exists()
        steps.append(last_step(out))
    assert 0 < steps[0] < steps[1] < steps[2] < LONG.optim.steps
    with pytest.warns(UserWarning, match='was left by process .* taken over'): train(load_run(out).experiment, out)
    assert_same_end(out, whole)


def test_command_killed_in_an_interpreter_of_its_own_goes_on(whole, tmp_path):
    "The real thing: another interpreter, SIGKILL behind a line of metrics, and the same settings again"
    out = tmp_path / 'run'
    done = command(*LINE, '--out', out, before=IMPORT + "at_call(fit, 'append_metrics', 20, die, after=True)")
    assert done.returncode == -signal.SIGKILL and 0 < last_step(out) < LONG.optim.steps
    with pytest.warns(UserWarning, match='was left by process .* taken over'): train(LONG, out)
    assert_same_end(out, whole)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_saves_and_says_how_to_go_on(number, whole, tmp_path, capfd):
    out = tmp_path / 'run'
    assert in_child_that(lambda: at_call(fitting, 'append_metrics', 9, lambda: send(number)), out) == 130
    err = capfd.readouterr().err
    assert 'Traceback' not in err
    step = newest_checkpoint(out)['progress']['step']
    assert 40 <= step < LONG.optim.steps and not (out / 'result.json').exists()
    message = f'coulomb-gan: {number.name}: stopped at step {step}; the same command continues there'
    lines = err.splitlines()
    assert [line for line in lines if line.startswith('coulomb-gan: ')] == [lines[-1]] == [message]
    assert in_child_that(lambda: None, out) == 0
    assert_same_end(out, whole)
    assert (out / 'result.json').exists()


def test_full_disk_is_one_line_and_leaves_what_was_saved(whole, tmp_path, capfd):
    out = tmp_path / 'run'
    assert in_child_that(lambda: at_call(fitting, 'save_checkpoint', 3, lambda: fill_the_disk(2000)), out) == 1
    err = capfd.readouterr().err
    last = err.splitlines()[-1]
    assert 'Traceback' not in err
    assert last.startswith('coulomb-gan: cannot write') and 'what was saved before is intact' in last and '.pt' in last
    assert steps_saved(out) == [30, 60]
    for path in out.glob('checkpoints/[0-9]*.pt'): assert load_checkpoint(path)['progress']['step'] == int(path.stem)
    assert not list(out.rglob('*.part'))
    train(load_run(out).experiment, out)
    assert_same_end(out, whole)


# --- more steps after the end -------------------------------------------------------------------------------------

@pytest.mark.parametrize('options', [dict(decay='none'), dict(decay='plateau'), dict(objective='wgan-gp'),
                                     dict(replay=40, ema=.9)], ids=str)
def test_a_finished_run_goes_on_as_if_it_had_been_made_longer(options, tmp_path):
    e = TINY.changed(**options)
    train(e, tmp_path / 'grown')
    for out in ('grown', 'whole'): train(e.changed(steps=24), tmp_path / out)
    assert_same_end(tmp_path / 'grown', tmp_path / 'whole')
    ends = [result(tmp_path / out) for out in ('grown', 'whole')]
    assert [end['steps'] for end in ends] == [24, 24]
    assert ends[0]['metrics'] == ends[1]['metrics']
    kept = (tmp_path / 'grown' / 'result-12.json').read_text()
    assert '"steps": 12' in kept
    assert read_config(tmp_path / 'grown')['optim']['steps'] == 24


@pytest.mark.parametrize('name', ['restore', 'rewind_metrics', 'append_metrics'])
def test_killed_while_it_begins_to_go_on_it_goes_on(name, tmp_path):
    "When the settings are written, when the old result is set aside, at the first new line"
    def interrupt(): raise KeyboardInterrupt
    longer = TINY.changed(steps=24)
    train(TINY, tmp_path / 'grown')
    with at_call(fitting, name, 1, interrupt), pytest.raises(KeyboardInterrupt): train(longer, tmp_path / 'grown')
    for out in ('grown', 'whole'): train(longer, tmp_path / out)
    assert_same_end(tmp_path / 'grown', tmp_path / 'whole')
    assert result(tmp_path / 'grown')['steps'] == 24


@pytest.mark.parametrize('options', [dict(decay='exponential'), dict(decay='cosine'), dict(eps_end=.5),
                                     dict(objective='exact-force', eps_end=.5)], ids=str)
def test_a_schedule_over_all_steps_cannot_be_made_longer(options, tmp_path):
    e = TINY.changed(**options)
    out = train(e, tmp_path / 'run').out
    before = contents(out)
    with pytest.raises(RunError, match='steps was 12 and is now 24 .*starts anew'): train(e.changed(steps=24), out)
    assert contents(out) == before


def test_fewer_steps_than_made_are_another_run(tmp_path):
    train(TINY, tmp_path / 'run')
    with pytest.raises(RunError, match='steps was 12 and is now 6'): train(TINY.changed(steps=6), tmp_path / 'run')


def test_a_run_that_ended_at_its_second_plateau_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, 'training_energy', lambda *given: 1.)
    e = TINY.changed(decay='plateau', patience=1, steps=60)
    assert train(e, tmp_path / 'run').state.progress.step == 18
    assert train(e, tmp_path / 'run').state.progress.step == 18      # the same settings load it
    with pytest.raises(RunError, match='ended at its last plateau, at step 18'):
        train(e.changed(steps=120), tmp_path / 'run')


# --- one writer ---------------------------------------------------------------------------------------------------

def test_a_second_trainer_is_refused_while_the_first_trains(tmp_path, capsys):
    out, ready, done = tmp_path / 'run', FORK.Event(), FORK.Event()
    def pause():
        ready.set()
        done.wait()
    def work():
        at_call(fitting, 'append_metrics', 2, pause, after=True)
        train(TINY, out)
    first = FORK.Process(target=work)
    first.start()
    assert ready.wait(600)
    try:
        with pytest.raises(SystemExit) as second: main([*LINE, '--out', str(out)])
    finally: done.set()
    err = capsys.readouterr().err.splitlines()
    assert second.value.code == 1 and len(err) == 1
    assert f'run is in use by process {first.pid} on ' in err[0] and 'since 20' in err[0]
    first.join()
    assert first.exitcode == 0 and [line['step'] for line in read_metrics(out)] == [3, 6, 9, 12]


def test_a_run_that_lost_its_folder_stops_before_it_saves(tmp_path):
    "Its machine slept for an hour, and another one took over"
    def take_over(): write_json(tmp_path / 'run' / 'lock.json', dict(host='other', pid=1, since=0., beat=0.))
    with at_call(fitting, 'append_metrics', 4, take_over, after=True):
        with pytest.raises(RunError, match='taken over by process 1 on other'): train(TINY, tmp_path / 'run')
    assert steps_saved(tmp_path / 'run') == [6]


# --- what cannot run leaves the folder free -----------------------------------------------------------------------

def test_one_sample_is_too_few_to_train_on(tmp_path):
    (tmp_path / 'raw').mkdir()
    for i in range(2): Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / 'raw' / f'{i}.png')
    prepare(tmp_path / 'raw', tmp_path / 'data', 8, progress=False)
    with pytest.raises(ValueError, match='has 1 training sample, expected 2 or more'):
        train(TINY.changed(data=str(tmp_path / 'data')), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_gradient_penalty_refuses_a_discriminator_with_batch_norm(images, tmp_path):
    "Batch norm couples the samples, so the slope of D at one of them is not a slope"
    e = TINY.changed(data=images, networks='dcgan', width_g=8, width_d=4, objective='wgan-gp')
    with pytest.raises(ValueError, match='use --no-batch-norm-d'): train(e, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    assert train(e.changed(batch_norm_d=False), tmp_path / 'run').state.progress.step == 12


@pytest.mark.parametrize('options, words', [
    (dict(networks='dcgan'), 'the side of an image must be a multiple of 16, got 8'),
    (dict(networks='text'), "the networks 'text' are for texts, got shape"),
    (dict(data='mixture', networks='dcgan'), "the networks 'dcgan' are for square images, got shape"),
    (dict(data='text-builtin'), "the networks 'mlp' are for points or images, got shape"),
    (dict(data='nowhere'), 'nowhere holds no prepared images')], ids=str)
def test_settings_that_cannot_run_leave_the_folder_free(options, words, tmp_path):
    with pytest.raises(ValueError, match=words): train(TINY.changed(**options), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    assert train(TINY, tmp_path / 'run').state.progress.step == 12


# --- data in memory -----------------------------------------------------------------------------------------------

GEN = torch.Generator().manual_seed(0)
PIXELS = torch.randint(256, (60, 3, 8, 8), dtype=torch.uint8, generator=GEN)
POINTS = torch.randn(60, 2, generator=GEN)
IN_FORM = {
    'tensor': lambda: PIXELS,
    'array': lambda: PIXELS.numpy(),
    'floats': lambda: PIXELS / 127.5 - 1,
    'points': lambda: POINTS,
    'array of points': lambda: POINTS.numpy().astype(np.float64),
    'torchvision': lambda: FakeData(60, image_size=(3, 8, 8), num_classes=4),
    'torchvision, grey': lambda: FakeData(60, image_size=(1, 8, 8), num_classes=4),
    'data': lambda: from_memory(PIXELS),
}


@pytest.mark.parametrize('form', IN_FORM)
def test_data_in_memory_are_trained_on_and_continued_with_the_same(form, tmp_path):
    make, out = IN_FORM[form], tmp_path / 'run'
    stopped(TINY, out, 9, data=make())
    others = PIXELS.flip(0), POINTS + 1, IN_FORM['tensor' if 'points' in form else 'points']()
    for other in others:
        with pytest.raises(RunError, match='was trained on other data: digest was'): train(TINY, out, data=other)
    run, whole = train(TINY, out, data=make()), train(TINY, tmp_path / 'whole', data=make())
    assert_same_end(out, whole.out)
    assert (run.state.progress.step, run.data_name, run.experiment.data) == (12, IN_MEMORY, IN_MEMORY)
    assert len(run.data.train) == 54
    assert run.data.digest == result(out)['data_digest'] == read_config(out)['dataset']['digest']

    # read back: samples need no data, and the data must be handed over again
    again = load_run(out)
    assert torch.equal(again.sample(3), whole.sample(3)) and again.data_name == IN_MEMORY
    with pytest.raises(RunError, match='give load_run the same as data, or name their folder with --data'): again.data
    handed_over = load_run(out, data=make()).data
    assert handed_over.digest == run.data.digest and (handed_over.train_labels is None) == ('torchvision' not in form)
    with pytest.raises(RunError, match='was trained on other data'): load_run(out, data=others[0]).data


def test_the_digest_is_that_of_the_samples_and_not_of_their_form():
    found = {form: from_memory(make()).digest for form, make in IN_FORM.items()}
    assert found['tensor'] == found['array'] == found['floats'] == found['data'] == content_digest(PIXELS)
    assert found['points'] == found['array of points']
    assert len({*found.values()}) == 4


def test_a_run_on_a_folder_is_not_continued_from_memory_and_the_other_way_round(images, tmp_path):
    "Prepared pictures have the digest of their preparation"
    sizes = dict(networks='dcgan', width_g=8, width_d=4)
    e = TINY.changed(data=images, **sizes)
    train(e, tmp_path / 'folder')
    rows = load(images).train
    with pytest.raises(RunError, match='was trained on other data'): train(e, tmp_path / 'folder', data=rows.clone())
    train(TINY.changed(**sizes), tmp_path / 'memory', data=rows.clone())
    with pytest.raises(RunError, match='was trained on other data'): train(e, tmp_path / 'memory')


NO_DATA = {
    'got 1 samples, expected 2 or more': torch.zeros(1, 2),
    'hold NaN or infinity': torch.full((9, 2), torch.nan),
    'images of floats must span': torch.rand(9, 3, 8, 8),
    'expected images': torch.zeros(9, 8, 8),
    'expected uint8 images, or floats': torch.zeros(9, 2, dtype=torch.int64),
}


@pytest.mark.parametrize('words', NO_DATA)
def test_what_is_no_data_set_is_refused(words, tmp_path):
    with pytest.raises(ValueError, match=words): train(TINY, tmp_path / 'run', data=NO_DATA[words])
    assert not (tmp_path / 'run').exists()


# --- a data set is one entry --------------------------------------------------------------------------------------

def ring():
    "Eight small clouds on a circle"
    gen = torch.Generator().manual_seed(0)
    angles = torch.arange(8) * (2 * torch.pi / 8)
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.randint(8, (440,), generator=gen)
    points = means[labels] + .1 * torch.randn(440, 2, generator=gen)
    return Data(train=points[:400], test=points[400:], digest=content_digest(points), modes=Modes(means, .1))


def test_a_data_set_of_ones_own_trains_and_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, 'ring', DataSet('points', 'mixture', load=ring))
    e = TINY.changed(data='ring', monitor='modes', latent=2, steps=300, eval_every=150, log_every=50, lr_g=1e-2, lr_d=1e-2, ema=.9)
    begun, run = train(e.changed(steps=2), tmp_path / 'begun'), train(e, tmp_path / 'run')
    found = [line for line in run.metrics if 'energy' in line]
    assert [line['step'] for line in found] == [150, 300]
    assert all({'energy', 'modes', 'outside_3sigma'} <= line.keys() and 0 <= line['modes'] <= 8 for line in found)
    assert sorted(p.name for p in (run.out / 'samples').iterdir()) == ['150.npy', '150.png', '300.npy', '300.png']
    again = load_run(tmp_path / 'run')
    assert (again.data.name, again.data_name, again.data.digest) == ('ring', 'ring', ring().digest)
    assert run.sample(8).shape == (8, 2) and records(run.out)[-1]['step'] == 300
    assert run.diagnose(ring().test).energy < begun.diagnose(ring().test).energy / 2      # it has moved towards the clouds


# --- what comes in ------------------------------------------------------------------------------------------------

def test_data_without_a_digest_are_told_apart(tmp_path):
    real = load('digits')
    one, other = (Data(images, real.test) for images in (real.train, 255 - real.train))
    train(TINY, tmp_path / 'run', data=one)
    with pytest.raises(RunError, match='was trained on other data: digest was'):
        train(TINY.changed(steps=24), tmp_path / 'run', data=other)
    config = read_config(tmp_path / 'run')
    config['dataset']['digest'] = ''  # as runs had it that knew no digest of theirs
    write_json(tmp_path / 'run/config.json', config)
    assert len(load_run(tmp_path / 'run', data=one).data.train) == len(real.train)
    train(TINY.changed(steps=24), tmp_path / 'run', data=one)
    assert read_config(tmp_path / 'run')['dataset']['digest'] == from_memory(one).digest


@pytest.mark.parametrize('shape', [(40, 32, 32, 3), (40, 2, 8, 8), (40, 4, 8, 8)])
def test_images_that_could_not_be_drawn_are_refused_before_the_first_step(shape, tmp_path):
    with pytest.raises(ValueError, match='expected .n, c, h, w. with 1 or 3 channels'):
        train(TINY, tmp_path / 'run', data=np.zeros(shape, np.uint8))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('m', [1, 3, 7])
def test_points_of_any_dimension_are_trained_on(m, tmp_path):
    points = torch.randn(60, m, generator=torch.Generator().manual_seed(0))
    run = train(TINY, tmp_path / 'run', data=points)
    assert run.sample(5).shape == (5, m) and (tmp_path / 'run/samples/12.npy').exists()


def test_an_energy_that_no_float_holds_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r'make k\(0\) = inf'):
        train(TINY.changed(energy_d=100., energy_eps=1e-12), tmp_path / 'run')
    assert not list(tmp_path.rglob('*.pt'))


def test_a_finished_run_does_no_work_when_it_is_asked_for_again(tmp_path, monkeypatch):
    train(TINY, tmp_path / 'run')
    def at_work(*args, **options): raise AssertionError('nothing is to be done')
    for name in ('training_samples', 'GraphedStep', 'logging_to'): monkeypatch.setattr(fitting, name, at_work)
    assert train(TINY, tmp_path / 'run').state.progress.step == 12


def test_a_run_between_two_evaluations_of_a_longer_one_is_not_grown_to_it(tmp_path):
    "Its last evaluation counts towards a plateau; at a multiple the longer run is the one made at once"
    waiting = TINY.changed(decay='plateau', patience=1, lr_g=1e-9, eval_every=5)
    train(waiting.changed(steps=12), tmp_path / 'between')
    with pytest.raises(RunError, match='ended at step 12, between evaluations every 5 steps'):
        train(waiting.changed(steps=20), tmp_path / 'between')
    train(waiting.changed(steps=10), tmp_path / 'at')
    for out in ('at', 'once'): train(waiting.changed(steps=20), tmp_path / out)
    assert_same_end(tmp_path / 'at', tmp_path / 'once')
