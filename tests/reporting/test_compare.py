"""Methods side by side: the same runs whoever asks, in equal time, on one page."""
import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.files import RunError
from coulomb_gan.metrics.feature_extractors import FeatureExtractor, load_extractor
from coulomb_gan.metrics.ngrams import jsds
from coulomb_gan.metrics.registry import LINES
from coulomb_gan.reporting import compare as compare_module
from coulomb_gan.reporting.compare import ROUND, SETS, affordable, compare, planned
from coulomb_gan.reporting.comparison_tables import compared_numbers, compared_runs, comparison_table, differences_table
from coulomb_gan.reporting.comparison_tables import mean_interval, ngram_models, published_figures
from coulomb_gan.objectives.coulomb import Coulomb
from coulomb_gan.reporting.render import execute
from coulomb_gan.reporting.sections import add_metrics
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import KERNEL, METHODS, OLD_METHODS, experiment, method
from made_files import fill
from pages import SMALL, check_page, files, shown_here


def quickly(e, out, **options): return fit(e, out, progress=False)

def not_rendered(source, out, **parameters): return Path(out, 'report.html')


# --- pages --------------------------------------------------------------------------------------------------------

def test_methods_side_by_side_in_2d(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, 'execute', partial(execute, n_samples=500))
    methods = ['coulomb-more-charges-no-self-term', 'wgan-gp']
    experiments = planned('mixture', methods, **SMALL | dict(steps=4))
    page = compare(experiments, tmp_path / 'runs', seeds=2, report=tmp_path / 'report', progress=False)
    assert page == tmp_path / 'report' / 'report.html'
    check_page(tmp_path / 'report', 2, str(tmp_path))
    result = json.loads((tmp_path / 'report' / 'result.json').read_text())
    assert [*result] == methods and all([*seeds] == ['0', '1'] for seeds in result.values())
    learned, standard = result[methods[0]]['0'], result['wgan-gp']['0']
    assert {'energy', 'r2', 'slope', 'within_3sigma', 'steps', 'seconds'} <= learned.keys() and 'r2' not in standard
    assert learned['steps'] == 4 and learned['energy'] != result[methods[0]]['1']['energy']


def test_methods_of_texts_side_by_side(place, monkeypatch):
    monkeypatch.setattr(compare_module, 'execute', not_rendered)
    tiny = dict(width_g=8, width_d=8, depth_g=1, depth_d=1, batch=16, steps=2, eval_samples=640)
    compare(planned('text-builtin', ['coulomb', 'wgan-gp'], **tiny), place / 'runs', seeds=1, progress=False)
    text, _ = shown_here('methods', name='', out='runs', n_samples=640)
    assert 'training samples, 2 methods, seeds 0.' in text
    assert '| method | steps | weights of G | of D | F | JSD-4 | JSD-6 | signed R² | slope |' in text
    result = json.loads((place / 'runs' / 'result.json').read_text())
    assert {'energy', 'jsd4', 'jsd6', 'r2'} <= result['coulomb']['0'].keys() and 'r2' not in result['wgan-gp']['0']
    run = load_run(place / 'runs/coulomb-0')
    found = jsds(run.sample(640)[:LINES].argmax(-1), ngram_models(run))
    assert result['coulomb']['0']['jsd4'] == found[4]


# --- what is trained ----------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def compared(tmp_path_factory):
    "Two methods and two seeds of a second's preset"
    out = tmp_path_factory.mktemp('place') / 'methods'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, 'execute', not_rendered)
        compare(planned('tiny', ['exact-force', 'coulomb'], data='mixture', steps=3), out, seeds=2, progress=False)
    return out


def test_each_run_is_the_one_that_fit_makes(compared, tmp_path):
    "With evaluations at every tenth of its steps"
    e = method('exact-force', experiment('tiny', data='mixture', steps=3, eval_every=1)).changed(seed=1)
    alone = quickly(e, tmp_path / 'run')
    assert compared_runs(compared)['exact-force'][1].experiment == e
    assert torch.equal(alone.sample(50), load_run(compared / 'exact-force-1').sample(50))


