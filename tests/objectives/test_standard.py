"""The non-saturating losses against torch's cross entropies, and what is known of the best discriminator."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.testing import assert_close

from coulomb_gan.objectives.base import Batch, Passes
from coulomb_gan.objectives.standard import Minimax, NonSaturating

GAME = NonSaturating()


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=40)(f)


def outputs(n):
    "What a discriminator may return at n points"
    numbers = st.lists(st.floats(-1000, 1000), min_size=n, max_size=n)
    return numbers.map(lambda values: torch.tensor(values, dtype=torch.float64))


def losses(d_x, d_y):
    b = Batch(torch.zeros(len(d_x)), torch.zeros(len(d_y)), None)
    return GAME.loss_d(lambda x, y: (d_x, d_y), b), GAME.loss_g(lambda x: d_x, b)


@property_test
@given(outputs(5), outputs(7))
def test_losses_are_cross_entropies(d_x, d_y):
    loss_d, loss_g = losses(d_x, d_y)
    zeros, ones = torch.zeros_like, torch.ones_like
    assert_close(loss_d, cross_entropy(d_x, zeros(d_x)) + cross_entropy(d_y, ones(d_y)))
    assert_close(loss_g, cross_entropy(d_x, ones(d_x)))


@property_test
@given(outputs(5), outputs(5))
def test_exchanging_real_and_generated_flips_the_sign_of_d(d_x, d_y): assert_close(losses(-d_y, -d_x)[0], losses(d_x, d_y)[0])


@property_test
@given(outputs(6), st.permutations(range(6)))
def test_the_order_of_the_samples_does_not_matter(d, order):
    for one, other in zip(losses(d, d), losses(d[order], d)): assert_close(one, other)


def test_a_generator_that_is_found_out_still_learns():
    "The slope of L_G is -sigmoid(-D) / n: near 1 where D is sure that a sample is generated; the saturating loss has none"
    d_x = torch.tensor([-50., 0., 50.], dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(losses(d_x, d_x)[1], d_x)
    assert_close(slope, -torch.sigmoid(-d_x.detach()) / 3)
    saturating, = torch.autograd.grad(-cross_entropy(d_x, torch.zeros_like(d_x)), d_x)
    assert slope[0] < -.33 and saturating[0].abs() < 1e-20


def test_the_best_discriminator_returns_the_log_odds():
    "On three places with known frequencies D = log(real / generated) is stationary, and L_D = 2 log 2 - 2 JSD"
    x, y = (torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor(n)) for n in ((6, 3, 1), (2, 3, 5)))
    p_x, p_y = (places.bincount() / 10 for places in (x, y))
    table = nn.Embedding.from_pretrained((p_y / p_x).log()[:, None], freeze=False)
    loss = GAME.loss_d(Passes(table), Batch(x, y, None))
    gradient, = torch.autograd.grad(loss, table.weight)
    assert_close(gradient, torch.zeros(3, 1), rtol=0, atol=1e-7)
    middle = (p_x + p_y) / 2
    jsd = ((p_x * (p_x / middle).log()).sum() + (p_y * (p_y / middle).log()).sum()) / 2
    assert_close(loss, 2 * torch.tensor(2.).log() - 2 * jsd)
    with torch.no_grad(): table.weight[0] += .5
    assert GAME.loss_d(Passes(table), Batch(x, y, None)) > loss


def test_bfloat16_passes_give_losses_in_float32():
    net = nn.Linear(3, 1)
    x, y = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(0))
    b = Batch(x, y, None)
    for loss in (GAME.loss_d, GAME.loss_g):
        exact, rounded = (loss(Passes(net, precision=p), b) for p in ('float32', 'bfloat16'))
        assert rounded.dtype == torch.float32 and rounded != exact
        assert_close(rounded, exact, rtol=0, atol=8 * 2**-9)  # slopes of at most 1 on a handful of roundings


def test_the_game_is_played_in_turn_with_one_update_each():
    assert (GAME.simultaneous, GAME.critic_steps, GAME.head, GAME.n_real(8)) == (False, 1, 'scalar', 8)
    assert GAME.check(True) is None


def test_it_has_no_options():
    with pytest.raises(TypeError): NonSaturating(1.)


@property_test
@given(outputs(5), outputs(7))
def test_minimax_is_a_zero_sum_game(d_x, d_y):
    "What G pays for its samples, D gains from them; the discriminator is the non-saturating game's"
    b = Batch(torch.zeros(5), torch.zeros(7), None)
    loss_d, loss_g = Minimax().loss_d(lambda x, y: (d_x, d_y), b), Minimax().loss_g(lambda x: d_x, b)
    assert_close(loss_d, losses(d_x, d_y)[0])
    assert_close(loss_g, -cross_entropy(d_x, torch.zeros_like(d_x)))
    assert_close(loss_d + loss_g, cross_entropy(d_y, torch.ones_like(d_y)), atol=1e-9, rtol=1e-9)


def test_minimax_saturates():
    d_x = torch.tensor([-50., 0., 50.], dtype=torch.float64, requires_grad=True)
    loss = Minimax().loss_g(lambda x: d_x, Batch(torch.zeros(3), torch.zeros(3), None))
    slope, = torch.autograd.grad(loss, d_x)
    assert_close(slope, -torch.sigmoid(d_x.detach()) / 3)
    assert slope[0].abs() < 1e-20
