"""Named experiments are complete and fit their data; old names are answered with new ones; a method is the same everywhere."""
import json
from dataclasses import replace

import pytest

from coulomb_gan.data.catalogue import DATASETS, load, recipe
from coulomb_gan.networks.dcgan import DCGAN
from coulomb_gan.objectives.base import OBJECTIVES
from coulomb_gan.objectives.coulomb import Charges
from coulomb_gan.options import plain
from coulomb_gan.training.config import RENAMED, Experiment, options
from coulomb_gan.training.evaluation import monitored_metric
from coulomb_gan.training.presets import EXPERIMENTS, KERNEL, METHODS, OLD_METHODS, experiment, method, methods_for
from tiny_networks import playable
from tiny_runs import train

BUILT_IN = [name for name, e in EXPERIMENTS.items() if e.data in DATASETS]
PREPARED = [name for name in EXPERIMENTS if name not in BUILT_IN]


# --- presets ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', EXPERIMENTS)
def test_a_preset_goes_to_a_file_and_back(name):
    e = experiment(name)
    stored = json.loads(json.dumps(e.to_dict()))
    assert Experiment().revised(stored) == e == EXPERIMENTS[name]
    assert experiment('tiny', stored) == e      # a whole configuration replaces every setting of another preset


@pytest.mark.parametrize('name', BUILT_IN)
def test_networks_and_metric_of_a_preset_are_for_its_data(name):
    e = experiment(name)
    data = load(e.data)
    e.networks.check(data.shape)
    assert (monitored_metric(e, data) is None) == (not e.record.monitor)
    assert e.optim.batch <= len(data.train) and e.record.eval_every <= e.optim.steps


@pytest.mark.parametrize('name', PREPARED)
def test_a_preset_of_prepared_data_is_named_as_they_are(name):
    e = experiment(name)
    assert e.data == f'data/{name}' and name in DATASETS
    if DATASETS[name].kind == 'text': assert (e.networks.name, e.record.monitor) == ('text', 'ngrams')
    else: e.networks.check((3, recipe(name).size, recipe(name).size))


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_option_of_a_preset_may_be_changed(name):
    e = experiment(name)
    for option, path in options(e).items():
        if len(path) < 2: continue
        value = e.to_dict()
        for step in path: value = value[step]
        assert experiment(name, **{option: value}) == e
    assert experiment(name, {'optim': {'batch': 33}}, seed=5).optim.batch == 33
    assert experiment(name, {'optim': {'batch': 33}}, batch=34).optim.batch == 34      # the flat name is said last


@pytest.mark.parametrize('wrong, words', [
    (dict(name='mixture-direct'), "the experiment 'mixture-direct' was renamed to 'mixture-exact-force'"),
    (dict(name='cifar'), "there is no experiment 'cifar'; did you mean 'cifar10'"),
    (dict(name='digits', objective='direct'), "the objective 'direct' was renamed to 'exact-force'"),
    (dict(name='digits', batsh=1), "did you mean 'batch'"), (dict(name='digits', ema=2), 'ema must lie in'),
    (dict(name='mixture-exact-force', smoothing=.5), "smoothing is not for networks 'mlp' and objective 'exact-force'"),
    (dict(name='cifar10', depth_g=3), "depth_g is not for networks 'dcgan'"),
    (dict(name='digits', settings={'optimiser': {}}), "did you mean 'optim'")], ids=str)
def test_what_a_preset_has_not_is_refused_by_name(wrong, words):
    with pytest.raises(ValueError, match=words) as caught: experiment(**wrong)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('old, new', RENAMED.items())
def test_old_options_are_answered_with_the_new_name(old, new):
    for name in EXPERIMENTS:
        with pytest.raises(ValueError, match=f'the option {old!r} was renamed to {new!r}'): experiment(name, **{old: 1})


def test_tiny_leaves_a_whole_run_folder(tmp_path):
    run = train(experiment('tiny'), tmp_path / 'run')
    left = sorted(p.name for p in run.out.glob('[!.]*'))
    assert left == ['checkpoints', 'config.json', 'metrics.jsonl', 'result.json', 'samples']
    assert run.state.progress.step == 40 and len(run.metrics) == 4


# --- methods ------------------------------------------------------------------------------------------------------

BASES = ['digits', 'mixture', 'mixture-exact-force', 'cifar10', 'text-builtin']


@pytest.mark.parametrize('name', METHODS)
def test_a_method_is_a_complete_objective_with_the_kernel_of_the_experiment(name):
    for base in BASES:
        e = experiment(base)
        made = method(name, e)
        want = plain(METHODS[name])
        if isinstance(METHODS[name], Charges): want |= {option: getattr(e.objective, option) for option in KERNEL}
        if want.get('replay'): want['replay'] = 8 * e.optim.batch
        assert plain(made.objective) == want
        independent = replace(e.optim, sobol=False)      # no method has fresh charges, without which samples contract
        assert (made.data, made.optim, made.record) == (e.data, independent, e.record)
        if not isinstance(e.networks, DCGAN): assert made.networks == e.networks
        assert method(name, made) == made


@pytest.mark.parametrize('first', METHODS)
def test_two_methods_in_a_row_are_the_second(first):
    "Wherever the first one keeps the kernel; one without a kernel loses it"
    for base in BASES:
        e = experiment(base)
        if not isinstance(METHODS[first], Charges): e = e.changed(objective=first).changed(objective='coulomb')
        for second in METHODS: assert method(second, method(first, e)) == method(second, e), (base, second)


@pytest.mark.parametrize('name', METHODS)
def test_every_method_trains(name, tmp_path):
    e = playable(method(name, experiment('tiny', steps=4, eval_every=4, eval_samples=20)))
    assert train(e, tmp_path / 'run').sample(4).isfinite().all()


@pytest.mark.parametrize('name', METHODS)
def test_a_discriminator_has_batch_norm_unless_its_slope_is_penalised(name, images, tmp_path):
    e = method(name, experiment('cifar10', data=images, width_g=8, width_d=4, batch=8, steps=1, eval_samples=8))
    if name in ('exact-force-features', 'drifting'): e = e.changed(charges=8)      # there are 54 images
    assert e.networks.batch_norm_d == (name not in ('wgan-gp', 'gan-gp', 'dragan'))
    if name not in methods_for(e):
        with pytest.raises(ValueError, match="the networks 'dcgan' have no discriminator that returns a"): train(e, tmp_path / 'run')
        return
    assert train(e, tmp_path / 'run').state.progress.step == 1


def test_every_objective_has_a_method():
    named = {objective.name for objective in METHODS.values()}
    assert named == {*OBJECTIVES}


@pytest.mark.parametrize('old, new', OLD_METHODS.items())
def test_old_methods_are_answered_with_the_new_name(old, new):
    assert new in METHODS and old not in METHODS
    with pytest.raises(ValueError, match=f'the method {old!r} was renamed to {new!r}'): method(old, experiment('tiny'))


def test_a_method_there_is_not_is_refused():
    with pytest.raises(ValueError, match="there is no method 'exact'; did you mean 'exact-force'"):
        method('exact', experiment('tiny'))


def test_old_presets_and_methods_were_what_they_are_today():
    "What version 0.1 called wide, in numbers: 2,048 further real samples, eight batches of generated ones"
    made = method(OLD_METHODS['wide'], experiment('mixture')).objective
    assert (made.charges, made.replay, made.self_term, made.eps) == (2048, 8 * 128, 1., 3.)
    assert method(OLD_METHODS['direct'], experiment('digits')).objective.self_term == 0.
