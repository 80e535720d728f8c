"""Sums over all pairs by float32 products: what they promise, for every kind of points, and where they are not used."""
import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.field import pair_sums, products
from coulomb_gan.field.distances import squared_distances
from coulomb_gan.field.kernels import Coulomb, EnergyDistance, Gaussian, Laplace, Plummer
from coulomb_gan.field.pair_sums import allowed_in_pulls, kernel_matrix, kernel_sums, pull_sums
from coulomb_gan.field.potential import force, mean_within, potential, potentials
from coulomb_gan.field.products import Products, allowed_in_sums

PROMISE = 3e-6  # of k(0), or of the largest pull of one charge
KERNELS = [Plummer(1., 1.), Plummer(3., .1), Plummer(1., .01), Plummer(.5, 3.), Plummer(4., 1.), Gaussian(.5), Laplace(1.)]


def uniform(gen, n, m): return torch.rand(n, m, generator=gen)

def off_the_origin(gen, n, m): return 1e3 + torch.randn(n, m, generator=gen)

def grey(gen, n, m): return torch.rand(n, 1, generator=gen).expand(n, m).contiguous()

def two_values(gen, n, m): return torch.randint(0, 2, (n, m), generator=gen).float()

def two_crowds(gen, n, m): return torch.rand(n, m, generator=gen) * .01 + 5 * (torch.arange(n) % 2)[:, None]

def an_outlier(gen, n, m): return torch.cat([torch.rand(n - 1, m, generator=gen), torch.full((1, m), 300.)])

KINDS = [uniform, off_the_origin, grey, two_values, two_crowds, an_outlier]


def pairs(kind, m, n_a=300, n_b=700):
    "Points and charges of one kind; some charges are points, some nearly"
    gen = torch.Generator().manual_seed(m)
    a, b = kind(gen, n_a, m), kind(gen, n_b, m)
    b[:40] = a[:40]
    b[40:80] = a[40:80] + 1e-4 * torch.rand(40, m, generator=gen)
    return a, b


def largest_pull(kernel):
    r2 = torch.logspace(-12, 8, 1000).double()
    return (2 * kernel.slope(r2) * r2.sqrt()).abs().max().item()


@pytest.fixture(autouse=True)
def always_worth(monkeypatch): monkeypatch.setattr(pair_sums, '_WORTH', 0)


# --- the promise --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kernel', KERNELS, ids=repr)
@pytest.mark.parametrize('m', [1, 3, 5, 64, 700])
@pytest.mark.parametrize('kind', KINDS)
def test_means_keep_the_promise(kind, m, kernel):
    a, b = pairs(kind, m)
    k0 = kernel.at_zero(a).item()
    want = kernel_sums(a.double(), b.double(), kernel) / len(b)
    assert_close(kernel_sums(a, b, kernel) / len(b), want, rtol=0, atol=PROMISE * k0)
    got = kernel_matrix(a, b, kernel)
    assert got.dtype == torch.float32
    assert_close(got.double(), kernel(a.double(), b.double()), rtol=0, atol=PROMISE * k0)


@pytest.mark.parametrize('kernel', KERNELS, ids=repr)
@pytest.mark.parametrize('m', [1, 3, 5, 64, 700])
@pytest.mark.parametrize('kind', KINDS)
def test_pulls_keep_the_promise(kind, m, kernel):
    a, b = pairs(kind, m)
    want = pull_sums(a.double(), b.double(), kernel) / len(b)
    # the bound asks for 5e-6 of one pair; a mean of 700 stays below the promise
    assert_close(pull_sums(a, b, kernel) / len(b), want, rtol=0, atol=PROMISE * largest_pull(kernel))


@pytest.mark.parametrize('m', [3, 64, 512, 3072, 12288])
@pytest.mark.parametrize('kind', [uniform, off_the_origin, grey, two_values])
def test_products_stay_within_the_bound(kind, m):
    a, b = pairs(kind, m, 100, 150)
    left, right, s = products._operands(a, b)
    got = products._product(products._parts(left, right))
    exact = torch.cdist(a.double(), b.double(), compute_mode='donot_use_mm_for_euclid_dist')**2
    assert ((got - exact).abs() < products.product_rounding(m) * s[:, None]**2).all()


def test_a_bound_too_small_would_be_noticed(monkeypatch):
    "Were no pair ever near, the promise would be broken"
    a, b = pairs(two_crowds, 64)
    kernel = Plummer(1., .01)
    monkeypatch.setattr(products, 'near_limit', lambda s, m, allowed: torch.full_like(s, -torch.inf).float())
    error = kernel_sums(a, b, kernel) - kernel_sums(a.double(), b.double(), kernel)
    assert not error.abs().max() / len(b) < PROMISE * 100


