"""Disturbed images: closed forms, seeds, and a distance known without a network."""
import math

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.metrics.disturbances import (DISTURBANCES, NOISE_SD, RECTANGLES, RIM, SWIRL_RADIUS, Disturbance, Growth,
                                              black_rectangles, disturbed_distances, gaussian_blur, gaussian_noise, mixed,
                                              order_agreement, salt_and_pepper, swirl)
from coulomb_gan.metrics.feature_extractors import FeatureExtractor
from coulomb_gan.metrics.frechet import statistics


def seeded(seed=0): return torch.Generator().manual_seed(seed)
def rand(*shape, seed=0): return 2 * torch.rand(*shape, generator=seeded(seed)) - 1


def applied(name, x, level, seed=0):
    kind = DISTURBANCES[name]
    other = [rand(len(x), *x.shape[1:], seed=99)] if kind.needs_other else []
    return kind.apply(x, level, seeded(seed), *other)


@pytest.mark.parametrize('name', DISTURBANCES)
@pytest.mark.parametrize('shape', [(6, 3, 24, 20), (4, 1, 17, 33)])
def test_range_shape_seed_and_level_0(name, shape):
    "Floats in [-1, 1] come back as such, the argument untouched; the swirl's coordinates round to 1e-5"
    x = rand(*shape)
    before = x.clone()
    for level in DISTURBANCES[name].levels:
        once, again = applied(name, x, level), applied(name, x, level)
        assert once.shape == x.shape and once.dtype == x.dtype and once.abs().max() <= 1 + 1e-6
        assert_close(once, again, rtol=0, atol=0)
        assert (once - x).abs().max() > .1
        other_seed = applied(name, x, level, seed=5)
        assert torch.equal(once, other_seed) == (name == 'blur')
    assert torch.equal(x, before)
    assert_close(applied(name, x, 0), x, rtol=0, atol=1e-5)


def test_levels_and_numbers_are_the_published_ones():
    assert {name: kind.levels for name, kind in DISTURBANCES.items()} == {
        'noise': (.25, .5, .75), 'blur': (1, 2, 4), 'rectangles': (.25, .5, .75), 'swirl': (1, 2, 4),
        'salt and pepper': (.1, .2, .3), 'other images': (.25, .5, .75)}
    assert all(isinstance(k, Disturbance) and len(k.published) == 3 for k in DISTURBANCES.values())
    assert [name for name, k in DISTURBANCES.items() if list(k.published) != sorted(k.published)] == ['salt and pepper']


def test_noise_is_linear_in_the_level():
    "With one seed: X + level (N - X), float32 rounding"
    x = rand(5, 3, 8, 8)
    noise = gaussian_noise(x, 1, seeded())
    assert_close(gaussian_noise(x, .3, seeded()), x + .3 * (noise - x), rtol=0, atol=1e-6)
    assert noise.std().item() == pytest.approx(NOISE_SD, rel=4 / (2 * noise.numel())**.5)


def test_blurs_add_up_in_variance():
    "3 after 4 is 5, in the middle, where no mirrored edge is seen; what is cut off beyond 4 deviations is 1e-3 of it"
    x = rand(1, 1, 121, 121)
    middle = (..., slice(45, -45), slice(45, -45))
    twice = gaussian_blur(gaussian_blur(x, 3), 4)[middle]
    once = gaussian_blur(x, 5)[middle]
    assert (twice - once).abs().max() < 5e-3 * once.abs().max()
    assert (gaussian_blur(x, 4)[middle] - once).abs().max() > .05 * once.abs().max()
    flat = torch.full((1, 3, 20, 20), .3)
    assert_close(gaussian_blur(flat, 4), flat, rtol=1e-5, atol=0)


def test_a_blur_needs_room():
    with pytest.raises(ValueError, match='got images 8 pixels wide, expected more than 16 for a blur of 4'):
        gaussian_blur(rand(1, 1, 8, 30), 4)
    gaussian_blur(rand(1, 1, 17, 17), 4)


