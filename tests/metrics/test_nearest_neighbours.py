"""Neighbours and pairs against brute force in float64: duplicates, ties, bytes in a file, every block size and type."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from coulomb_gan.data.datasets import to_float
from coulomb_gan.metrics import closest_pairs as of_pairs, nearest_neighbours
from coulomb_gan.metrics.closest_pairs import closest_pairs, pairs_within
from coulomb_gan.metrics.nearest_neighbours import nearest
from coulomb_gan.metrics.row_distances import check_rows

# Both sides take differences first, in float64: they differ by the order of a sum, a few units of 1e-16 a term.
EXACT = 1e-12


# --- the oracle ---------------------------------------------------------------------------------------------------

def rows(points): return to_float(points).flatten(1).double().numpy()

def distances(a, b): return np.sqrt(((rows(a)[:, None] - rows(b)[None]) ** 2).sum(2))


def nearest_loop(a, b, exclude_self=False):
    r = distances(a, b)
    if exclude_self: r[range(len(a)), range(len(a))] = math.inf
    return torch.from_numpy(r.min(1)), torch.from_numpy(r.argmin(1))  # argmin: the first


def random(seed): return torch.Generator().manual_seed(seed)


# --- clouds to try ------------------------------------------------------------------------------------------------

@st.composite
def clouds(draw):
    "Two sets of rows: spread over many scales, off the origin, on a coarse lattice (ties), or bytes; with duplicates"
    gen, n_a, n_b, m = random(draw(st.integers(0, 10**6))), *(draw(st.integers(1, n)) for n in (12, 40, 20))
    kind = draw(st.sampled_from(['float32', 'float64', 'lattice', 'uint8']))
    scale, offset = 10. ** draw(st.integers(-30, 25)), draw(st.sampled_from([0., 1., 1e4]))
    dtype = torch.float32 if kind == 'float32' else torch.float64
    if kind == 'uint8': c = torch.randint(256, (n_a + n_b, 1, m), generator=gen, dtype=torch.uint8)
    elif kind == 'lattice': c = torch.randint(3, (n_a + n_b, m), generator=gen).float()
    else: c = ((torch.randn(n_a + n_b, m, generator=gen, dtype=torch.float64) + offset) * scale).to(dtype)
    again = torch.randint(n_a + n_b, (draw(st.integers(0, 20)),), generator=gen)
    c[torch.randint(n_a + n_b, (len(again),), generator=gen)] = c[again]
    return c[:n_a], c[n_a:]


BLOCKS = st.integers(3, 50)


# --- the nearest row ----------------------------------------------------------------------------------------------

@settings(max_examples=120, deadline=None)
@given(clouds(), BLOCKS)
def test_nearest_is_the_first_of_the_nearest(ab, block):
    low, at = nearest_loop(*ab)
    distance, index = nearest(*ab, block=block)
    assert index.tolist() == at.tolist()
    assert_close(distance, low, rtol=EXACT, atol=0)


@settings(max_examples=60, deadline=None)
@given(clouds(), BLOCKS, st.data())
def test_a_row_is_not_its_own_neighbour(ab, block, data):
    y = torch.cat(ab)
    n = data.draw(st.integers(1, len(y)))
    low, at = nearest_loop(y[:n], y, exclude_self=True)
    distance, index = nearest(y[:n], y, block=block, exclude_self=True)
    assert index.tolist() == at.tolist()
    assert_close(distance, low, rtol=EXACT, atol=0)


@pytest.mark.parametrize('m', [2, 300, 3072])
@pytest.mark.parametrize('spacing', [1e-3, 1e-5, 1e-6])
def test_near_duplicates_that_float32_products_confuse(m, spacing):
    "Differences far below the margin of float32, far above the rounding of float64"
    gen = random(0)
    a = torch.rand(5, m, generator=gen, dtype=torch.float64)
    shift = torch.randn(5, 40, m, generator=gen, dtype=torch.float64).sign() * (1 + torch.arange(40)[:, None] / 10)
    b = (a[:, None] + spacing * shift).flatten(0, 1)[torch.randperm(200, generator=gen)]
    low, at = nearest_loop(a, b)
    for block in (13, 1024):
        distance, index = nearest(a, b, block=block)
        assert index.tolist() == at.tolist()
        assert_close(distance, low, rtol=EXACT, atol=0)
    if m > 2 and spacing < 1e-4:
        p, q = a.float(), b.float()
        single = (q * q).sum(1) - 2 * p @ q.T
        assert single.argmin(1).tolist() != at.tolist()


def test_float32_products_of_lower_precision_change_nothing():
    "With bfloat16 allowed the bound does not promise it; at this size it holds in fact, and TF32 is inside the bound"
    gen = random(0)
    a, b = torch.rand(50, 400, generator=gen), torch.rand(1000, 400, generator=gen)
    low, at = nearest_loop(a, b)
    try:
        for precision in ('highest', 'high', 'medium'):
            torch.set_float32_matmul_precision(precision)
            assert nearest(a, b, block=100)[1].tolist() == at.tolist()
    finally: torch.set_float32_matmul_precision('highest')


@pytest.fixture(scope='module')
def mapped(tmp_path_factory):
    "5,000 images of 3x16x16 bytes in a file, row 4321 equal to row 17"
    path = tmp_path_factory.mktemp('mapped') / 'images.npy'
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 16, 16), dtype=np.uint8)
    images[4321] = images[17]
    np.save(path, images)
    return torch.from_numpy(np.load(path, mmap_mode='c'))


def test_mapped_bytes_equal_floats(mapped):
    a = mapped[[17, 4321, 3000]].clone()
    a[2, 0, 0, 0] ^= 1
    for search in (a, to_float(a), to_float(a).double()):
        for b in (mapped, to_float(mapped)):
            distance, index = nearest(search, b, block=300)
            assert index.tolist() == [17, 17, 3000]
            assert distance[:2].tolist() == [0, 0]
            assert_close(distance[2].item(), 2 / 255, rtol=1e-4, atol=0)  # a float32 pixel near 1 has 6e-8


@pytest.mark.parametrize('types', [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_mixed_types_far_off_the_origin(types):
    "At 1e4 a float32 keeps 1e-3; a float64 point must not be rounded to it before the centre is taken off"
    gen = random(0)
    a, b = (1e4 + 1e-3 * torch.randn(n, 50, generator=gen, dtype=torch.float64) for n in (40, 300))
    a, b = a.to(types[0]), b.to(types[1])
    low, at = nearest_loop(a, b)
    distance, index = nearest(a, b, block=17)
    assert index.tolist() == at.tolist()
    assert_close(distance, low, rtol=EXACT, atol=0)


class LargestTensor(TorchDispatchMode):
    "The most bytes that any one operation returns"
    largest = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket not in (torch.ops.aten.slice, torch.ops.aten.detach):  # views
            tensors = [t for t in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(t, torch.Tensor)]
            self.largest = max([self.largest, *(t.nbytes for t in tensors)])
        return out


def test_a_block_at_a_time(mapped):
    "No operation makes more than one float64 block, while the whole would be 5000 x 768 numbers"
    with LargestTensor() as seen: nearest(mapped[:20], mapped, block=100)
    assert 100 * 768 <= seen.largest <= 100 * 768 * 8 < mapped.numel() / 5


@settings(max_examples=30, deadline=None)
@given(clouds(), st.integers(0, 10**6))
def test_nearest_follows_a_permutation(ab, seed):
    "Distances do not change with the order of either set; the index points at an equal row"
    a, b = ab
    i, j = (torch.randperm(len(c), generator=random(seed)) for c in ab)
    distance, index = nearest(a, b)
    d_ij, index_ij = nearest(a[i], b[j])
    assert d_ij.tolist() == distance[i].tolist()
    r = torch.from_numpy(distances(a[i], b[j]))
    assert_close(r[range(len(a)), index_ij], distance[i], rtol=EXACT, atol=0)


# --- pairs --------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(clouds(), BLOCKS, st.data())
def test_closest_pairs(ab, block, data):
    x = torch.cat(ab)
    p, q = np.triu_indices(len(x), 1)
    r = distances(x, x)
    count = data.draw(st.integers(1, len(p)))
    pairs, distance = closest_pairs(x, count, block=block)
    # pairs at the cut may be exchanged where their squared distances agree to rounding of the largest
    assert_close(distance, torch.from_numpy(np.sort(r[p, q])[:count]), rtol=EXACT, atol=1e-7 * r.max())
    assert_close(torch.from_numpy(r)[pairs[:, 0], pairs[:, 1]], distance, rtol=EXACT, atol=0)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len({tuple(k) for k in pairs.tolist()}) == count
    assert distance.tolist() == sorted(distance.tolist())


def test_closest_pairs_of_well_separated_rows_are_those():
    "Random distances differ by far more than rounding, so the pairs themselves must agree"
    x = torch.randn(70, 30, generator=random(0))
    p, q = np.triu_indices(70, 1)
    order = np.argsort(distances(x, x)[p, q])
    for block in (4, 9, 64, 1024):
        assert closest_pairs(x, 100, block=block)[0].tolist() == np.stack([p, q], 1)[order[:100]].tolist()


def test_closest_pairs_of_equal_rows():
    pairs, distance = closest_pairs(torch.zeros(30, 5), 20, block=7)
    assert distance.tolist() == [0.] * 20 and len({tuple(k) for k in pairs.tolist()}) == 20


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 80), BLOCKS)
def test_pairs_within_a_distance(seed, n, block):
    "Every pair once, the smaller row first, as long as its distance is clear of the limit"
    x = torch.rand(n, 3, generator=random(seed), dtype=torch.float64)
    r = distances(x, x)
    found = torch.cat([*pairs_within(x, .3, block)], 1).T.tolist()
    expected = np.argwhere(np.triu(r <= .3, 1)).tolist()
    assert sorted(found) == expected


# --- every type and size ------------------------------------------------------------------------------------------

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64

def cloud(seed, n, m, size, dtype): return (size * torch.randn(n, m, generator=random(seed), dtype=DOUBLE)).to(dtype)


@pytest.mark.parametrize('dtype, size', [
    (HALF, 1e4), (HALF, 1e-6), (BRAIN, 1e20), (SINGLE, 1e18), (SINGLE, 4e18), (SINGLE, 1e19), (SINGLE, 1e20),
    (SINGLE, 6e37), (DOUBLE, 1e19), (DOUBLE, 1e60), (DOUBLE, 1e150)])
@pytest.mark.parametrize('m', [1, 5, 40])
def test_neighbours_of_any_type(dtype, size, m):
    a, b = cloud(0, 20, m, size, dtype), cloud(1, 300, m, size, dtype)
    low, at = nearest_loop(a, b)
    for block in (4, 64, 1024):
        distance, index = nearest(a, b, block=block)
        assert index.tolist() == at.tolist()
        assert_close(distance, low, rtol=EXACT, atol=0)
    pairs, distance = closest_pairs(a, 5, block=7)
    p, q = a.double()[pairs.T]
    assert_close(distance, (p - q).norm(dim=1), rtol=EXACT, atol=0)


def test_a_block_whose_squares_just_overflow_float32_is_searched():
    "Norms about its centre fit, 1.8e38, and squared distances of 3.6e38 do not; the nearest so far is at 3.8e38"
    turn = torch.tensor([[1., 1.], [1., -1.]]) / 2**.5
    b = torch.cat([torch.tensor([[-1.95e19, 0.]]).repeat(2, 1), 1.9e19 * turn])
    distance, index = nearest(torch.zeros(1, 2), b, block=2)
    assert index.tolist() == [2]
    assert_close(distance, torch.tensor([1.9e19]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize('use', [nearest, lambda a, b: nearest(b, a), lambda a, b: closest_pairs(b, 3)])
def test_neighbours_beyond_float64_are_refused(use):
    with pytest.raises(ValueError, match='squared distances fit into float64') as caught:
        use(cloud(0, 9, 3, 1., DOUBLE), cloud(1, 9, 3, 1e160, DOUBLE))
    assert '\n' not in str(caught.value)


# --- refusals -----------------------------------------------------------------------------------------------------

A, B = torch.zeros(4, 6), torch.ones(9, 6)

@pytest.mark.parametrize('call, message', [
    (lambda: nearest(A, B[:, :5]), 'got rows of size 6 and 5'),
    (lambda: nearest(A[0], B), r'a: got \(6,\)'),
    (lambda: nearest(A, B[:0]), r'b: got \(0, 6\)'),
    (lambda: nearest(A, B.long()), 'b: got torch.int64'),
    (lambda: nearest(A / 0, B), 'a: got NaN or infinity'),
    (lambda: nearest(A, torch.cat([B, B / 0]), block=9), 'b: got NaN or infinity'),
    (lambda: nearest(A, B, exclude_self=True), 'expected the first rows of b'),
    (lambda: nearest(A[:1], A[:1], exclude_self=True), 'got 1 and 1 rows'),
    (lambda: closest_pairs(A, 7), 'got count 7'),
    (lambda: closest_pairs(A, 0), 'count must be a whole number from 1, got 0'),
    (lambda: closest_pairs(A * math.nan, 1), 'x: got NaN or infinity'),
    (lambda: check_rows(p=A, q=A, r=B[:, :2]), 'got rows of size 6 and 2, expected one size'),
    (lambda: check_rows(p=A, q=B.bool()), 'q: got torch.bool, expected floats or uint8 images'),
])
def test_unfit_input_is_named(call, message):
    with pytest.raises(ValueError, match=message): call()


# --- crowds: near-duplicates beside points far away, all in one block ----------------------------------------------

def crowd(gap, far, n=100, m=64):
    "Rows of which twenty are near-duplicates, and one lies far away"
    gen = torch.Generator().manual_seed(0)
    x = torch.rand(n, m, generator=gen)
    x[30:50] = x[30] + gap * torch.rand(20, m, generator=gen)
    x[7] = far
    return x


def all_pairs(x):
    "Rows p < q and their distances, by differences, ascending"
    p, q = torch.triu_indices(len(x), len(x), 1)
    distance, order = (x[p].double() - x[q].double()).norm(dim=1).sort()
    return torch.stack([p, q], 1)[order], distance


@pytest.mark.parametrize('far', [1., 1e4, 1e6, 1e8])
@pytest.mark.parametrize('block', [40, 1024])
def test_pairs_of_a_crowd_beside_an_outlier(block, far):
    x = crowd(1e-3, far)
    pairs, distance = all_pairs(x)
    found, closest = closest_pairs(x, 5, block=block)
    assert torch.equal(closest, distance[:5]) and found.tolist() == pairs[:5].tolist()
    limit = distance[50].item()
    within = torch.cat([*pairs_within(x, limit, block=block)], 1).T
    assert sorted(within.tolist()) == sorted(pairs[:51].tolist())


@pytest.mark.parametrize('far', [1e3, 1e4, 1e6])
def test_duplicates_in_a_later_tile_are_closest(far):
    x = crowd(1e-6, far, n=200)
    x[150] = x[149]
    found, distance = closest_pairs(x, 1, block=100)
    assert distance.item() == 0 and found.tolist() == [[149, 150]]


@pytest.mark.parametrize('distance', [-1., float('nan')])
def test_distances_below_zero_are_refused(distance):
    with pytest.raises(ValueError, match='expected a number of at least 0'): next(pairs_within(A, distance))


def test_autocast_changes_no_neighbour():
    gen = torch.Generator().manual_seed(1)
    a, b = torch.rand(100, 64, generator=gen), torch.rand(700, 64, generator=gen)
    with torch.autocast('cpu', torch.bfloat16): found = nearest(a, b)[1]
    assert found.tolist() == torch.cdist(a.double(), b.double()).argmin(1).tolist()


# --- large searches, in which bounds by projection leave few pairs -------------------------------------------------

def pictures(seed, n=1100, side=28):
    "Sums of a hundred patterns and a little noise, `(n, 3, side, side)`"
    gen = random(seed)
    patterns = torch.randn(100, 3 * side * side, generator=random(7)) / (1 + torch.arange(100)[:, None] / 5)
    flat = torch.randn(n, 100, generator=gen) @ patterns + .2 * torch.randn(n, 3 * side * side, generator=gen)
    return flat.reshape(n, 3, side, side)


def as_bytes(x): return (x * 20 + 128).clamp(0, 255).byte()

def with_duplicates(x):
    x = x.clone()
    x[50:60], x[1050:1060], x[70] = x[:10], x[:10], x[71]
    return x


WIDE_SETS = {
    'pictures': lambda: with_duplicates(pictures(0)),
    'bytes': lambda: with_duplicates(as_bytes(pictures(0))),
    'noise': lambda: torch.rand(1100, 2048, generator=random(0)),
    'collapsed': lambda: pictures(0)[:1] + 1e-4 * pictures(1),
    'beside an outlier': lambda: torch.cat([pictures(0), torch.full((1, 3, 28, 28), 1e6)]),
    'two crowds': lambda: torch.cat([pictures(0)[:550], pictures(1)[:550] + 1e3]),
    'far off': lambda: 1e5 + pictures(0),
}

@pytest.mark.parametrize('name', WIDE_SETS)
def test_bounds_change_no_result(name, monkeypatch):
    "With bounds as without: neighbours of others and of the set's own, closest pairs, pairs within; to the last bit"
    x = WIDE_SETS[name]()
    y = as_bytes(pictures(2)) if x.dtype == torch.uint8 else pictures(2).flatten(1)[:, :x[0].numel()].to(x.dtype)
    y = y.reshape(len(y), *x.shape[1:])
    y[::10] = x[:1100:10]
    limit = nearest(x, x, exclude_self=True)[0].quantile(.02, interpolation='higher').item()
    def everything():
        pairs = torch.cat([*pairs_within(x, limit, block=500)], 1)
        found = nearest(x, y), nearest(x[:1050], x, exclude_self=True), nearest(y, x, block=300), closest_pairs(x, 30)
        return [part.tolist() for both in found for part in both] + [sorted(pairs.T.tolist())]
    bounded = everything()
    for module in (nearest_neighbours, of_pairs): monkeypatch.setattr(module, 'worth_projecting', lambda *sizes: False)
    plain = everything()
    assert bounded[:7] == plain[:7] and bounded[8] == plain[8]
    assert_close(torch.tensor(bounded[7]), torch.tensor(plain[7]), rtol=EXACT, atol=0)


@pytest.mark.parametrize('name, size, few', [
    ('pictures', 1., True), ('bytes', 1, True), ('noise', 1., False), ('pictures', 1e25, False), ('pictures', 1e-25, False)])
def test_where_bounds_decide(name, size, few, monkeypatch):
    "Products are not taken where the bounds leave little, and are where they leave much, or float32 over- or underflows"
    taken = []
    monkeypatch.setattr(nearest_neighbours, '_by_products', lambda *of: taken.append(of))
    x = WIDE_SETS[name]()
    if size != 1: x = size * x.double()
    nearest(x, x, exclude_self=True)
    assert (not taken) == few


def test_closest_pairs_of_a_collapsed_generator_take_no_time():
    "2,000 equal images have two million pairs at distance zero, of which the first are named; half of them, too"
    x = torch.ones(2000, 2048)
    first = [[0, k] for k in range(1, 6)]
    assert closest_pairs(x, 5)[0].tolist() == first
    x[:1000] = torch.randn(1000, 2048, generator=random(0))
    pairs, distance = closest_pairs(x, 5)
    assert distance.tolist() == [0.] * 5 and pairs.tolist() == [[1000, 1000 + k] for k in range(1, 6)]


def inside(n, seed, m=2048):
    "Rows that differ in fifty coordinates only"
    x = torch.zeros(n, m)
    x[:, :50] = torch.randn(n, 50, generator=random(seed))
    return x


def crowd_far_off(n, seed, at):
    x = torch.zeros(n, 2048)
    x[:, :50] = at + 2.**-10 * torch.randint(30, (n, 50), generator=random(seed))
    return x


@pytest.mark.parametrize('at', [1e3, 1e4])
def test_a_crowd_far_from_the_others(at):
    "It fills a chunk of its own, whose products are right to far less than the projections, which leave no rest"
    a = crowd_far_off(1030, 1, at)
    b = torch.cat([inside(1024, 0), crowd_far_off(1024, 2, at)])
    true = torch.cdist(a.double(), b.double(), compute_mode='donot_use_mm_for_euclid_dist')
    distance, index = nearest(a, b, block=64)
    assert_close(distance, true.min(1).values, rtol=EXACT, atol=0)
    assert_close(true[range(len(a)), index], distance, rtol=EXACT, atol=0)
    x = torch.cat([inside(1024, 0), a[:200]])
    limit = true.min(1).values.median().item()
    within = torch.cdist(x.double(), x.double(), compute_mode='donot_use_mm_for_euclid_dist') <= limit
    assert sum(pairs.shape[1] for pairs in pairs_within(x, limit)) == within.triu(1).sum()


@pytest.mark.parametrize('size', [1e19, 1e20, 1e30])
def test_one_row_beyond_float32(size):
    "Of that row alone squared distances overflow; it has a neighbour all the same, and so have the others"
    a, b = torch.randn(1100, 2048, generator=random(0)), torch.randn(1100, 2048, generator=random(1))
    a[5] = size * torch.sign(a[5])
    for own in (False, True):
        c = a if own else b
        low, at = nearest_loop(a[:8], c) if not own else nearest_loop(a[:8], a, exclude_self=True)
        distance, index = nearest(a, c, exclude_self=own)
        assert_close(distance[:8], low, rtol=EXACT, atol=0)
        assert index[[0, 1, 7]].tolist() == at[[0, 1, 7]].tolist()


def test_results_carry_no_gradient():
    for n, m in ((20, 8), (1100, 2048)):
        x = torch.randn(n, m, generator=random(0)).requires_grad_()
        assert not nearest(x, x, exclude_self=True)[0].requires_grad
        assert not closest_pairs(x, 3)[1].requires_grad


def test_nan_behind_equal_rows_is_refused():
    x = torch.zeros(40, 5)
    x[35] = math.nan
    with pytest.raises(ValueError, match='x: got NaN'): closest_pairs(x, 3, block=7)


def test_large_searches_refuse_what_small_ones_do():
    x = torch.rand(1100, 2048, generator=random(0))
    spoilt = x.clone()
    spoilt[1099, 3] = math.nan
    for call in (lambda: nearest(x, spoilt), lambda: nearest(spoilt, x), lambda: closest_pairs(spoilt, 3),
                 lambda: nearest(x, spoilt.double() * 1e200)):
        with pytest.raises(ValueError, match='got NaN or infinity|fit into float64'): call()
