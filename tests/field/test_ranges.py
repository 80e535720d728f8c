"""Points of every type and size: the field reads what it reads in float64, to the rounding of their type, or refuses."""
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from coulomb_gan.field import pair_sums
from coulomb_gan.field.kernels import EnergyDistance, Gaussian, Laplace, Plummer, positive
from coulomb_gan.field.potential import energy, force, kernel_sums, potential, potentials

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
ZERO = torch.zeros(1, dtype=DOUBLE)


@pytest.fixture(autouse=True, params=['few pairs', 'by products'])
def worth(request, monkeypatch):
    "The same with float32 products wherever these are allowed, as for many pairs"
    if request.param == 'by products': monkeypatch.setattr(pair_sums, '_WORTH', 0)


def cloud(seed, n, m, size, dtype):
    return (size * torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)).to(dtype)

def clouds(m, size, dtype): return [cloud(seed, 9, m, size, dtype) for seed in range(3)]

def doubled(sets): return [s.double() for s in sets]

def one_line(f):
    with pytest.raises(ValueError) as caught: f()
    message = str(caught.value)
    assert message and '\n' not in message
    return message


# --- kernels and fields -------------------------------------------------------------------------------------------

FIELDS = {  # type, columns and size of the points, kernel
    'squares beyond float16': (HALF, 64, 300., Plummer(1., 1.)),
    'squares beyond float16 in the plane': (HALF, 2, 300., Plummer(1., 1.)),
    'squares below float16': (HALF, 2, 1e-3, Plummer(1., 1e-3)),
    'softening beyond float16': (HALF, 8, 300., Plummer(1., 1000.)),
    'Gaussian beyond float16': (HALF, 3, 300., Gaussian(400.)),
    'Laplace beyond float16': (HALF, 8, 300., Laplace(400.)),
    'bfloat16 of size 1': (BRAIN, 8, 1., Plummer(1., 1.)),
    'squares beyond bfloat16': (BRAIN, 8, 1e20, Plummer(1., 1e20)),
    'squares beyond float32': (SINGLE, 8, 1e20, Plummer(1., 1e20)),
    'squares beyond float32 in the plane': (SINGLE, 2, 1e20, Plummer(1., 1e20)),
    'squares beyond float32, little softening': (SINGLE, 3, 1e20, Plummer(1., 1.)),
    'Gaussian beyond float32': (SINGLE, 8, 1e20, Gaussian(3e20)),
    'Laplace beyond float32': (SINGLE, 2, 1e20, Laplace(1e20)),
    'minus the distance beyond float32': (SINGLE, 8, 1e20, EnergyDistance()),
    'sums beyond float32': (SINGLE, 8, 6e37, Plummer(1., 1e37)),
    'softening beyond float32': (SINGLE, 8, 1e18, Plummer(1., 1e20)),
    'squares below float32': (SINGLE, 8, 1e-25, Plummer(1., 1e-25)),
    'squares below float32 in the plane': (SINGLE, 2, 1e-25, Plummer(1., 1e-25)),
    'softening below float32': (SINGLE, 8, 1., Plummer(1., 1e-25)),
    'kernel below float32': (SINGLE, 8, 1e12, Plummer(4., 1e12)),
    'slope below float32': (SINGLE, 8, 1e16, Plummer(1., 1.)),
    'ordinary float32': (SINGLE, 8, 1., Plummer(3., .1)),
    'ordinary float32 in the plane': (SINGLE, 2, 20., Plummer(1., 1.)),
}
READINGS = {
    'kernel': lambda a, x, y, k: k(a, x),
    'kernel_sums': lambda a, x, y, k: kernel_sums(a, x, k),
    'potential': potential,
    'potentials': lambda a, x, y, k: torch.cat(potentials(x, y, k)),
    'potentials without self term': lambda a, x, y, k: torch.cat(potentials(x, y, k, 0.)),
    'potentials with further charges': lambda a, x, y, k: torch.cat(potentials(x, y, k, more_x=a, more_y=a[:1])),
    'force': force,
    'energy': lambda a, x, y, k: energy(x, y, k),
    'biased energy': lambda a, x, y, k: energy(x, y, k, unbiased=False),
}
WITH_SELF = {'potentials', 'potentials with further charges', 'energy', 'biased energy'}


def largest_term(reading, sets, kernel):
    "What cancels in a reading: kernels or pulls of single charges"
    c = torch.cat(doubled(sets))
    r2 = (c[:, None] - c).square().sum(2)
    r2 = r2[r2 > 0]
    if reading == 'force': return (2 * kernel.slope(r2) * r2.sqrt()).abs().max().item()
    return torch.cat([kernel.of_r2(r2), kernel.of_r2(ZERO) * (reading in WITH_SELF)]).abs().max().item()


