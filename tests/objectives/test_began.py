"""The game of an autoencoder: errors, weight and measure of convergence by hand, and who may not play it."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from coulomb_gan.networks.base import build
from coulomb_gan.networks.dcgan import DCGAN
from coulomb_gan.networks.mlp import MLP
from coulomb_gan.networks.text import TextResNet
from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.began import BEGAN, DECAY, reconstruction_error
from coulomb_gan.training.algorithm import train_step
from coulomb_gan.training.state import TrainState
from tiny_networks import discriminator
from tiny_runs import tiny, train


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)


def constant(error_x, error_y):
    "An autoencoder whose errors are these numbers, and a batch for it"
    b = Batch(torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64), None)
    def d(*sets): return tuple(a + (error_x if a is b.x else error_y) for a in sets)
    return d, b


def carried(game): return {name: tensor.double() for name, tensor in game.start((2,), 'cpu').items()}


errors = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=12)


@property_test
@given(errors, st.floats(.01, 1), st.floats(0, 1))
def test_weight_and_measure_follow_their_recursions(seen, gamma, rate):
    game = BEGAN(gamma=gamma, lambda_k=rate)
    own, k, mean = carried(game), 0., None
    for error_x, error_y in seen:
        d, b = constant(error_x, error_y)
        b.carried = own
        assert_close(game.loss_d(d, b).item(), error_y - k * error_x)
        game.finish(d, b)
        k = float(np.clip(k + rate * (gamma * error_y - error_x), 0, 1))
        measure = error_y + abs(gamma * error_y - error_x)
        mean = measure if mean is None else DECAY * mean + (1 - DECAY) * measure
        assert_close((own['weight'].item(), own['convergence'].item()), (k, mean))


def test_carried_tensors_stay_where_they_are_in_memory():
    "A recorded step reads them at their addresses"
    game = BEGAN()
    own = carried(game)
    places = {name: tensor.data_ptr() for name, tensor in own.items()}
    d, b = constant(.5, 2.)
    b.carried = own
    for _ in range(3): game.finish(d, b)
    assert {name: tensor.data_ptr() for name, tensor in own.items()} == places
    assert own['weight'] > 0 and not own['weight'].requires_grad


def test_nothing_waits_for_the_device():
    "A tensor without values cannot be read: what asks for one raises"
    net, game = discriminator('reconstruction').to('meta'), BEGAN()
    x, y = torch.zeros(2, 5, 2, device='meta')
    d, b = Passes(net, head='reconstruction'), Batch(x, y, None, carried=game.start((2,), 'meta'))
    assert game.loss_d(d, b).shape == game.loss_g(d, b).shape == ()
    game.finish(d, b)
    with pytest.raises(RuntimeError): b.carried['weight'].item()


def test_one_pass_serves_losses_and_weight():
    net, game = discriminator('reconstruction'), BEGAN()
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    x, y = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    d, b = Passes(net, head='reconstruction'), Batch(x, y, None, carried=game.start((2,), 'cpu'))
    game.loss_d(d, b)
    game.loss_g(d, b)
    game.finish(d, b)
    assert len(calls) == 1


def test_a_generator_learns_through_both_places_of_its_samples():
    net = discriminator('reconstruction').double()
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    game = BEGAN()
    def loss(v): return game.loss_g(Passes(net, head='reconstruction'), Batch(v, v, None))
    assert torch.autograd.gradcheck(loss, (x,))
    whole, = torch.autograd.grad(loss(x), x)
    one_place, = torch.autograd.grad(reconstruction_error(x, net(x).detach()), x)
    assert (whole - one_place).abs().max() > .001


@pytest.mark.parametrize('networks, shape', [(MLP(), (2,)), (DCGAN(width_g=8, width_d=4), (1, 16, 16)),
                                             (TextResNet(width_g=4, width_d=4), (6, 5))])
def test_networks_without_an_autoencoder_are_refused_in_one_line(networks, shape):
    networks = replace(networks)
    if 'reconstruction' in networks.heads: pytest.skip('these have one')
    with pytest.raises(ValueError, match=f'{networks.name!r} have no discriminator that returns a reconstruction') as caught:
        build(networks, shape, head=BEGAN.head)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('wrong', [dict(gamma=0.), dict(gamma=-.1), dict(gamma=1.01), dict(gamma='half'), dict(lambda_k=-.1),
                                   dict(lambda_k=1.1), dict(lambda_k=float('nan'))], ids=str)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f'^{[*wrong][0]} must ') as caught: BEGAN(**wrong)
    assert '\n' not in str(caught.value)


def test_plateaus_are_decided_on_the_measure(tmp_path):
    e = tiny(objective='began', decay='plateau', lr_end=.5, patience=1, drops=2, eval_every=3, steps=60, lr_g=0., lr_d=0.)
    run = train(e, tmp_path / 'run')
    lines = [line for line in run.metrics if 'energy' in line]
    values = [line['convergence'] for line in lines]
    best, bad = values[0], []
    for line, value in zip(lines[1:], values[1:]):
        if value < best: best = value
        else: bad.append(line['step'])
    progress = run.state.progress
    assert progress.best == best and progress.at_plateau
    assert progress.lr_drops == bad[:2] and progress.step == bad[2]


def test_the_weight_is_part_of_a_checkpoint():
    e = tiny(objective='began', lambda_k=.5, gamma=1.)
    t = TrainState(e, (2,))
    y = 5 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(3): train_step(t, y)
    other = TrainState(e, (2,))
    other.load_state_dict(t.state_dict())
    assert 0 < t.carried['weight'] and t.carried.keys() == other.carried.keys() == {'weight', 'convergence'}
    for name in t.carried: assert torch.equal(t.carried[name], other.carried[name])
