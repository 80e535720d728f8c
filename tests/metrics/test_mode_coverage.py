"""Mode coverage against plain loops, its symmetries, and what it refuses."""
import json
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from coulomb_gan.metrics.mode_coverage import mode_coverage, truncated_variance

CORNERS = torch.tensor([[4., 4.], [4., -4.], [-4., 4.], [-4., -4.]])


def cloud(seed, n):
    gen = torch.Generator().manual_seed(seed)
    return CORNERS[torch.randint(4, (n,), generator=gen)] + torch.randn(n, 2, generator=gen)


def loop(x, means, std):
    "Counts, covered modes and variances of the covered ones, mode by mode"
    distance = (x.double()[:, None] - means.double()).norm(dim=2)
    low, at = distance.min(1)
    counts, variances = [], []
    for k in range(len(means)):
        core = x[(at == k) & (low <= 3 * std)].double()
        counts.append(int((at == k).sum()))
        if len(core) < len(x) / len(means) / 10: continue
        variances.append(core.var(0).mean().item() / std**2 / truncated_variance(3.))
    return counts, variances


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(100, 2000), st.floats(.3, 2.))
def test_coverage_by_loops(seed, n, std):
    x = cloud(seed, n)
    counts, variances = loop(x, CORNERS, std)
    found = mode_coverage(x, CORNERS, std)
    assert (found['counts'], found['modes']) == (counts, len(variances))
    assert found['share_min'] == pytest.approx(4 * min(counts) / n)
    assert found['share_max'] == pytest.approx(4 * max(counts) / n)
    assert found['variance_min'] == pytest.approx(min(variances), rel=1e-9)
    assert found['variance_max'] == pytest.approx(max(variances), rel=1e-9)
    assert found['chi_square'] == pytest.approx(sum((c - n / 4)**2 / (n / 4) for c in counts))


def test_stretching_space_changes_nothing():
    x = cloud(0, 1000)
    plain, stretched = mode_coverage(x, CORNERS, 1.), mode_coverage(x / 8, CORNERS / 8, 1 / 8)
    assert stretched.pop('counts') == plain.pop('counts')
    assert stretched == pytest.approx(plain, rel=1e-5)


def test_the_order_of_samples_and_of_modes_does_not_matter():
    x, order = cloud(0, 1000), torch.tensor([2, 0, 3, 1])
    plain, mixed = mode_coverage(x, CORNERS, 1.), mode_coverage(x.flip(0), CORNERS[order], 1.)
    assert mixed.pop('counts') == [plain['counts'][k] for k in order]
    for name, value in mixed.items(): assert value == pytest.approx(plain[name], rel=1e-9)


def test_one_point_has_no_variance():
    found = mode_coverage(CORNERS[:1], CORNERS, 1.)
    assert (found['modes'], found['variance_min'], found['variance_max']) == (1, None, None)
    assert (found['share_min'], found['share_max']) == (0., 4.)


def test_the_result_is_plain_json():
    for x in (cloud(0, 200), CORNERS[:1]):
        found = mode_coverage(x, CORNERS, 1.)
        assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_truncated_variance_between_its_limits():
    "About radius^2 / 4 in a small circle, which is nearly uniform; all of it in a large one"
    assert truncated_variance(1e-2) == pytest.approx(1e-4 / 4, rel=1e-3)
    assert truncated_variance(100.) == 1.
    radii = [.1 * k for k in range(1, 60)]
    values = [truncated_variance(r) for r in radii]
    assert values == sorted(values)


@pytest.mark.parametrize('dtype, size', [
    (torch.float16, 100.), (torch.bfloat16, 1e20), (torch.float32, 1e20), (torch.float64, 1e140)])
def test_modes_of_any_type(dtype, size):
    "A mixture of four, stretched: only the unit changes, and the rounding of points (1/256 in bfloat16)"
    means = CORNERS.double() / 4
    gen = torch.Generator().manual_seed(0)
    x = means[torch.arange(2000) % 4] + .1 * torch.randn(2000, 2, generator=gen, dtype=torch.float64)
    plain = mode_coverage(x, means, .1)
    found = mode_coverage((x * size).to(dtype), (means * size).to(dtype), .1 * size)
    assert found['counts'] == plain['counts'] and found['modes'] == 4
    for name in ('variance_min', 'variance_max'): assert found[name] == pytest.approx(plain[name], rel=.02)


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize('name, use', [('x', lambda b: mode_coverage(b, CORNERS, 1.)),
                                       ('means', lambda b: mode_coverage(CORNERS, b, 1.))])
def test_integers_are_refused_by_name_and_type(name, use, dtype):
    use(CORNERS)
    with pytest.raises(ValueError) as caught: use(torch.arange(80).view(40, 2).to(dtype))
    assert str(caught.value) == f'{name} must hold floats, got {dtype}'


@pytest.mark.parametrize('use, message', [
    (lambda x: mode_coverage(x[:, :1], CORNERS, 1.), r'got x \(9, 1\), means \(4, 2\), std 1.0'),
    (lambda x: mode_coverage(x, CORNERS, 0.), 'std 0.0'),
    (lambda x: mode_coverage(x, CORNERS, math.nan), 'std nan'),
    (lambda x: mode_coverage(x.int(), CORNERS, 1.), 'x must hold floats, got torch.int32'),
    (lambda x: mode_coverage(x / 0, CORNERS, 1.), 'a: got NaN or infinity'),
    (lambda x: mode_coverage(x[:0], CORNERS, 1.), r'got x \(0, 2\).*not empty'),
    (lambda x: truncated_variance(0.), 'radius: got 0.0'),
    (lambda x: truncated_variance(math.nan), 'radius: got nan')])
def test_unfit_input_is_named(use, message):
    with pytest.raises(ValueError, match=message): use(cloud(0, 9))
