"""What a run may change about its steps: optimiser, latent vectors, fresh charges, mirrored images, drops of the rates."""
import json

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from coulomb_gan.data.prefetching import Prefetched
from coulomb_gan.networks.base import latent_vectors, sobol_points
from coulomb_gan.training import algorithm
from coulomb_gan.training.algorithm import flipped, rows_of_a_step, train_step
from coulomb_gan.training.config import Experiment, Optimisation
from coulomb_gan.training.cuda_graph import WARM_UP, GraphedStep
from coulomb_gan.training.fit import check_experiment
from coulomb_gan.training.optimisers import MOMENTUM, hidden_weights, optimiser
from coulomb_gan.training.run_folder import newest_checkpoint
from coulomb_gan.training.schedule import Progress, lr_factor
from coulomb_gan.training.state import TrainState
from tiny_runs import TINY, assert_same_end, flat, records, stopped, train

RMSPROP = dict(optimiser='rmsprop', beta2=.99)
MUON = dict(optimiser='muon', depth_g=2, depth_d=2)
FRESH = dict(objective='exact-force', fresh=24, fresh_from=.5, sobol=True)


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
    low, high = [after_three_steps(TINY.changed(beta1=beta1).changed(**RMSPROP)) for beta1 in (.5, .9)]
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


# --- Muon ---------------------------------------------------------------------------------------------------------

def lifted(sigma):
    "Jordan et al. 2024: five rounds of their polynomial"
    for _ in range(5): sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    return sigma


def orthogonal_by_svd(m):
    u, sigma, vh = torch.linalg.svd(m, full_matrices=False)
    return u @ torch.diag(lifted(sigma / sigma.norm())) @ vh


@pytest.mark.parametrize('decay', [0., .1])
@pytest.mark.parametrize('layer', [nn.Linear(5, 5), nn.Linear(5, 7), nn.Linear(7, 5), nn.Conv2d(3, 4, 2),
                                   nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)], ids=str)
def test_muon_is_its_recursion(layer, decay):
    "Of a layer between two others, by singular value decompositions in float64; the first and the last are Adam's"
    gen = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), layer, nn.Linear(3, 1)).double()
    opt = optimiser(net, .01, Optimisation(optimiser='muon', beta1=.8, weight_decay=decay))
    adam = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 1)).double()
    adam.load_state_dict({f'{int(name[0]) // 2}.{name[2:]}': p for name, p in net.state_dict().items() if name[0] != '1'})
    of_adam = optimiser(adam, .01, Optimisation(beta1=.8, weight_decay=decay))
    w = layer.weight.detach().clone()
    momentum = torch.zeros_like(w)
    for _ in range(4):
        for p in net.parameters(): p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=gen, dtype=torch.float64))
        g = layer.weight.grad + decay * w
        for p, q in zip(adam.parameters(), [*net[0].parameters(), *net[2].parameters()]): p.grad = q.grad.clone()
        opt.step()
        of_adam.step()
        momentum = MOMENTUM * momentum + g
        ahead = (g + MOMENTUM * momentum).flatten(1)
        length = .01 * (.2 / 1.8)**.5 * max(ahead.shape)**.5
        w = w - (length * orthogonal_by_svd(ahead)).view_as(w)
    assert_close(layer.weight.detach(), w)
    for p, q in zip(adam.parameters(), [*net[0].parameters(), *net[2].parameters()]): assert torch.equal(p, q)
    assert layer.bias.grad is not None and layer.weight.grad is None


def test_hidden_weights_of_one_shape_move_as_each_alone():
    def after(count):
        torch.manual_seed(0)
        nets = nn.Sequential(nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1))
        opt = optimiser(nets, .1, Optimisation(optimiser='muon', weight_decay=0.))
        if count == 1: opt.hidden = [[p] for alike in opt.hidden for p in alike]
        for p in nets.parameters(): p.grad = torch.randn(p.shape)
        opt.step()
        return torch.cat([p.detach().flatten() for p in nets.parameters()])
    assert_close(after(2), after(1), rtol=0, atol=1e-5)     # products of float32 in another order


@pytest.mark.parametrize('size', [0., 1e-42, 1e-30, 1e-24, 1e-6, 1., 1e30])
def test_muon_takes_gradients_of_every_size(size):
    "Steps of one size, but for gradients that are 0; the squares of small entries are 0 in float32, of large ones infinite"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 1))
    opt = optimiser(net, .1, Optimisation(optimiser='muon', beta1=.5, weight_decay=0.))
    before = net[1].weight.detach().clone()
    for p in net.parameters(): p.grad = size * torch.randn(p.shape)
    opt.step()
    moved = (net[1].weight.detach() - before).square().mean().sqrt()
    if size == 0: assert moved == 0
    else: assert .7 < moved / (.1 / 3**.5) < 1.2


