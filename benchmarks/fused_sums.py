"""Sums of the Plummer kernel and of its pulls over all pairs as Triton kernels: a candidate for the package on a GPU.

A program takes a block of points and a part of the charges, which it goes through block by block; only a tile of
distances is held at a time. Up to 16 coordinates these are of exact differences, else of float32 products about the
centre of the charges, and of exact differences where `near_limit` of the package says that products are too coarse.
A tile is summed in float32, the tiles and the parts in float64, always in the same order. The kernels compute
`k / k(0)`, whose logarithm is small where it counts. Without a GPU they run in Triton's interpreter: TRITON_INTERPRET=1
in the environment (tests/field/test_fused_sums.py).
"""
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from coulomb_gan.field.kernels import Plummer
from coulomb_gan.field.pair_sums import allowed_in_pulls
from coulomb_gan.field.products import allowed_in_sums, near_limit


class Tile(NamedTuple):
    "What a program holds at a time."
    points: int
    charges: int
    columns: int  # coordinates of a step of a product
    warps: int  # of 32 threads


TILE = Tile(64, 64, 16, 8)  # the largest of these that an H100 holds in its registers
STRETCH = 512  # coordinates added in one go: the package's bound on the rounding counts on it
FEW = 16  # coordinates up to which all distances are of differences
COUNTS = ['n_a', 'n_b', 'n_each']  # the same machine code for all
PROGRAMS = 512  # that keep a GPU busy
MOST_NUMBERS = 2**25  # in float64, of all parts of the charges: 256 MB


# --- distances ----------------------------------------------------------------------------------------------------

@triton.jit
def difference(a_ptr, b_ptr, i, j, n_a, n_b, k, M: tl.constexpr):
    "Coordinate k of points minus charges, for all pairs of a tile."
    p = tl.load(a_ptr + i * M + k, mask=i < n_a, other=0.)
    q = tl.load(b_ptr + j * M + k, mask=j < n_b, other=0.)
    return p[:, None] - q[None, :]


@triton.jit
def by_differences(a_ptr, b_ptr, i, j, n_a, n_b, M: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr):
    "Squared distances of a tile, coordinate by coordinate."
    r2 = tl.zeros((P, Q), tl.float32)
    for first in range(0, M, C):
        step = tl.zeros((P, Q), tl.float32)
        for k in range(first, tl.minimum(first + C, M)):
            d = difference(a_ptr, b_ptr, i, j, n_a, n_b, k, M)
            step += d * d
        r2 += step
    return r2


@triton.jit
def centred(x_ptr, centre_ptr, rows, n_rows, first, M: tl.constexpr, C: tl.constexpr):
    "Some coordinates of some rows, less those of the centre."
    k = first + tl.arange(0, C)
    inside = (rows < n_rows)[:, None] & (k < M)[None, :]
    x = tl.load(x_ptr + rows[:, None] * M + k[None, :], mask=inside, other=0.)
    centre = tl.load(centre_ptr + k, mask=k < M, other=0.)
    return x - centre[None, :]


@triton.jit
def by_products(a_ptr, b_ptr, centre_ptr, p2_ptr, q2_ptr, i, j, n_a, n_b,
                M: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, S: tl.constexpr):
    "Squared distances of a tile by products about the centre."
    dots = tl.zeros((P, Q), tl.float32)
    for begin in range(0, M, S):
        stretch = tl.zeros((P, Q), tl.float32)
        for first in range(begin, tl.minimum(begin + S, M), C):
            p = centred(a_ptr, centre_ptr, i, n_a, first, M, C)
            q = centred(b_ptr, centre_ptr, j, n_b, first, M, C)
            stretch = tl.dot(p, tl.trans(q), stretch, input_precision='ieee')
        dots += stretch
    p2 = tl.load(p2_ptr + i, mask=i < n_a, other=0.)
    q2 = tl.load(q2_ptr + j, mask=j < n_b, other=0.)
    return p2[:, None] - 2 * dots + q2[None, :]


@triton.jit
def distances(a_ptr, b_ptr, centre_ptr, p2_ptr, q2_ptr, limit_ptr, i, j, n_a, n_b,
              M: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, S: tl.constexpr):
    "Squared distances of a tile, which of them are near and therefore of differences, and whether any is."
    r2 = by_products(a_ptr, b_ptr, centre_ptr, p2_ptr, q2_ptr, i, j, n_a, n_b, M, P, Q, C, S)
    limit = tl.load(limit_ptr + i, mask=i < n_a, other=float('-inf'))
    near = (r2 < limit[:, None]) & (j < n_b)[None, :]
    any_near = tl.max(near.to(tl.int32)) > 0
    if any_near:
        exact = by_differences(a_ptr, b_ptr, i, j, n_a, n_b, M, P, Q, C)
        r2 = tl.where(near, exact, r2)
    return tl.maximum(r2, 0.), near, any_near


