"""Many runs: a sweep of which some fail, jobs on this machine, what runs say while they train, and their summary."""
import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from coulomb_gan.files import RunError, read_json, write_json
from coulomb_gan.locks import locked
from coulomb_gan.reporting import cli_reproduce
from coulomb_gan.reporting.jobs import Job, Resources, _trained, check_resources, job_of, last_words
from coulomb_gan.reporting.launch import run_here
from coulomb_gan.reporting.status import find_runs, queued_jobs, run_status, seconds_left
from coulomb_gan.reporting.summary import differing_options, samples_html, summarise, summary_page
from coulomb_gan.reporting.sweeps import planned_runs
from coulomb_gan.training import fit as fitting
from coulomb_gan.training.fit import fit
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.run_folder import append_metrics
from coulomb_gan.training.safeguards import Interrupted
from faults import in_child
from pages import check_notebook, check_page
from tiny_runs import SHORT, TINY, records, stopped, train

WORDS = ' '.join(f'--{name.replace("_", "-")} {value}' for name, value in SHORT.items())


@pytest.fixture
def reported(monkeypatch):
    "In place of a report a note of which runs got one"
    pages = []
    def reproduce(preset, out, report, loggers, **changes):
        fit(experiment(preset, **changes), out, progress=False)
        pages.append(out.name)
        return out / 'report.html'
    monkeypatch.setattr(cli_reproduce, 'reproduce', reproduce)
    return pages


# --- sweeps -------------------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings('always')
def test_one_that_fails_does_not_stop_the_rest(run, reported):
    "A learning rate of 1 explodes; the same line tries that run alone again, the others are there"
    line = f'reproduce tiny {WORDS} --grid lr_d=1e-3,1 --grid eps=1e-9,1 --d 8 --seeds 2'
    code, out, err = run(line)
    failed = [f'tiny-lr_d={lr}-eps=1e-9-{seed}' for lr in ('1e-3', '1') for seed in (0, 1)]
    failed = [name for name in failed if name not in reported]
    assert code == 1 and len(reported) + len(failed) == 8 and failed and reported
    names = ', '.join(failed)
    assert err[-1] == f'coulomb-gan: {len(failed)} of 8 runs failed: {names}; the same command tries them again'
    assert all(f'{name} failed: the loss is not finite at step' in ' '.join(err) for name in failed)
    made = {path.name for path in find_runs([Path('runs')])}
    assert made == {*reported, *failed}
    config = read_json(Path('runs/tiny-lr_d=1e-3-eps=1-1/config.json'))
    assert (config['optim']['lr_d'], config['objective']['eps'], config['record']['seed']) == (1e-3, 1., 1)


def test_an_interrupt_stops_a_sweep(run, monkeypatch):
    called = []
    def interrupted(preset, out, report, loggers, **changes):
        called.append(out.name)
        raise Interrupted('SIGTERM: stopped')
    monkeypatch.setattr(cli_reproduce, 'reproduce', interrupted)
    assert run('reproduce tiny --seeds 3')[0] == 130 and called == ['tiny-0']


@pytest.mark.parametrize('line, why', {
    '--grid lr_g': 'expected OPTION=VALUE', '--grid lr_q=1': "did you mean 'lr_g'?", '--grid batch=16,1': 'batch must lie in',
    '--grid batch=16,x': 'not a valid integer', '--grid lr_g=1e-3 --lr-g 1e-4': 'lr_g is set twice',
    '--seeds 2 --seed 1': 'leave out --seed', '--seeds 2 --grid seed=1,2': 'leave out --seed', '--seeds 0': '--seeds',
    '--grid memory=1': "renamed to 'replay'", '--grid critic_steps=1,5': 'critic_steps is not for',
    '--gpus 8': '--gpus is for jobs; add --launch slurm', '--launch local --nodes 2': 'this machine alone',
    '--launch local --partition p': 'is for --launch slurm', '--launch slurm': 'has no SLURM', '--launch ssh': '--launch',
    '--launch local --hours 0': 'hours must lie in', '--launch local --lr-q 1': '--lr-q'}.items())
