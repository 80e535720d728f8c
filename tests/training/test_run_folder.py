"""What a run leaves on disk: damaged, torn, copied, moved under a reader, and asked for under other settings."""
import json
import shutil
import warnings

import pytest
import torch

from coulomb_gan.files import RunError
from coulomb_gan.training import run_folder
from coulomb_gan.training.loading import load_run
from coulomb_gan.environment import environment
from coulomb_gan.training.run_folder import newest_checkpoint, read_config, read_metrics, rewind_metrics
from faults import at_call, without_privileges
from tiny_runs import TINY, assert_same_end, contents, last_step, result, steps_saved, stopped, train

MIDDLE = TINY.changed(steps=36)


@pytest.fixture(scope='module')
def middle(tmp_path_factory): return train(MIDDLE, tmp_path_factory.mktemp('middle') / 'run').out

@pytest.fixture
def copied(middle, tmp_path): return shutil.copytree(middle, tmp_path / 'run')

@pytest.fixture
def halfway(tmp_path): return stopped(MIDDLE, tmp_path / 'run', 15)


# --- damage -------------------------------------------------------------------------------------------------------

def flip(data): return data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:]


@pytest.mark.parametrize('damage', [flip, lambda b: b[:len(b) // 2], lambda b: b'', lambda b: b'\0' * len(b)],
                         ids=['flipped bit', 'cut', 'empty', 'zeros'])
def test_damaged_newest_checkpoint_is_passed_over(damage, halfway, middle):
    newest = halfway / 'checkpoints' / '15.pt'
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match='15.pt is damaged'): train(MIDDLE, halfway)
    assert_same_end(halfway, middle)


def test_where_no_checkpoint_can_be_read_nothing_is_written_over(halfway):
    for path in halfway.glob('checkpoints/*.pt'): path.write_bytes(b'')
    before = contents(halfway)
    with pytest.warns(UserWarning, match='is damaged'), pytest.raises(RunError, match='none can be read'): train(MIDDLE, halfway)
    assert contents(halfway) == before


@pytest.mark.parametrize('hidden', ['checkpoints', 'checkpoints/*.pt'])
def test_checkpoints_that_may_not_be_read_are_not_taken_for_none(hidden, halfway):
    before = contents(halfway)
    paths = {path: path.stat().st_mode for path in halfway.glob(hidden)}
    for path in paths: path.chmod(0)
    with warnings.catch_warnings(), pytest.raises(RunError, match='cannot read|none can be read'):
        warnings.simplefilter('ignore')
        without_privileges(lambda: train(MIDDLE, halfway))
    for path, mode in paths.items(): path.chmod(mode)
    assert contents(halfway) == before


def test_a_result_without_checkpoints_is_not_trained_over(copied):
    shutil.rmtree(copied / 'checkpoints')
    with pytest.raises(RunError, match='holds the result of a run without its checkpoints'): train(MIDDLE, copied)


def test_a_line_damaged_inside_the_metrics_is_named_and_nothing_lost(halfway):
    path = halfway / 'metrics.jsonl'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0], '{"step": 2 damaged', *lines[1:]]) + '\n')
    before = path.read_bytes()
    with pytest.raises(RunError, match='metrics.jsonl is damaged at line 2'): train(MIDDLE, halfway)
    assert path.read_bytes() == before


@pytest.mark.parametrize('line', ['5', 'null', '{"a": 1}', '{"step": 0, "seconds": 0}', '{"step": 2.5}'])
def test_what_is_no_record_is_none(line, tmp_path):
    (tmp_path / 'metrics.jsonl').write_text(line)
    assert read_metrics(tmp_path) == []


def test_torn_last_line_is_dropped(halfway, middle):
    with open(halfway / 'metrics.jsonl', 'a') as f: f.write('{"step": 18, "loss')
    train(MIDDLE, halfway)
    assert_same_end(halfway, middle)


@pytest.mark.parametrize('torn', [b'{"step": 30, "ener', b'\xff\xfe\n', b'\n', b'null, \n', b'\0' * 40])
def test_metrics_end_where_they_are_torn(torn, tmp_path):
    path = tmp_path / 'metrics.jsonl'
    lines = b''.join(b'{"step": %d}\n' % step for step in (10, 20))
    path.write_bytes(lines + torn)
    assert [line['step'] for line in read_metrics(tmp_path)] == [10, 20]
    assert [line['step'] for line in read_metrics(tmp_path, until=10)] == [10]
    rewind_metrics(tmp_path, 20)
    assert path.read_bytes() == lines


def test_lines_after_the_checkpoint_are_written_again(halfway, middle):
    (halfway / 'checkpoints' / '15.pt').unlink()
    assert last_step(halfway) == 15 and max(steps_saved(halfway)) == 12
    train(MIDDLE, halfway)
    assert_same_end(halfway, middle)


def test_parts_left_by_a_kill_are_removed(halfway, middle):
    for place in ('.config.json.123.part', 'checkpoints/.15.pt.123.part', 'samples/.12.png.123.part'):
        (halfway / place).write_bytes(b'half')
    others = ['.thesis.part', 'other/checkpoints/.200.pt.4711.part', 'data/.images.npy.part']
    for place in others:
        (halfway / place).parent.mkdir(parents=True, exist_ok=True)
        (halfway / place).write_bytes(b'of somebody else')
    train(MIDDLE, halfway)
    assert sorted(str(path.relative_to(halfway)) for path in halfway.rglob('*.part')) == sorted(others)
    assert_same_end(halfway, middle)


