"""What a run may change about its steps: the optimiser, mirrored images, and how often plateaus drop the rates."""
import json

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from coulomb_gan.data.prefetching import Prefetched
from coulomb_gan.training import algorithm
from coulomb_gan.training.algorithm import flipped, rows_of_a_step, train_step
from coulomb_gan.training.config import Experiment, Optimisation
from coulomb_gan.training.fit import check_experiment
from coulomb_gan.training.run_folder import newest_checkpoint
from coulomb_gan.training.schedule import Progress, lr_factor
from coulomb_gan.training.state import TrainState, optimiser
from tiny_runs import TINY, assert_same_end, flat, records, stopped, train

RMSPROP = dict(optimiser='rmsprop', beta2=.99)


# --- RMSProp ------------------------------------------------------------------------------------------------------

def test_rmsprop_is_its_recursion():
    "The mean of squares starts at 0, is not corrected, and decay of the weights enters the gradient"
    gen = torch.Generator().manual_seed(0)
    net = nn.Linear(3, 2).double()
    optim = Optimisation(optimiser='rmsprop', beta2=.9, weight_decay=.1)
    opt = optimiser(net, .01, optim)
    w, b = net.weight.detach().clone(), net.bias.detach().clone()
    squares_w, squares_b = torch.zeros_like(w), torch.zeros_like(b)
    for _ in range(5):
        g_w, g_b = torch.randn(2, 3, generator=gen, dtype=torch.float64), torch.randn(2, generator=gen, dtype=torch.float64)
        net.weight.grad, net.bias.grad = g_w.clone(), g_b.clone()
        opt.step()
        g_w = g_w + .1 * w      # biases do not decay
        squares_w, squares_b = .9 * squares_w + .1 * g_w**2, .9 * squares_b + .1 * g_b**2
        w, b = w - .01 * g_w / (squares_w.sqrt() + 1e-8), b - .01 * g_b / (squares_b.sqrt() + 1e-8)
    assert_close(net.weight.detach(), w)
    assert_close(net.bias.detach(), b)


def after_three_steps(e):
    "All weights, flat"
    t = TrainState(e, (2,))
    for _ in range(3): train_step(t, torch.randn(rows_of_a_step(t), 2, generator=torch.Generator().manual_seed(0)))
    return torch.cat([p.detach().flatten() for net in (t.g, t.d) for p in net.parameters()])


def test_rmsprop_has_no_mean_gradient():
    low, high = [after_three_steps(TINY.changed(beta1=beta1, **RMSPROP)) for beta1 in (.5, .9)]
    assert torch.equal(low, high)
    assert not torch.equal(low, after_three_steps(TINY.changed(optimiser='rmsprop', beta2=.9)))


@pytest.mark.parametrize('options', [dict(ema=.9), dict(objective='wgan-gp', critic_steps=2),
                                     dict(data='PICTURES', networks='dcgan', width_g=8, width_d=4)], ids=str)
def test_a_stopped_run_with_rmsprop_continues_bit_for_bit(options, images, tmp_path):
    chosen = {name: images if value == 'PICTURES' else value for name, value in options.items()}
    e = TINY.changed(**chosen, **RMSPROP)
    train(e, tmp_path / 'whole')
    train(e, stopped(e, tmp_path / 'broken', 9))
    assert_same_end(tmp_path / 'broken', tmp_path / 'whole')
    moments = {name.split('.')[-1] for name in flat(newest_checkpoint(tmp_path / 'whole')) if '.opt_g.state.' in name}
    assert moments == {'step', 'square_avg'}


def test_settings_of_before_are_read_with_what_they_meant():
    "Without optimiser, drops and flip in the file"
    stored = TINY.to_dict()
    for name in ('optimiser', 'drops', 'flip'): del stored['optim'][name]
    e = Experiment().revised(stored)
    assert e == TINY and (e.optim.optimiser, e.optim.drops, e.optim.flip) == ('adam', 1, False)


