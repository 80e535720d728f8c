"""One step of training is, for every objective, the one that a textbook would write."""
import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.data.datasets import digits, to_float
from coulomb_gan.objectives.base import OBJECTIVES, Batch
from coulomb_gan.objectives.reference import Player, reference_step
from coulomb_gan.training.algorithm import draw_rows, rows_of_a_step, train_step, update, update_at_once, update_in_turn
from coulomb_gan.training.state import TrainState
from tiny_networks import OF_HEAD
from tiny_runs import GAMES, TINY, VARIANTS, tiny

STEPS = 5
IMAGES = dict(networks='dcgan', width_g=16, width_d=4)
PENALISED = [name for name, game in OBJECTIVES.items() if hasattr(game, 'penalty')]
COUPLED = {name: options for name, options in GAMES.items()
           if name not in PENALISED and OBJECTIVES[name].head not in OF_HEAD}      # with batch norm in D
CASES = {name: (options, (1, 8, 8)) for name, options in VARIANTS.items()}
CASES |= {f'{name}, points': (options, (2,)) for name, options in GAMES.items()}
CASES |= {f'{name}, batch norm in D': (IMAGES | options, (1, 16, 16)) for name, options in COUPLED.items()}
CASES |= {f'{name}, no batch norm in D': (IMAGES | GAMES[name] | dict(batch_norm_d=False), (1, 16, 16)) for name in PENALISED}
CASES |= {'text': (dict(networks='text', width_g=4, width_d=4), (6, 5))}


def drawn(t, shape):
    "Real samples for all steps"
    gen = torch.Generator().manual_seed(1)
    return [2 * torch.rand(rows_of_a_step(t), *shape, generator=gen) - 1 for _ in range(STEPS)]


def fast(t, ys): return [train_step(t, y) for y in ys]

def slow(t, ys):
    "The same steps, written out with a new pass of D for each loss"
    e = t.experiment
    g, d = Player(t.g, t.opt_g), None
    if t.d is not None: d = Player(t.d, t.opt_d)
    losses = []
    for y in ys:
        parts = list(y.split(e.objective.n_real(e.optim.batch)))
        parts.append(parts[-1])      # the samples of the last update of D are those of G
        def draw(): return Batch(t.generate(), parts.pop(0), t.gen, t.scheduled, t.carried)
        t.set_schedule()
        for player, rate in ((g, 'lr_g'), (d, 'lr_d')):
            for group in player.opt.param_groups if player else (): group['lr'] = t.scheduled[rate]
        loss_d, loss_g = reference_step(e.objective, g, d, draw, t.progress.step)
        losses.append((torch.zeros(()) if loss_d is None else loss_d, loss_g))
        t.progress.step += 1
    return losses


def weights(t):
    "All weights of both networks"
    nets = [net for net in (t.g, t.d) if net is not None]
    return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])


@pytest.fixture
def double():
    "Everything in float64: what differs by rounding alone stays below Adam's own 1e-8, and Adam does not enlarge it"
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('case', CASES)
def test_fast_step_is_the_reference(case, double):
    "Adam's steps have length 1e-3: a wrong gradient would show at a million times the tolerance"
    options, shape = CASES[case]
    e = tiny(**options)
    one, other = TrainState(e, shape), TrainState(e, shape)
    ys = drawn(one, shape)
    for got, want in zip(fast(one, ys), slow(other, ys)): assert_close(torch.stack(got), torch.stack(want).detach())
    assert_close(weights(one), weights(other), rtol=0, atol=1e-9)
    assert torch.equal(one.gen.get_state(), other.gen.get_state())      # both drew the same numbers
    assert one.carried.keys() == other.carried.keys()
    for name, tensor in one.carried.items(): assert_close(tensor, other.carried[name])


def test_cases_name_every_objective(): assert {*OBJECTIVES} <= {*CASES}


def test_no_two_objectives_end_alike():
    ends = {}
    for name, (options, shape) in CASES.items():
        if shape != (1, 8, 8): continue
        t = TrainState(tiny(**options), shape)
        fast(t, drawn(t, shape))
        ends[name] = torch.cat([p.detach().flatten() for p in t.g.parameters()])
    for one in ends:
        for other in ends:
            if one != other: assert (ends[one] - ends[other]).abs().max() > 2e-5, f'{one} and {other}'