@pytest.mark.parametrize('text, words', [('{', ''), ('\xff', ''), ('[]', 'it holds list, expected an object')])
def test_damaged_configuration_is_one_line(text, words, copied):
    (copied / 'config.json').write_bytes(text.encode('latin-1'))
    for again in (lambda: load_run(copied), lambda: train(MIDDLE, copied), lambda: read_config(copied)):
        with pytest.raises(RunError, match=f'config.json is damaged .{words}') as caught: again()
        assert '\n' not in str(caught.value)


def test_missing_result_is_written_without_training(copied):
    before = result(copied)
    (copied / 'result.json').unlink()
    train(MIDDLE, copied)
    assert result(copied) == before


def test_metrics_that_were_lost_leave_a_result_without_energy(copied):
    for name in ('metrics.jsonl', 'result.json'): (copied / name).unlink()
    train(MIDDLE, copied)
    assert result(copied)['metrics'] == {} and result(copied)['steps'] == 36


# --- readers and copies -------------------------------------------------------------------------------------------

def test_a_reader_beside_a_trainer_follows_it_to_newer_checkpoints(copied):
    "Between the listing and the reading the trainer has saved twice and removed what was listed"
    older, old, newer = [copied / 'checkpoints' / f'{step}.pt' for step in (30, 36, 42)]
    assert steps_saved(copied)[-1] == 36
    def go_on():
        old.rename(newer)
        older.unlink()
    with at_call(run_folder, 'load_checkpoint', 1, go_on): found = newest_checkpoint(copied)
    assert found['progress']['step'] == 36 and newer.exists()


def test_copies_among_the_checkpoints_are_left_alone(copied):
    names = ['36_backup.pt', '36 (1).pt', '36-copy.pt', '036x.pt', '\u0663.pt', 'notes.txt']
    for name in names: (copied / 'checkpoints' / name).write_bytes(b'kept by a user')
    train(MIDDLE.changed(steps=48), copied)
    assert load_run(copied).state.progress.step == 48
    assert all((copied / 'checkpoints' / name).read_bytes() == b'kept by a user' for name in names)


def test_the_two_newest_checkpoints_and_the_best_are_kept(copied, monkeypatch):
    assert steps_saved(copied) == sorted({30, 36, result(copied)['best_step']})


# --- other settings -----------------------------------------------------------------------------------------------

OTHERS = {
    "optim.batch was 16 and is now 8": dict(batch=8),
    "objective.eps was 1.0 and is now 2.0": dict(eps=2.),
    "optim.ema was 0.0 and is now 0.5": dict(ema=.5),
    "objective.eps_end was None and is now 0.5": dict(eps_end=.5),
    "networks.width_g was 16 and is now 17": dict(width_g=17),
    "record.seed was 0 and is now 1": dict(seed=1),
    "objective.name was 'coulomb' and is now 'wgan-gp'": dict(objective='wgan-gp'),
    "objective.penalty.weight was None and is now 1.0": dict(objective='wgan-gp', penalty_weight=1.),
}


@pytest.mark.parametrize('words', OTHERS)
def test_contradicting_settings_are_named(words, copied):
    before = contents(copied)
    with pytest.raises(RunError) as caught: train(MIDDLE.changed(**OTHERS[words]), copied)
    assert words in str(caught.value)
    assert 'optim.steps' not in str(caught.value) and '\n' not in str(caught.value)
    assert contents(copied) == before


def test_options_that_a_later_version_added_have_their_default(copied):
    "The folder of a run before them is continued with it, and with nothing else"
    path = copied / 'config.json'
    stored = json.loads(path.read_text())
    added = stored['objective'].pop('keep_self_weight')
    path.write_text(json.dumps(stored))
    with pytest.raises(RunError, match='objective.keep_self_weight was False and is now True'):
        train(MIDDLE.changed(keep_self_weight=True, eps_end=.5), copied)
    train(MIDDLE, copied)
    assert json.loads(path.read_text())['objective']['keep_self_weight'] is added is False


def test_all_contradictions_are_named_at_once(copied):
    with pytest.raises(RunError) as caught: train(MIDDLE.changed(batch=8, eps=2., ema=.5), copied)
    for part in ('optim.batch was 16', 'is now 8', 'objective.eps was 1.0', 'is now 2.0', 'optim.ema was 0.0', 'is now 0.5'):
        assert part in str(caught.value)


def test_the_device_may_be_another_and_the_first_one_is_kept(copied):
    config = json.loads((copied / 'config.json').read_text())
    config['record']['device'] = 'cuda:1'
    (copied / 'config.json').write_text(json.dumps(config))
    assert train(MIDDLE, copied).experiment.record.device == 'cpu'
    assert read_config(copied)['record']['device'] == 'cuda:1'


# --- what ran it --------------------------------------------------------------------------------------------------

def test_result_says_what_ran_it(middle):
    found = result(middle)
    assert found.items() >= environment().items()
    assert found['hardware'].endswith('1 threads') and found['torch'] == torch.__version__
    assert read_config(middle)['environment'] == environment()


def test_without_git_a_run_has_no_commit(tmp_path, monkeypatch):
    def no_git(*args, **options): raise FileNotFoundError('git')
    monkeypatch.setattr('coulomb_gan.environment.subprocess.run', no_git)
    assert result(train(TINY, tmp_path / 'run').out)['commit'] is None