def test_one_rectangle_by_its_corners(monkeypatch):
    "Its bounding box is all black and of the sides asked for; every place occurs"
    monkeypatch.setattr('coulomb_gan.metrics.disturbances.RECTANGLES', 1)
    black = (black_rectangles(torch.zeros(300, 2, 8, 12), .5, seeded()) == -1)
    assert torch.equal(black[:, 0], black[:, 1])
    corners = set()
    for image in black[:, 0]:
        i, j = image.nonzero().T
        assert image.sum() == 4 * 6 and (i.max() - i.min() + 1, j.max() - j.min() + 1) == (4, 6)
        corners.add((i.min().item(), j.min().item()))
    assert corners == {(i, j) for i in range(5) for j in range(7)}


def test_the_ends_of_the_rectangles():
    x = torch.zeros(20, 1, 8, 8)
    assert (black_rectangles(x, 1, seeded()) == -1).all()
    single = (black_rectangles(x, 1 / 8, seeded()) == -1).sum((1, 2, 3))
    assert single.max() == RECTANGLES and single.min() >= 1


@pytest.mark.parametrize('level', [.3, 1, 4])
def test_a_swirl_keeps_what_depends_on_the_radius_only(level):
    "Interpolated linearly: error h^2/8 of the second derivative of r^2, 2 in both directions, over the scale 1,000"
    c = torch.arange(41) - 20.
    r = torch.hypot(c[:, None], c)
    found = swirl((r**2 / 1000).expand(3, 1, 41, 41), level, seeded())
    assert (found - r**2 / 1000)[..., r < 18].abs().max() < 2 * (2 / 8) / 1000 * 1.01


def test_a_swirl_turns_the_centre_by_its_level():
    "The slope of a linear image, at a middle pixel: turned by the level, made steeper by nothing"
    c = torch.arange(401) - 200.
    radius = SWIRL_RADIUS * 401
    image = (c / 200).expand(8, 1, 401, 401)
    found = swirl(image, 1., seeded())[:, 0]
    slope_x = (found[:, 200, 201] - found[:, 200, 199]) * 100
    slope_y = (found[:, 201, 200] - found[:, 199, 200]) * 100
    angle = torch.atan2(slope_y, slope_x).abs()
    expected = math.exp(-5 / (radius * math.log(2)))  # one pixel off the centre
    assert (angle - expected).abs().max() < 1e-3
    assert (torch.hypot(slope_x, slope_y) - 1).abs().max() < 1e-3


def test_two_senses_and_a_rim():
    x = rand(1, 1, 32, 32).expand(40, 1, 32, 32)
    found = swirl(x, 2, seeded())
    kinds = {tuple(image.flatten().tolist()) for image in found}
    assert len(kinds) == 2
    edge = torch.ones(32, 32, dtype=torch.bool)
    edge[RIM:-RIM, RIM:-RIM] = False
    assert torch.equal(found[..., edge], x[..., edge])


def test_salt_and_pepper_adds_pixels():
    "With one seed what is changed at a level stays changed at a higher one"
    x = torch.zeros(10, 3, 16, 16)
    low, high = salt_and_pepper(x, .1, seeded()), salt_and_pepper(x, .3, seeded())
    assert torch.equal(high[low != 0], low[low != 0]) and (high != 0).sum() > 2 * (low != 0).sum()
    assert set(salt_and_pepper(x, 1, seeded()).unique().tolist()) == {-1, 1}


def test_mixing_adds_images():
    x, other = torch.zeros(20, 1, 2, 2), 1 + rand(15, 1, 2, 2).abs()
    low, high = (mixed(x, level, seeded(), other) for level in (.25, .75))
    replaced = low.flatten(1).any(1)
    assert torch.equal(high[replaced], low[replaced]) and high.flatten(1).any(1).sum() == 15
    for wrong in (other[:14], other.expand(15, 3, 2, 2), other[..., :1]):
        with pytest.raises(ValueError, match='other images: got .* expected 15 or more of'): mixed(x, .75, seeded(), wrong)