def test_muon_wants_hidden_layers(tmp_path):
    message = "optimiser 'muon' is for networks with hidden layers, and Sequential has 2 weight matrices or kernels"
    with pytest.raises(ValueError, match=message): train(TINY.changed(optimiser='muon'), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    with pytest.raises(ValueError, match='Linear has 1 weight'): hidden_weights(nn.Linear(2, 2))


@pytest.mark.parametrize('options', [MUON, MUON | dict(ema=.9, weight_decay=0.), MUON | FRESH,
                                     dict(optimiser='muon', data='PICTURES', networks='dcgan', width_g=8, width_d=4)], ids=str)
def test_a_stopped_run_with_muon_continues_bit_for_bit(options, images, tmp_path):
    chosen = {name: images if value == 'PICTURES' else value for name, value in options.items()}
    e = TINY.changed(**chosen)
    train(e, tmp_path / 'whole')
    train(e, stopped(e, tmp_path / 'broken', 9))
    assert_same_end(tmp_path / 'broken', tmp_path / 'whole')
    moments = {name.split('.')[-1] for name in flat(newest_checkpoint(tmp_path / 'whole')) if '.opt_g.state.' in name}
    assert moments == {'step', 'exp_avg', 'exp_avg_sq', 'momentum'}


# --- evenly spread latent vectors, fresh charges -------------------------------------------------------------------

def test_a_step_draws_evenly_spread_vectors_and_samples_are_drawn_independently():
    e = TINY.changed(sobol=True)
    t = TrainState(e, (2,))
    n, ahead = e.optim.batch, torch.Generator()
    ahead.set_state(t.gen.get_state())
    assert torch.equal(t.generate(), t.g(latent_vectors(e.networks, n, ahead, sobol_points(n, e.networks.latent))))
    assert torch.equal(t.sample(n, 5), t.g(latent_vectors(e.networks, n, torch.Generator().manual_seed(5))))


@pytest.mark.parametrize('sobol', [False, True])
def test_fresh_charges_are_new_samples_after_those_of_the_minibatch(sobol):
    e = TINY.changed(**FRESH | dict(sobol=sobol))
    t = TrainState(e, (2,))
    y = torch.zeros(e.objective.n_real(e.optim.batch), 2)
    assert t.batch(y).fresh is None
    t.progress.step = e.optim.steps // 2
    ahead = torch.Generator()
    ahead.set_state(t.gen.get_state())
    def drawn(n):
        points = sobol_points(n, e.networks.latent) if sobol else None
        return latent_vectors(e.networks, n, ahead, points)
    b = t.batch(y)
    assert torch.equal(b.x, t.g(drawn(e.optim.batch))) and torch.equal(b.fresh, t.g(drawn(24)))
    assert b.x.requires_grad and not b.fresh.requires_grad


def test_fresh_charges_come_in_bfloat16_runs_too():
    t = TrainState(TINY.changed(**FRESH | dict(fresh_from=0., precision='bfloat16')), (2,))
    assert t.batch(torch.zeros(16, 2)).fresh.dtype == torch.float32


def test_a_step_is_recorded_only_when_fresh_charges_have_come():
    t = TrainState(TINY.changed(**FRESH), (2,))
    step = GraphedStep(t)
    step.plain_steps, t.on_gpu = WARM_UP, True
    assert not step.may_record()
    t.progress.step = t.experiment.optim.steps // 2
    assert step.may_record()


def test_a_stopped_run_with_fresh_charges_continues_bit_for_bit(tmp_path):
    e = TINY.changed(**FRESH)
    for step in (3, 9):      # before and after they come
        train(e, tmp_path / f'whole{step}')
        train(e, stopped(e, tmp_path / f'broken{step}', step))
        assert_same_end(tmp_path / f'broken{step}', tmp_path / f'whole{step}')


def test_settings_of_before_are_read_with_what_they_meant():
    "Without optimiser, drops, flip and sobol in the file"
    stored = TINY.to_dict()
    for name in ('optimiser', 'drops', 'flip', 'sobol'): del stored['optim'][name]
    e = Experiment().revised(stored)
    assert e == TINY and (e.optim.optimiser, e.optim.drops, e.optim.flip, e.optim.sobol) == ('adam', 1, False, False)


def test_a_run_of_before_is_continued(tmp_path):
    "Its config.json knows nothing of the newer options"
    whole = train(TINY, tmp_path / 'whole').out
    broken = stopped(TINY, tmp_path / 'broken', 9)
    config = json.loads((broken / 'config.json').read_text())
    for name in ('optimiser', 'drops', 'flip', 'sobol'): del config['optim'][name]
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