def test_a_player_that_moves_first_is_told_apart():
    "G through the new D, D as before: what Algorithm 1 must not do"
    ends = []
    for step in (update_at_once, update_in_turn):
        t = TrainState(TINY, (1, 8, 8))
        for y in drawn(t, (1, 8, 8)): step(t, y)
        ends.append(weights(t))
    assert (ends[0] - ends[1]).abs().max() > 4e-5


# --- what a step takes and leaves ---------------------------------------------------------------------------------

ROWS = {'coulomb': 16, 'more charges': 24, 'alternating': 16, 'exact-force': 16, 'exact force of more charges': 24,
        'non-saturating': 16, 'wgan-gp': 5 * 16, 'one critic step': 16}


@pytest.mark.parametrize('case', ROWS)
def test_rows_of_a_step(case):
    t = TrainState(TINY.changed(**VARIANTS[case]), (1, 8, 8))
    rows = draw_rows(t, 1000)
    assert rows.shape == (ROWS[case],) and rows_of_a_step(t) == ROWS[case]
    assert 0 <= rows.min() and 500 < rows.max() < 1000      # 16 draws below one half: 2e-5, and the seed is fixed
    assert not torch.equal(draw_rows(t, 1000), rows)


@pytest.mark.parametrize('case', VARIANTS)
def test_losses_are_numbers_that_are_not_attached(case):
    t = TrainState(tiny(**VARIANTS[case]), (1, 8, 8))
    losses = train_step(t, to_float(digits().train[:rows_of_a_step(t)]))
    assert all(loss.shape == () and loss.isfinite() and not loss.requires_grad for loss in losses)
    assert (losses[0] == 0) == (t.d is None)
    assert t.progress.step == 1


def test_critic_steps_see_their_own_samples():
    "The real samples of each update of D are others"
    seen = []
    t = TrainState(TINY.changed(objective='wgan-gp', critic_steps=3), (2,))
    batch = t.batch
    def noting(y, for_g=True):
        made = batch(y, for_g)
        seen.append((made.x.detach().clone(), y[0, 0].item(), for_g))
        return made
    t.batch = noting
    rows = torch.arange(48.)[:, None].expand(48, 2)
    update(t, rows)
    assert [(first, for_g) for _, first, for_g in seen] == [(0, False), (16, False), (32, False), (32, True)]
    xs = [x for x, *_ in seen]
    assert all(not torch.equal(xs[i], xs[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize('name', ['coulomb', 'wgan-gp'])
def test_what_holds_d_holds_it_in_both_kinds_of_step(name, monkeypatch):
    "An objective whose updates are made at once, and one that has D first"
    @torch.no_grad()
    def clip(self, d):
        for p in d.parameters(): p.clamp_(-.01, .01)
    monkeypatch.setattr(OBJECTIVES[name], 'constrain', clip)
    t = TrainState(tiny(objective=name), (2,))
    update(t, torch.randn(rows_of_a_step(t), 2, generator=torch.Generator().manual_seed(0)))
    assert max(p.abs().max() for p in t.weights_d) <= .01 < max(p.abs().max() for p in t.weights_g)


@pytest.mark.parametrize('name', GAMES)
def test_half_precision_rounds_the_networks_and_nothing_else(name):
    "One rounding is 2^-9; a loss, a mean over the batch, may differ by a few of them, and must differ"
    y = to_float(digits().train[:80])
    def losses(precision):
        t = TrainState(tiny(precision=precision, **GAMES[name]), (1, 8, 8))
        return torch.stack(train_step(t, y[:rows_of_a_step(t)]))
    exact, rounded = losses('float32'), losses('bfloat16')
    assert rounded.dtype == torch.float32
    assert_close(rounded, exact, rtol=8 * 2**-9, atol=8 * 2**-9 * exact.abs().max().item())
    assert rounded[1] != exact[1]