MEANS = FeatureExtractor('mean-value', lambda x: x.double().mean((1, 2, 3))[:, None] / 127.5 - 1)


def test_a_distance_known_in_closed_form():
    "Flat images of values v, the feature their mean, so noise leaves (1 - level) v: distance (level mean)^2 + (level sd)^2"
    v = .5 * rand(400, 1, 1, 1)
    x = (v + .3).expand(400, 1, 32, 32)
    real = statistics(MEANS.net(255 * (x + 1) / 2))
    found = disturbed_distances(MEANS, x, real)['noise']
    assert found.levels == (0, .25, .5, .75) and found.grows
    mean, sd = real.mu.item(), real.sigma.item()**.5
    for level, distance in zip(found.levels, found.distances):  # rounding to pixels moves a mean by 1e-4 or so, noise by 4e-3
        assert distance == pytest.approx(level**2 * (mean**2 + sd**2), abs=3e-3)
    wrong = [level**2 * mean**2 for level in found.levels]
    assert found.distances[-1] != pytest.approx(wrong[-1], abs=3e-3)


@pytest.mark.parametrize('fid', [False, True])
def test_published_values_stand_beside_fid_only(fid):
    extractor = FeatureExtractor('mean-value', MEANS.net, fid=fid)
    x = rand(50, 1, 24, 24)
    found = disturbed_distances(extractor, x, statistics(MEANS.net(255 * (x + 1) / 2)), other=x.flip(0))
    assert [*found] == [*DISTURBANCES]
    for name, growth in found.items(): assert growth.published == (DISTURBANCES[name].published if fid else None)


def test_bytes_and_floats_give_the_same():
    x = torch.randint(256, (60, 3, 20, 20), generator=seeded()).byte()
    real = statistics(MEANS.net(x[:30]))
    a = disturbed_distances(MEANS, x[30:], real, x)
    b = disturbed_distances(MEANS, x[30:] / 127.5 - 1, real, x / 127.5 - 1)
    assert a == b and a != disturbed_distances(MEANS, x[30:], real, x, seed=1)


def grown(*distances): return Growth((0, 1, 2, 3), distances, None)


@pytest.mark.parametrize('distances, grows', [((0, 1, 2, 3), True), ((0, 1, 1, 3), False), ((0, 2, 1, 3), False),
                                              ((1, .5, 2, 3), False), ((0, 1, 2, math.nan), False)])
def test_growth_is_strict(distances, grows): assert grown(*distances).grows == grows


def test_order_agreement():
    exact = {name: grown(.7, *kind.published) for name, kind in DISTURBANCES.items()}
    assert order_agreement(exact) == 1
    scaled = {name: grown(*(5 * d**3 for d in g.distances)) for name, g in exact.items()}
    assert order_agreement(scaled) == 1
    swapped = exact | {'noise': grown(.7, 76.3, 41.6, 218)}
    pairs = 18 * 17 // 2  # of which change: the two themselves, and either with the blur of 73.9 between them
    assert order_agreement(swapped) == pytest.approx(1 - 3 / pairs)
    equal = {name: grown(1, 1, 1, 1) for name in DISTURBANCES}
    assert order_agreement(equal) == 0
    del exact['other images']
    assert order_agreement(exact) == 1


def test_the_radius_of_a_swirl_is_of_the_shorter_side():
    "An oblong image whose middle square is turned as that square by itself; the rim and what reads over it aside"
    x = torch.rand(1, 1, 24, 60, generator=seeded())
    oblong = swirl(x, 1., seeded())[..., 18:42]
    by_itself = swirl(x[..., 18:42], 1., seeded())
    middle = (..., slice(8, 16), slice(8, 16))
    assert (oblong[middle] - by_itself[middle]).abs().max() < 1e-4