def test_runs_come_in_the_order_of_methods_and_seeds(compared, tmp_path):
    for name in ('mine-0', 'coulomb-10', 'a-2-3'): (tmp_path / name).symlink_to(compared / 'coulomb-0')
    for name in ('coulomb-0', 'coulomb-1', 'exact-force-0'): (tmp_path / name).symlink_to(compared / name)
    (tmp_path / 'report').mkdir()
    assert {key: [*seeds] for key, seeds in compared_runs(tmp_path).items()} == {
        'coulomb': [0, 1, 10], 'exact-force': [0], 'a-2': [3], 'mine': [0]}
    assert [*compared_runs(tmp_path)] == ['coulomb', 'exact-force', 'a-2', 'mine']


def test_a_folder_that_is_no_run_is_named(compared, tmp_path):
    (tmp_path / 'coulomb-0').mkdir()
    with pytest.raises(RunError, match='coulomb-0 holds no run'): compared_runs(tmp_path)


def test_a_comparison_goes_on_with_the_steps_it_had_chosen(compared, monkeypatch):
    monkeypatch.setattr(compare_module, 'execute', not_rendered)
    monkeypatch.setattr(compare_module, 'affordable', lambda *a: pytest.fail('it was measured again'))
    before = files(compared)
    compare(planned('tiny', ['exact-force', 'coulomb'], data='mixture'), compared, seeds=2, seconds=5., progress=False)
    assert files(compared) == before
    monkeypatch.setattr(compare_module, 'affordable', lambda e, seconds, progress: int(seconds))
    compare(planned('tiny', ['non-saturating'], data='mixture'), compared, seeds=1, seconds=5., progress=False)
    assert compared_runs(compared)['non-saturating'][0].state.progress.step == 5


@pytest.mark.parametrize('options, message', [
    (dict(methods=['coulomb', 'exact-forces']), "did you mean 'exact-force'"),
    (dict(methods=['coulomb', 'released']), "the method 'released' was renamed to 'coulomb'"),
    (dict(methods=['coulomb'], objective='minimax'), 'chooses objectives by its methods'),
    (dict(methods=['exact-force'], smoothing=1.), 'smoothing is not for'), (dict(methods=['coulomb'], narrower=99), 'times narrower'),
    (dict(bacht=3), "did you mean 'batch'"), (dict(data='nowhere'), 'nowhere holds no prepared images'),
    (dict(methods=['coulomb', 'wgan-gp'], networks='text'), 'texts'), (dict(batch=1), 'batch must')], ids=str)
def test_what_is_wrong_is_told_before_the_first_is_trained(options, message, tmp_path):
    with pytest.raises(ValueError, match=message): compare(planned('tiny', **options), tmp_path / 'runs', progress=False)
    assert not (tmp_path / 'runs').exists()


# --- Table 4 ------------------------------------------------------------------------------------------------------

def pooled(x):
    "Twelve numbers an image"
    return torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)


@pytest.fixture
def compared_images(tmp_path, monkeypatch):
    "A run that has been measured with 24 samples"
    monkeypatch.setattr(compare_module, 'execute', not_rendered)
    fill(tmp_path / 'raw', 60)
    prepare(tmp_path / 'raw', tmp_path / 'data', 32, upscale=True, progress=False)
    experiments = planned('cifar10', ['coulomb'], narrower=32, data=str(tmp_path / 'data'), steps=2, batch=4, eval_samples=8)
    compare(experiments, tmp_path / 'runs', seeds=1, progress=False, extractors=[FeatureExtractor('pooled', pooled)], samples=24)
    return tmp_path / 'runs', experiments


