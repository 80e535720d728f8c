"""The sums over pairs of benchmarks/fused_sums.py against loops in float64.

They run on a GPU, or anywhere in Triton's interpreter:

    TRITON_INTERPRET=1 python -m pytest tests/field/test_fused_sums.py
"""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from coulomb_gan.field.kernels import Gaussian, Plummer

ROOT = Path(__file__).resolve().parents[2]
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
HAS_TRITON = importlib.util.find_spec('triton') is not None
DEVICE = 'cuda' if torch.cuda.is_available() and not INTERPRETED else 'cpu'
pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason='needs Triton'),
    pytest.mark.filterwarnings('ignore:TRITON_DEFAULT_FP_FUSION')]
runs = pytest.mark.skipif(DEVICE == 'cpu' and not INTERPRETED, reason='needs a GPU or TRITON_INTERPRET=1')

PROMISE = 3e-6  # of k(0), or of the largest pull of one charge
KERNELS = [Plummer(1., 1.), Plummer(3., .1), Plummer(.5, 3.)]
LAWS = {'uniform': torch.rand, 'normal': torch.randn}
# less than a tile; several tiles that are not full, and several parts of the charges
SIZES = [(1, 1), (70, 100)]


def case(law, m, n_a, n_b):
    "Points and charges on the device; some charges are points, some nearly"
    gen = torch.Generator().manual_seed(m)
    a, b = (LAWS[law](n, m, generator=gen) for n in (n_a, n_b))
    same, near = min(n_a, n_b // 2, 20), min(n_a, n_b // 2, 10)
    b[:same] = a[:same]
    b[same:same + near] = a[:near] + 1e-4 * torch.rand(near, m, generator=gen)
    return a.to(DEVICE), b.to(DEVICE)


def looped(a, b, kernel):
    "Sums and pulls in float64, point by point by differences"
    sums, pulls = [], []
    for p in a.double().cpu():
        difference = p - b.double().cpu()
        r2 = difference.square().sum(1)
        sums.append(kernel.of_r2(r2).sum())
        pulls.append(2 * kernel.slope(r2) @ difference)
    return torch.stack(sums), torch.stack(pulls)


def units(kernel):
    "k(0), and the largest pull of one charge"
    r2 = torch.logspace(-12, 8, 1000).double()
    pull = 2 * kernel.slope(r2) * r2.sqrt()
    return kernel.at_zero(r2).item(), pull.abs().max().item()


def errors(found, a, b, kernel):
    "Largest error of a mean of kernels, and of pulls, in their units"
    return [(got.cpu() - want).abs().max().item() / len(b) / unit
            for got, want, unit in zip(found, looped(a, b, kernel), units(kernel))]


def fused(a, b, kernel, *tile):
    "Sums and pulls by the kernels"
    import fused_sums
    return fused_sums.kernel_sums(a, b, kernel, *tile), fused_sums.pull_sums(a, b, kernel, *tile)


# --- the promise --------------------------------------------------------------------------------------------------

@runs
@pytest.mark.parametrize('kernel', KERNELS, ids=repr)
@pytest.mark.parametrize('law', LAWS)
@pytest.mark.parametrize('m', [2, 3, 16, 17, 64, 300])
def test_means_keep_the_promise(m, law, kernel):
    for n_a, n_b in SIZES:
        a, b = case(law, m, n_a, n_b)
        found = fused(a, b, kernel)
        assert [got.dtype for got in found] == [torch.float64] * 2
        assert [got.shape for got in found] == [(n_a,), (n_a, m)]
        assert max(errors(found, a, b, kernel)) < PROMISE


@runs
@pytest.mark.parametrize('m', [3, 40])
def test_other_tiles_keep_the_promise(m):
    from fused_sums import Tile
    a, b = case('uniform', m, 70, 100)
    for tile in (Tile(32, 64, 32, 4), Tile(128, 64, 16, 8)):
        assert max(errors(fused(a, b, Plummer(), tile), a, b, Plummer())) < PROMISE


@runs
@pytest.mark.parametrize('m', [16, 17])
def test_points_off_the_origin(m):
    "1,000 away the last bit of a coordinate is 6e-5, and squares of coordinates are known to 1/16"
    a, b = case('normal', m, 70, 300)
    a, b = a + 1e3, b + 1e3
    for kernel in KERNELS: assert max(errors(fused(a, b, kernel), a, b, kernel)) < PROMISE


@runs
def test_products_of_more_coordinates_than_are_added_in_one_go(monkeypatch):
    import fused_sums
    monkeypatch.setattr(fused_sums, 'STRETCH', 32)
    a, b = case('uniform', 70, 70, 100)
    assert max(errors(fused(a, b, Plummer()), a, b, Plummer())) < PROMISE


@runs
@pytest.mark.parametrize('m', [3, 40])
def test_parts_of_the_charges_change_nothing_but_rounding(m, monkeypatch):
    "All charges in one part, and each tile in its own"
    import fused_sums
    a, b = case('normal', m, 70, 300)
    found = []
    for programs, parts in ((1, 1), (512, 5)):
        monkeypatch.setattr(fused_sums, 'PROGRAMS', programs)
        assert fused_sums.parts_of(70, 300, m, fused_sums.TILE)[1] == parts
        found.append(fused(a, b, Plummer()))
    for one, other in zip(*found): assert_close(one, other, rtol=1e-12, atol=1e-12 * len(b))


@runs
def test_two_calls_give_the_same_bits():
    for m in (3, 40):
        a, b = case('uniform', m, 70, 100)
        for one, other in zip(fused(a, b, Plummer()), fused(a, b, Plummer())): assert torch.equal(one, other)


@runs
def test_gaps_between_rows_change_nothing():
    a, b = case('uniform', 40, 70, 100)
    for one, other in zip(fused(a[::2, ::2], b[::3, ::2], Plummer()),
                          fused(a[::2, ::2].contiguous(), b[::3, ::2].contiguous(), Plummer())):
        assert torch.equal(one, other)


@runs
def test_a_softening_on_the_device():
    a, b = case('uniform', 20, 5, 7)
    for one, other in zip(fused(a, b, Plummer(1., torch.tensor(2., device=DEVICE))), fused(a, b, Plummer(1., 2.))):
        assert torch.equal(one, other)


# --- the tests can fail -------------------------------------------------------------------------------------------

@runs
def test_near_pairs_by_products_would_be_seen(monkeypatch):
    import fused_sums
    a, b = case('normal', 40, 70, 100)
    kernel = Plummer(1., .001)
    assert max(errors(fused(a, b, kernel), a, b, kernel)) < PROMISE
    def none(s, m, allowed): return torch.full_like(s, -torch.inf).float()
    monkeypatch.setattr(fused_sums, 'near_limit', none)
    assert min(errors(fused(a, b, kernel), a, b, kernel)) > PROMISE


@runs
def test_a_missing_charge_would_be_seen():
    a, b = case('normal', 17, 70, 100)
    assert min(errors(fused(a, b[:-1], Plummer()), a, b, Plummer())) > PROMISE


@runs
def test_other_kernels_and_types_are_refused():
    import fused_sums
    a, b = case('uniform', 3, 5, 7)
    with pytest.raises(ValueError, match='Plummer'): fused_sums.kernel_sums(a, b, Gaussian())
    with pytest.raises(ValueError, match='float32'): fused_sums.pull_sums(a.double(), b, Plummer())


# --- without a GPU ------------------------------------------------------------------------------------------------

def type_of(name):
    "Of a kernel's argument, for the compiler"
    if name.isupper(): return 'constexpr'
    if name in ('out_ptr', 'total_ptr'): return '*fp64'
    if name.endswith('_ptr'): return '*fp32'
    return 'i32' if name.startswith('n_') else 'fp32'


@pytest.mark.skipif(INTERPRETED, reason='the interpreter compiles nothing')
@pytest.mark.parametrize(
    'name, m, roots', [('sums', 3, 1), ('sums', 3072, 0), ('few_pulls', 16, 0), ('pulls', 3072, 3)])
def test_kernels_compile_for_an_h100(name, m, roots, tmp_path, monkeypatch):
    "Down to its machine code, which no GPU is needed for"
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    import fused_sums
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    kernel = getattr(fused_sums, f'{name}_kernel')
    few = m <= fused_sums.FEW
    tile = fused_sums.sizes_of(fused_sums.TILE)
    options = {'num_warps': tile.pop('num_warps')}
    sizes = {'M': m, 'FEW': few, 'ROOTS': roots, 'S': fused_sums.STRETCH, 'F': fused_sums.FEW, **tile}
    if few: sizes |= dict.fromkeys(('centre_ptr', 'p2_ptr', 'q2_ptr', 'limit_ptr'))
    signature = {argument: 'constexpr' if argument in sizes else type_of(argument) for argument in kernel.arg_names}
    constants = {argument: sizes[argument] for argument, kind in signature.items() if kind == 'constexpr'}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=options)
    assert compiled.asm['cubin']
    assert compiled.metadata.shared <= 227 * 1024  # what a program may have


@pytest.mark.skipif(INTERPRETED or DEVICE == 'cuda', reason='this is that process, or a GPU runs them itself')
def test_kernels_in_the_interpreter():
    "All tests above"
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/field/test_fused_sums.py'],
        cwd=ROOT, env=os.environ | {'TRITON_INTERPRET': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert ' passed' in done.stdout
