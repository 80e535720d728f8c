"""Passes of D are shared or separate as promised, and every registered objective keeps the contract of the record."""
import re
from dataclasses import dataclass, fields, replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.functional import softplus
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from coulomb_gan.networks.base import NETWORKS, build
from coulomb_gan.objectives.base import OBJECTIVES, Batch, Objective, Passes, couples_samples
from coulomb_gan.options import flat_fields, plain, rebuilt
from coulomb_gan.training.algorithm import rows_of_a_step, train_step
from coulomb_gan.training.config import Experiment, Optimisation
from coulomb_gan.training.state import TrainState
from tiny_networks import discriminator, playable

TINY = Experiment().changed(latent=3, width_g=8, width_d=8, depth_g=1, depth_d=1, batch=6, steps=4, lr_g=1e-2, lr_d=1e-2,
                            batch_norm_g=False)
BFLOAT16 = 2**-9  # relative size of one rounding


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)


def randn(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Counted(nn.Module):
    "A network that counts its passes, and remembers how many rows each had"
    def __init__(self, *layers):
        super().__init__()
        self.layers, self.rows = nn.Sequential(*layers), []

    def forward(self, a):
        self.rows.append(len(a))
        return self.layers(a)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def plain_net(): return seeded(lambda: Counted(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)))

def normal_net():
    return seeded(lambda: Counted(nn.Linear(3, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Tanh(), nn.Linear(8, 1)))


# --- passes of the discriminator ----------------------------------------------------------------------------------

# Questions to a discriminator: each asks for one to three of five sets of points
questions = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True), min_size=1, max_size=6)
SETS = [randn(i, n, 3) for i, n in enumerate((1, 2, 3, 5, 8))]


@property_test
@given(questions, st.booleans())
def test_what_is_new_in_a_question_takes_one_pass_or_one_each(asked, separate):
    net, known, passes = plain_net(), set(), []
    d = Passes(net, separate)
    for question in asked:
        new = [len(SETS[i]) for i in question if i not in known]
        if separate: passes += new
        elif new: passes.append(sum(new))
        known |= {*question}
        d(*[SETS[i] for i in question])
        assert net.rows == passes


@property_test
@given(questions, st.booleans())
def test_the_answer_is_that_of_the_network_in_the_order_asked(asked, separate):
    net, first = plain_net(), {}
    d = Passes(net, separate)
    for question in asked:
        answer = d(*[SETS[i] for i in question])
        answers = answer if len(question) > 1 else (answer,)
        assert len(answers) == len(question)
        for i, got in zip(question, answers):
            assert first.setdefault(i, got) is got  # the very same tensor when asked again
            assert_close(got, net(SETS[i]).squeeze(1))


def test_a_set_that_is_named_twice_in_a_question_has_one_answer():
    x, y = SETS[3:]
    d_x, d_y, again = Passes(plain_net())(x, y, x)
    assert d_x is again and d_y is not d_x


def test_equal_points_in_another_tensor_are_another_set():
    net, x = plain_net(), SETS[3]
    d = Passes(net)
    d(x)
    d(x.clone())
    d(x[:])
    assert net.rows == [5, 5, 5]


def test_with_batch_norm_each_set_is_normalised_by_itself():
    net, (x, y) = normal_net(), SETS[3:]
    separate = Passes(net, separate=True)(x, y)
    for got, points in zip(separate, (x, y)): assert_close(got, net(points).squeeze(1))
    together = Passes(net)(x, y)
    assert_close(torch.cat(together), net(torch.cat([x, y])).squeeze(1))
    assert (torch.cat(together) - torch.cat(separate)).abs().min() > 1e-4


def test_two_losses_share_a_pass_and_each_has_its_own_gradient():
    net = plain_net()
    x, y = SETS[3].clone().requires_grad_(), SETS[4]
    weights = [*net.parameters()]
    d = Passes(net)
    d_x, d_y = d(x, y)
    loss_d, loss_g = d_y.square().mean() - d_x.mean(), d(x).exp().mean()
    got = [*torch.autograd.grad(loss_d, weights, retain_graph=True), *torch.autograd.grad(loss_g, [x])]
    assert len(net.rows) == 1
    alone_d, alone_g = net(y).square().mean() - net(x).mean(), net(x).exp().mean()
    alone = [*torch.autograd.grad(alone_d, weights), *torch.autograd.grad(alone_g, [x])]
    for one, other in zip(got, alone): assert_close(one, other)


def test_new_passes_see_new_weights():
    net = plain_net()
    before = Passes(net)(SETS[3])
    with torch.no_grad(): net.layers[2].bias += 1
    assert_close(Passes(net)(SETS[3]), before + 1)