def test_table4_trains_measures_and_renders(tmp_path, monkeypatch):
    "Two seeds of the narrowest networks; measured once, alike, and beside the published figures"
    fill(tmp_path / 'raw', 60)
    prepare(tmp_path / 'raw', tmp_path / 'cifar10', 32, upscale=True, progress=False)
    experiments = planned('cifar10', ['table4'], narrower=32, data=str(tmp_path / 'cifar10'), steps=2, batch=4, eval_samples=8)
    experiments['mmd-gan'] = experiments['mmd-gan'].changed(more_critic_steps=2)
    extractor = FeatureExtractor('pooled', pooled)
    monkeypatch.setattr(compare_module, 'execute', not_rendered)
    compare(experiments, tmp_path / 'runs', seeds=1, progress=False, extractors=[extractor], samples=24)
    runs = compared_runs(tmp_path / 'runs')
    assert [*runs] == ['coulomb', 'dcgan', 'dcgan-two-rates', 'wgan-gp', 'wgan-gp-two-rates', 'mmd-gan']
    published = published_figures({key: seeds[0] for key, seeds in runs.items()})
    assert published['dcgan'] == 37.7
    data = runs['dcgan'][0].data
    y = data.floats(data.test)
    numbers = {key: {'0': compared_numbers(seeds[0], seeds[0].sample(8), y, {})} for key, seeds in runs.items()}
    assert all('frechet in pooled' in found['0'] for found in numbers.values())
    page = comparison_table(numbers, published)
    assert 'published (full size)' in page and '| 37.7 |' in page
    assert 'optimiser rmsprop' in differences_table({key: seeds[0].experiment for key, seeds in runs.items()})


def test_options_hold_for_every_method():
    assert planned('mixture', ['wgan-gp'], critic_steps=1)['wgan-gp'].objective.critic_steps == 1
    assert planned('mixture', ['coulomb'], charges=7, eps=2.)['coulomb'].objective == Coulomb(charges=7, eps=2., eps_end=1.)
    assert not planned('cifar10', ['coulomb'], batch_norm_d=False)['coulomb'].networks.batch_norm_d
    assert planned('cifar10', ['dragan'], networks='dcgan-radford')['dragan'].networks.norm_d == 'none'
    assert planned('cifar10', ['dragan'], networks='dcgan-radford', norm_d='layer')['dragan'].networks.norm_d == 'layer'


def test_a_run_is_measured_again_only_with_another_number_of_samples(compared_images, monkeypatch):
    out, experiments = compared_images
    calls = []
    monkeypatch.setattr(compare_module, 'execute', not_rendered)
    monkeypatch.setattr(compare_module, 'evaluate_run', lambda run, extractor, samples, progress: calls.append((run.name, samples)))
    for samples in (24, 25): compare(experiments, out, seeds=1, progress=False, extractors=[FeatureExtractor('pooled', pooled)], samples=samples)
    assert calls == [('coulomb-0', 25)]


def test_a_method_is_the_same_whatever_preset_it_is_applied_to():
    "But for the kernel, which belongs to the scale of the data, and the replay buffer, which counts in batches"
    for name in METHODS:
        found = []
        for preset in ('mixture-exact-force', 'mixture', 'tiny'):
            e = experiment(preset)
            record = method(name, e)
            independent = replace(e.optim, sobol=False)
            assert (record.networks, record.optim, record.record) == (e.networks, independent, e.record)
            options = {k: v for k, v in vars(record.objective).items() if k not in KERNEL}
            if options.get('replay'): options['replay'] /= e.optim.batch
            found.append((record.objective.name, options))
        assert found[0] == found[1] == found[2]
    assert method('coulomb', experiment('mixture-exact-force')).objective.name == 'coulomb'


@pytest.mark.parametrize('old', OLD_METHODS)
def test_old_names_of_methods_are_answered_with_the_new(old):
    with pytest.raises(ValueError, match=f'the method {old!r} was renamed to {OLD_METHODS[old]!r}'): method(old, Experiment())


# --- numbers ------------------------------------------------------------------------------------------------------

