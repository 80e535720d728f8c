"""Every field of every record changes a run, and what does not belong to an experiment is refused by name."""
import json
import math
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch

from coulomb_gan.files import RunError
from coulomb_gan.networks.base import NETWORKS
from coulomb_gan.objectives.base import OBJECTIVES
from coulomb_gan.options import flat_fields, nested, plain
from coulomb_gan.training.config import RENAMED, Experiment, Optimisation, Record, options, owners
from tiny_networks import playable
from tiny_runs import TINY, flat, train

RECORDS = {**NETWORKS, **OBJECTIVES, 'optim': Optimisation, 'record': Record}
FIELDS = [(record, field) for record, cls in RECORDS.items() for field in flat_fields(cls)]
named = '{0[0]}.{0[1]}'.format


# --- every field changes behaviour --------------------------------------------------------------------------------

class Change(NamedTuple):
    value: object  # what the field is changed to
    seen: str  # where that must show, a key of `observed`
    base: dict = {}  # what must be chosen with it, before and after, for it to show


# Sizes in which a record trains in a moment, and data that it is for; 'PICTURES' stands for a folder of them.
SIZES = {
    'dcgan': dict(data='PICTURES', width_g=8, width_d=4),
    'text': dict(data='text-builtin', width_g=4, width_d=4, depth_g=1, depth_d=1),
    'dcgan-radford': dict(data='PICTURES', width_g=8, width_d=4),
    'wgan-gp-dcgan': dict(data='LARGER PICTURES', width_g=8, width_d=4),
    'resnet': dict(data='LARGER PICTURES', width_g=4, width_d=4),
    'began-autoencoder': dict(data='PICTURES', width=4),
    'mmd-autoencoder': dict(data='PICTURES', width=4, more_critic_steps=2),
}
CHARGES = {
    'd': Change(2., 'weights'),
    'eps': Change(2., 'weights'),
    'eps_end': Change(.1, 'weights'),
    'self_term': Change(.5, 'weights'), 'keep_self_weight': Change(True, 'weights', dict(eps_end=.5)),
    'charges': Change(5, 'weights'),
    'replay': Change(32, 'weights'),
}
PENALTY = {
    'penalty_weight': Change(1., 'weights'),
    'penalty_target': Change(.5, 'weights'),
    'penalty_at': Change('around', 'weights'),
    'penalty_one_sided': Change(True, 'weights'),
    'penalty_noise': Change('uniform', 'weights', dict(penalty_at='around')),
    'penalty_spread': Change(.1, 'weights', dict(penalty_at='around')),
}
IN_FEATURES = {
    'encoder': Change('ENCODER', 'weights'),
    'heads': Change('mean,patches', 'weights'),
    'field': Change('gaussian', 'weights'),
    'd': Change(3., 'weights', dict(field='plummer')),
    'widths': Change('0.5', 'weights'),
    'charges': Change(5, 'weights'),
    'unit_size': Change(False, 'weights'),
}
CHANGES = {
    'mlp': {
        'latent': Change(5, 'shapes'),
        'width_g': Change(17, 'shapes'),
        'width_d': Change(17, 'shapes'),
        'depth_g': Change(2, 'layers'),
        'depth_d': Change(2, 'layers'),
        'batch_norm_g': Change(False, 'layers'),
        'init_g': Change('linear', 'weights', dict(batch_norm_g=False)),
        'activation_d': Change('elu', 'weights'),
        'hinge_spread': Change(5., 'weights'),
        'fourier_d': Change(.5, 'layers'),
    },
    'dcgan': {
        'latent': Change(5, 'shapes'),
        'width_g': Change(16, 'shapes'),
        'width_d': Change(5, 'shapes'),
        'batch_norm_d': Change(False, 'layers'),
        'upsampling': Change('resize', 'shapes'),
    },
    'text': {
        'latent': Change(5, 'shapes'),
        'width_g': Change(5, 'shapes'),
        'width_d': Change(5, 'shapes'),
        'depth_g': Change(2, 'layers'),
        'depth_d': Change(2, 'layers'),
        'batch_norm_g': Change(False, 'layers'),
        'straight_through': Change(True, 'weights'),
    },
    'dcgan-radford': {
        'latent': Change(5, 'shapes'),
        'width_g': Change(16, 'shapes'),
        'width_d': Change(5, 'shapes'),
        'norm_d': Change('none', 'layers'),
    },
    **dict.fromkeys(['wgan-gp-dcgan', 'resnet'], {
        'latent': Change(5, 'shapes'),
        'width_g': Change(16, 'shapes'),
        'width_d': Change(5, 'shapes'),
    }),
    **dict.fromkeys(['began-autoencoder', 'mmd-autoencoder'], {
        'latent': Change(5, 'shapes'),
        'width': Change(5, 'shapes'),
    }),
    'coulomb': CHARGES | {
        'smoothing': Change(.5, 'weights'),
        'alternating': Change(True, 'weights'),
    },
    'exact-force': CHARGES | {
        'fresh': Change(5, 'weights'),
        'fresh_from': Change(.5, 'weights', dict(fresh=5)),
    },
    'exact-force-features': IN_FEATURES,
    'drifting': IN_FEATURES,
    'non-saturating': {'r1': Change(1., 'weights')},
    'minimax': {'r1': Change(1., 'weights')},
    'gan-gp': PENALTY,
    'dragan': PENALTY | {'penalty_at': Change('data', 'weights')},
    'wgan-gp': PENALTY | {'critic_steps': Change(2, 'weights')},
    'began': {
        'gamma': Change(1., 'weights'),
        'lambda_k': Change(.5, 'weights'),
    },
    'mmd-gan': {
        'critic_steps': Change(2, 'weights', dict(more_critic_steps=1, steps=27)),      # the first 25 have more
        'more_critic_steps': Change(2, 'weights'),
        'clip': Change(.1, 'weights', dict(more_critic_steps=2)),
        'rank_weight': Change(1., 'weights', dict(more_critic_steps=2)),
        'decoding_weight': Change(1., 'weights', dict(more_critic_steps=2)),
    },
    'optim': {
        'optimiser': Change('rmsprop', 'weights'),
        'drops': Change(2, 'rates', dict(decay='plateau', patience=1, eval_every=1, steps=24, lr_g=1e-9)),
        'sobol': Change(True, 'weights'),
        'flip': Change(True, 'weights'),
        'batch': Change(17, 'weights'),
        'steps': Change(14, 'files'),
        'lr_g': Change(2e-3, 'weights'),
        'lr_d': Change(2e-3, 'weights'),
        'beta1': Change(.5, 'weights'),
        'beta2': Change(.9, 'weights'),
        'weight_decay': Change(.1, 'weights'),
        'decay': Change('exponential', 'rates'),
        'lr_end': Change(.5, 'rates', dict(decay='exponential')),
        'patience': Change(3, 'rates', dict(decay='plateau', patience=1, eval_every=1, steps=24, lr_g=1e-9)),
        'ema': Change(.9, 'samples'),
    },
    'record': {
        'seed': Change(1, 'weights'),
        'precision': Change('bfloat16', 'weights'),
        'log_every': Change(4, 'lines'),
        'eval_every': Change(4, 'files'),
        'eval_samples': Change(51, 'energies'),
        'monitor': Change('EXTRACTOR', 'monitored'),
        'energy_d': Change(2., 'energies'),
        'energy_eps': Change(2., 'energies'),
    },
}
WITHOUT_EFFECT = [('record', 'device'),      # where a run is computed must not change it; see below
                  ('record', 'sync_batch_norm')]      # of several processes: see test_distributed