@triton.jit
def power(r2, inverse, exponent, ROOTS: tl.constexpr):
    "`(1 + r^2 / eps^2)^-exponent`; ROOTS: twice the exponent where that is 1 or 3, else 0."
    v = 1 + r2 * inverse
    if ROOTS == 0: return tl.exp2(-exponent * tl.log2(v))
    root = tl.rsqrt(v)
    if ROOTS == 1: return root
    return root * root * root


# --- kernels ------------------------------------------------------------------------------------------------------

@triton.jit(do_not_specialize=COUNTS)
def sums_kernel(a_ptr, b_ptr, centre_ptr, p2_ptr, q2_ptr, limit_ptr, out_ptr, n_a, n_b, n_each, inverse, exponent,
                M: tl.constexpr, FEW: tl.constexpr, ROOTS: tl.constexpr,
                P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, S: tl.constexpr):
    "Sums of the powers over one part of the charges."
    i = tl.program_id(0).to(tl.int64) * P + tl.arange(0, P)
    part = tl.program_id(1).to(tl.int64)
    total = tl.zeros((P,), tl.float64)
    first = part * n_each
    for start in range(first, tl.minimum(first + n_each, n_b), Q):
        j = start + tl.arange(0, Q).to(tl.int64)
        if FEW: r2 = by_differences(a_ptr, b_ptr, i, j, n_a, n_b, M, P, Q, C)
        else: r2, _, _ = distances(a_ptr, b_ptr, centre_ptr, p2_ptr, q2_ptr, limit_ptr, i, j, n_a, n_b, M, P, Q, C, S)
        k = power(r2, inverse, exponent, ROOTS)
        k = tl.where((j < n_b)[None, :], k, 0.)
        total += tl.sum(k, 1).to(tl.float64)
    tl.store(out_ptr + part * n_a + i, total, mask=i < n_a)


@triton.jit(do_not_specialize=COUNTS)
def few_pulls_kernel(a_ptr, b_ptr, out_ptr, n_a, n_b, n_each, inverse, exponent, M: tl.constexpr, ROOTS: tl.constexpr,
                     P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, F: tl.constexpr):
    "Sums of powers times differences over one part of the charges, for few coordinates."
    i = tl.program_id(0).to(tl.int64) * P + tl.arange(0, P)
    part = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, F)
    total = tl.zeros((P, F), tl.float64)
    first = part * n_each
    for start in range(first, tl.minimum(first + n_each, n_b), Q):
        j = start + tl.arange(0, Q).to(tl.int64)
        r2 = by_differences(a_ptr, b_ptr, i, j, n_a, n_b, M, P, Q, C)
        w = power(r2, inverse, exponent, ROOTS)
        w = tl.where((j < n_b)[None, :], w, 0.)
        for k in range(M):
            d = difference(a_ptr, b_ptr, i, j, n_a, n_b, k, M)
            pull = tl.sum(w * d, 1)
            total += tl.where(column[None, :] == k, pull[:, None], 0.).to(tl.float64)
    at = (part * n_a + i)[:, None] * M + column[None, :]
    tl.store(out_ptr + at, total, mask=(i < n_a)[:, None] & (column < M)[None, :])


@triton.jit(do_not_specialize=COUNTS)
def pulls_kernel(a_ptr, b_ptr, centre_ptr, p2_ptr, q2_ptr, limit_ptr, total_ptr, out_ptr, n_a, n_b, n_each, inverse,
                 exponent, M: tl.constexpr, ROOTS: tl.constexpr,
                 P: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, S: tl.constexpr):
    "Sums of the powers of far pairs; added to `out`: these times centred charges, less near powers times differences."
    i = tl.program_id(0).to(tl.int64) * P + tl.arange(0, P)
    part = tl.program_id(1).to(tl.int64)
    row = (part * n_a + i) * M
    total = tl.zeros((P,), tl.float64)
    first = part * n_each
    for start in range(first, tl.minimum(first + n_each, n_b), Q):
        j = start + tl.arange(0, Q).to(tl.int64)
        r2, near, any_near = distances(a_ptr, b_ptr, centre_ptr, p2_ptr, q2_ptr, limit_ptr, i, j, n_a, n_b,
                                       M, P, Q, C, S)
        w = power(r2, inverse, exponent, ROOTS)
        w = tl.where((j < n_b)[None, :], w, 0.)
        far = tl.where(near, 0., w)
        total += tl.sum(far, 1).to(tl.float64)
        for begin in range(0, M, C):
            k = begin + tl.arange(0, C)
            q = centred(b_ptr, centre_ptr, j, n_b, begin, M, C)
            pull = tl.dot(far, q, input_precision='ieee')
            at = row[:, None] + k[None, :]
            inside = (i < n_a)[:, None] & (k < M)[None, :]
            before = tl.load(out_ptr + at, mask=inside, other=0.)
            tl.store(out_ptr + at, before + pull.to(tl.float64), mask=inside)
        if any_near:
            tl.debug_barrier()  # other threads may read what these have written
            w = tl.where(near, w, 0.)
            for k in range(M):
                d = difference(a_ptr, b_ptr, i, j, n_a, n_b, k, M)
                pull = tl.sum(w * d, 1)
                before = tl.load(out_ptr + row + k, mask=i < n_a, other=0.)
                tl.store(out_ptr + row + k, before - pull.to(tl.float64), mask=i < n_a)
        tl.debug_barrier()
    tl.store(total_ptr + part * n_a + i, total, mask=i < n_a)


