"""What a field compares: maps, images and texts of odd shapes, and what is refused."""
import pytest
import torch
from torch.nn.functional import avg_pool2d, one_hot
from torch.testing import assert_close

from coulomb_gan.objectives.heads import OF_IMAGES, OF_MAPS, OF_TEXTS, flat_rows, from_rows, head_features


def randn(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('side', [1, 2, 3, 5, 8])
def test_heads_take_maps_of_any_side(side):
    f = randn(0, 3, 4, side, side)
    shapes = {name: tuple(head(f).shape) for name, head in OF_MAPS.items()}
    assert shapes == {'mean': (1, 3, 4), 'std': (1, 3, 4), 'cells': (4, 3, 4), 'locations': (side**2, 3, 4)}


def test_a_constant_map_has_a_finite_slope():
    f = torch.ones(2, 3, 4, 4, requires_grad=True)
    OF_MAPS['std'](f).sum().backward()
    assert f.grad.isfinite().all()


@pytest.mark.parametrize('side, places', [(8, 1), (16, 4), (32, 16), (64, 64)])
def test_patches_fill_the_image(side, places):
    image = randn(0, 2, 3, side, side)
    patches = OF_IMAGES['patches'](image)
    assert patches.shape == (places, 2, 192)
    assert_close(patches.sum((0, 2)), image.sum((1, 2, 3)))


def test_rows_of_any_precision_come_back_in_the_type_of_the_heads():
    heads = head_features(randn(0, 4, 3, 16, 16), lambda x: [avg_pool2d(x, 4), x.mean((2, 3))], ['mean', 'cells', 'patches'])
    assert [tuple(f.shape) for f in heads] == [(1, 4, 3), (4, 4, 3), (1, 4, 3), (4, 4, 192)]
    again = from_rows(flat_rows(heads).half(), heads)
    for f, rounded in zip(heads, again):
        assert rounded.dtype == f.dtype
        assert_close(rounded, f, rtol=5e-4, atol=1e-4)


def test_samples_that_are_no_images_are_vectors():
    text = randn(0, 5, 6, 7)
    assert [f.shape for f in head_features(text, None, ['mean', 'patches'])] == [(1, 5, 42)]


@pytest.mark.parametrize('n', [1, 2, 3, 6])
def test_ngrams_stand_at_their_places(n):
    characters = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(n))
    texts = one_hot(characters, 5)
    found, = head_features(texts.double(), None, [f'{n}-grams'])
    assert found.shape == (7 - n, 4, 5 * n)
    for place in range(7 - n):
        for text in range(4):
            assert torch.equal(found[place, text], texts[text, place:place + n].flatten().double())


def test_ngrams_stand_beside_an_encoder_of_texts():
    text = randn(0, 5, 6, 7)
    found = head_features(text, lambda x: x.mean(1), ['mean', '3-grams', '1-grams'])
    assert [tuple(f.shape) for f in found] == [(1, 5, 7), (4, 5, 21), (6, 5, 7)]


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match='3-grams needs texts of 3 characters, got 2; leave it out'):
        head_features(torch.zeros(4, 2, 7), None, ['3-grams'])


@pytest.mark.parametrize('name', OF_TEXTS)
def test_ngrams_of_images_and_points_are_refused_or_not_read(name):
    with pytest.raises(ValueError, match=f'the heads {name} give no features'):
        head_features(torch.zeros(2, 3, 16, 16), lambda x: x, [name])
    points = randn(0, 5, 2)
    found, = head_features(points, None, [name])
    assert torch.equal(found[0], points)


def test_an_encoder_that_gives_nothing_is_refused():
    images = torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match='locations give no features of samples'): head_features(images, lambda x: [], ['locations'])
