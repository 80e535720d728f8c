"""What `coulomb-gan advise` measures and suggests: known laws, lengths that stretch, bad data in one line."""
import math

import pytest
import torch

from coulomb_gan.data.in_memory import from_memory
from coulomb_gan.field.distances import squared_distances
from coulomb_gan.field.finite_samples import false_minimum_distance
from coulomb_gan.reporting.advise import advice, advise, intrinsic_dimension, scales, smallest_feature

def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def flat(seed, n, q, m): return draw(seed, n, q) @ torch.linalg.qr(draw(99, m, q))[0].T

def values(samples, **options): return {s.setting: s.value for s in advise(scales(samples), **options)}


# --- what is measured ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n', [500, 2000])
@pytest.mark.parametrize('q, m', [(1, 1), (1, 3), (2, 2), (3, 50), (6, 6)])
def test_dimension_of_flat_pieces(q, m, n):
    r2 = squared_distances(*2 * [flat(q, n, q, m)])
    assert intrinsic_dimension(r2) == pytest.approx(q, rel=.2)      # ten neighbours of 500: 1 %, and the bias


@pytest.mark.parametrize('apart', [10., 30.])
@pytest.mark.parametrize('count', [2, 9])
@pytest.mark.parametrize('q', [2, 4])
def test_feature_is_that_of_a_cluster(q, count, apart):
    places = apart * draw(1, count, q).sign() * torch.arange(1, count + 1)[:, None]
    y = places.repeat_interleave(1800 // count, 0) + .7 * draw(2, 1800, q)
    r2 = squared_distances(y, y)
    assert smallest_feature(r2, intrinsic_dimension(r2)) == pytest.approx(.7, rel=.3)


def test_scales_of_a_known_law():
    s = scales(draw(0, 5000, 4) * torch.tensor([3., 1., 1., 1.]))
    assert (s.n, s.m) == (2000, 4)
    assert s.trace == pytest.approx(12, rel=.1) and s.rank == pytest.approx(12**2 / (81 + 3), rel=.1)
    assert s.typical == pytest.approx(math.sqrt(24), rel=.05)
    assert s.nearest < s.typical < s.extent


@pytest.mark.parametrize('factor', [1e-3, 50.])
def test_lengths_stretch_with_the_data(factor):
    y = draw(0, 400, 3)
    one, other = scales(y), scales(factor * y)
    for name, power in dict(q=0, rank=0, trace=2, feature=1, nearest=1, typical=1, extent=1).items():
        assert getattr(other, name) == pytest.approx(factor**power * getattr(one, name), rel=1e-4), name
    for name, value in values(y).items():
        want = value * (factor if name in ('eps', 'eps_end') else 1)
        assert values(factor * y)[name] == pytest.approx(want, rel=1e-4), name


def test_copies_are_not_neighbours():
    y = draw(0, 400, 3)
    doubled = torch.cat([y, y])
    assert scales(doubled).q == pytest.approx(scales(y).q, rel=.35)
    assert scales(doubled).nearest == pytest.approx(scales(y).nearest, rel=.01)


def test_same_samples_same_advice(): assert advice(draw(0, 3000, 2)) == advice(draw(0, 3000, 2))


# --- what is suggested --------------------------------------------------------------------------------------------

def test_first_softening_has_no_false_minimum_of_two_clusters():
    y = torch.tensor([[0., 0.], [40., 0.]]).repeat(300, 1) + .5 * draw(0, 600, 2)
    found = values(y)
    assert found['eps'] <= scales(y).typical / 2 * (1 + 1e-9)
    assert scales(y).extent / found['eps'] < false_minimum_distance(1.)
    assert found['eps_end'] == pytest.approx(.25, rel=.3)


@pytest.mark.parametrize('q', [1, 2, 5])
def test_exponent_is_one_for_a_learned_potential_and_follows_the_dimension_for_the_force(q):
    y = flat(0, 1500, q, 8)
    assert values(y)['d'] == 1
    assert values(y, exact=True)['d'] == pytest.approx(max(1, q - 2), rel=.25)


def test_exponent_leaves_adam_a_gradient():
    d = values(30 * draw(0, 1000, 40), exact=True)['d']
    typical = 30 * math.sqrt(80)
    assert d == pytest.approx(math.log(1e6) / math.log(typical), rel=.01)


@pytest.mark.parametrize('batch', [1, 128, 10_000])
def test_charges_fill_up_the_batch(batch):
    y = draw(0, 500, 3)
    found = values(y, batch=batch, exact=True)
    more = values(y, batch=1, exact=True)['charges'] + 1
    assert found['charges'] == max(0, more - batch)
    assert values(y, batch=batch)['minibatches that D averages'] > 0


def test_more_of_the_batch_is_less_self_term():
    def ratio(batch): return float(advise(scales(draw(0, 500, 3)), batch)[-1].why.split()[4])
    assert ratio(64) == pytest.approx(2 * ratio(128), rel=.05)       # two digits are printed


def test_lines_name_every_setting():
    text = advice(draw(0, 300, 2), batch=32)
    assert text.startswith('300 samples of 2 numbers\n')
    for word in ('intrinsic dimension', 'effective rank', 'eps_end', 'charges', 'self_term', 'exact force, batch 32'): assert word in text


# --- what comes in ------------------------------------------------------------------------------------------------

def test_images_and_other_types():
    images = draw(0, 200, 1, 4, 4).clamp(-1, 1)
    assert scales(images).m == 16
    assert scales(images.float()).q == pytest.approx(scales(images).q, rel=1e-3)
    data = from_memory(draw(0, 300, 2).float())
    assert advice(data.floats(data.train))


REFUSED = {
    'few': (lambda: scales(draw(0, 19, 2)), 'got 19 samples, expected 20 or more'),
    'none': (lambda: scales(draw(0, 0, 2)), 'is empty'),
    'alike': (lambda: scales(torch.ones(100, 3)), 'nearly all alike'),
    'two places': (lambda: scales(torch.eye(2).repeat(50, 1)), 'nearly all alike'),
    'nan': (lambda: scales(draw(0, 100, 2) / 0), 'NaN or infinite'),
    'integers': (lambda: scales(torch.ones(100, 3, dtype=torch.int64)), 'must hold floats'),
    'batch': (lambda: advise(scales(draw(0, 100, 2)), batch=0), 'batch must be at least 1, got 0'),
    'neighbours': (lambda: intrinsic_dimension(torch.ones(10, 10)), 'got 10 samples, expected more than 11')}

@pytest.mark.parametrize('name', REFUSED)
def test_refusal_is_one_line(name):
    use, words = REFUSED[name]
    with pytest.raises(ValueError) as caught: use()
    assert words in str(caught.value) and '\n' not in str(caught.value)