# --- sums ---------------------------------------------------------------------------------------------------------

def checked(a, b, kernel):
    "Rows without gaps, and the kernel with plain numbers. Raises ValueError for what the kernels do not take."
    if not isinstance(kernel, Plummer): raise ValueError(f'the fused sums are of the Plummer kernel, got {kernel!r}')
    if not a.dtype == b.dtype == torch.float32: raise ValueError(f'points must be float32, got {a.dtype} and {b.dtype}')
    return a.detach().contiguous(), b.detach().contiguous(), Plummer(kernel.d, float(kernel.eps))


def parts_of(n_a, n_b, width, tile):
    "Charges of each part, a multiple of a tile, and the number of parts; `width` numbers are kept of each point."
    blocks = triton.cdiv(n_a, tile.points)
    tiles = triton.cdiv(n_b, tile.charges)
    fitting = max(1, MOST_NUMBERS // (n_a * width))
    parts = min(triton.cdiv(PROGRAMS, blocks), fitting, tiles)
    n_each = triton.cdiv(tiles, parts) * tile.charges
    return n_each, triton.cdiv(n_b, n_each)


def centred_norms(points, centre):
    "`|p - c|^2` of each row, float32 rounded once."
    at_once = max(1, 2**24 // points.shape[1])
    norms = [(rows - centre).square_().sum(1, dtype=torch.float64) for rows in points.split(at_once)]
    return torch.cat(norms).float()


def for_products(a, b, allowed):
    "Centre of the charges, squared norms about it, and the limits of near pairs."
    centre = b.mean(0)
    p2 = centred_norms(a, centre)
    q2 = centred_norms(b, centre)
    s = p2.double().sqrt() + q2.max().double().sqrt()
    limit = near_limit(s.cpu(), a.shape[1], allowed)
    return centre, p2, q2, limit.to(a.device)


def sizes_of(tile):
    "Of a tile, by the kernels' names for them."
    return dict(P=tile.points, Q=tile.charges, C=tile.columns, num_warps=tile.warps)


def kernel_sums(a, b, kernel, tile=TILE):
    "`S_i = sum_j k(a_i, b_j)`, float64 `(n_a,)`, of float32 points."
    a, b, kernel = checked(a, b, kernel)
    n_a, m = a.shape
    few = m <= FEW
    prepared = [None] * 4 if few else for_products(a, b, allowed_in_sums(kernel, m))
    n_each, parts = parts_of(n_a, len(b), 1, tile)
    out = a.new_empty(parts, n_a, dtype=torch.float64)
    grid = triton.cdiv(n_a, tile.points), parts
    d, eps = kernel.d, kernel.eps
    sums_kernel[grid](a, b, *prepared, out, n_a, len(b), n_each, eps**-2, d / 2, M=m, FEW=few, ROOTS=int(d == 1),
                      S=STRETCH, **sizes_of(tile))
    return out.sum(0) * eps**-d


def pull_sums(a, b, kernel, tile=TILE):
    "`P_i = sum_j 2 f'(r_ij^2) (a_i - b_j)`, float64 `(n_a, m)`, of float32 points."
    a, b, kernel = checked(a, b, kernel)
    n_a, m = a.shape
    n_each, parts = parts_of(n_a, len(b), m, tile)
    out = a.new_zeros(parts, n_a, m, dtype=torch.float64)
    grid = triton.cdiv(n_a, tile.points), parts
    d, eps = kernel.d, kernel.eps
    numbers = n_a, len(b), n_each, eps**-2, d / 2 + 1
    sizes = dict(M=m, ROOTS=3 * (d == 1), **sizes_of(tile))
    factor = -d * eps**(-d - 2)
    if m <= FEW:
        few_pulls_kernel[grid](a, b, out, *numbers, **sizes, F=FEW)
        return factor * out.sum(0)
    centre, *others = for_products(a, b, allowed_in_pulls(kernel, m, len(b), tile.charges))
    total = a.new_empty(parts, n_a, dtype=torch.float64)
    pulls_kernel[grid](a, b, centre, *others, total, out, *numbers, **sizes, S=STRETCH)
    by_points = (a.double() - centre) * total.sum(0)[:, None]
    return factor * (by_points - out.sum(0))