def test_numbers_are_those_that_can_be_measured(compared):
    run = compared_runs(compared)['coulomb'][0]
    x, y = run.sample(300), run.data.test[:500]
    found = compared_numbers(run, x, y, ngram_models(run))
    assert {'energy', 'r2', 'slope', 'modes', 'within_3sigma', 'steps', 'seconds'} <= found.keys() and found['steps'] == 3
    few = compared_numbers(run, x, y[:15], {})
    assert 'energy' in few and 'r2' not in few and 'energy' not in compared_numbers(run, x, y[:1], {})
    spent = run.state.progress
    assert found['seconds'] == spent.seconds - spent.eval_seconds < spent.seconds


def test_distances_in_feature_spaces_stand_in_the_table(compared, tmp_path):
    (tmp_path / 'coulomb-0').symlink_to(compared / 'coulomb-0')
    run = compared_runs(tmp_path)['coulomb'][0]
    run.results = tmp_path
    (tmp_path / 'result.json').write_text((compared / 'coulomb-0/result.json').read_text())
    add_metrics(run, net=dict(frechet=3.25, bias=1.))
    found = compared_numbers(run, run.sample(30), run.data.test[:30], {})
    assert found['frechet in net'] == 3.25
    table = comparison_table({'coulomb': {'0': found}, 'other': {'0': dict(steps=3, seconds=1.)}})
    head, _, first, second = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()]
    assert dict(zip(head, first))['frechet in net'] == '3.25' and dict(zip(head, second))['frechet in net'] == '–'
    assert dict(zip(head, second)) | {'method': 'other', 'steps': '3', 'seconds of training': '1'} == dict(zip(head, second))


def test_interval_is_that_of_students_distribution():
    "The quantiles of a table: 12.706 for two values, 2.776 for five"
    assert mean_interval([3.]) == '3' and mean_interval([4., 4., 4.]) == '4 ± 0'
    # deviation sqrt(2), standard error 1
    assert mean_interval([1., 3.]) == '2 ± 13'
    # deviation sqrt(2.5), standard error 0.7071, so 1.963
    assert mean_interval([1., 2., 3., 4., 5.]) == '3 ± 2'
    assert mean_interval([1000., 1000.02]) == '1000 ± 0.13'


@pytest.mark.parametrize('objective', ['coulomb', 'exact-force', 'wgan-gp'])
@pytest.mark.parametrize('seconds', [1e-9, 9, 18])
def test_steps_that_fit_into_a_time(objective, seconds, monkeypatch):
    "By a clock of one thread that moves on by a quarter of a second at each reading: seven rounds in two seconds, the last read at 2.25"
    monkeypatch.setattr('time.process_time', itertools.count(1, .25).__next__)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    e = experiment('tiny', objective=objective, data='mixture', steps=3)
    assert affordable(e, seconds) == max(1, int(seconds * 7 * ROUND / 2.25))


# --- fields in feature space --------------------------------------------------------------------------------------

ENCODERS = """
from torch.nn.functional import avg_pool2d
def coarse(): return lambda images: avg_pool2d(images, 4)
def pooled(): return lambda images: avg_pool2d(images.float(), 16).flatten(1)
"""


@pytest.fixture
def tiny_images(place):
    "The options of tiny runs on random images of 32 pixels, and a user's file beside them"
    fill(place / 'raw', 60)
    prepare(place / 'raw', place / 'cifar10', 32, upscale=True, progress=False)
    (place / 'own.py').write_text(ENCODERS)
    return dict(narrower=32, data='cifar10', steps=2, batch=4, charges=8, eval_samples=8)


