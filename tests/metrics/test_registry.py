"""A metric is found by its name, refuses what it is not for before anything is computed, and decides what a run does."""
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.data.catalogue import load
from coulomb_gan.data.datasets import Data, Modes, digits, to_float
from coulomb_gan.data.in_memory import from_memory
from coulomb_gan.data.text import Corpus
from coulomb_gan.metrics import registry
from coulomb_gan.metrics.digits_classifier import train_classifier
from coulomb_gan.metrics.registry import LINES, METRICS, DigitsDistance, FileDistance, FrechetDistance, InceptionDistance
from coulomb_gan.metrics.registry import Metric, NgramDivergence, SamplesBetweenModes, metric
from coulomb_gan.training.evaluation import Evaluation, monitored_metric
from coulomb_gan.training.fit import fit
from coulomb_gan.training.presets import experiment

GEN = torch.Generator().manual_seed(0)
DATA = {
    'digits': digits(),
    'grey images': from_memory(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=GEN)),
    'classes': from_memory([(picture, 0) for picture in torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=GEN)]),
    'points': Data(torch.randn(50, 2, generator=GEN), torch.randn(5, 2, generator=GEN)),
    'modes': Data(torch.randn(50, 2, generator=GEN), torch.randn(5, 2, generator=GEN), modes=Modes(torch.zeros(1, 2), 1.)),
    'text': Data(torch.zeros(50, 6, dtype=torch.int64), torch.zeros(5, 6), corpus=Corpus(None, None, ('?', '`', 'a'))),
}


classifier = cache(train_classifier)


@pytest.fixture
def trained(monkeypatch):
    "The digits classifier is trained once for all tests"
    monkeypatch.setattr(registry, 'train_classifier', classifier)


# --- by name ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, kind', [
    ('digits', DigitsDistance), ('inception', InceptionDistance), ('ngrams', NgramDivergence), ('modes', SamplesBetweenModes),
    ('weights.pth', InceptionDistance), ('a/b.py:net', FileDistance)])
def test_a_name_gives_its_metric(name, kind): assert type(metric(name)) is kind


def test_the_file_is_in_the_metric():
    assert metric('some/weights.pth').weights == 'some/weights.pth' and metric('inception').weights == ''
    assert metric('a/b.py:net').file == 'a/b.py:net'


@pytest.mark.parametrize('name, words', [
    ('inceptoin', "there is no metric 'inceptoin'; did you mean 'inception'"), ('fid', "there is no metric 'fid'; "),
    ('xyz', 'expected one of digits, inception, ngrams, modes'), ('', "no metric ''"), ('energy', "no metric 'energy'"),
    ('net.py', "no metric 'net.py'"), ('weights.pt', "no metric 'weights.pt'")])
def test_an_unknown_name_suggests_another(name, words):
    with pytest.raises(ValueError, match=words): metric(name)


@pytest.mark.parametrize('name', METRICS)
def test_every_entry_keeps_the_contract(name):
    found = metric(name)
    assert found.name == name and isinstance(found, Metric)
    assert found.kinds and {*found.kinds} <= {'images', 'points', 'text'}


def test_a_metric_that_says_nothing_is_for_no_data():
    for data in DATA.values():
        with pytest.raises(ValueError, match="the metric '' is for , got"): Metric().check(data, 100)
    pytest.raises(NotImplementedError, Metric().prepare, DATA['points'], 100, 'cpu')
    pytest.raises(NotImplementedError, Metric().compute, None, None)
    pytest.raises(NotImplementedError, Metric().monitored, {})


# --- what is refused, before anything is computed -----------------------------------------------------------------

FOR_IMAGES, FOR_DIGITS = 'is for images, got', "is for the data 'digits'"
FOR_MIXTURES = 'is for mixtures whose components are known'