def returning(*shape):
    "A network that returns five samples as this shape"
    return nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (5, *shape))) if shape else nn.Flatten(0)


@pytest.mark.parametrize('shape', [(), (1,), (1, 1), (1, 1, 1)])
def test_a_number_each_is_one_axis_however_it_is_returned(shape):
    a = randn(0, 5, *shape)
    assert torch.equal(Passes(returning(*shape))(a), a.flatten())


@pytest.mark.parametrize('shape', [(2,), (3, 4), (1, 2), (0,)])
def test_other_than_a_number_each_is_refused(shape):
    message = re.escape(f'D returned {(5, *shape)} for 5 samples, expected one number each')
    with pytest.raises(ValueError, match=message): Passes(returning(*shape))(randn(0, 5, *shape))


@pytest.mark.parametrize('head', ['code', 'reconstruction'])
@pytest.mark.parametrize('shape', [(1,), (2,), (3, 4)])
def test_other_heads_keep_their_shape(shape, head):
    assert Passes(returning(*shape), head=head)(randn(0, 5, *shape)).shape == (5, *shape)


# --- mixed precision ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('separate', [False, True])
def test_bfloat16_rounds_inside_and_returns_float32(separate):
    net, (x, y) = plain_net(), SETS[3:]
    exact = torch.cat(Passes(net, separate)(x, y))
    rounded = torch.cat(Passes(net, separate, 'bfloat16')(x, y))
    # two products, each of inputs, weights and result in bfloat16: a handful of roundings of numbers of order one
    assert_close(rounded, exact, rtol=0, atol=8 * BFLOAT16)
    assert rounded.dtype == torch.float32 and (rounded != exact).any()
    assert not torch.is_autocast_enabled('cpu')


def test_gradients_of_bfloat16_passes_are_float32_and_near():
    net, (x, y) = plain_net(), SETS[3:]
    weights = [*net.parameters()]
    def gradients(precision):
        d_x, d_y = Passes(net, precision=precision)(x, y)
        return torch.autograd.grad(d_x.mean() - d_y.mean(), weights)
    for exact, rounded in zip(gradients('float32'), gradients('bfloat16')):
        assert rounded.dtype == torch.float32
        assert_close(rounded, exact, rtol=0, atol=16 * BFLOAT16)


def test_float64_stays_float64():
    assert Passes(plain_net().double())(SETS[3].double()).dtype == torch.float64


# --- what couples samples -----------------------------------------------------------------------------------------

LAYERS = {
    'none': lambda: nn.Identity(),
    'BatchNorm1d': lambda: nn.BatchNorm1d(4),
    'without weights': lambda: nn.BatchNorm1d(4, affine=False, track_running_stats=False),
    'LayerNorm': lambda: nn.LayerNorm(4),
    'GroupNorm': lambda: nn.GroupNorm(2, 4),
    'Dropout': lambda: nn.Dropout(0.),
    'inside': lambda: nn.Sequential(nn.Sequential(nn.Tanh(), nn.Sequential(nn.BatchNorm1d(4)))),
}


@pytest.mark.parametrize('layer', LAYERS)
def test_samples_are_coupled_if_the_output_at_one_depends_on_the_others(layer):
    net = seeded(lambda: nn.Sequential(nn.Linear(3, 4), LAYERS[layer](), nn.Linear(4, 1)))
    one, others = randn(0, 1, 3), randn(1, 4, 3)
    here, there = (net(torch.cat([one, others * scale]))[0] for scale in (1, 3))
    assert couples_samples(net) == (not torch.equal(here, there))


@pytest.mark.parametrize('layer, coupled', [(nn.BatchNorm2d(4), True), (nn.BatchNorm3d(4), True), (nn.SyncBatchNorm(4), True),
                                            (nn.LazyBatchNorm2d(), True), (nn.InstanceNorm2d(4), False)])
@pytest.mark.filterwarnings('ignore:Lazy modules')
def test_kinds_of_batch_norm(layer, coupled): assert couples_samples(nn.Sequential(nn.Flatten(), layer)) == coupled


@pytest.mark.parametrize('name', NETWORKS)
def test_discriminators_of_the_package_say_by_their_options_whether_they_couple(name):
    networks = NETWORKS[name]()
    shape = (20, 30) if networks.name == 'text' else (3, 32, 32)
    own = [f.name for f in fields(networks)]
    cases = {networks: networks.heads == ('code',)}      # MMD-GAN's encoder has batch norm, as released
    if 'batch_norm_d' in own: cases = {replace(networks, batch_norm_d=on): on for on in (True, False)}
    if 'norm_d' in own: cases = {replace(networks, norm_d=norm): norm == 'batch' for norm in ('batch', 'layer', 'none')}
    for networks, coupled in cases.items():
        with torch.device('meta'): _, d = build(networks, shape, networks.heads[0])
        assert couples_samples(d) == coupled