def test_what_is_wrong_is_one_line_before_anything_trains(line, why, run, monkeypatch):
    monkeypatch.setattr('shutil.which', lambda name: None)
    code, out, err = run(f'reproduce tiny {line}')
    assert code in (1, 2) and out == '' and len(err) == 1 and why in err[0]
    assert not Path('runs').exists()


def test_without_submitit_there_are_no_jobs(monkeypatch):
    monkeypatch.setattr('coulomb_gan.reporting.jobs.find_spec', lambda name: None)
    with pytest.raises(RunError, match='pip install submitit'): check_resources(Resources('local'))


def test_names_of_runs_can_be_read():
    runs = planned_runs(['tiny', 'digits'], 3, ['lr_g=1e-4,3e-4'])
    assert [*runs][:4] == [f'tiny-lr_g={lr}-{seed}' for lr, seed in (('1e-4', 0), ('1e-4', 1), ('1e-4', 2), ('3e-4', 0))]
    assert len({run.experiment for run in runs.values()}) == 12


# --- jobs on this machine -----------------------------------------------------------------------------------------

def test_local_jobs_are_the_runs_of_one_process(place):
    "Two at a time, and the third that cannot be: another run holds its folder"
    def job(name, **changes): return job_of(Path(name), 'tiny', {**SHORT, **changes}, r)
    r = Resources('local', at_once=2, hours=.5)
    said = []
    with locked(Path('taken')):
        failed = run_here({name: job(name, seed=i) for i, name in enumerate(('a', 'b', 'taken'))}, r, Path('jobs').absolute(), said.append)
    assert failed == ['taken'] and {'a: done', 'b: done'} < {*said}
    line, = [line for line in said if 'is in use by process' in line]
    assert f'process {os.getpid()} on {socket.gethostname()}' in line
    for i, name in enumerate('ab'):
        train(experiment('tiny', **SHORT, seed=i), Path(f'plain-{name}'))
        assert records(Path(name)) == records(Path(f'plain-{name}'))


# --- status -------------------------------------------------------------------------------------------------------

