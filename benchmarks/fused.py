"""Triton kernels that candidates.py measures: batch norm with its activation, and Adam that writes copies.

Maps are read as rows of channels, `(n height width, channels)`, which is how a map with channels last lies in
memory. Every program takes some channels of one part of the rows; a second kernel puts the parts together, so
that nothing is added in an order that changes from step to step. All sums are in float32. Without a GPU the
kernels run in Triton's interpreter: TRITON_INTERPRET=1 in the environment (tests/training/test_fused.py).
"""
import torch
import triton
import triton.language as tl
from torch import nn

ROWS = 128  # of a tile
CHANNELS = 32  # of a tile: 64 bytes of a row in bfloat16
MOST_PARTS = 64  # of the rows
ELEMENTS = 1024  # of a weight, that one program of Adam moves


# --- batch norm and activation: forward ---------------------------------------------------------------------

@triton.jit
def moments_kernel(x_ptr, mean_ptr, m2_ptr, n_rows, n_channels, rows_each, R: tl.constexpr, C: tl.constexpr):
    "Mean of each channel over one part of the rows, and the sum of squared deviations from it, tile by tile."
    part = tl.program_id(0)
    c = tl.program_id(1) * C + tl.arange(0, C)
    first = part * rows_each
    last = tl.minimum(first + rows_each, n_rows)
    mean = tl.zeros((C,), tl.float32)
    m2 = tl.zeros((C,), tl.float32)
    seen = 0.
    for start in range(first, last, R):
        r = start + tl.arange(0, R)
        inside = (r < last)[:, None] & (c < n_channels)[None, :]
        x = tl.load(x_ptr + r[:, None] * n_channels + c[None, :], mask=inside, other=0.).to(tl.float32)
        n = tl.minimum(last - start, R).to(tl.float32)
        tile_mean = tl.sum(x, 0) / n
        deviation = tl.where(inside, x - tile_mean[None, :], 0.)
        total = seen + n
        shift = tile_mean - mean
        m2 += tl.sum(deviation * deviation, 0) + shift * shift * seen * n / total
        mean += shift * n / total
        seen = total
    at = part * n_channels + c
    tl.store(mean_ptr + at, mean, mask=c < n_channels)
    tl.store(m2_ptr + at, m2, mask=c < n_channels)


@triton.jit
def forward_kernel(x_ptr, weight_ptr, bias_ptr, means_ptr, m2s_ptr, out_ptr, mean_ptr, scale_ptr,
                   n_rows, n_channels, rows_each, n_parts, eps, slope,
                   R: tl.constexpr, C: tl.constexpr, PARTS: tl.constexpr):
    "Moments of all rows from those of the parts; one part of the rows normalised and through the activation."
    part = tl.program_id(0)
    c = tl.program_id(1) * C + tl.arange(0, C)
    real = c < n_channels

    # moments
    p = tl.arange(0, PARTS)
    of_parts = p[:, None] * n_channels + c[None, :]
    known = (p < n_parts)[:, None] & real[None, :]
    means = tl.load(means_ptr + of_parts, mask=known, other=0.)
    m2s = tl.load(m2s_ptr + of_parts, mask=known, other=0.)
    left = tl.maximum(n_rows - p * rows_each, 0)
    n = tl.minimum(left, rows_each).to(tl.float32)[:, None]
    mean = tl.sum(means * n, 0) / n_rows
    shift = means - mean[None, :]
    variance = (tl.sum(m2s, 0) + tl.sum(shift * shift * n, 0)) / n_rows
    scale = 1 / tl.sqrt(variance + eps)
    if part == 0:
        tl.store(mean_ptr + c, mean, mask=real)
        tl.store(scale_ptr + c, scale, mask=real)

    # rows
    weight = tl.load(weight_ptr + c, mask=real, other=0.)
    bias = tl.load(bias_ptr + c, mask=real, other=0.)
    first = part * rows_each
    last = tl.minimum(first + rows_each, n_rows)
    for start in range(first, last, R):
        r = start + tl.arange(0, R)
        inside = (r < last)[:, None] & real[None, :]
        at = r[:, None] * n_channels + c[None, :]
        x = tl.load(x_ptr + at, mask=inside, other=0.).to(tl.float32)
        normal = (x - mean[None, :]) * scale[None, :]
        z = normal * weight[None, :] + bias[None, :]
        out = tl.where(z > 0, z, slope * z)
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


# --- backward -----------------------------------------------------------------------------------------------

