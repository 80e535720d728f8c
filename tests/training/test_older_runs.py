"""Run folders of version 0.1: loaded and sampled as they were, refused where they would have to go on.

`run_of_0_1` was made by version 0.1: the exact force in 2-D, small networks, twenty steps.
"""
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.files import RunError
from coulomb_gan.options import flat_fields, plain
from coulomb_gan.training.config import RENAMED, Experiment
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.older_runs import PROGRESS, checkpoint_of_0_1, config_of_0_1
from coulomb_gan.training.run_folder import load_checkpoint, read_config, save_checkpoint
from coulomb_gan.training.schedule import Progress
from tiny_runs import contents, result, train

OLD = Path(__file__).with_name('run_of_0_1')
FLAT = json.loads((OLD / 'config.json').read_text())
SAMPLES = [  # of version 0.1, seed 3
    [-.0025245919823646545, -.8066740036010742], [-1.226976752281189, .8106505870819092],
    [-2.6642982959747314, 2.7726075649261475], [-.04853753745555878, -.4334392547607422]]


@pytest.fixture
def old(tmp_path): return shutil.copytree(OLD, tmp_path / 'run')

@pytest.fixture
def resaved(old):
    "Saves the checkpoint of the old run again, with some of its parts changed"
    path = old / 'checkpoints' / '20.pt'
    saved = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    def resave(**parts):
        save_checkpoint(path, {name: part for name, part in (saved | parts).items() if part is not None})
        return old
    resave.saved = saved
    return resave


# --- loaded -------------------------------------------------------------------------------------------------------

def test_the_same_samples_are_drawn():
    "The matrix products of another processor may round otherwise, once a layer"
    assert_close(load_run(OLD).sample(4, seed=3), torch.tensor(SAMPLES), rtol=1e-5, atol=1e-5)


def test_settings_metrics_and_data_are_those_of_the_run():
    run = load_run(OLD)
    e = run.experiment
    assert plain(e.networks) == dict(name='mlp', latent=2, width_g=6, width_d=4, depth_g=2, depth_d=1, batch_norm_g=True,
                                     init_g='kaiming', activation_d='leaky_relu', hinge_spread=5., fourier_d=0.)
    assert plain(e.objective) == dict(name='exact-force', d=1., eps=3., eps_end=None, self_term=0., keep_self_weight=False, charges=8, replay=32,
                                      fresh=0, fresh_from=0.)
    assert (e.optim.batch, e.optim.ema, e.optim.beta1, e.record.seed, e.record.energy_eps) == (16, .9, .5, 3, 3.)
    assert [line['step'] for line in run.metrics] == [10, 20]
    assert run.state.progress == Progress(step=20, seconds=run.state.progress.seconds, finished=True, best_step=20,
                                          eval_seconds=run.state.progress.eval_seconds, best=run.metrics[-1]['energy'])
    assert run.data.digest == FLAT['dataset']['digest'] == result(OLD)['data_digest']
    assert run.diagnose(run.data.test[:200]).r2 is None      # its discriminator learned nothing, and is not read


def test_reading_writes_nothing(old):
    before = contents(old)
    load_run(old).sample(3)
    assert contents(old) == before


def test_a_checkpoint_in_half_precision_is_sampled(resaved):
    "As version 0.1 made them for reports: eleven bits, G as averaged, no optimisers"
    parts = {name: {key: w.half() for key, w in resaved.saved[net].items()} for name, net in
             (('g', 'average'), ('average', 'average'), ('d', 'd'))}
    out = resaved(**parts, opt_g=None, opt_d=None)
    assert_close(load_run(out).sample(4, seed=3), torch.tensor(SAMPLES), rtol=0, atol=.02)


def test_without_the_identity_of_its_data_it_is_found_by_name_and_gets_it(old):
    "The first runs of version 0.1 did not say which data they were trained on, and had fewer options"
    path = old / 'config.json'
    first = {name: value for name, value in FLAT.items() if name not in ('dataset', 'batch_norm_d', 'precision')}
    path.write_text(json.dumps(first))
    assert_close(load_run(old).sample(4, seed=3), torch.tensor(SAMPLES), rtol=1e-5, atol=1e-5)
    e = load_run(old).experiment
    with pytest.warns(UserWarning, match='does not say which data it was trained on'): train(e, old)
    train(e, old)      # said once
    assert json.loads(path.read_text())['dataset']['train'] == 100_000


# --- not continued ------------------------------------------------------------------------------------------------

def test_a_finished_run_is_loaded_by_the_call_that_made_it(old):
    before = contents(old)
    run = train(load_run(old).experiment, old)
    assert run.state.progress.step == 20
    assert contents(old) | {'.lock': b''} == before | {'.lock': b''}


