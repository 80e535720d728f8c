"""KID and its standard error: identities, invariances, and what a poor error would be."""
import pytest
import torch
from torch.testing import assert_close
from torch_fidelity.metric_kid import kid_features_to_metric

from coulomb_gan.metrics.feature_extractors import FEATURE_METRICS, FeatureExtractor, evaluate_features
from coulomb_gan.metrics.frechet import Statistics, statistics
from coulomb_gan.metrics.kid import SUBSETS, cubic_kernel, kid, unbiased_squared_mmd


def randn(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('n, k', [(2, 1), (3, 7), (50, 20)])
def test_it_is_torch_fidelitys(n, k):
    "Of one subset that is the whole set; float64 rounding of sums of cubes"
    x, y = 2 * randn(n, k) + 1, randn(n, k, seed=1)
    theirs = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=n, verbose=False)
    assert_close(unbiased_squared_mmd(x, y).item(), theirs['kernel_inception_distance_mean'], rtol=1e-9, atol=1e-12)


def test_it_is_unbiased_for_one_law():
    "Mean over 2,000 pairs of small samples within four standard errors of zero; with the diagonal it is not"
    def biased(x, y): return cubic_kernel(x, x).mean() + cubic_kernel(y, y).mean() - 2 * cubic_kernel(x, y).mean()
    pairs = [(randn(5, 3, seed=2 * i), randn(5, 3, seed=2 * i + 1)) for i in range(2000)]
    for measure, holds in ((unbiased_squared_mmd, True), (biased, False)):
        found = torch.stack([measure(x, y) for x, y in pairs])
        assert (abs(found.mean()) < 4 * found.std() / 2000**.5) == holds


def test_symmetry_rotation_and_order():
    x, y = randn(40, 6) + .5, randn(40, 6, seed=1)
    turn, _ = torch.linalg.qr(randn(6, 6, seed=2))
    for a, b in ((y, x), (x @ turn, y @ turn), (x.flip(0), y)): assert_close(unbiased_squared_mmd(a, b), unbiased_squared_mmd(x, y))


def test_one_block_each_by_hand():
    "Blocks of two rows, in the order of the seed's shuffle"
    x, y = randn(20, 3) + 1, randn(20, 3, seed=1)
    generator = torch.Generator().manual_seed(0)
    i, j = (torch.randperm(20, generator=generator).split(2) for _ in range(2))
    found = torch.stack([unbiased_squared_mmd(x[a], y[b]) for a, b in zip(i, j)])
    assert kid(x, y) == pytest.approx((found.mean().item(), found.std().item() / 10**.5), rel=1e-12)


def test_sorted_rows_do_not_widen_the_error():
    "Images sorted by class: without the shuffle blocks would be of different classes"
    classes = torch.arange(2000)[:, None] // 200 * 1.
    x, y = randn(2000, 4) + classes, randn(2000, 4, seed=1) + classes
    mixed = torch.randperm(2000, generator=torch.Generator().manual_seed(9))
    _, sorted_error = kid(x, y)
    _, mixed_error = kid(x[mixed], y[mixed])
    blocks = torch.stack([unbiased_squared_mmd(a, b) for a, b in zip(x.split(200), y.roll(200, 0).split(200))])
    assert .3 < sorted_error / mixed_error < 3 and blocks.std() / 10**.5 > 3 * sorted_error


@pytest.mark.parametrize('n_x, n_y', [(19, 100), (100, 19), (2, 2)])
def test_too_few_rows(n_x, n_y):
    with pytest.raises(ValueError, match=f'got {n_x} and {n_y} rows, expected {2 * SUBSETS} or more of both'):
        kid(randn(n_x, 3), randn(n_y, 3))


def test_it_stands_beside_kid():
    images = torch.randint(256, (300, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    extractor = FeatureExtractor('rows', lambda x: x.float().mean(2).flatten(1) / 255)
    y = statistics(extractor.net(images[:150]), keep=150)
    found = evaluate_features(extractor, images[150:], y)
    assert 'kid-error' in FEATURE_METRICS and [*found].index('kid') < [*found].index('kid_error')
    assert found['kid_error'] == kid(extractor.net(images[150:]), y.features)[1] or found['kid_error'] == pytest.approx(
        kid(extractor.net(images[150:]).double(), y.features.double())[1], rel=1e-4)
    assert 'kid_error' not in evaluate_features(extractor, images[150:], Statistics(y.mu, y.sigma))
    assert 'kid_error' not in evaluate_features(extractor, images[150:160], y)


def test_features_that_have_no_distance_are_refused():
    x, y = randn(40, 6), randn(40, 6, seed=1)
    for wrong in (x * torch.nan, x * torch.inf, x * 1e200, x[:, :2], x[:, :, None], x.long(), x.numpy(), x[:19]):
        with pytest.raises(ValueError): kid(wrong, y)
    with pytest.raises(ValueError, match='got 1 and 40 rows, expected 2'): unbiased_squared_mmd(x[:1], y)


def test_types_are_mixed_without_loss():
    x, y = randn(40, 6), randn(40, 6, seed=1)
    assert_close(kid(x.float(), y), kid(x.float().double(), y))
    x, y = (200 * x).half(), (200 * y).half()  # their cubes overflow half precision
    assert_close(kid(x, y), kid(x.double(), y.double()), rtol=1e-4, atol=0)


def test_large_sets_are_cut_into_more_subsets(monkeypatch):
    "With at most 50 rows in one, 1,000 rows are twenty subsets"
    import coulomb_gan.metrics.kid as module
    sizes = []
    squared_mmd = module._squared_mmd
    def noted(x, y):
        sizes.append((len(x), len(y)))
        return squared_mmd(x, y)
    monkeypatch.setattr(module, '_squared_mmd', noted)
    monkeypatch.setattr(module, 'LARGEST', 50)
    kid(randn(1000, 4), randn(1000, 4, seed=1))
    assert sizes == [(50, 50)] * 20
