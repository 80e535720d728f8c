"""Jobs on a real SLURM of one node: submitted, cancelled, out of time, pre-empted, two on one folder.

`make test-slurm` starts its daemons on the loopback interface and stops them; `make test` leaves these tests out.
"""
import os
import re
import subprocess
from pathlib import Path

import pytest

from coulomb_gan.files import read_json
from coulomb_gan.training.run_folder import newest_checkpoint, read_metrics
from slurm_daemons import INSTALL, missing, slurm, wait
from tiny_runs import last_step

LONG = 'reproduce tiny --steps 1000000 --log-every 10 --eval-every 1000000 --eval-samples 50'


@pytest.fixture(scope='module', autouse=True)
def cluster(tmp_path_factory):
    if os.environ.get('COULOMB_GAN_SLURM') != '1': pytest.skip('starts the daemons of SLURM; run `make test-slurm`')
    if missing(): pytest.fail(f'{", ".join(missing())} not found: {INSTALL}')
    with slurm(tmp_path_factory.mktemp('slurm')): yield


def queue():
    "State of every job that SLURM still has, by its number"
    lines = subprocess.check_output(['squeue', '-h', '-r', '-o', '%i %T'], text=True).splitlines()
    return dict(line.split() for line in lines)

def ended(out):
    "Whether the job of a run is gone, or only kept for a minute after its end"
    job = read_json(Path(out, 'job.json'))['job']
    return queue().get(job, 'gone') in ('gone', 'COMPLETED', 'FAILED', 'CANCELLED')

def log(out): return Path(out, 'log.txt').read_text() if Path(out, 'log.txt').exists() else ''

def tries(out): return re.findall(r'^--- job (\S+) on ', log(out), flags=re.M)

def stopped_steps(out): return [int(step) for step in re.findall(r'SIGTERM: stopped at step (\d+)', log(out))]

def cancel(out):
    subprocess.run(['scancel', read_json(Path(out, 'job.json'))['job']], check=True)
    wait(lambda: ended(out), 'the job did not end', out)

def begun(out, after=0): return wait(lambda: last_step(out) > after, f'no step after {after}', out)


def test_an_array_of_methods_then_the_page_by_the_same_line(run):
    line = 'compare tiny --methods coulomb,exact-force --seeds 2 --steps 20 --out runs'
    code, out, err = run(f'{line} --launch slurm')
    assert (code, err) == (0, []) and out.startswith('4 runs submitted as job ')
    folders = [Path('runs', name) for name in ('coulomb-0', 'coulomb-1', 'exact-force-0', 'exact-force-1')]
    number = read_json(folders[0] / 'job.json')['job'].split('_')[0]
    assert [read_json(f / 'job.json') for f in folders] == [dict(launch='slurm', job=f'{number}_{i}') for i in range(4)]
    for f in folders: wait(lambda: (f / 'result.json').exists(), f'{f}: {log(f)}', f)
    assert [tries(f) for f in folders] == [[f'{number}_{i}'] for i in range(4)]
    assert run(line)[:2] == (0, 'open runs/report.html\n')
    assert {key: [*seeds] for key, seeds in read_json(Path('runs/result.json')).items()} == {
        'coulomb': ['0', '1'], 'exact-force': ['0', '1']}


def test_a_run_with_its_report(run):
    assert run('reproduce tiny --steps 40 --report reports --launch slurm')[0] == 0
    wait(lambda: Path('reports/tiny/report.html').exists(), log('runs/tiny'), 'runs')
    assert last_step('runs/tiny') == 40


def test_a_cancelled_run_has_saved_its_state_and_goes_on(run):
    assert run(f'{LONG} --launch slurm')[0] == 0
    begun('runs/tiny')
    cancel('runs/tiny')
    step, = stopped_steps('runs/tiny')
    assert newest_checkpoint(Path('runs/tiny'))['progress']['step'] == step
    assert not Path('runs/tiny/lock.json').exists()
    assert run(f'{LONG} --launch slurm')[0] == 0
    begun('runs/tiny', after=step)
    cancel('runs/tiny')


def test_out_of_time_and_queued_again(run):
    "Two minutes a try; the warning may come a minute early, and the second try begins where the first one stopped"
    assert run(f'{LONG} --launch slurm --hours 0.0333 --warning 30')[0] == 0
    begun('runs/tiny')
    step = wait(lambda: stopped_steps('runs/tiny'), 'no warning came', 'runs')[0]
    begun('runs/tiny', after=step)
    cancel('runs/tiny')
    job = read_json(Path('runs/tiny/job.json'))['job']
    assert set(tries('runs/tiny')) == {job} and len(tries('runs/tiny')) > 1
    steps = [line['step'] for line in read_metrics(Path('runs/tiny'))]
    assert steps == [*range(10, 10 + 10 * len(steps), 10)]


def test_a_job_of_higher_priority_takes_the_node_and_gives_it_back(run):
    assert run(f'{LONG} --launch slurm --cpus 2')[0] == 0
    begun('runs/tiny')
    subprocess.run(['sbatch', '--wait', '-p', 'urgent', '-n', '2', '--wrap', 'true'], check=True, capture_output=True)
    wait(lambda: len(tries('runs/tiny')) > 1, 'it did not come back', 'runs')
    step = newest_checkpoint(Path('runs/tiny'))['progress']['step']  # saved as it was stopped; its last words may be lost
    begun('runs/tiny', after=step)
    cancel('runs/tiny')
    assert len(set(tries('runs/tiny'))) == 1


def test_two_jobs_on_one_folder(run):
    "The second is refused by the lock and leaves the first alone"
    assert run(f'{LONG} --launch slurm')[0] == 0
    begun('runs/tiny')
    first = read_json(Path('runs/tiny/job.json'))['job']
    assert run(f'{LONG} --launch slurm')[0] == 0
    wait(lambda: 'is in use by process' in log('runs/tiny'), 'not refused', 'runs')
    wait(lambda: ended('runs/tiny'), 'the second did not end', 'runs')
    assert queue()[first] == 'RUNNING'
    begun('runs/tiny', after=last_step('runs/tiny'))
    subprocess.run(['scancel', first], check=True)
    wait(lambda: stopped_steps('runs/tiny'), 'the first was not stopped', 'runs')


@pytest.mark.parametrize('line, why', [
    ('--partition urgnt', "there is no partition 'urgnt'; did you mean 'urgent'?"),
    ('--gpus 3', 'sbatch refused the jobs: sbatch: error: '), ('--cpus 64', 'sbatch refused the jobs: sbatch: error: ')])
def test_what_the_cluster_does_not_have_is_one_line(line, why, run):
    code, out, err = run(f'reproduce tiny --launch slurm {line}')
    assert code in (1, 2) and len(err) == 1 and why in err[0]
    assert not Path('runs/tiny/job.json').exists()