@triton.jit
def of_channels(weight_ptr, bias_ptr, mean_ptr, scale_ptr, c, real):
    "Weight, bias, mean and scale of some channels, each a row."
    weight = tl.load(weight_ptr + c, mask=real, other=0.)[None, :]
    bias = tl.load(bias_ptr + c, mask=real, other=0.)[None, :]
    mean = tl.load(mean_ptr + c, mask=real, other=0.)[None, :]
    scale = tl.load(scale_ptr + c, mask=real, other=0.)[None, :]
    return weight, bias, mean, scale


@triton.jit
def behind_norm(x_ptr, g_ptr, at, inside, weight, bias, mean, scale, slope):
    "The normal values of a tile, and the gradient behind the norm, back through the activation."
    x = tl.load(x_ptr + at, mask=inside, other=0.).to(tl.float32)
    g = tl.load(g_ptr + at, mask=inside, other=0.).to(tl.float32)
    normal = (x - mean) * scale
    return normal, tl.where(normal * weight + bias > 0, g, slope * g)


@triton.jit
def sums_kernel(x_ptr, g_ptr, weight_ptr, bias_ptr, mean_ptr, scale_ptr, sum_ptr, dot_ptr,
                n_rows, n_channels, rows_each, slope, R: tl.constexpr, C: tl.constexpr):
    "Over one part of the rows: sums of the gradient behind the norm, and of it times the normal values."
    part = tl.program_id(0)
    c = tl.program_id(1) * C + tl.arange(0, C)
    real = c < n_channels
    weight, bias, mean, scale = of_channels(weight_ptr, bias_ptr, mean_ptr, scale_ptr, c, real)
    total = tl.zeros((C,), tl.float32)
    dot = tl.zeros((C,), tl.float32)
    first = part * rows_each
    last = tl.minimum(first + rows_each, n_rows)
    for start in range(first, last, R):
        r = start + tl.arange(0, R)
        inside = (r < last)[:, None] & real[None, :]
        at = r[:, None] * n_channels + c[None, :]
        normal, g_z = behind_norm(x_ptr, g_ptr, at, inside, weight, bias, mean, scale, slope)
        total += tl.sum(g_z, 0)
        dot += tl.sum(g_z * normal, 0)
    at = part * n_channels + c
    tl.store(sum_ptr + at, total, mask=real)
    tl.store(dot_ptr + at, dot, mask=real)


@triton.jit
def backward_kernel(x_ptr, g_ptr, weight_ptr, bias_ptr, mean_ptr, scale_ptr, sums_ptr, dots_ptr, g_x_ptr,
                    g_weight_ptr, g_bias_ptr, n_rows, n_channels, rows_each, n_parts, slope,
                    R: tl.constexpr, C: tl.constexpr, PARTS: tl.constexpr):
    "Gradients: of weight and bias from the sums of the parts, of one part of the rows with them."
    part = tl.program_id(0)
    c = tl.program_id(1) * C + tl.arange(0, C)
    real = c < n_channels

    # sums
    p = tl.arange(0, PARTS)
    of_parts = p[:, None] * n_channels + c[None, :]
    known = (p < n_parts)[:, None] & real[None, :]
    total = tl.sum(tl.load(sums_ptr + of_parts, mask=known, other=0.), 0)
    dot = tl.sum(tl.load(dots_ptr + of_parts, mask=known, other=0.), 0)
    if part == 0:
        tl.store(g_bias_ptr + c, total, mask=real)
        tl.store(g_weight_ptr + c, dot, mask=real)
    mean_g = (total / n_rows)[None, :]
    mean_dot = (dot / n_rows)[None, :]

    # rows
    weight, bias, mean, scale = of_channels(weight_ptr, bias_ptr, mean_ptr, scale_ptr, c, real)
    first = part * rows_each
    last = tl.minimum(first + rows_each, n_rows)
    for start in range(first, last, R):
        r = start + tl.arange(0, R)
        inside = (r < last)[:, None] & real[None, :]
        at = r[:, None] * n_channels + c[None, :]
        normal, g_z = behind_norm(x_ptr, g_ptr, at, inside, weight, bias, mean, scale, slope)
        g_x = weight * scale * (g_z - mean_g - normal * mean_dot)
        tl.store(g_x_ptr + at, g_x.to(g_x_ptr.dtype.element_ty), mask=inside)


# --- the layer ----------------------------------------------------------------------------------------------

def parts_of(n_rows):
    "Rows of each part, a multiple of a tile, and the number of parts."
    tiles = triton.cdiv(n_rows, ROWS)
    tiles_each = triton.cdiv(tiles, MOST_PARTS)
    rows_each = tiles_each * ROWS
    return rows_each, triton.cdiv(n_rows, rows_each)