# --- identities ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('block', [7, 300, 4096])
def test_blocks_change_nothing_but_rounding(block):
    a, b = pairs(uniform, 64)
    # float32 sums of 768 terms of one sign
    assert_close(kernel_sums(a, b, Plummer(), block), kernel_sums(a, b, Plummer()), rtol=1e-6, atol=0)
    assert_close(pull_sums(a, b, Plummer(), block), pull_sums(a, b, Plummer()), rtol=0, atol=1e-5 * len(b))


@pytest.mark.parametrize('n', [1, 2, 1024, 2500])
@pytest.mark.parametrize('block', [100, 4096])
def test_mean_within_takes_every_pair(n, block):
    c = torch.rand(n, 5, generator=torch.Generator().manual_seed(n))
    assert_close(mean_within(c, Plummer(), False, block), kernel_sums(c, c, Plummer()).sum() / n**2, rtol=1e-6, atol=0)


@pytest.mark.parametrize('n, m, kernel', [(1500, 64, Plummer(3, .01)), (500, 20, Plummer(18, .1)), (300, 3, Plummer(8, .01))], ids=str)
def test_a_large_value_at_zero_hides_nothing(n, m, kernel):
    "k(0) is up to 1e18 times the mean over other pairs; neither the energy nor the force loses a digit to it"
    x, y = (torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
    y += .3
    want = kernel.of_r2(torch.pdist(x)**2).mean()
    for c in (x, x.float()): assert_close(mean_within(c, kernel).item(), want.item(), rtol=1e-4, atol=0)
    def pull(q):
        difference = x[:, None] - q
        return 2 * (kernel.slope(difference.square().sum(2))[..., None] * difference).mean(1)
    want = pull(y[:200]) - pull(x)
    for a, b in ((x, y), (x.float(), y.float())):
        error = force(a, a, b[:200], kernel) - want
        assert error.norm() < 1e-4 * want.norm()


def test_a_point_is_at_distance_zero_from_itself():
    c = 1e3 + torch.rand(200, 64, generator=torch.Generator().manual_seed(0))
    tiles = Products(c, c, allowed_in_sums(Plummer(), 64))
    r2_ij, _, _ = tiles.tile(slice(None), slice(None))
    assert (r2_ij.diagonal() == 0).all() and (squared_distances(c, c).diagonal() == 0).all()


@pytest.mark.parametrize('n', [40, 300])  # own pairs are more than one in a hundred of all, or fewer
def test_from_a_point_to_itself_nothing_is_computed(n, monkeypatch):
    c = torch.rand(n, 3000, generator=torch.Generator().manual_seed(0))
    c[1] = c[0] + 1e-5
    computed = []
    differences = Products.differences

    def seen(self, i, j, rows, columns):
        computed.extend(zip(rows.tolist(), columns.tolist()))
        return differences(self, i, j, rows, columns)

    monkeypatch.setattr(Products, 'differences', seen)
    k_ij = kernel_matrix(c, c, Plummer())
    assert sorted(computed) == [(0, 1), (1, 0)]
    exact = kernel_matrix(c.double(), c.double(), Plummer())
    assert (k_ij.diagonal() == 1).all() and (k_ij - exact).abs().max() < 3e-6


def test_tiles_within_one_set_and_between_copies_are_alike():
    c = torch.rand(300, 64, generator=torch.Generator().manual_seed(0))
    c[1] = c[0] + 1e-5
    everything = slice(None)
    for allowed in (allowed_in_sums(Plummer(), 64), allowed_in_pulls(Plummer(), 64, 300, 300)):
        within = Products(c, c, allowed).tile(everything, everything)
        between = Products(c, c.clone(), allowed).tile(everything, everything)
        for got, wanted in zip(within, between): assert_close(got, wanted, rtol=0, atol=0)


# --- where products are not used ----------------------------------------------------------------------------------

def refuse(monkeypatch):
    def init(self, *args): raise AssertionError('products were used')
    monkeypatch.setattr(Products, '__init__', init)


@pytest.mark.parametrize('kernel', [Coulomb(3), EnergyDistance()], ids=repr)
def test_unbounded_kernels_take_the_slow_form(kernel, monkeypatch):
    a, b = pairs(uniform, 8)
    refuse(monkeypatch)
    kernel_sums(a + 9, b, kernel)


def test_float64_takes_the_slow_form(monkeypatch):
    a, b = pairs(uniform, 8)
    refuse(monkeypatch)
    kernel_sums(a.double(), b.double(), Plummer())
    with pytest.raises(AssertionError, match='products were used'): kernel_sums(a, b, Plummer())


def test_gradients_take_the_slow_form():
    a, b = pairs(uniform, 8)
    a.requires_grad_()
    found, = torch.autograd.grad(kernel_sums(a, b, Plummer()).sum(), a)
    want = pull_sums(a.detach().double(), b.double(), Plummer())
    # float32 gradients of 700 terms of size 0.4
    assert_close(found.double(), want, rtol=0, atol=1e-4 * 700**.5)
    with torch.no_grad(): assert not kernel_sums(a, b, Plummer()).requires_grad


def test_products_that_pytorch_rounds_further_are_not_used():
    a, b = pairs(uniform, 64)
    want = kernel_sums(a.double(), b.double(), Plummer())
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = 'bf16'
    try: got = kernel_sums(a, b, Plummer())
    finally: torch.backends.mkldnn.matmul.fp32_precision = before
    assert_close(got / len(b), want / len(b), rtol=0, atol=PROMISE)


@pytest.mark.parametrize('bad', [torch.nan, torch.inf])
@pytest.mark.parametrize('use', [lambda a, b: kernel_sums(a, b, Plummer()), lambda a, b: mean_within(b, Plummer()),
                                 lambda a, b: potential(a, a, b, Plummer()), lambda a, b: potentials(a, b, Plummer())])
def test_values_that_are_not_finite_are_refused(use, bad):
    a, b = pairs(uniform, 8)
    b[5, 3] = bad
    with pytest.raises(ValueError, match='NaN'): use(a, b)


# --- faults that a reader found -----------------------------------------------------------------------------------

@pytest.mark.parametrize('kernel, size', [(Gaussian(1.), 1e10), (Gaussian(.1), 1e9), (Gaussian(.01), 1e8), (Gaussian(1e-10), 1.),
                                          (Laplace(1e10), 1.), (Laplace(1.), 1e-10), (Plummer(1., 1e-12), 1.)], ids=repr)
def test_scales_far_apart(kernel, size):
    "A kernel much narrower or wider than the points: negative squares by rounding must not reach it"
    a, b = pairs(uniform, 64)
    outlier = torch.cat([b, torch.full((1, 64), size)]) if size > 1 else b * size
    a = a if size > 1 else a * size
    got, want = (kernel_sums(a.to(dtype), outlier.to(dtype), kernel) for dtype in (torch.float32, torch.float64))
    assert_close(got / 700, want / 700, rtol=0, atol=PROMISE * kernel.at_zero(a).item())
    pull, exact = (pull_sums(a.to(dtype), outlier.to(dtype), kernel) for dtype in (torch.float32, torch.float64))
    assert_close(pull / 700, exact / 700, rtol=0, atol=2 * PROMISE * max(largest_pull(kernel), 1e-30))


def test_autocast_changes_nothing():
    a, b = pairs(uniform, 64)
    want = kernel_sums(a.double(), b.double(), Plummer()) / len(b)
    with torch.autocast('cpu', torch.bfloat16): got = kernel_sums(a, b, Plummer()) / len(b)
    assert_close(got, want, rtol=0, atol=PROMISE)


@pytest.mark.filterwarnings('ignore:.*torch.jit:FutureWarning')  # of PyTorch's own decompositions
def test_forward_derivatives_take_the_slow_form():
    a, b = pairs(uniform, 64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a, torch.ones_like(a))
        tangent = torch.autograd.forward_ad.unpack_dual(kernel_sums(dual, b, Plummer())).tangent
    want = pull_sums(a.double(), b.double(), Plummer()).sum(1)
    # float32 tangents of 700 x 64 terms
    assert_close(tangent.double(), want, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('m', [2, 3, 4, 5, 8, 16, 17])
@pytest.mark.parametrize('eps', [1., .05])
def test_normal_points_of_few_coordinates(m, eps):
    "Most of these pairs are too near for products"
    gen = torch.Generator().manual_seed(m)
    a, b = torch.randn(1200, m, generator=gen), torch.randn(1300, m, generator=gen)
    kernel = Plummer(1., eps)
    got, want = (kernel_sums(a.to(dtype), b.to(dtype), kernel) / 1300 for dtype in (torch.float32, torch.float64))
    assert_close(got, want, rtol=0, atol=PROMISE / eps)
    pull, exact = (pull_sums(a.to(dtype), b.to(dtype), kernel) / 1300 for dtype in (torch.float32, torch.float64))
    assert_close(pull, exact, rtol=0, atol=2 * PROMISE * largest_pull(kernel))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_points_almost_at_one_place_pull_as_far_as_they_are_apart(dtype):
    "Their distance is lost to rounding, and a softening of 1e-3 makes it count ten thousandfold"
    kernel = Plummer(3, 1e-3)
    x, y = (torch.randn(60, 20, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    x[1] = x[0]
    x[1, 0] += 1e-6 if dtype == torch.float32 else 1e-9
    def pull(q):
        difference = (x[:, None] - q).double()
        return 2 * (kernel.slope(difference.square().sum(2))[..., None] * difference).mean(1)
    error = force(x, x, y, kernel) - (pull(y) - pull(x))
    assert error.norm() < 1e-6 * pull(x).norm() and pull(x)[0].norm() > 1e3 * pull(x)[2].norm()