WITH_EFFECT = [place for place in FIELDS if place not in WITHOUT_EFFECT]
CHOICES = {
    'data': Change('mixture', 'shapes'),
    'networks': Change('dcgan', 'layers', dict(data='PICTURES', width_g=8, width_d=8)),
    'objective': Change('exact-force', 'weights'),
}


def choosing(record):
    "The option by which a record is chosen; optimisation and record need none"
    if record in NETWORKS:
        heads = NETWORKS[record].heads
        if 'scalar' in heads: return dict(networks=record)
        fitting = [name for name, objective in OBJECTIVES.items() if objective.head in heads]
        if not fitting: pytest.skip(f'no objective wants a {heads[0]}')
        return dict(networks=record, objective=fitting[0])
    return dict(objective=record) if record in OBJECTIVES else {}


def observed(run):
    "What can be seen of a run, by kind"
    nets = [net for net in (run.state.g, run.state.d) if net is not None]
    weights = [flat(net.state_dict()) for net in nets]
    lines = run.metrics
    return dict(
        weights=[[w.tolist() for w in net.values()] for net in weights],
        layers=[[*net] for net in weights],
        shapes=[[w.shape for w in net.values()] for net in weights],
        samples=run.sample(8).tolist(),
        energies=[line['energy'] for line in lines if 'energy' in line],
        monitored=['frechet' in line for line in lines],
        lines=[line['step'] for line in lines],
        rates=[line['lr_factor'] for line in lines],
        files=sorted(p.name for p in run.out.rglob('*.*') if p.suffix in ('.pt', '.png', '.txt')))


