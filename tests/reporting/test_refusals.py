"""What the file system refuses, odd files in a run folder, and memory that is not enough: one line each, and nothing lost."""
import os
from pathlib import Path

import pytest

from coulomb_gan.files import write_json
from coulomb_gan.locks import locked
from coulomb_gan.reporting import cli
from coulomb_gan.reporting.status import run_status
from coulomb_gan.training.fit import fit
from coulomb_gan.training.presets import experiment
from faults import without_privileges

QUICKLY = 'train tiny --steps 4 --decay none --log-every 2 --eval-every 2 --eval-samples 20 --out run'


@pytest.fixture
def trained(run):
    assert run(QUICKLY)[0] == 0
    return Path('run')


@pytest.mark.parametrize('file', ['config.json', 'metrics.jsonl', 'result.json'])
@pytest.mark.parametrize('line', ['status run', 'sample run --out n.npz', QUICKLY])
def test_a_file_that_may_not_be_read_is_one_line(file, line, trained, run):
    (trained / file).chmod(0)
    code, _, err = without_privileges(lambda: run(line))
    assert code == 0 or err[-1].startswith('coulomb-gan: cannot read run/')
    (trained / file).chmod(0o644)
    assert run(QUICKLY)[0] == 0


@pytest.mark.parametrize('file', ['job.json', 'log.txt', 'metrics.jsonl', 'lock.json'])
def test_a_folder_in_the_place_of_a_file_is_one_line(file, trained, run):
    (trained / file).unlink(missing_ok=True)
    (trained / file).mkdir()
    code, _, err = run('status run')
    assert code == 0 and not err


ODD = {
    'a number': ('metrics.jsonl', '5'), 'nothing': ('metrics.jsonl', 'null'), 'no step': ('metrics.jsonl', '{"a": 1}'),
    'no seconds': ('metrics.jsonl', '{"step": 3}'), 'no steps yet': ('metrics.jsonl', '{"step": 0, "seconds": 0}'),
    'no job': ('job.json', '{}'), 'no beat': ('lock.json', '{"host": "a", "pid": 1, "since": 0, "beat": null}'),
    'no settings': ('config.json', '{"networks": {"name": "mlp"}, "objective": {"name": "coulomb"}, "optim": null}'),
    'no device': ('config.json', '{"networks": {"name": "mlp"}, "objective": {"name": "coulomb"}, "optim": {"steps": 4}}'),
    'no data': ('config.json', '{"networks": {"name": "mlp"}, "objective": {"name": "coulomb"}, "optim": {"steps": 4}, '
                               '"record": {"device": "cpu"}, "dataset": null}'),
}


@pytest.mark.parametrize('name', ODD)
def test_odd_files_do_not_stop_the_table_of_runs(name, trained, run):
    file, text = ODD[name]
    (trained / 'result.json').unlink()
    (trained / file).write_text(text)
    fit(experiment('tiny', steps=2, eval_every=2, eval_samples=20), 'others/sound', progress=False)
    trained.rename('others/odd')
    code, out, err = run('status others')
    assert code == 0 and len(out.splitlines()) == 3 and not err
    if file == 'config.json': assert run_status(Path('others/odd')).state == 'damaged'


def test_a_running_run_without_times_is_in_the_table(trained, run):
    (trained / 'result.json').unlink()
    (trained / 'metrics.jsonl').write_text('{"step": 3}\n')
    with locked(trained): code, out, err = run('status run')
    assert code == 0 and 'running  3 of 4' in out and not err


@pytest.mark.parametrize('line', ['train tiny --data {}', 'evaluate --images {} --data digits', 'status {}', 'train tiny --out {}'])
def test_a_name_that_is_too_long_is_one_line(line, run):
    code, _, err = run(line.format('a' * 5000))
    assert code in (1, 2) and len(err) == 1 and 'File name too long' in err[0]


def test_memory_that_is_not_enough_is_one_line(run, monkeypatch):
    def hungry(*args, **options): raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    monkeypatch.setattr(cli, 'fit', hungry)
    code, _, err = run(QUICKLY)
    assert (code, err) == (1, ['coulomb-gan: not enough memory; try fewer samples, or a smaller batch or networks'])


def test_a_fault_of_our_own_keeps_its_traceback(run, monkeypatch):
    def broken(*args, **options): raise KeyError('step')
    monkeypatch.setattr(cli, 'fit', broken)
    with pytest.raises(KeyError): cli.main(QUICKLY.split())


def test_an_encoders_folder_is_said_to_be_one(run):
    write_json(Path('run/config.json'), {'encoder': {}})
    os.makedirs('run/checkpoints', exist_ok=True)
    code, _, err = run(QUICKLY)
    assert code == 1 and 'holds an encoder, expected the run of an experiment' in err[0]


@pytest.mark.parametrize('options', ['--n 100000000000000000000', '--seed 99999999999999999999999', '--n 0', '--seed -1'])
def test_counts_beyond_all_bounds_are_one_line(options, trained, run):
    code, _, err = run(f'sample run --out n.npz {options}')
    assert code == 2 and len(err) == 1 and not Path('n.npz').exists()