# metric, data, samples, words; no words: accepted
CHECKS = [
    ('digits', 'digits', 100, ''), ('digits', 'grey images', 100, FOR_DIGITS), ('digits', 'classes', 100, FOR_DIGITS),
    ('digits', 'points', 100, f"'digits' {FOR_IMAGES} points"), ('digits', 'text', 100, f'{FOR_IMAGES} text'),
    ('inception', 'points', 5000, f"'inception' {FOR_IMAGES} points"),
    ('nowhere.pth', 'digits', 5000, 'nowhere.pth does not exist'),
    ('nowhere.py:net', 'points', 5000, f"'FILE.py:NAME' {FOR_IMAGES} points"), ('nowhere.py:net', 'digits', 5000, ''),
    ('ngrams', 'text', LINES, ''), ('ngrams', 'text', LINES - 1, 'eval_samples must be 640 or more, got 639'),
    ('ngrams', 'digits', LINES, "'ngrams' is for text, got images"), ('ngrams', 'points', LINES, 'got points'),
    ('modes', 'modes', 2, ''), ('modes', 'points', 100, FOR_MIXTURES), ('modes', 'text', 100, 'got text'),
    ('modes', 'digits', 100, "'modes' is for points, got images"),
]


@pytest.mark.parametrize('name, data, n, words', CHECKS)
def test_checks(name, data, n, words):
    watched = metric(name)
    if not words:
        watched.check(DATA[data], n)
        return
    for ask in (lambda: watched.check(DATA[data], n), lambda: watched.prepare(DATA[data], n, 'cpu')):
        with pytest.raises(ValueError, match=words): ask()


@pytest.mark.parametrize('name, data, n, words', [
    ('digits', 'digits', 64, 'digits-classifier-64 has 64 features: eval_samples must be more, got 64'),
    ('net.py:wide', 'digits', 5000, 'has 2,000 features: eval_samples must be more, got 1,347'),
    ('nowhere.py:net', 'digits', 5000, 'expected FILE.py:FUNCTION with a file that exists'),
    ('net.py:nothing', 'digits', 5000, 'net.py'),
])
def test_more_samples_than_features_are_needed_of_both_sets(name, data, n, words, tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'net.py').write_text('def wide(): return lambda images: images.float().flatten(1).repeat(1, 100)[:, :2000]\n')
    with pytest.raises(ValueError, match=words): metric(name).prepare(DATA[data], n, 'cpu', tmp_path)


def test_checking_computes_nothing(monkeypatch):
    def fail(*args, **options): raise AssertionError('computed')
    for name in ('train_classifier', 'inception', 'load_extractor', 'reference', 'features', 'training_models', 'mode_coverage'):
        monkeypatch.setattr(registry, name, fail)
    for name, data, n, words in CHECKS:
        if not words: metric(name).check(DATA[data], n)


# --- what is computed ---------------------------------------------------------------------------------------------

def test_distance_with_a_function_of_a_file_by_hand(tmp_path, monkeypatch):
    "Means of four quarters of the image as features; statistics by NumPy"
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'net.py').write_text('import torch\ndef quarters():\n'
                                     '    return lambda images: torch.nn.functional.avg_pool2d(images.float(), 4).flatten(1)\n')
    data, x = DATA['digits'], torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    watched = metric('net.py:quarters')
    prepared = watched.prepare(data, 200, 'cpu', tmp_path)
    found = watched.compute(watched.of_each(x, prepared), prepared)
    def quarters(images): return images.double().view(-1, 2, 4, 2, 4).mean((2, 4)).flatten(1).numpy()
    one, other = quarters(data.train), quarters(((x + 1) * 127.5).round())
    cov = [np.cov(features, rowvar=False) for features in (one, other)]
    values = np.linalg.eigvals(cov[0] @ cov[1]).real
    want = ((one.mean(0) - other.mean(0))**2).sum() + np.trace(cov[0] + cov[1]) - 2 * np.sqrt(values.clip(0)).sum()
    assert [*found] == ['frechet'] and watched.monitored({'energy': 9., **found}) == found['frechet']
    assert_close(found['frechet'], want, rtol=1e-4, atol=0)


def test_the_distance_is_an_fid_only_with_the_published_network():
    for name, value in (('fid', 3.), ('frechet', 4.)): assert FrechetDistance().monitored({'energy': 1., name: value}) == value


