"""What only a GPU can show: recorded steps are the plain ones, and runs go from one kind of device to the other."""
import math

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.files import RunError
from coulomb_gan.objectives.base import OBJECTIVES
from coulomb_gan.training import fit as fitting
from coulomb_gan.training.algorithm import rows_of_a_step, train_step
from coulomb_gan.training.cuda_graph import WARM_UP, GraphedStep
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.state import TrainState
from faults import at_call
from tiny_networks import playable
from tiny_runs import VARIANTS, train

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')

BASE = experiment('tiny', width_g=32, width_d=32, device='cuda')
IMAGES = dict(networks='dcgan', width_g=64, width_d=16)
CASES = VARIANTS | {
    'schedules': dict(decay='exponential', lr_end=.01, eps=3., eps_end=.3, ema=.9),
    'exact force with schedules': dict(objective='exact-force', charges=16, self_term=0., decay='cosine', eps_end=.5),
    'a self term of constant weight': dict(eps_end=.5, keep_self_weight=True),
    'a replay buffer that fills up': dict(charges=16, replay=72, self_term=.5),      # four and a half batches
    'a replay buffer of less than a batch': dict(replay=10),
    'mixed precision': dict(precision='bfloat16'),
    'rmsprop': dict(optimiser='rmsprop', beta2=.99, decay='exponential', lr_end=.5),
    'muon': dict(optimiser='muon', depth_g=3, depth_d=2, decay='exponential', lr_end=.5),
    'images, muon': IMAGES | dict(optimiser='muon'),
    'evenly spread samples, then fresh charges': dict(objective='exact-force', sobol=True, fresh=24, fresh_from=.1),
    'images': IMAGES | dict(precision='bfloat16'),
    'images, smoothing': IMAGES | dict(smoothing=.5, replay=40),
    'images, critic steps': IMAGES | dict(objective='wgan-gp', batch_norm_d=False),
    'images, penalty around the data': IMAGES | dict(objective='dragan', batch_norm_d=False, precision='bfloat16'),
    'mixed precision, critic steps': dict(objective='wgan-gp', critic_steps=3, precision='bfloat16'),
}


def shape_of(e): return (1, 16, 16) if e.networks.name == 'dcgan' else (1, 8, 8)

def batches(t, n=12):
    "Real samples of the next steps, on the device"
    gen = torch.Generator().manual_seed(0)
    rows = torch.rand(n, rows_of_a_step(t), *shape_of(t.experiment), generator=gen)
    return [y.to(t.gen.device) for y in 2 * rows - 1]


def test_cases_name_every_objective(): assert {*OBJECTIVES} <= {*CASES}


@needs_gpu
@pytest.mark.parametrize('case', CASES)
def test_recorded_steps_are_the_plain_ones(case):
    e = playable(BASE.changed(**CASES[case]))
    plain, other = TrainState(e, shape_of(e)), TrainState(e, shape_of(e))
    step = GraphedStep(other)
    ys = batches(plain)
    losses = [torch.stack([torch.stack(one(y)) for y in ys]) for one in (lambda y: train_step(plain, y), step)]
    filling = math.ceil(getattr(e.objective, 'replay', 0) / e.optim.batch)
    before_fresh = math.ceil(getattr(e.objective, 'fresh_from', 0) * e.optim.steps)
    assert step.recorded and step.plain_steps == max(WARM_UP, filling, before_fresh)
    # the same kernels on the same numbers; a library may choose others while recording, and each update enlarges that
    updates = rows_of_a_step(plain) // e.objective.n_real(e.optim.batch)
    assert_close(losses[1], losses[0], **(dict(rtol=1e-4, atol=1e-6) if updates == 1 else dict(rtol=1e-2, atol=1e-3)))
    assert len({tuple(pair.tolist()) for pair in losses[1]}) == len(ys)      # every batch is another one
    for a, b in zip(plain.g_ema.parameters(), other.g_ema.parameters()):
        assert_close(a, b, rtol=0, atol=e.optim.lr_g)      # of twelve updates of at most 1e-3 each
    for a, b in zip(*([] if t.d is None else t.d.parameters() for t in (plain, other))):
        assert_close(a, b, rtol=0, atol=e.optim.lr_d * updates)
    for name, tensor in plain.carried.items(): assert_close(other.carried[name], tensor, rtol=0, atol=.05)
    assert plain.progress == other.progress