@pytest.mark.filterwarnings('ignore:.*was left by process')
def test_a_run_is_seen_while_it_trains_and_after_it_was_killed(place):
    def live():
        def seen(out, line):
            append_metrics(out, line)
            if line['step'] == 9:
                s = run_status(out)
                write_json(Path('seen.json'), dict(state=s.state, step=s.step, steps=s.steps, ends=s.ends, note=s.note, pid=os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
        fitting.append_metrics = seen
        train(TINY, Path('runs/a'))
    assert in_child(live) == -signal.SIGKILL
    seen = read_json(Path('seen.json'))
    assert (seen['state'], seen['step'], seen['steps']) == ('running', 9, 12)
    assert seen['note'].startswith(f'process {seen["pid"]} on ') and seen['ends'] > 0
    after = run_status(Path('runs/a'))
    assert (after.state, after.step, after.ends) == ('stopped', 9, None) and after.left > 0
    train(TINY, Path('runs/a'))
    assert run_status(Path('runs/a')).state == 'finished'


def test_the_pace_is_that_of_the_second_half():
    "Ten slow steps of 10 s, then 90 of 1 s: at step 100, 900 steps are left"
    lines = [dict(step=10, seconds=100.), *(dict(step=s, seconds=100. + (s - 10)) for s in range(20, 101, 10))]
    assert seconds_left(lines, 1000) == pytest.approx(900)
    assert seconds_left(lines, 50) == 0 and seconds_left([], 50) is None


@pytest.mark.parametrize('squeue, expected', [('echo "12_0 RUNNING"; echo "12_1 PENDING"', {'12_0': 'running', '12_1': 'pending'}),
                                              ('echo no >&2; exit 1', {})])
def test_the_queue_is_asked(squeue, expected, place, monkeypatch):
    Path('bin').mkdir()
    Path('bin/squeue').write_text(f'#!/bin/sh\n{squeue}\n')
    Path('bin/squeue').chmod(0o755)
    monkeypatch.setenv('PATH', f'{place}/bin', prepend=os.pathsep)
    assert queued_jobs() == expected
    write_json(Path('runs/a/job.json'), dict(launch='slurm', job='12_1'))
    assert run_status(Path('runs/a'), queued_jobs()).state == ('pending' if expected else 'stopped')


def test_status_of_nothing_and_of_encoders(run):
    assert run('status') == (1, '', ['coulomb-gan: runs holds no runs; name run folders, or a folder of them'])
    write_json(Path('runs/encoder/config.json'), {'encoder': {}})
    assert run('status')[0] == 1
    write_json(Path('runs/a/job.json'), dict(launch='slurm', job='1'))
    code, out, _ = run('status runs runs/a')
    assert code == 0 and [line.split()[:2] for line in out.splitlines()] == [['run', 'state'], ['runs/a', 'stopped']]


# --- summary ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def several(tmp_path_factory):
    "Two seeds on digits, one on points, one that was stopped on texts"
    place = tmp_path_factory.mktemp('several')
    for seed in (0, 1): train(TINY.changed(seed=seed), place / f'runs/digits-{seed}')
    train(TINY.changed(data='mixture'), place / 'runs/points')
    text = dict(data='text-builtin', networks='text', width_g=8, width_d=8, depth_g=1, depth_d=1)
    stopped(experiment('tiny', **SHORT).changed(**text), place / 'runs/text', 6)
    return place


def test_one_page_of_runs_of_any_kind(several, tmp_path, monkeypatch):
    monkeypatch.chdir(several)
    page = summary_page(find_runs([Path('runs')]), Path('page'), progress=False)
    check_page(page.parent, 4, str(several))
    check_notebook(page.parent, 1, str(several))
    html = page.read_text()
    for text in ('digits-0', 'digits-1', 'points', 'text', 'stopped', 'Means over seeds', '±', '<pre>'): assert text in html
    assert read_json(Path('page/result.json')).keys() == {'digits-0', 'digits-1', 'points', 'text'}


def test_options_that_differ_are_named_and_no_others(several):
    runs = {run.name: run for run in summarise(find_runs([several]))}
    two = [runs['digits-0'], runs['digits-1']]
    assert differing_options(two) == [] and differing_options([*two, runs['points']]) == ['data']
    assert runs['text'].state == 'stopped' and 'networks' in differing_options([*runs.values()])
    assert samples_html([*runs.values()]).count('<img') == 3


def test_the_table_on_the_screen(several, run):
    code, out, err = run(f'summary {several} --no-page')
    assert (code, err) == (0, []) and len(out.splitlines()) == 6
    code, _, err = run('summary nowhere')
    assert code == 1 and err == ['coulomb-gan: nowhere holds no runs; name run folders, or a folder of them']
    Path('runs/a').mkdir(parents=True)
    Path('runs/a/config.json').write_text('{')
    code, _, err = run('summary runs')
    assert code == 1 and len(err) == 1 and 'config.json is damaged' in err[0]


@pytest.mark.parametrize('resources, own, threads', [
    (Resources('local'), None, '1'), (Resources('local', cpus=3), None, '3'), (Resources('slurm', cpus=8, gpus=4), None, '2'),
    (Resources('slurm', cpus=2, gpus=8), None, '1'), (Resources('local', cpus=3), '5', '5')])
def test_a_job_has_its_share_of_the_cores_as_threads(resources, own, threads, tmp_path, monkeypatch):
    "What its process finds in the environment, which OpenMP reads; without it every job takes all cores, and jobs beside each other crawl"
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if own: monkeypatch.setenv('OMP_NUM_THREADS', own)
    job = Job(str(tmp_path), ['import os; print("threads", os.environ["OMP_NUM_THREADS"])'], resources)
    here = SimpleNamespace(node=0, job_id='7', hostname='here')
    assert _trained(job, [sys.executable, '-c'], here) == 0
    assert last_words(tmp_path) == f'threads {threads}'
