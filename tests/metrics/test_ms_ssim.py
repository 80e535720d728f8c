"""Properties of the similarity of images on random ones."""
import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.metrics.ms_ssim import mean_ms_ssim, ms_ssim


def images(n, seed, side=64): return 2 * torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)).double() - 1


@pytest.mark.parametrize('scales, side', [(1, 11), (2, 22), (3, 64), (5, 176)])
def test_symmetric_and_bounded(scales, side):
    x, y = images(3, 0, side), images(3, 1, side)
    y = .7 * x + .3 * y
    found = ms_ssim(x, y, scales)
    assert_close(found, ms_ssim(y, x, scales))
    assert_close(ms_ssim(x, x, scales), torch.ones(3).double())
    assert ((0 <= found) & (found < 1)).all()


def test_mirrored_and_turned_alike():
    x, y = images(2, 0), .5 * images(2, 0) + .5 * images(2, 1)
    for turned in (lambda a: a.flip(3), lambda a: a.flip(2), lambda a: a.transpose(2, 3)):
        assert_close(ms_ssim(turned(x), turned(y)), ms_ssim(x, y))


def test_more_noise_less_alike():
    x, noise = .5 * images(4, 0), images(4, 1)
    found = torch.stack([ms_ssim(x, x + strength * noise) for strength in (0., .1, .2, .4)])
    assert (found.diff(dim=0) < 0).all()


def test_float32_is_near_and_batches_are_averaged():
    x = images(9, 2)
    assert_close(ms_ssim(x.float(), x.flip(0).float()).double(), ms_ssim(x, x.flip(0)), atol=1e-5, rtol=0)
    first, second = mean_ms_ssim(x[:4], batch=4)[0], mean_ms_ssim(x[4:8], batch=4)[0]
    assert mean_ms_ssim(x, batch=4)[0] == pytest.approx((first + second) / 2)


def test_refusals():
    with pytest.raises(ValueError, match='got .*expected two sets'): ms_ssim(images(2, 0), images(3, 0))
    with pytest.raises(ValueError, match='3 scales need 44'): ms_ssim(images(1, 0, 32), images(1, 0, 32))
    with pytest.raises(ValueError, match='expected 2 to the number of images'): mean_ms_ssim(images(3, 0), batch=4)


def test_the_standard_error_is_that_of_the_mean_over_batches():
    "From the means of the batches by themselves"
    x = 2 * torch.rand(16, 1, 48, 48, generator=torch.Generator().manual_seed(0)) - 1
    means = torch.tensor([mean_ms_ssim(part, batch=4)[0] for part in x.split(4)])
    mean, error = mean_ms_ssim(x, batch=4)
    assert mean == pytest.approx(means.mean().item(), abs=1e-6)
    assert error == pytest.approx(means.std().item() / 4**.5, rel=1e-3)
