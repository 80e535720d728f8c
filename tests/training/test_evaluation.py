"""What is measured while a run trains: it does not change the run, and one number of it decides on plateaus."""
import json
from math import inf

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.data.catalogue import load
from coulomb_gan.data.in_memory import from_memory
from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import energy
from coulomb_gan.files import read_lines
from coulomb_gan.options import flat_fields
from coulomb_gan.training.config import Record
from coulomb_gan.training.evaluation import SHOWN, Evaluation, monitored_metric, training_energy
from coulomb_gan.training.state import TrainState
from tiny_runs import TINY, assert_same_state, contents, result, state, steps_saved, train

TEXT = dict(networks='text', data='text-builtin', width_g=4, width_d=4, depth_g=1, depth_d=1, eval_samples=640)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)      # where statistics are kept


@pytest.fixture
def chosen(extractor, images):
    "TINY with some options, in which names stand for what the fixtures made"
    stand_for = {'EXTRACTOR': extractor, 'PICTURES': images}
    return lambda options: TINY.changed(**{name: stand_for.get(value, value) for name, value in options.items()})


# --- it watches, and changes nothing ------------------------------------------------------------------------------

WATCHING = dict(log_every=4, eval_every=4, eval_samples=51, monitor='EXTRACTOR', energy_d=2., energy_eps=2.)


def trained(out):
    "Of the newest checkpoint, what a step changes"
    return {name: value for name, value in state(out).items() if not name.startswith('.progress')}


@pytest.mark.parametrize('name', WATCHING)
def test_watching_does_not_change_the_weights(name, chosen):
    train(TINY, 'base')
    train(chosen({name: WATCHING[name]}), 'other')
    assert_same_state(trained('base'), trained('other'))


def test_all_of_a_record_but_seed_precision_and_batch_norm_only_watches():
    assert {*flat_fields(Record)} == {*WATCHING, 'seed', 'precision', 'device', 'sync_batch_norm'}


@pytest.mark.parametrize('options', [dict(data='digits', monitor='EXTRACTOR'), dict(data='mixture', monitor='modes'),
                                     TEXT | dict(monitor='ngrams')], ids=lambda o: o['monitor'])
def test_an_evaluation_repeats_and_is_plain_data(options, chosen, tmp_path):
    e, data = chosen(options), load(options['data'])
    t, evaluate = TrainState(e, data.shape), Evaluation(e, data, tmp_path)
    before = {name: w.clone() for name, w in t.g.state_dict().items()}, t.gen.get_state()
    first = evaluate(t, tmp_path / 'a')
    assert evaluate(t, tmp_path / 'b') == first == json.loads(json.dumps(first))
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
    assert all(torch.equal(before[0][name], w) for name, w in t.g.state_dict().items())
    assert torch.equal(before[1], t.gen.get_state())


def test_the_energy_is_that_of_the_stated_kernel_whatever_the_objective():
    data = load('mixture')
    x = 5 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    e = TINY.changed(data='mixture', energy_d=2., energy_eps=3., seed=4)
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(4))[:50]
    want = energy(x, data.train[rows], Plummer(2., 3.)).item()
    for objective in ({}, dict(eps=7., d=.5), dict(objective='wgan-gp'), dict(objective='exact-force', eps_end=.1)):
        assert training_energy(x, e.changed(**objective), data) == want


# --- which number decides -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('options, decides', [
    (dict(data='digits'), lambda found: found['energy']),
    (dict(data='digits', monitor='EXTRACTOR'), lambda found: found['frechet']),
    (dict(data='mixture', monitor='modes'), lambda found: found['outside_3sigma']),
    (TEXT | dict(monitor='ngrams'), lambda found: found['jsd'][3])], ids=['energy', 'frechet', 'modes', 'ngrams'])
def test_best_is_that_of_the_monitored_value(options, decides, chosen):
    run = train(chosen(dict(steps=8, eval_every=2, ema=.5) | options), 'run')
    values = {line['step']: decides(line) for line in run.metrics if 'energy' in line}
    assert [*values] == [2, 4, 6, 8]
    best = min(values, key=values.get)
    assert (run.state.progress.best_step, run.state.progress.best) == (best, values[best])
    assert result('run')['best_step'] == best and best in steps_saved('run')


def test_a_value_that_is_not_finite_is_never_the_best():
    class Blind(Evaluation):
        def __init__(self): self.metric, self.own = None, 'energy'
    t = TrainState(TINY, (1, 8, 8))
    for step, value in enumerate((float('nan'), inf, 2.), 1):
        t.progress.step = step
        t.progress.update(Blind().monitored({'energy': value}), TINY.optim)
    assert (t.progress.best, t.progress.best_step) == (2., 3)


# --- refused before a run begins ----------------------------------------------------------------------------------

REFUSED = [
    (dict(monitor='ngrams'), "the metric 'ngrams' is for text, got images"),
    (dict(monitor='modes'), "the metric 'modes' is for points, got images"),
    (dict(monitor='fid'), "there is no metric 'fid'"),
    (dict(data='mixture', monitor='digits'), "the metric 'digits' is for images, got points"),
    (dict(data='mixture', monitor='EXTRACTOR'), "the metric 'FILE.py:NAME' is for images, got points"),
    (dict(data='PICTURES', networks='dcgan', monitor='digits'), "the metric 'digits' is for the data 'digits'"),
    (TEXT | dict(monitor='ngrams', eval_samples=639), 'eval_samples must be 640 or more, got 639'),
    (dict(monitor='EXTRACTOR', eval_samples=4), 'has 4 features: eval_samples must be more, got 4'),
    (dict(monitor='none.py:none'), 'expected FILE.py:FUNCTION with a file'),
    (dict(monitor='none.pth'), 'none.pth'),
]


@pytest.mark.parametrize('options, words', REFUSED, ids=[words for _, words in REFUSED])
def test_a_metric_that_is_not_for_the_run_is_refused_and_leaves_no_run(options, words, chosen):
    with pytest.raises(ValueError, match=words) as caught: train(chosen(options), 'run')
    assert '\n' not in str(caught.value)
    assert {*contents('run')} <= {'.lock'}
    assert train(TINY, 'run').state.progress.step == 12      # the folder is free


def test_modes_that_are_not_known_cannot_be_counted():
    points = from_memory(torch.randn(60, 2, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match='for mixtures whose components are known'):
        monitored_metric(TINY.changed(monitor='modes'), points)
    assert monitored_metric(TINY, points) is None


# --- samples that are kept ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('options, suffixes', [
    (dict(data='digits'), ['.png']), (dict(data='mixture'), ['.npy', '.png']), (TEXT, ['.txt'])], ids=['images', 'points', 'text'])
def test_samples_of_each_evaluation_are_kept(options, suffixes):
    e = TINY.changed(steps=4, eval_every=2, **options)
    run = train(e, 'run')
    kept = sorted(p.name for p in (run.out / 'samples').iterdir())
    assert kept == [f'{step}{suffix}' for step in (2, 4) for suffix in suffixes]
    x = run.sample(SHOWN[run.data.kind], seed=e.record.seed)
    if '.npy' in suffixes: assert_close(torch.from_numpy(np.load(run.out / 'samples/4.npy')), x, rtol=0, atol=0)
    if '.txt' in suffixes: assert read_lines(run.out / 'samples/4.txt') == run.data.corpus.decode(x.argmax(-1))