@pytest.fixture(scope='module')
def observe(tmp_path_factory, images, larger_images, extractor, encoder):
    "What is seen of a run of TINY with some options, each trained once"
    stand_for = {'PICTURES': images, 'LARGER PICTURES': larger_images, 'EXTRACTOR': extractor, 'ENCODER': encoder}
    @cache
    def observe(given):
        chosen = {name: stand_for.get(value, value) for name, value in given}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp('place'))      # where statistics are kept
            return observed(train(playable(TINY.changed(**chosen)), 'run'))
    return lambda **given: observe(tuple(given.items()))


def before_and_after(record, field):
    "The options without and with the change of a field"
    change = CHANGES.get(record, {}).get(field)
    assert change, f'{field} of {record} has no entry in CHANGES: what does it change, and where does that show?'
    base = choosing(record) | SIZES.get(record, {}) | change.base
    return change.seen, base, base | {field: change.value}


@pytest.mark.parametrize('place', WITH_EFFECT, ids=named)
def test_every_field_changes_a_run(place, observe):
    seen, before, after = before_and_after(*place)
    assert observe(**before)[seen] != observe(**after)[seen]


@pytest.mark.parametrize('part', CHOICES)
def test_every_choice_changes_a_run(part, observe):
    value, seen, base = CHOICES[part]
    assert observe(**base)[seen] != observe(**base, **{part: value})[seen]


def test_no_change_is_left_of_a_field_that_has_gone():
    entries = [(record, field) for record, changes in CHANGES.items() for field in changes]
    assert {*entries} | {*WITHOUT_EFFECT} == {*FIELDS}
    assert {*SIZES} <= {*RECORDS} and {*CHOICES} == {'data', 'networks', 'objective'}


def test_a_field_without_an_entry_is_noticed():
    with pytest.raises(AssertionError, match='penalty_slope of wgan-gp has no entry'):
        before_and_after('wgan-gp', 'penalty_slope')