def test_a_run_of_before_is_continued(tmp_path):
    "Its config.json knows nothing of the newer options"
    whole = train(TINY, tmp_path / 'whole').out
    broken = stopped(TINY, tmp_path / 'broken', 9)
    config = json.loads((broken / 'config.json').read_text())
    for name in ('optimiser', 'drops', 'flip'): del config['optim'][name]
    (broken / 'config.json').write_text(json.dumps(config))
    train(TINY, broken)
    assert_same_end(broken, whole)


# --- mirrored images ----------------------------------------------------------------------------------------------

def test_a_stopped_run_with_mirrored_images_continues_bit_for_bit(tmp_path):
    e = TINY.changed(flip=True)
    train(e, tmp_path / 'whole')
    train(e, stopped(e, tmp_path / 'broken', 9))
    assert_same_end(tmp_path / 'broken', tmp_path / 'whole')


def test_steps_see_images_and_their_mirror_images(tmp_path, monkeypatch):
    seen, drawn = [], []
    def noting(y, gen):
        drawn.append(y)
        seen.append(flipped(y, gen))
        return seen[-1]
    monkeypatch.setattr(algorithm, 'flipped', noting)
    train(TINY.changed(flip=True), tmp_path / 'run')
    assert len(seen) == 12
    before, after = torch.cat(drawn), torch.cat(seen)
    kept, mirrored = ((after == other).flatten(1).all(1) for other in (before, before.flip(-1)))
    assert (kept | mirrored).all()
    assert abs((mirrored & ~kept).sum() - 96) < 28      # of 192 images one half, to four standard deviations of 6.9


def test_without_it_nothing_is_drawn(tmp_path, monkeypatch):
    "The run of before, number for number"
    def refuse(*a): pytest.fail('an image was mirrored')
    monkeypatch.setattr(algorithm, 'flipped', refuse)
    assert len(train(TINY, tmp_path / 'run').metrics) == 4


def test_images_themselves_stay_as_they_are():
    data, _ = check_experiment(TINY)
    real = Prefetched(data, 'cpu')
    before = data.train.clone()
    y = real[torch.arange(50)]
    whole = y.clone()
    flipped(y, torch.Generator().manual_seed(0))
    assert torch.equal(y, whole) and torch.equal(data.train, before)


@pytest.mark.parametrize('options, kind', [(dict(data='mixture'), 'points'),
                                           (dict(data='text-builtin', networks='text', width_g=4, width_d=4), 'text')])
def test_points_and_texts_are_not_mirrored(options, kind, tmp_path):
    with pytest.raises(ValueError, match=f'flip mirrors images, got {kind}; use --no-flip') as caught:
        train(TINY.changed(flip=True, **options), tmp_path / 'run')
    assert '\n' not in str(caught.value) and not (tmp_path / 'run').exists()


# --- several drops ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('drops', [1, 2, 5])
def test_as_many_plateaus_drop_the_rates_as_were_asked_for(drops):
    optim = TINY.changed(decay='plateau', patience=2, drops=drops, lr_end=.5).optim
    progress = Progress(best=1.)
    while not progress.finished:
        progress.step += 1
        progress.update(1., optim)
    assert progress.lr_drops == [2 * (i + 1) for i in range(drops)] and progress.step == 2 * (drops + 1)
    assert progress.at_plateau and lr_factor(optim, progress) == .5**drops


def test_a_stop_between_two_drops_is_not_noticed(tmp_path):
    e = TINY.changed(decay='plateau', patience=1, drops=2, lr_end=.5, eval_every=3, steps=60, lr_g=0., lr_d=0.)
    train(e, tmp_path / 'whole')
    train(e, stopped(e, tmp_path / 'broken', 9))
    assert_same_end(tmp_path / 'broken', tmp_path / 'whole')
    assert [line['lr_factor'] for line in records(tmp_path / 'whole')] == [1., 1., .5, .25]