@needs_gpu
@pytest.mark.parametrize('case', ['wgan-gp', 'coulomb', 'more charges', 'smoothing'])
def test_a_recording_that_repeats_its_numbers_would_be_seen(case):
    "The same batch again and again: other latent vectors, points between samples, and noise each time"
    e = BASE.changed(lr_g=0., lr_d=0., **CASES[case])
    t = TrainState(e, shape_of(e))
    step, y = GraphedStep(t), batches(t, 1)[0]
    losses = [torch.stack(step(y)) for _ in range(12)]
    assert step.recorded and len({tuple(pair.tolist()) for pair in losses}) == len(losses)


@needs_gpu
def test_steps_with_more_updates_of_d_are_plain_and_the_others_recorded():
    e = playable(BASE.changed(objective='mmd-gan', critic_steps=1, more_critic_steps=2, optimiser='rmsprop', beta2=.99))
    plain, other = TrainState(e, (1, 8, 8)), TrainState(e, (1, 8, 8))
    for t in (plain, other): t.progress.step = 494
    step = GraphedStep(other)
    gen = torch.Generator().manual_seed(0)
    for i in range(12):
        y = (2 * torch.rand(rows_of_a_step(plain), 1, 8, 8, generator=gen) - 1).to(plain.gen.device)
        losses = [torch.stack(train_step(plain, y)), torch.stack(step(y))]
        assert_close(losses[1], losses[0], rtol=1e-2, atol=1e-3)      # a library may choose other kernels while recording
    assert step.recorded and step.plain_steps == WARM_UP + 1      # step 500 has two updates of D
    assert plain.progress == other.progress


@needs_gpu
def test_a_stale_scheduled_value_would_be_seen():
    e = BASE.changed(**CASES['schedules'])
    ends = []
    for own in (e, e.changed(lr_end=1., eps_end=3.)):
        t = TrainState(own, (1, 8, 8))
        step = GraphedStep(t)
        ends.append(torch.stack([torch.stack(step(y)) for y in batches(t)]))
    assert (ends[0][-1] - ends[1][-1]).abs().max() > 1e-3


@needs_gpu
@pytest.mark.parametrize('options', [IMAGES, dict(replay=40, ema=.9), dict(objective='wgan-gp'),
                                     IMAGES | dict(optimiser='rmsprop'), IMAGES | dict(optimiser='muon')], ids=str)
def test_states_go_from_one_device_to_the_other(options, tmp_path):
    e = BASE.changed(**options)
    shape = shape_of(e)
    on_gpu = TrainState(e, shape)
    step = GraphedStep(on_gpu)
    for y in batches(on_gpu): step(y)
    torch.save(on_gpu.state_dict(), tmp_path / 'gpu.pt')
    saved = torch.load(tmp_path / 'gpu.pt', map_location='cpu', weights_only=True)
    here, back = TrainState(e.changed(device='cpu'), shape), TrainState(e, shape)
    here.load_state_dict(saved)
    train_step(here, batches(here, 1)[0])
    back.load_state_dict(here.state_dict())
    for (p, a), b in zip(back.opt_g.state.items(), here.opt_g.state.values()):
        for moment in a.keys() - {'step'}:
            assert a[moment].stride() == p.stride() and b[moment].is_contiguous()
            assert torch.equal(a[moment].cpu(), b[moment])
    for name, tensor in here.carried.items(): assert torch.equal(back.carried[name].cpu(), tensor)
    step = GraphedStep(back)
    for y in batches(back): losses = step(y)
    assert step.recorded and torch.stack(losses).isfinite().all()


@needs_gpu
@pytest.mark.parametrize('options', [dict(ema=.9, eps_end=.5), dict(objective='wgan-gp'),
                                     dict(objective='exact-force', replay=40),
                                     dict(objective='exact-force', sobol=True, fresh=24, fresh_from=.5)], ids=str)
def test_a_stopped_run_continues(options, tmp_path):
    def interrupt(): raise KeyboardInterrupt
    e = BASE.changed(**options)
    whole = train(e, tmp_path / 'whole')
    with at_call(fitting, 'append_metrics', 3, interrupt), pytest.raises(KeyboardInterrupt): train(e, tmp_path / 'run')
    run = train(e, tmp_path / 'run')
    assert [line['step'] for line in run.metrics] == [10, 20, 30, 40]
    assert_close(run.sample(20), whole.sample(20), rtol=1e-3, atol=1e-3)


@needs_gpu
def test_a_loss_that_explodes_in_a_recorded_step_is_named(tmp_path):
    @torch.no_grad()
    def break_g(step, y): next(step.t.g.parameters()).fill_(torch.nan)
    with at_call(GraphedStep, '__call__', 7, break_g), pytest.raises(RunError, match='not finite at step 7'):
        train(BASE, tmp_path / 'run')
