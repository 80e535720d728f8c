"""Loggers: they agree with the run folder after every interruption, change nothing in it, and never stop a run."""
import csv
import warnings
from pathlib import Path

import pytest

from coulomb_gan.files import RunError
from coulomb_gan.training import loggers as module
from coulomb_gan.training.loggers import LOGGERS, CSVLogger, Logger, TensorBoardLogger, loggers_of
from coulomb_gan.training.run_folder import read_metrics
from tiny_runs import TINY, assert_same_end, stopped, tiny, train


def table(out):
    with open(Path(out, 'metrics.csv')) as f: rows = [*csv.DictReader(f)]
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def events(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(Path(out, 'tensorboard')), size_guidance=dict(scalars=0, images=0, tensors=0)).Reload()


@pytest.mark.parametrize('step', [3, 6, 9])
def test_they_agree_with_the_metrics_after_an_interruption(step, tmp_path):
    "Every number of every line, to the float32 of the events"
    both = lambda: [CSVLogger(), TensorBoardLogger()]
    out = stopped(TINY, tmp_path / 'run', step, loggers=both())
    train(TINY, out, loggers=both())
    lines = read_metrics(out)
    assert table(out) == lines
    found = events(out)
    for name in ('loss_d', 'energy', 'seconds'):
        expected = [(line['step'], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]
        assert [(e.step, e.value) for e in found.Scalars(name)] == expected
    assert [e.step for e in found.Images('samples')] == [6, 12]
    train(TINY, tmp_path / 'plain')
    assert_same_end(out, tmp_path / 'plain')


def test_texts_are_shown_as_texts(tmp_path):
    text = dict(data='text-builtin', networks='text', width_g=8, width_d=8, depth_g=1, depth_d=1)
    train(tiny(**text), tmp_path / 'run', loggers=[TensorBoardLogger()])
    found = [e.tensor_proto.string_val[0].decode() for e in events(tmp_path / 'run').Tensors('samples/text_summary')]
    assert found[-1] == (tmp_path / 'run/samples/12.txt').read_text()


def test_lists_are_logged_number_by_number(tmp_path):
    "Those of the divergences of texts, for n-grams of one to six characters"
    text = dict(data='text-builtin', networks='text', width_g=8, width_d=8, depth_g=1, depth_d=1)
    e = tiny(**text, monitor='ngrams').changed(eval_samples=640, steps=6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train(e, tmp_path / 'run', loggers=[CSVLogger(), TensorBoardLogger()])
    *_, last = read_metrics(tmp_path / 'run')
    assert [table(tmp_path / 'run')[-1][f'jsd_{n}'] for n in range(1, 7)] == last['jsd']
    assert events(tmp_path / 'run').Scalars('jsd_6')[-1].value == pytest.approx(last['jsd'][5], rel=1e-6)


@pytest.mark.parametrize('method', ['start', 'log', 'close'])
def test_one_that_fails_warns_once_and_the_run_is_the_same(method, tmp_path):
    class Failing(Logger): pass
    def fail(self, *args): raise MemoryError('too much')
    setattr(Failing, method, fail)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        train(TINY, tmp_path / 'run', loggers=[Failing(), CSVLogger()])
    assert [str(w.message) for w in said] == ['Failing failed and is left out from here: too much; metrics.jsonl goes on']
    train(TINY, tmp_path / 'plain')
    assert_same_end(tmp_path / 'run', tmp_path / 'plain')
    assert table(tmp_path / 'run') == read_metrics(tmp_path / 'run')


def test_a_full_disk_stops_the_table_and_not_the_run(tmp_path):
    "The place of the table is taken by a folder"
    (tmp_path / 'run/metrics.csv').mkdir(parents=True)
    with pytest.warns(UserWarning, match='CSVLogger failed and is left out from here: cannot write'):
        train(TINY, tmp_path / 'run', loggers=[CSVLogger()])
    assert read_metrics(tmp_path / 'run')[-1]['step'] == 12


def test_a_run_that_is_stopped_closes_its_loggers(tmp_path):
    closed = []
    class Noting(Logger):
        def close(self): closed.append(True)
    stopped(TINY, tmp_path / 'run', 6, loggers=[Noting()])
    assert closed == [True]


def test_a_missing_package_is_named(monkeypatch, run):
    monkeypatch.setattr(module, 'find_spec', lambda name: None)
    with pytest.raises(RunError, match='pip install tensorboard'): loggers_of(['tensorboard'])
    assert loggers_of(['csv']) and [*LOGGERS] == ['csv', 'tensorboard']
    code, out, err = run('train tiny --log tensorboard')
    assert code == 1 and len(err) == 1 and 'pip install tensorboard' in err[0] and not Path('runs').exists()