@pytest.mark.parametrize('case', FIELDS)
@pytest.mark.parametrize('reading', READINGS)
def test_any_type_reads_what_float64_reads(reading, case):
    dtype, m, size, kernel = FIELDS[case]
    sets = clouds(m, size, dtype)
    want = READINGS[reading](*doubled(sets), kernel)
    assert want.isfinite().all() and want.abs().max() > 0
    result = dtype if reading not in ('kernel_sums', 'energy', 'biased energy') else DOUBLE
    top = want.abs().max()
    if abs(top.to(result).double() / top - 1) > .01:
        assert 'does not hold' in one_line(lambda: READINGS[reading](*sets, kernel))
        return
    got = READINGS[reading](*sets, kernel)
    assert got.dtype == result
    limits = torch.finfo(result)
    # the rounding of what is shown, near zero that of denormal numbers, and float32's, of terms that cancel
    rounding = limits.eps * top.item() + limits.tiny * limits.eps + 1e-6 * largest_term(reading, sets, kernel)
    assert_close(got.double(), want, rtol=0, atol=rounding)


@pytest.mark.parametrize('reading', READINGS)
def test_squares_beyond_float64_are_refused(reading):
    sets = clouds(3, 1e160, DOUBLE)
    assert 'overflow float64' in one_line(lambda: READINGS[reading](*sets, Plummer()))


@pytest.mark.parametrize('dtype', [HALF, BRAIN, SINGLE])
def test_vouched_for_points_are_not_looked_at(dtype, monkeypatch):
    "Whatever is read back from a GPU is a wait in the training step; half precision is widened all the same"
    monkeypatch.setattr(pair_sums, '_WORTH', float('inf'))  # float32 products read, and are not used on a GPU
    class Looks(TorchDispatchMode):
        count = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal)
            return func(*args, **(kwargs or {}))
    for m, kernel in ((2, Plummer(1., .5)), (64, Plummer(3., 1.))):
        a, x, y = clouds(m, 1., dtype)
        with Looks() as seen:
            got = [force(a, x, y, kernel, finite=False), *potentials(x, y, kernel, .5, finite=False),
                   kernel(a, x, finite=False)]
        assert seen.count == 0
        with Looks() as seen: force(a, x, y, kernel)
        assert seen.count > 0
        for values in (got, [force(a, x, y, kernel), *potentials(x, y, kernel, .5), kernel(a, x)]):
            assert [v.dtype for v in values] == [dtype] * 4
            for v, w in zip(values, got): assert torch.equal(v, w)


@pytest.mark.parametrize('dtype', [HALF, BRAIN, SINGLE])
def test_gradients_come_back_in_the_type_of_the_points(dtype):
    a, x, y = clouds(6, 1., dtype)
    a.requires_grad_()
    potential(a, x, y, Plummer()).sum().backward()
    assert a.grad.dtype == dtype
    assert_close(a.grad, force(a.detach(), x, y, Plummer()), rtol=4 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize('value', [1e-200, 1e200])
@pytest.mark.parametrize('use', [lambda v: Plummer(eps=v), lambda v: Gaussian(v), lambda v: positive(eps=v)])
def test_softening_whose_square_leaves_float64_is_refused(use, value):
    assert 'squared must be a finite number above 0' in one_line(lambda: use(value))


# --- integers -----------------------------------------------------------------------------------------------------

INTEGERS = [torch.int64, torch.int32, torch.uint8, torch.bool]
POINTS = cloud(0, 40, 2, 1., DOUBLE)
FLAT = {
    'a of kernel': lambda b: Plummer()(b, POINTS),
    'b of kernel': lambda b: Plummer()(POINTS, b),
    'a of kernel_sums': lambda b: kernel_sums(b, POINTS, Plummer()),
    'a of potential': lambda b: potential(b, POINTS, POINTS, Plummer()),
    'x of potential': lambda b: potential(POINTS, b, POINTS, Plummer()),
    'y of potential': lambda b: potential(POINTS, POINTS, b, Plummer()),
    'x of potentials': lambda b: potentials(b, POINTS, Plummer()),
    'y of potentials': lambda b: potentials(POINTS, b, Plummer(), finite=False),
    'a of force': lambda b: force(b, POINTS, POINTS, Plummer(), finite=False),
    'y of force': lambda b: force(POINTS, POINTS, b, Plummer()),
    'x of energy': lambda b: energy(b, POINTS, Plummer()),
    'y of energy': lambda b: energy(POINTS, b, Plummer()),
}

@pytest.mark.parametrize('dtype', INTEGERS)
@pytest.mark.parametrize('use', FLAT)
def test_integers_are_refused_by_name_and_type(use, dtype):
    FLAT[use](POINTS)
    integers = torch.arange(80).view(40, 2).to(dtype)
    assert one_line(lambda: FLAT[use](integers)) == f'{use.split()[0]} must hold floats, got {dtype}'
