"""Encoders by name, what makes one unfit, and the file of real features: killed, damaged, full, changed."""
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from coulomb_gan.data.catalogue import load
from coulomb_gan.data.datasets import Samples
from coulomb_gan.files import RunError
from coulomb_gan.objectives.base import Batch
from coulomb_gan.objectives.feature_space import FeatureForce
from coulomb_gan.objectives.heads import flat_rows
from coulomb_gan.training import stored_features as storing
from coulomb_gan.training.encoders import Encoder, Stages, check_encoder, find_encoder, user_encoder
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.run_folder import read_config
from coulomb_gan.training.state import TrainState
from coulomb_gan.training.stored_features import (
    check_same_encoder, prepare_encoder, stored_features, training_samples)
from tiny_runs import TINY, assert_same_end, records, stopped, train

IN_FEATURES = dict(objective='exact-force-features', networks='dcgan', width_g=8, width_d=4, charges=4)


def in_features(encoder, images, **options):
    "A run in the features of an encoder"
    return TINY.changed(**IN_FEATURES, encoder=encoder, data=images, **options)


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A working folder of the test's own, where features are kept"
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, body):
    "A user's file"
    path = Path(folder, 'user.py')
    path.write_text(body)
    return path


# --- by name ------------------------------------------------------------------------------------------------------

def test_the_name_of_a_users_encoder_changes_with_its_file(place):
    path = written(place, 'def f(): return lambda x: x.mean((2, 3))\n')
    before = user_encoder(f'{path}:f', 'cpu').name
    path.write_text('def f(): return lambda x: 2 * x.mean((2, 3))\n')
    assert user_encoder(f'{path}:f', 'cpu').name != before


def test_a_users_network_is_frozen(place):
    path = written(place, 'from torch import nn\ndef f(): return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(.5))\n')
    encoder = user_encoder(f'{path}:f', 'cpu')
    x = torch.randn(4, 1, 8, 8)
    out = encoder(x)
    assert torch.equal(out, encoder(x)) and not out.requires_grad      # evaluation mode, no gradients of weights


@pytest.mark.parametrize('spec, message', [
    ('nothing.py:f', 'the file nothing.py does not exist'), ('nowhere', 'expected FILE.py:FUNCTION, torchvision:NAME'),
    ('torchvision:resnet', "torchvision has no model 'resnet'"), ('torchvision:resnet18', 'resnet18-.* does not exist; get'),
    ('digit', 'expected FILE.py:FUNCTION')])
def test_an_encoder_there_is_not_is_one_line(spec, message, place, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(place))
    with pytest.raises(ValueError, match=message) as caught: find_encoder(spec, 'cpu')
    assert '\n' not in str(caught.value)


def test_a_folder_without_an_encoder_is_one_line(place):
    (place / 'run').mkdir()
    with pytest.raises(RunError, match='holds no encoder'): find_encoder('run', 'cpu')


def test_stages_give_the_last_map_of_each_resolution():
    layers = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3, 1, 1), nn.Conv2d(5, 6, 3, 2, 1)])
    x = torch.randn(2, 3, 16, 16).requires_grad_()
    high, low = Stages(nn.Sequential(*layers))(x)
    by_hand = layers[2](torch.relu(layers[0](x)))
    assert_close(high, by_hand)
    assert_close(low, layers[3](by_hand))
    gradients = [torch.autograd.grad(f.sum(), x, retain_graph=True)[0] for f in (low, layers[3](by_hand))]
    assert_close(*gradients)


# --- fit or unfit -------------------------------------------------------------------------------------------------

IMAGES = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
UNFIT = {
    'an empty list': (lambda x: [], 'gave no features'),
    'a number': (lambda x: 3, 'gave int'),
    'one row': (lambda x: x[:1], r'gave \(1, 3, 16, 16\)'),
    'three axes': (lambda x: x.flatten(2), 'expected'),
    'NaN': (lambda x: x * torch.nan, 'NaN or infinity'),
    'one number too large': (lambda x: x.flatten(1) / (x.flatten(1) - x[0, 0, 0, 0]), 'NaN or infinity'),
    'no gradient': (lambda x: x.detach(), 'passes no gradient'),
    'a step function': (lambda x: x.sign(), 'passes no gradient'),
    'constant': (lambda x: 0 * x + 1, 'nearly the same for all images'),
    'of bytes': (lambda x: x.mean((2, 3)) - 120, 'nearly the same for all images'),
    'zero': (lambda x: 0 * x, 'nearly the same for all images'),
}