# --- the record ---------------------------------------------------------------------------------------------------

def test_batches_do_not_share_their_mappings():
    x = SETS[0]
    one, other = Batch(x, x, None), Batch(x, x, None)
    one.carried['k'] = x
    assert other.carried == {} == other.scheduled


def test_an_objective_that_says_nothing_plays_the_plain_game():
    game = Objective()
    assert (game.head, game.simultaneous, game.critic_steps, game.published) == ('scalar', False, 1, {})
    assert (game.critic_steps_at(0), game.monitored) == (1, '')
    assert (game.n_real(7), game.scheduled(.3), game.start((3,), 'cpu'), game.settled({})) == (7, {}, {}, True)
    assert (game.check(True), game.constrain(None), game.finish(None, None)) == (None, None, None)
    for loss in (game.loss_d, game.loss_g): pytest.raises(NotImplementedError, loss, None, None)


@pytest.fixture
def scratch():
    "An objective that is registered for one test"
    @OBJECTIVES.add('scratch')
    @dataclass(frozen=True)
    class Scratch(Objective):
        scale: float = 1.
        clip: float = .01
        def loss_d(self, d, b):
            d_x, d_y = d(b.x, b.y)
            return self.scale * (softplus(d_x).mean() + softplus(-d_y).mean())
        def loss_g(self, d, b): return self.scale * softplus(-d(b.x)).mean()
        def constrain(self, d):
            with torch.no_grad():
                for p in d.parameters(): p.clamp_(-self.clip, self.clip)
    yield Scratch
    del OBJECTIVES['scratch']


def test_a_registered_objective_is_an_option_and_trains(scratch):
    e = TINY.changed(objective='scratch', clip=.125)
    assert type(e.objective) is scratch and Experiment().revised(e.to_dict()) == e
    t = TrainState(e, (2,))
    losses = train_step(t, randn(0, 6, 2))
    assert torch.stack(losses).isfinite().all()
    assert max(p.abs().max() for p in t.d.parameters()) <= .125
    with pytest.raises(ValueError, match="scale is not for .*; it is for objective 'scratch'"): TINY.changed(scale=2.)


def test_names():
    with pytest.raises(ValueError, match="was renamed to 'exact-force'"): OBJECTIVES.find('direct')
    with pytest.raises(ValueError, match="did you mean 'wgan-gp'"): OBJECTIVES.find('wgan')
    with pytest.raises(ValueError, match="the objective 'coulomb' is taken by Coulomb"):
        OBJECTIVES.add('coulomb')(dataclass(frozen=True)(type('Other', (Objective,), {})))


# --- every registered objective keeps the contract ----------------------------------------------------------------

def batch_of(game, seed=0, n=6, m=2):
    "Generated samples attached to weights of their own, and as many real ones as the game wants"
    w = randn(seed, m, m).requires_grad_()
    x = randn(seed + 1, n, m) @ w
    y = randn(seed + 2, game.n_real(n), m) + 1
    return w, Batch(x, y, torch.Generator().manual_seed(seed), game.scheduled(.5), game.start((m,), 'cpu'))


@pytest.mark.parametrize('name', OBJECTIVES)
def test_losses_are_numbers_with_a_gradient_for_their_player(name):
    game = OBJECTIVES[name]()
    net = discriminator(game.head or 'scalar')
    w, b = batch_of(game)
    d = None if game.head is None else Passes(net, head=game.head)
    loss_g = game.loss_g(d, b)
    gradient, = torch.autograd.grad(loss_g, w, retain_graph=True)
    assert loss_g.shape == () and loss_g.isfinite() and gradient.abs().min() > 0
    if d is None:
        pytest.raises(NotImplementedError, game.loss_d, d, b)
        return
    loss_d = game.loss_d(d, b)
    matrices = [p for p in net.parameters() if p.ndim > 1]
    assert loss_d.shape == () and loss_d.isfinite()
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss_d, matrices))


@pytest.mark.parametrize('name', OBJECTIVES)
def test_a_loss_leaves_its_batch_as_it_was(name):
    game = OBJECTIVES[name]()
    net = discriminator(game.head or 'scalar')
    _, b = batch_of(game)
    x, y = b.x.clone(), b.y.clone()
    d = None if game.head is None else Passes(net, head=game.head)
    if d: game.loss_d(d, b)
    game.loss_g(d, b)
    assert torch.equal(b.x, x) and torch.equal(b.y, y) and b.x.grad_fn is not None
    assert all(p.grad is None for p in net.parameters())