def test_training_digits_are_nearer_than_held_out_ones_and_noise_is_far(tmp_path, trained):
    data = DATA['digits']
    watched = metric('digits')
    reference = watched.prepare(data, 1347, 'cpu', tmp_path)
    def distance(x): return watched.monitored(watched.compute(watched.of_each(x, reference), reference))
    own, held_out = distance(to_float(data.train)), distance(to_float(data.test))
    noise = distance(torch.rand(1347, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert abs(own) < 1e-3 < held_out < noise / 5
    assert any(tmp_path.iterdir())  # statistics of the training set are kept


def test_ngrams_look_at_the_first_640_lines_alone(tmp_path):
    texts = load('text-builtin')
    watched = metric('ngrams')
    models = watched.prepare(texts, 700, 'cpu', tmp_path)
    x = texts.floats(texts.train[:700])
    found = watched.compute(x, models)
    x[LINES:] = 0.
    assert watched.compute(x, models) == found and len(found['jsd']) == 6
    assert watched.monitored({'energy': 1., **found}) == found['jsd'][3]  # n = 4


@pytest.mark.parametrize('far', [0, 1, 7, 40])
def test_samples_between_modes_are_counted(far):
    x = torch.zeros(40, 2)
    x[:far, 0] = 3.01
    watched = metric('modes')
    found = watched.compute(x, watched.prepare(DATA['modes'], 40, 'cpu'))
    assert found == {'modes': int(far < 40), 'outside_3sigma': pytest.approx(far / 40)}
    assert watched.monitored({'energy': 1., **found}) == pytest.approx(far / 40)


# --- a metric of one's own decides --------------------------------------------------------------------------------

@pytest.fixture
def scratch():
    "A metric that is registered for one test; it gives what it is told, evaluation by evaluation"
    @METRICS.add('scratch')
    @dataclass(frozen=True)
    class Scratch(Metric):
        kinds = ('images', 'points')
        def check(self, data, n):
            super().check(data, n)
            if n < 20: raise ValueError(f'scratch: eval_samples must be 20 or more, got {n}')
        def prepare(self, data, n, device, cache=None):
            prepared.append((data.name, n, device))
            return iter(values)
        def compute(self, x, prepared):
            seen.append(tuple(x.shape))
            return {'scratch': next(prepared), 'also': [1, 2]}
        def monitored(self, found): return found['scratch']
    values, prepared, seen = [3., 1., 2., 5., 4., 6.], [], []
    Scratch.prepared, Scratch.seen = prepared, seen
    yield Scratch
    del METRICS['scratch']


def test_a_registered_metric_is_found_and_checked_by_name(scratch):
    assert type(metric('scratch')) is scratch
    with pytest.raises(ValueError, match="did you mean 'scratch'"): metric('scratsch')
    for e, data, words in ((experiment('tiny', monitor='scratch', eval_samples=19), DATA['digits'], '20 or more, got 19'),
                           (experiment('tiny', monitor='scratch'), DATA['text'], 'is for images or points, got text')):
        for ask in (monitored_metric, Evaluation):
            with pytest.raises(ValueError, match=words): ask(e, data)
    assert not scratch.prepared and not scratch.seen


def test_a_run_that_names_it_is_decided_by_it(scratch, tmp_path):
    "Best at the second of six evaluations: two more without a better one make the first plateau, two more the second"
    e = experiment('tiny', monitor='scratch', decay='plateau', patience=2, eval_every=5, steps=100)
    run = fit(e, tmp_path, progress=False)
    assert scratch.prepared == [('digits', 100, 'cpu')]  # once
    assert scratch.seen == [(100, 1, 8, 8)] * 6
    lines = [line for line in run.metrics if 'scratch' in line]
    assert [line['scratch'] for line in lines] == [3., 1., 2., 5., 4., 6.]
    assert all(line['also'] == [1, 2] and 'energy' in line for line in lines)
    progress = run.state.progress
    assert (progress.best, progress.best_step, progress.lr_drops, progress.step) == (1., 10, [20], 30)
    assert progress.finished and progress.at_plateau


def test_settings_that_it_refuses_leave_the_folder_free(scratch, tmp_path):
    e = experiment('tiny', monitor='scratch', eval_samples=19)
    with pytest.raises(ValueError, match='20 or more'): fit(e, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_without_one_the_energy_decides():
    e = experiment('tiny')
    evaluation = Evaluation(e, DATA['digits'])
    assert monitored_metric(e, DATA['digits']) is None and evaluation.metric is None
    assert evaluation.monitored({'energy': .5, 'scratch': 9.}) == .5


def test_a_name_is_taken_once(scratch):
    with pytest.raises(ValueError, match="the metric 'digits' is taken by DigitsDistance"): METRICS.add('digits')(scratch)