@pytest.mark.parametrize('kind', UNFIT)
def test_unfit_encoders_are_refused_in_one_line(kind):
    net, message = UNFIT[kind]
    with pytest.raises(ValueError, match=message) as caught: check_encoder(Encoder('bad', net), IMAGES)
    assert '\n' not in str(caught.value) and str(caught.value).startswith('bad: ')


@pytest.mark.parametrize('net', [lambda x: x, lambda x: (x, x.mean((2, 3))), lambda x: [avg_pool2d(x, 4)],
                                 lambda x: x + 2], ids=['identity', 'a pair', 'a list', 'moved'])
def test_fit_encoders_pass(net): check_encoder(Encoder('good', net), IMAGES)


@pytest.mark.parametrize('options, message', [
    (dict(charges=50), 'a step wants 66 real samples, the data have 54; use fewer --charges'),
    (dict(heads='patches', encoder=''), None), (dict(encoder='nowhere'), 'expected FILE.py:FUNCTION')])
def test_what_cannot_be_trained_claims_no_folder(options, message, encoder, images, place):
    e = in_features(encoder, images).changed(**options)
    if message is None:
        train(e, place / 'run')
        return
    with pytest.raises(ValueError, match=message): train(e, place / 'run')
    assert not (place / 'run').exists()


def test_an_error_in_a_users_encoder_names_its_line(images, place):
    path = written(place, 'def f():\n    def encode(x):\n        return x @ x\n    return encode\n')
    path.write_text(path.read_text().replace('x @ x', 'x.no_such_thing'))
    with pytest.raises(ValueError, match='user.py, line 3: AttributeError'): train(in_features(f'{path}:f', images), place / 'run')


# --- runs ---------------------------------------------------------------------------------------------------------

def test_a_stopped_run_continues_bit_for_bit(encoder, images, place):
    e = in_features(encoder, images)
    train(e, place / 'whole')
    train(e, stopped(e, place / 'broken', 9))
    assert_same_end(place / 'broken', place / 'whole')
    assert all(0 < line['squared_force'] < float('inf') for line in records(place / 'whole') if 'energy' in line)


def test_mirrored_images_see_the_encoder_anew(encoder, images, place):
    train(in_features(encoder, images, flip=True), place / 'run')
    assert not Path('data/features').exists()


def test_a_run_remembers_its_encoder(encoder, images, place):
    run = train(in_features(encoder, images), place / 'run')
    name = read_config(place / 'run')['environment']['encoder']
    assert name == find_encoder(encoder, 'cpu').name
    assert json.loads((place / 'run/result.json').read_text())['encoder'] == name
    assert torch.equal(load_run(place / 'run').sample(8), run.sample(8))      # sampling needs no encoder


def test_a_run_does_not_continue_with_another_encoder(images, place):
    path = written(place, 'def f(): return lambda x: x[..., ::2]\n')
    e = in_features(f'{path}:f', images, heads='locations')
    stopped(e, place / 'run', 9)
    path.write_text('def f(): return lambda x: x[..., 1::2]\n')
    with pytest.raises(RunError, match='its encoder was user-f-.* and is now user-f-'): train(e, place / 'run')


def test_a_run_without_encoder_is_none_of_ones_business(place):
    train(TINY, place / 'run')
    check_same_encoder(place / 'run', None)


# --- stored features ----------------------------------------------------------------------------------------------

GAME = FeatureForce(heads='mean,std,cells')

@pytest.fixture
def coarse(encoder, images, place):
    "An encoder and its data, in a folder of the test's own"
    return find_encoder(encoder, 'cpu'), load(images)


def test_rows_are_the_features_rounded(coarse):
    encoder, data = coarse
    rows = stored_features(GAME, encoder, data, 'cpu')
    whole = flat_rows(GAME.features(data.floats(data.train), encoder))
    assert rows.dtype == torch.float16 and len(rows) == len(data.train)
    assert_close(rows.float(), whole, rtol=5e-4, atol=1e-6)


def test_another_choice_of_heads_has_another_file(coarse):
    encoder, data = coarse
    stored_features(GAME, encoder, data, 'cpu')
    stored_features(FeatureForce(heads='mean'), encoder, data, 'cpu')
    stored_features(GAME, encoder, replace(data, digest='other'), 'cpu')
    stored_features(GAME, Encoder('other', encoder.net), data, 'cpu')
    assert len([*Path('data/features').glob('*.npy')]) == 4


