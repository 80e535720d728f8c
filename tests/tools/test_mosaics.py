"""A mosaic holds every pixel once, in its place, and refuses what is not a batch of images."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from coulomb_gan.mosaics import mosaic, title_positions


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 4))
def test_every_image_comes_back_from_its_place(n, channels, h, w, cols, top):
    images = torch.rand(n, channels, h, w, generator=torch.Generator().manual_seed(0))*1.8 - .9
    picture = torch.tensor(mosaic(images, cols, top))
    gap = max(1, h // 16)
    rows = -(-n // cols)
    assert picture.shape == (rows*(top + h + gap), cols*(w + gap), 3)
    white = torch.ones_like(picture, dtype=torch.bool)
    for i, image in enumerate(images):
        y, x = (i // cols)*(top + h + gap) + top, (i % cols)*(w + gap)
        assert_close(picture[y:y+h, x:x+w], (image.expand(3, h, w).permute(1, 2, 0) + 1)/2)
        white[y:y+h, x:x+w] = False
        assert title_positions(images, cols, top)[i] == (x + (w - 1)/2, y - 1)
    assert (picture[white] == 1).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_and_attached_tensors(dtype):
    images = torch.tensor([-2., -1., 0., 1.], dtype=dtype).view(1, 1, 2, 2).requires_grad_()
    picture = mosaic(images, 1)
    assert picture.dtype == 'float32' and picture[:2, :2, 0].ravel().tolist() == [0, 0, .5, 1]


@pytest.mark.parametrize('images, message', [
    (torch.zeros(1, 2, 2), r'got torch.float32 \(1, 2, 2\), expected float \(n, 1\|3, h, w\)'),
    (torch.zeros(4, 2, 8, 8), r'\(4, 2, 8, 8\)'), (torch.zeros(0, 1, 8, 8), r'\(0, 1, 8, 8\)'),
    (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 'torch.uint8'), (torch.zeros(4, 1, 8, 8)/0, 'NaN or infinity'),
    (torch.full((1, 1, 2, 2), float('inf')), 'NaN or infinity')])
def test_what_is_refused(images, message):
    with pytest.raises(ValueError, match=message): mosaic(images, 2)
