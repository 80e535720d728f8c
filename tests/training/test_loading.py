"""Run folders read back: from any working directory, after a move, without their data, and never with others."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.files import RunError
from coulomb_gan.training.loading import Run, find_data, last_kernel, load_run
from coulomb_gan.training.state import TrainState
from coulomb_gan.networks.base import NETWORKS
from tiny_networks import OF_HEAD
from tiny_runs import GAMES, TINY, contents, tiny, train

ON_ONE = TINY.changed(data='data/one')
OTHER_DATA = "was trained on other data: digest was '[0-9a-f]{16}' and is now"


@pytest.fixture
def places(pictured, tmp_path, monkeypatch):
    "Two prepared folders of pictures of one size, and a run on the first"
    monkeypatch.chdir(tmp_path)
    for name, seed in (('one', 0), ('two', 1)): pictured(name, n=30, side=8, seed=seed)
    train(ON_ONE, 'runs/one')
    return tmp_path


# --- the data of a run --------------------------------------------------------------------------------------------

def test_other_data_under_the_same_name_are_refused(places):
    shutil.rmtree('data/one')
    Path('data/two').rename('data/one')
    for again in (lambda: train(ON_ONE, 'runs/one'), lambda: load_run('runs/one').data):
        with pytest.raises(RunError, match=OTHER_DATA): again()


def test_other_data_that_are_named_are_refused(places):
    before = contents('runs/one')
    others = torch.zeros(30, 3, 8, 8, dtype=torch.uint8)
    for again in (lambda: train(TINY.changed(data='data/two'), 'runs/one'), lambda: train(ON_ONE, 'runs/one', data=others),
                  lambda: load_run('runs/one', data='data/two').data, lambda: load_run('runs/one', data=others).data):
        with pytest.raises(RunError, match=OTHER_DATA): again()
    assert contents('runs/one') == before


def test_the_same_data_elsewhere_continue_the_run_once_named(places):
    Path('data/one').rename('moved')
    with pytest.raises(RunError, match='are not at data/one; name their folder with --data'):
        load_run('runs/one').data
    assert load_run('runs/one', data='moved').data.shape == (3, 8, 8)
    assert train(TINY.changed(data='moved'), 'runs/one').state.progress.step == 12
    assert load_run('runs/one').experiment.data == 'moved'      # noted for the next time
    assert len(load_run('runs/one').data.train) == 27


def test_samples_need_no_data(places):
    want = load_run('runs/one').sample(3)
    shutil.rmtree('data')
    run = load_run('runs/one')
    assert torch.equal(run.sample(3), want) and want.shape == (3, 3, 8, 8)
    with pytest.raises(RunError, match='name their folder with --data'): run.data


def test_a_run_folder_works_from_any_working_directory(places, monkeypatch):
    want = load_run('runs/one').sample(3)
    for where, name in (('runs/one', '.'), ('data', '../runs/one'), ('/', str(places / 'runs/one'))):
        monkeypatch.chdir(places / where if where != '/' else '/')
        run = load_run(name)
        assert torch.equal(run.sample(3), want) and len(run.data.train) == 27


def test_run_and_data_moved_together_are_found(places, monkeypatch):
    (places / 'new').mkdir()
    for name in ('runs', 'data'): shutil.move(name, places / 'new')
    monkeypatch.chdir('/')
    assert len(load_run(places / 'new/runs/one').data.train) == 27


def test_of_two_places_the_one_with_the_data_is_taken(places, monkeypatch):
    "In another working directory there is a data/one too, of other pictures"
    (places / 'elsewhere/data').mkdir(parents=True)
    shutil.copytree('data/two', 'elsewhere/data/one')
    want = load_run('runs/one').data.digest
    monkeypatch.chdir('elsewhere')
    assert load_run('../runs/one').data.digest == want


def test_a_run_says_where_its_data_lie(places):
    config = json.loads(Path('runs/one/config.json').read_text())
    assert config['dataset']['path'] == '../../data/one' and config['dataset']['shape'] == [3, 8, 8]
    assert find_data('runs/one', config).digest == config['dataset']['digest']
    run = load_run('runs/one')
    assert (run.data_name, run.data is run.data) == ('one', True)      # looked up once


# --- folders that hold none ---------------------------------------------------------------------------------------

def nothing(out): shutil.rmtree(out)
def without_configuration(out): (out / 'config.json').unlink()
def without_checkpoints(out): shutil.rmtree(out / 'checkpoints')


@pytest.mark.parametrize('harm', [nothing, without_configuration, without_checkpoints])
def test_a_folder_without_a_run_is_named(harm, tmp_path):
    out = train(TINY, tmp_path / 'run').out
    harm(out)
    with pytest.raises(RunError, match='run holds no run with a checkpoint'): load_run(out)


@pytest.mark.parametrize('place, value, words', [
    (('networks', 'width_g'), 17, 'its networks have other layers'),
    (('networks', 'depth_d'), 2, 'its networks have other layers'),
    (('networks', 'name'), 'unet', "config.json is not of this version: there is no networks 'unet'"),
    (('objective', 'charge'), 3, "config.json is not of this version: there is no option of coulomb 'charge'"),
    (('optim', 'batch'), 1, 'config.json is not of this version: batch must lie in')], ids=str)
def test_a_configuration_that_does_not_fit_is_one_line(place, value, words, tmp_path):
    out = train(TINY, tmp_path / 'run').out
    config = json.loads((out / 'config.json').read_text())
    part, name = place
    config[part][name] = value
    (out / 'config.json').write_text(json.dumps(config))
    with pytest.raises(RunError, match=words) as caught: load_run(out)
    assert '\n' not in str(caught.value)


def test_results_may_lie_elsewhere(tmp_path):
    out = train(TINY, tmp_path / 'run').out
    assert load_run(out).results is None
    assert load_run(out, results=str(tmp_path / 'report')).results == tmp_path / 'report'


# --- of every objective -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', GAMES)
def test_a_run_of_every_objective_is_read_back(name, tmp_path, monkeypatch):
    for kind in OF_HEAD.values(): monkeypatch.setitem(NETWORKS, kind.name, kind)
    e = tiny(ema=.9, **GAMES[name])
    made = train(e, tmp_path / 'run')
    run = load_run(tmp_path / 'run')
    assert isinstance(run, Run) and run.experiment == e
    assert torch.equal(run.sample(20), made.sample(20)) and not torch.equal(run.sample(20), run.sample(20, seed=2))
    assert run.metrics == made.metrics and run.state.progress == made.state.progress
    far = run.diagnose(run.data.floats(run.data.test))
    assert far.energy > 0 and (far.r2 is not None) == (name == 'coulomb')
    kernel = last_kernel(run)
    assert (kernel.d, kernel.eps) == (1., 1.)


def test_beside_its_charge_the_self_term_has_no_weight(tmp_path):
    "With smoothing D's target is read beside the charges, where the self term is another"
    run = train(TINY.changed(smoothing=.5), tmp_path / 'run')
    found = run.diagnose(run.data.floats(run.data.test))
    assert found.r2 is not None and (found.phi_weight, found.self_weight, found.r2_both) == (None, None, None)


def test_the_kernel_is_that_of_the_last_step():
    for objective in ('coulomb', 'exact-force'):
        e = TINY.changed(objective=objective, d=2., eps=3., eps_end=.3, energy_eps=7.)
        run = Run(Path('none'), e, TrainState(e, (2,)))
        run.state.progress.step = 6
        assert_close(last_kernel(run).eps, 3 * .1**.5)
        assert last_kernel(run).d == 2.
    e = TINY.changed(objective='wgan-gp', energy_d=2., energy_eps=7.)
    kernel = last_kernel(Run(Path('none'), e, TrainState(e, (2,))))
    assert (kernel.d, kernel.eps) == (2., 7.)