def test_fields_are_compared_in_a_space_that_none_has_seen_and_marked_in_the_other(tiny_images, monkeypatch):
    monkeypatch.setattr(compare_module, 'execute', not_rendered)
    (Path('other.py')).write_text(ENCODERS)
    experiments = planned('cifar10', ['features'], encoder='own.py:coarse', **tiny_images)
    extractors = [load_extractor(f'{file}.py:pooled') for file in ('own', 'other')]
    compare(experiments, Path('runs'), seeds=1, progress=False, extractors=extractors, samples=24)
    runs = compared_runs('runs')
    assert {*runs} == {'coulomb', 'coulomb-tuned', 'exact-force', 'features-own-coarse', 'drifting-own-coarse'}
    y = runs['coulomb'][0].data.floats(runs['coulomb'][0].data.test)
    numbers = {key: {'0': compared_numbers(seeds[0], seeds[0].sample(8), y, {})} for key, seeds in runs.items()}
    trained = {key for key, found in numbers.items() if 'trained in own-pooled' in found['0']}
    assert trained == {'features-own-coarse', 'drifting-own-coarse'}
    assert not any('trained in other-pooled' in found['0'] for found in numbers.values())
    rows = {line.split(' | ')[0].strip('| '): line for line in comparison_table(numbers).splitlines() if line.startswith('| ')}
    assert '†' in rows['features-own-coarse'] and '†' not in rows['exact-force']
    assert len([*Path('data/features').glob('own-coarse-*.npy')]) == 1      # both rows read one file


def test_the_ablation_trains_each_row(tiny_images):
    experiments = planned('cifar10', ['feature-ablation'], encoder='own.py:coarse', **tiny_images | dict(charges=6))
    ends = {}
    for row, e in experiments.items():
        if e.objective.n_real(4) > 54: continue      # there are 54 images
        ends[row] = fit(e, Path('runs', row), progress=False).sample(4)
    assert {*experiments} - {*ends} == {'real-512', 'real-2048'}
    for one, other in itertools.combinations(ends, 2): assert not torch.equal(ends[one], ends[other]), (one, other)


def test_the_methods_for_texts_train_each(place, monkeypatch):
    monkeypatch.setattr(compare_module, 'execute', not_rendered)
    tiny = dict(width_g=4, width_d=4, depth_g=1, depth_d=1, batch=8, charges=8, steps=2, monitor='', eval_samples=8)
    compare(planned('text-builtin', ['texts'], **tiny), Path('runs'), seeds=1, progress=False)
    runs = compared_runs('runs')
    assert {*runs} == {'coulomb-probabilities', 'coulomb-characters', '2-grams-probabilities', '2-grams-characters',
                       'drifting-2-grams-characters'}
    for row, found in runs.items():
        x = found[0].sample(4)
        chosen = bool(((x == 0) | (x == 1)).all())
        assert chosen == row.endswith('characters')


@pytest.mark.parametrize('methods, options, message', [
    (['texts'], dict(heads='2-grams'), 'heads is not for'), (['texts'], {}, "straight_through is not for networks 'dcgan'"),
    (['features'], {}, 'name it with --encoder'), (['features', 'coulomb'], dict(encoder='own.py:coarse'), 'there is no method'),
    (['features'], dict(encoder='own.py:coarse', heads='mean'), 'heads is not for'),
    (['feature-ablation'], dict(encoder='own.py:coarse', eps=2.), 'eps is not for'),
    *[([name], dict(encoder='own.py:coarse', objective='coulomb'), 'chooses objectives by its methods') for name in SETS]], ids=str)
def test_sets_of_fields_refuse_what_they_cannot_use(methods, options, message):
    with pytest.raises(ValueError, match=message): planned('cifar10', methods, **options)


# --- before the first run -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, message', [('tiny', 'expected more than 64'), ('mixture', 'mixture holds no images')])
def test_what_cannot_be_measured_is_told_before_the_first_is_trained(name, message, tmp_path):
    extractor = FeatureExtractor('flat', lambda images: images.flatten(1).float())
    experiments = planned(name, ['coulomb'], **SMALL)
    with pytest.raises(ValueError, match=message):
        compare(experiments, tmp_path / 'runs', extractors=[extractor], samples=30, progress=False)
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('seconds', [float('inf'), float('nan'), 0., -1.])
def test_a_time_is_finite(seconds, tmp_path):
    with pytest.raises(ValueError, match='seconds must be a finite number above 0'):
        compare(planned('tiny', ['coulomb'], **SMALL), tmp_path, seconds=seconds, progress=False)


def test_a_seed_is_not_dropped_in_silence():
    with pytest.raises(ValueError, match='say how many with --seeds'): planned('tiny', ['coulomb'], seed=3)
