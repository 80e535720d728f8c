"""Parts that the reports share, on a run of a second: numbers that are added, and sections that cannot be made."""
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import pytest

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.potential import energy
from coulomb_gan.files import RunError
from coulomb_gan.reporting.sections import add_metrics, column, diagnostics, diagnostics_table, energies, feature_metrics
from coulomb_gan.reporting.sections import headline, kept_samples, left_out, plot_training, read_result, settings
from coulomb_gan.training.config import Experiment, options
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import EXPERIMENTS, experiment


@pytest.fixture(scope='module')
def trained(tmp_path_factory): return fit(experiment('tiny'), tmp_path_factory.mktemp('place') / 'run', progress=False)


@pytest.fixture
def run(trained, tmp_path):
    "A copy that may be changed"
    return load_run(shutil.copytree(trained.out, tmp_path / 'run'))


# --- the file of numbers ------------------------------------------------------------------------------------------

def test_numbers_are_kept_elsewhere_where_the_run_may_not_be_written(run, tmp_path):
    before = (run.out / 'result.json').read_bytes()
    (tmp_path / 'page').mkdir()
    elsewhere = load_run(run.out, results=str(tmp_path / 'page'))
    assert 'energy_train' in add_metrics(elsewhere) and read_result(elsewhere)['steps'] == 40
    add_metrics(elsewhere, energy=.5)
    assert add_metrics(load_run(run.out, results=str(tmp_path / 'page')), more=1)['energy'] == .5
    assert (run.out / 'result.json').read_bytes() == before
    assert json.loads((tmp_path / 'page/result.json').read_text())['metrics'].keys() == {'energy_train', 'energy', 'more'}


def test_numbers_wait_for_another_writer_and_lose_nothing(run):
    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda i: add_metrics(run, **{f'n{i}': i}), range(24)))
    assert {f'n{i}' for i in range(24)} <= add_metrics(run).keys()


def test_a_number_replaces_the_one_of_its_name(run):
    add_metrics(run, energy=.5, net={'frechet': 1., 'bias': .1})
    assert add_metrics(run, energy=.25, net={'frechet': 2.}) == read_result(run)['metrics']
    assert {k: read_result(run)['metrics'][k] for k in ('energy', 'net')} == {'energy': .25, 'net': {'frechet': 2.}}


@pytest.mark.parametrize('value', [float('nan'), float('inf'), [1., float('nan')], {'a': float('-inf')}], ids=str)
def test_numbers_that_are_not_finite_are_refused(value, run):
    before = (run.out / 'result.json').read_bytes()
    with pytest.raises(ValueError): add_metrics(run, energy=value)
    assert (run.out / 'result.json').read_bytes() == before


def test_a_damaged_file_of_numbers_is_named(run):
    (run.out / 'result.json').write_text('{')
    with pytest.raises(RunError, match='result.json is damaged'): read_result(run)


# --- what was run -------------------------------------------------------------------------------------------------

def rows_of(markdown): return [[cell.strip() for cell in line.strip('|').split('|')] for line in markdown.splitlines()[2:]]


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_settings_show_what_differs_first(name):
    "Beside each that differs its default"
    e = EXPERIMENTS[name]
    default = Experiment(networks=type(e.networks)(), objective=type(e.objective)())
    def value(of, path): return reduce(getattr, path, of)
    differing = [option for option, path in options(e).items() if value(e, path) != value(default, path)]
    differing = [option for option in differing if option not in ('networks', 'objective')]
    rows = rows_of(settings(e))
    assert [row[0] for row in rows[:len(differing)]] == differing
    assert sorted(row[0] for row in rows) == sorted(options(e))
    assert [row[0] for row in rows[len(differing):] if row[2]] == []
    shown = {row[0]: row[1] for row in rows}
    assert (shown['networks'], shown['objective']) == (e.networks.name, e.objective.name)


def test_of_the_place_of_the_data_its_name_is_shown():
    assert '| data | folder |' in settings(experiment('folder', data='/some/where/folder'))


def test_headline_counts(trained):
    assert headline(trained, 'things').endswith('seed 0. Data: **digits**, 1,347 training and 450 held-out things.')


def test_a_section_that_is_left_out_says_why(): assert left_out('it rained').data == '*Left out: it rained.*'


# --- how it went --------------------------------------------------------------------------------------------------

def test_column_is_of_the_lines_that_have_it():
    lines = [dict(step=1, a=5), dict(step=2), dict(step=3, a=7, b=1)]
    assert column(lines, 'a') == ([1, 3], [5, 7]) and column(lines, 'c') == ([], [])


def test_curves_of_a_run_whose_metrics_are_lost(run):
    (run.out / 'metrics.jsonl').unlink()
    assert plot_training(run) is None and kept_samples(run, 4) == {}


@pytest.mark.parametrize('n, steps', [
    (1, [20]), (2, [20, 120]), (3, [20, 60, 120]), (4, [20, 60, 80, 120]), (9, [*range(20, 121, 20)])])
def test_moments_are_spread_evenly(n, steps, run):
    lines = [json.dumps(dict(step=step, energy=.1)) for step in range(20, 161, 20)]
    (run.out / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
    for step in range(20, 121, 20): (run.out / f'samples/{step}.png').write_bytes(b'')      # later ones were not fetched
    assert kept_samples(run, n) == {step: run.out / f'samples/{step}.png' for step in steps}
    assert kept_samples(run, n, '.txt') == {}


# --- how far from equilibrium -------------------------------------------------------------------------------------

def test_energies_are_those_of_the_kernel(trained):
    y = trained.data.floats(trained.data.test)
    x, train = trained.sample(100), trained.data.floats(trained.data.train[:100])
    found = energies(Plummer(1., .5), y, samples=x, training=train)
    assert [*found] == ['samples', 'training']
    for name, cloud in (('samples', x), ('training', train)):
        # one number, computed the same way
        assert found[name] == energy(cloud.flatten(1), y.flatten(1), Plummer(1., .5)).item()
    assert found['samples'] > found['training']


def test_diagnostics_need_a_batch_a_side(run):
    y = run.data.floats(run.data.test)
    assert diagnostics(run, y[:15]) is None and 'diagnostics' not in read_result(run)['metrics']
    found = diagnostics(run, y[:16])
    assert found.n == 8 and read_result(run)['metrics']['diagnostics']['n'] == 8


@pytest.mark.parametrize('objective', ['coulomb', 'exact-force', 'non-saturating', 'wgan-gp'])
def test_only_a_potential_that_was_to_be_learned_is_compared(objective, tmp_path):
    run = fit(experiment('tiny', data='mixture', objective=objective, steps=1), tmp_path / 'run', progress=False)
    found = diagnostics(run, run.data.test[:64])
    assert ('R² of D' in diagnostics_table(run, found)) == (objective == 'coulomb')
    assert read_result(run)['metrics']['diagnostics']['energy'] == found.energy


def test_feature_metrics_are_those_with_a_bias():
    metrics = dict(energy=.5, jsd={'4': .5}, diagnostics=dict(noise=1.))
    metrics |= dict(net=dict(frechet=3., bias=1.), other=dict(fid=3., bias=2.))
    assert feature_metrics(metrics) == {'net': metrics['net'], 'other': metrics['other']}