class NormActivation(torch.autograd.Function):
    "`act((x - mean) / sqrt(var + eps) * weight + bias)` with the moments of the batch, channels last."
    @staticmethod
    def forward(ctx, x, weight, bias, eps, slope):
        x = x.contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]
        rows = x.numel() // channels
        rows_each, parts = parts_of(rows)
        grid = parts, triton.cdiv(channels, CHANNELS)
        means, m2s = weight.new_empty(2, parts, channels)
        mean, scale = weight.new_empty(2, channels)
        out = torch.empty_like(x)
        moments_kernel[grid](x, means, m2s, rows, channels, rows_each, R=ROWS, C=CHANNELS)
        forward_kernel[grid](x, weight, bias, means, m2s, out, mean, scale, rows, channels, rows_each, parts,
                             eps, slope, R=ROWS, C=CHANNELS, PARTS=triton.next_power_of_2(parts))
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.slope = slope
        return out

    @staticmethod
    def backward(ctx, g):
        x, weight, bias, mean, scale = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]
        rows = x.numel() // channels
        rows_each, parts = parts_of(rows)
        grid = parts, triton.cdiv(channels, CHANNELS)
        sums, dots = weight.new_empty(2, parts, channels)
        g_weight, g_bias = weight.new_empty(2, channels)
        g_x = torch.empty_like(x)
        sums_kernel[grid](x, g, weight, bias, mean, scale, sums, dots, rows, channels, rows_each, ctx.slope,
                          R=ROWS, C=CHANNELS)
        backward_kernel[grid](x, g, weight, bias, mean, scale, sums, dots, g_x, g_weight, g_bias, rows,
                              channels, rows_each, parts, ctx.slope, R=ROWS, C=CHANNELS,
                              PARTS=triton.next_power_of_2(parts))
        return g_x, g_weight, g_bias, None, None


class FusedNorm(nn.Module):
    "A batch norm and the activation behind it: ReLU (slope 0) or leaky ReLU."
    def __init__(self, norm, slope):
        super().__init__()
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps
        self.slope = slope
    def forward(self, x): return NormActivation.apply(x, self.weight, self.bias, self.eps, self.slope)


# --- Adam ---------------------------------------------------------------------------------------------------

@triton.jit
def adam_kernel(p_ptr, g_ptr, m_ptr, v_ptr, copy_ptr, lr_ptr, powers_ptr, n, beta1, beta2, rest1, rest2,
                eps, decay, N: tl.constexpr):
    "Adam on float32 weights from gradients of any type; the new weights also rounded into their copies."
    i = tl.program_id(0) * N + tl.arange(0, N)
    inside = i < n
    p = tl.load(p_ptr + i, mask=inside)
    g = tl.load(g_ptr + i, mask=inside).to(tl.float32)
    m = tl.load(m_ptr + i, mask=inside)
    v = tl.load(v_ptr + i, mask=inside)
    lr = tl.load(lr_ptr)
    bias1 = (1 - tl.load(powers_ptr)).to(tl.float32)
    bias2 = (1 - tl.load(powers_ptr + 1)).to(tl.float32)
    g += decay * p
    m = beta1 * m + rest1 * g
    v = beta2 * v + rest2 * g * g
    p -= lr / bias1 * m / (tl.sqrt(v / bias2) + eps)
    tl.store(p_ptr + i, p, mask=inside)
    tl.store(m_ptr + i, m, mask=inside)
    tl.store(v_ptr + i, v, mask=inside)
    tl.store(copy_ptr + i, p.to(copy_ptr.dtype.element_ty), mask=inside)


class CopyingAdam:
    "Adam that reads the bfloat16 gradients of copies and writes the copies; other weights by the package's."
    def __init__(self, opt, copies):
        self.opt = opt
        self.copies = copies  # float32 weight -> its copy
        self.moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in copies}
        group = opt.param_groups[0]
        device = next(iter(copies)).device
        self.betas = torch.tensor(group['betas'], dtype=torch.float64, device=device)
        self.powers = torch.ones_like(self.betas)  # betas to the number of steps
        self.lr = torch.zeros((), device=device)

    @property
    def param_groups(self):
        "Where the step puts its learning rate."
        return self.opt.param_groups

    @torch.no_grad()
    def step(self):
        "One update of all weights."
        self.opt.step()  # of those with a gradient of their own
        self.powers *= self.betas
        for group in self.param_groups:
            self.lr.fill_(group['lr'])
            for p in group['params']:
                if p in self.copies: self.move(p, group)

    def move(self, p, group):
        "One weight and its copy."
        copy = self.copies[p]
        m, v = self.moments[p]
        beta1, beta2 = group['betas']
        n = p.numel()
        grid = triton.cdiv(n, ELEMENTS),
        adam_kernel[grid](p, copy.grad, m, v, copy, self.lr, self.powers, n, beta1, beta2, 1 - beta1,
                          1 - beta2, group['eps'], group['weight_decay'], N=ELEMENTS)