@pytest.mark.parametrize('wanted', [GAME, FeatureForce(heads='mean')], ids=['the same', 'others'])
def test_runs_at_the_same_time_wait_for_each_other(wanted, coarse, monkeypatch, capsys):
    "The second asks for the folder while the first computes; each file is computed once, and both have theirs"
    encoder, data = coarse
    compute, locked = storing._compute, storing.locked
    begun, asked_again, computed = threading.Event(), threading.Event(), []
    def after_the_second_asked(path, *of):
        begun.set()
        assert asked_again.wait(60)
        computed.append(path.name)
        compute(path, *of)
    def noted(*of, **options):
        if begun.is_set(): asked_again.set()
        return locked(*of, **options)
    monkeypatch.setattr(storing, '_compute', after_the_second_asked)
    monkeypatch.setattr(storing, 'locked', noted)
    found = {}
    def run(name, objective): found[name] = stored_features(objective, encoder, data, 'cpu', progress=True)
    threads = [threading.Thread(target=run, args=of) for of in (('first', GAME), ('second', wanted))]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    for thread in threads: thread.join(60)
    assert len(computed) == len({*computed}) == (1 if wanted is GAME else 2)
    assert len(found['first']) == len(found['second']) == len(data.train)
    assert capsys.readouterr().out.count('is in use by process') == 1


@pytest.mark.parametrize('at', [2, 3, 4])
def test_a_killed_computation_goes_on(at, coarse, monkeypatch):
    encoder, data = coarse
    monkeypatch.setattr(storing, 'BLOCK', 10)
    rows = stored_features(GAME, encoder, data, 'cpu', cache=Path('whole')).clone()
    calls = []
    def dies(x):
        calls.append(len(x))
        if len(calls) == at: raise KeyboardInterrupt
        return encoder(x)
    with pytest.raises(KeyboardInterrupt): stored_features(GAME, Encoder(encoder.name, dies), data, 'cpu')
    assert not [*Path('data/features').glob('*.npy')]
    seen = []
    def counts(x):
        seen.append(len(x))
        return encoder(x)
    assert torch.equal(stored_features(GAME, Encoder(encoder.name, counts), data, 'cpu'), rows)
    assert sum(seen[1:]) == len(data.train) - 10 * (at - 2)
    assert [p.suffix for p in Path('data/features').iterdir() if p.name[0] != '.'] == ['.npy']


def test_a_damaged_file_is_named(coarse):
    encoder, data = coarse
    stored_features(GAME, encoder, data, 'cpu')
    path, = Path('data/features').glob('*.npy')
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match='is damaged .*; remove data/features/coarse'): stored_features(GAME, encoder, data, 'cpu')


def test_a_full_disk_is_told_before_the_work(coarse, monkeypatch):
    encoder, data = coarse
    monkeypatch.setattr(storing, 'disk_usage', lambda folder: type('Usage', (), {'free': 100}))
    with pytest.raises(RunError, match=r'the features of 54 images take .* GB \(18 numbers each\), the disk has'):
        stored_features(GAME, encoder, data, 'cpu')


def test_features_beyond_half_precision_are_refused(coarse):
    encoder, data = coarse
    large = Encoder('large', lambda x: 1e6 * encoder(x))
    with pytest.raises(ValueError, match='half precision holds 65504; scale them down'): stored_features(GAME, large, data, 'cpu')


def test_steps_from_rows_and_from_images_agree(encoder, images, place):
    e = in_features(encoder, images, heads='mean,std,cells,patches')
    data = load(images)
    t = TrainState(e, data.shape)
    prepare_encoder(t, data)
    stored, plain = training_samples(t, data), Samples(data, 'cpu')
    assert stored[torch.arange(3)].shape == (3, 18 + 4 * 192)
    index = torch.arange(20)
    x = t.generate().detach().requires_grad_()
    gradients = []
    for y in (stored[index], plain[index]):
        b = Batch(x, y, t.gen, carried=t.carried, encoder=t.encoder)
        loss = e.objective.loss_g(None, b)
        gradients.append(torch.autograd.grad(loss, x)[0])
    assert (gradients[0] - gradients[1]).norm() < 2e-3 * gradients[1].norm()      # half precision: 5e-4 a number


def test_stored_rows_of_float16_are_what_numpy_reads(coarse):
    encoder, data = coarse
    rows = stored_features(GAME, encoder, data, 'cpu')
    path, = Path('data/features').glob('*.npy')
    assert np.array_equal(np.load(path), rows.numpy())