def test_the_same_options_are_seen_alike(observe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert observed(train(TINY, 'again')) == observe()


# --- devices ------------------------------------------------------------------------------------------------------

def test_missing_cuda_device_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(RunError, match='no CUDA device; use --device cpu'):
        train(TINY.changed(device='cuda'), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('device', ['gpu', '', 'cuda:x', 'meta', 'cpu:0', 'CUDA', ' cpu'])
def test_device_that_cannot_train_is_refused(device):
    with pytest.raises(ValueError, match="device must be such as 'cpu'") as caught: TINY.changed(device=device)
    assert repr(device) in str(caught.value) and '\n' not in str(caught.value)


# --- what belongs to an experiment, and what does not -------------------------------------------------------------

PAIRS = [*product(NETWORKS, OBJECTIVES)]
ALL = {field: option for cls in RECORDS.values() for field, (_, option) in flat_fields(cls).items()}


def chosen(pair):
    networks, objective = pair
    return Experiment().changed(networks=networks, objective=objective)


@pytest.mark.parametrize('pair', PAIRS, ids=' '.join)
def test_options_are_those_of_the_records_that_were_chosen(pair):
    e = chosen(pair)
    own = [field for record in (*pair, 'optim', 'record') for field in flat_fields(RECORDS[record])]
    assert {*options(e)} == {'data', 'networks', 'objective', *own}
    for name, path in options(e).items():
        value = e.to_dict()
        for step in path: value = value[step]
        if name in ('networks', 'objective'): value = value['name']
        assert e.changed(**{name: value}) == e
        if path[0] == name: continue
        assert e.revised(nested(path, value)) == e


@pytest.mark.parametrize('pair', PAIRS, ids=' '.join)
def test_every_option_of_a_record_that_was_not_chosen_is_refused_by_name(pair):
    e = chosen(pair)
    networks, objective = pair
    foreign = {name: option for name, option in ALL.items() if name not in options(e)}
    assert foreign
    for name, option in foreign.items():
        theirs = [f'networks {kind!r}' for kind in NETWORKS if name in flat_fields(NETWORKS[kind])]
        theirs += [f'objective {kind!r}' for kind in OBJECTIVES if name in flat_fields(OBJECTIVES[kind])]
        with pytest.raises(ValueError) as caught: e.changed(**{name: option.default})
        assert str(caught.value) == (f'{name} is not for networks {networks!r} and objective {objective!r}; '
                                     f'it is for {", ".join(theirs)}')
        assert owners(name) == theirs


@pytest.mark.parametrize('pair', PAIRS, ids=' '.join)
def test_a_file_with_an_option_of_another_record_is_refused(pair):
    e = chosen(pair)
    for part, registry, kind in (('networks', NETWORKS, pair[0]), ('objective', OBJECTIVES, pair[1])):
        for other in registry.values():
            for name, value in plain(other()).items():
                if name in plain(getattr(e, part)): continue
                with pytest.raises(ValueError, match=f'there is no option of {kind} {name!r}'):
                    e.revised({part: {name: value}})


@pytest.mark.parametrize('old, new', RENAMED.items())
def test_an_option_of_version_0_1_is_answered_with_its_new_name(old, new):
    assert new in ALL and old not in ALL
    for e in map(chosen, PAIRS):
        with pytest.raises(ValueError, match=f'the option {old!r} was renamed to {new!r}'): e.changed(**{old: 1})


@pytest.mark.parametrize('part, registry', [('networks', NETWORKS), ('objective', OBJECTIVES)])
def test_a_name_of_version_0_1_is_answered_with_its_new_name(part, registry):
    for old, new in registry.renamed.items():
        assert new in registry and old not in registry
        for choose in (lambda: TINY.changed(**{part: old}), lambda: TINY.revised({part: {'name': old}})):
            with pytest.raises(ValueError, match=f'the {registry.what} {old!r} was renamed to {new!r}'): choose()


def test_there_are_renamed_objectives(): assert OBJECTIVES.renamed['direct'] == 'exact-force'


@pytest.mark.parametrize('wrong, words', [
    (dict(batsh=3), "there is no option 'batsh'; did you mean 'batch'"),
    (dict(objective='wgan'), "there is no objective 'wgan'; did you mean 'wgan-gp'"),
    (dict(networks='dcgan64'), "there is no networks 'dcgan64'; did you mean 'dcgan'"),
    (dict(optim=3), "there is no option 'optim'"), (dict(name='wgan-gp'), "there is no option 'name'"),
    (dict(penalty=1), "there is no option 'penalty'"), (dict(batch=None), 'batch must be of type int, got None'),
    (dict(data=3), 'data must be of type str, got 3'), (dict(objective=None), "there is no objective 'None'"),
], ids=str)
def test_what_there_is_not_is_answered_with_the_nearest(wrong, words):
    with pytest.raises(ValueError, match=words): TINY.changed(**wrong)


@pytest.mark.parametrize('wrong, words', [
    (dict(optimiser={}), "no part of an experiment 'optimiser'; did you mean 'optim'"),
    (dict(optim=3), 'optim must be a mapping of options, got 3'),
    (dict(objective='wgan-gp'), "objective must be a mapping of options, got 'wgan-gp'"),
    (dict(objective=dict(name='wgan-gp', penalty=3)), 'penalty must be of type GradientPenalty, got 3'),
    (dict(objective=dict(name='wgan-gp', penalty=dict(slope=1.))), "no option of GradientPenalty 'slope'"),
    (dict(record=dict(name='record')), "no option of Record 'name'"),
    (dict(data={}), 'data must be of type str, got {}'),
], ids=str)
def test_a_file_with_what_there_is_not_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words): TINY.revised(wrong)


@pytest.mark.parametrize('place', FIELDS, ids=named)
def test_every_field_refuses_what_is_no_value_of_it(place):
    record, field = place
    _, option = flat_fields(RECORDS[record])[field]
    e = Experiment().changed(**choosing(record))
    wrong = [object(), [], math.nan, -1e13]
    if option.type is not str: wrong.append('1')
    if option.type is not bool: wrong.append(True)
    for value in wrong:
        with pytest.raises(ValueError, match=f'^{option.name} must '): e.changed(**{field: value})


# --- to a file and back -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('place', WITH_EFFECT, ids=named)
def test_every_field_goes_to_a_file_and_back(place):
    *_, after = before_and_after(*place)
    changed = TINY.changed(**after)
    stored = json.loads(json.dumps(changed.to_dict()))
    assert Experiment().revised(stored) == changed != TINY
    assert Experiment().revised(stored).to_dict() == stored


def with_fields(objective, values):
    "An experiment whose objective has these values, also where one has no effect beside another"
    settings = {'name': objective}
    for field, value in values.items():
        (*outer, name), _ = flat_fields(OBJECTIVES[objective])[field]
        inside = settings
        for part in outer: inside = inside.setdefault(part, {})
        inside[name] = value
    return TINY.revised({'objective': settings})


@pytest.mark.parametrize('pair', [*product(OBJECTIVES, OBJECTIVES)], ids=' '.join)
def test_another_objective_takes_over_the_options_that_both_have(pair):
    one, other = pair
    shared = {*flat_fields(OBJECTIVES[one])} & {*flat_fields(OBJECTIVES[other])}
    values = {field: CHANGES[one][field].value for field in shared}
    before, want = (with_fields(name, values) for name in pair)
    assert before.changed(objective=other) == want
    assert before.revised({'objective': {'name': other}}) == want