def test_more_steps_are_refused_in_one_line(old):
    before = contents(old)
    with pytest.raises(RunError, match='one of version 0.1: it can be sampled, not continued; train in another') as caught:
        train(load_run(old).experiment.changed(steps=40), old)
    assert '\n' not in str(caught.value)
    assert contents(old) | {'.lock': b''} == before | {'.lock': b''}


def test_a_run_that_was_stopped_is_refused_in_one_line(resaved):
    out = resaved(schedule=resaved.saved['schedule'] | dict(finished=False, step=10))
    assert load_run(out).state.progress.step == 10
    with pytest.raises(RunError, match='one of version 0.1: it can be sampled, not continued') as caught:
        train(load_run(out).experiment, out)
    assert '\n' not in str(caught.value)


def test_other_settings_are_refused_by_their_new_names(old):
    with pytest.raises(RunError, match='objective.self_term was 0.0 and is now 1.0'):
        train(load_run(old).experiment.changed(self_term=1.), old)


# --- configurations -----------------------------------------------------------------------------------------------

def read(**options):
    "The experiment that a flat configuration stands for"
    config = config_of_0_1(FLAT | options)
    assert config.pop('environment') == FLAT['environment'] and config.pop('dataset') == FLAT['dataset']
    e = Experiment().revised(config)
    assert e.to_dict() == config      # complete
    return e


CASES = [
    (dict(objective='coulomb', smoothing=.5, alternating=True),
     dict(name='coulomb', d=1., eps=3., eps_end=None, self_term=0., keep_self_weight=False, charges=8, replay=32, smoothing=.5, alternating=True)),
    (dict(objective='non-saturating'), dict(name='non-saturating', r1=0.)),
    (dict(objective='wgan-gp'), dict(name='wgan-gp', critic_steps=1, penalty=dict(
        weight=10., target=1., at='between', one_sided=False, noise='released', spread=.5))),
    (dict(objective='direct', eps_end=.3),
     dict(name='exact-force', d=1., eps=3., eps_end=.3, self_term=0., keep_self_weight=False, charges=8, replay=32, fresh=0, fresh_from=0.)),
    (dict(networks='dcgan', batch_norm_d=False),
     dict(name='dcgan', latent=2, width_g=6, width_d=4, batch_norm_d=False, upsampling='transposed')),
    (dict(networks='text'), dict(name='text', latent=2, width_g=6, width_d=4, depth_g=2, depth_d=1, batch_norm_g=True,
                                   straight_through=False)),
]


@pytest.mark.parametrize('options, want', CASES, ids=str)
def test_each_option_goes_to_the_record_that_has_it(options, want):
    e = read(**options)
    assert plain(e.networks if 'networks' in options else e.objective) == want


@pytest.mark.parametrize('old, new', RENAMED.items())
def test_renamed_options_keep_their_value(old, new):
    value = {'self_charge': .25, 'memory': 64, 'spread_d': 7., 'distance': 'digits'}[old]
    e = read(**{old: value})
    where = next(part for part in (e.objective, e.networks, e.record) if new in flat_fields(type(part)))
    assert getattr(where, new) == value


def test_the_energy_was_measured_with_the_kernel_of_the_objective():
    for objective in ('coulomb', 'direct', 'wgan-gp'):
        record = read(objective=objective, d=2., eps=5., eps_end=1.).record
        assert (record.energy_d, record.energy_eps) == (2., 5.)


@pytest.mark.parametrize('stored, words', [
    ({}, 'not that of a run'), ({'data': 'digits', 'objective': 'coulomb'}, 'not that of a run'),
    (FLAT | dict(objective='sgan'), "there is no objective 'sgan'"),
    (FLAT | dict(networks='unet'), "there is no networks 'unet'"),
    (FLAT | dict(batch=1), 'batch must lie in'), (FLAT | dict(lr_g='fast'), 'lr_g must be of type float')], ids=str)
def test_what_is_no_configuration_is_refused(stored, words):
    with pytest.raises(ValueError, match=words): config_of_0_1(stored)


def test_every_name_of_a_checkpoint_is_one_of_today(resaved):
    saved = resaved.saved
    assert {*PROGRESS} < {*saved['schedule']}
    read_back = load_checkpoint(OLD / 'checkpoints' / '20.pt')
    assert read_back['progress'] == {PROGRESS.get(name, name): value for name, value in saved['schedule'].items()}
    assert {*saved} - {*read_back} == {'average', 'opt_g', 'opt_d', 'memory', 'schedule'}
    assert checkpoint_of_0_1(saved).keys() == read_back.keys()
    assert read_config(OLD)['objective']['name'] == 'exact-force'