class NoReading(TorchDispatchMode):
    "Refuses what on a GPU would wait for a number, which no CUDA graph can record"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        assert not waits, f'{func} reads a number off the device'
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('options', [*({'objective': name} for name in OBJECTIVES), *(
    {'objective': 'gan-gp', 'penalty_one_sided': True, **place} for place in (
        {'penalty_at': 'data'}, *({'penalty_at': 'around', 'penalty_noise': noise} for noise in ('released', 'gaussian', 'uniform')))),
    {'objective': 'minimax', 'r1': 1.}], ids=str)
def test_losses_read_no_number_off_the_device(options):
    game = TINY.changed(**options).objective
    net = discriminator(game.head or 'scalar')
    w, b = batch_of(game)
    d = None if game.head is None else Passes(net, head=game.head)
    with NoReading():
        torch.autograd.grad(game.loss_g(d, b), w, retain_graph=True)
        if d: torch.autograd.grad(game.loss_d(d, b), [p for p in net.parameters() if p.ndim > 1])


def test_a_number_that_is_read_is_noticed():
    with NoReading(), pytest.raises(AssertionError, match='reads a number'): torch.ones(1).item()


@pytest.mark.parametrize('name', OBJECTIVES)
def test_plain_data_make_the_same_objective(name):
    game = OBJECTIVES[name]()
    assert game.name == name and rebuilt(OBJECTIVES['coulomb'](), plain(game), OBJECTIVES) == game


@pytest.mark.parametrize('name', OBJECTIVES)
def test_published_settings_are_settings(name): Optimisation(**OBJECTIVES[name].published)


# --- every field changes a step -----------------------------------------------------------------------------------

CHANGES = {  # flat name of a field -> another value than its default
    'd': 2., 'eps': 2., 'eps_end': .1, 'self_term': .5, 'keep_self_weight': True, 'charges': 5, 'replay': 4, 'smoothing': .5,
    'alternating': True, 'fresh': 24, 'fresh_from': .5,
    'gamma': 1., 'lambda_k': .5, 'more_critic_steps': 2, 'clip': .1, 'rank_weight': 1., 'decoding_weight': 1.,
    'critic_steps': 2, 'r1': 1., 'penalty_weight': 3., 'penalty_target': 2., 'penalty_at': 'data', 'penalty_one_sided': True,
    'penalty_noise': 'uniform', 'penalty_spread': 2.,
    'field': 'gaussian', 'widths': '0.5', 'unit_size': False,
}
AROUND = dict(penalty_at='around')
NEEDED = {'keep_self_weight': dict(eps_end=.5), 'fresh_from': dict(fresh=24), 'gamma': dict(lambda_k=.5), 'penalty_noise': AROUND, 'penalty_spread': AROUND}  # what must be chosen with it, before and after
NEEDED_BY = {('drifting', 'd'): dict(field='plummer')}  # the same, for one objective
OF_IMAGES = {'encoder', 'heads'}  # fields that points do not feel; tests/training/test_config.py changes them
CASES = [(name, field) for name in OBJECTIVES for field in flat_fields(OBJECTIVES[name]) if field not in OF_IMAGES]


def after_steps(e, steps=3):
    "Losses of three steps, and the weights then"
    t = TrainState(playable(e), (2,))
    if e.objective.name == 'mmd-gan': t.progress.step = 24      # the last with more updates of D
    y = 5 * randn(0, 700, 2)      # harder to reconstruct than what a fresh generator makes
    losses = [loss for i in range(steps) for loss in train_step(t, y[i:i + rows_of_a_step(t)])]
    nets = [net for net in (t.g, t.d) if net is not None]
    return torch.cat([torch.stack(losses), *[p.detach().flatten() for net in nets for p in net.parameters()]])


def test_every_field_is_changed_below(): assert {field for _, field in CASES} == {*CHANGES}


@pytest.mark.parametrize('name, field', CASES)
def test_every_field_changes_a_step(name, field):
    base = TINY.changed(objective=name, **NEEDED.get(field, {}), **NEEDED_BY.get((name, field), {}))
    plain, other = after_steps(base), after_steps(base.changed(**{field: CHANGES[field]}))
    assert torch.equal(after_steps(base), plain)
    assert (other - plain).abs().max() > 1e-4


def test_no_two_objectives_make_the_same_step():
    ends = {name: after_steps(TINY.changed(objective=name)) for name in OBJECTIVES}
    for one, other in combinations(ends.values(), 2): assert len(one) != len(other) or (one - other).abs().max() > 1e-4
