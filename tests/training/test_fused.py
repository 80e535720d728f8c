"""The Triton kernels of benchmarks/fused.py against PyTorch's layers in float64 and the package's optimiser.

They run on a GPU, or anywhere in Triton's interpreter:

    TRITON_INTERPRET=1 python -m pytest tests/training/test_fused.py
"""
import importlib.util
import os

import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu
from torch.testing import assert_close

from coulomb_gan.training.config import Optimisation
from coulomb_gan.training.optimisers import optimiser

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
ONCE = 2**-7 if INTERPRETED else 2**-8  # error of a bfloat16 number: a GPU rounds, the interpreter cuts off
DEVICE = 'cpu' if INTERPRETED or not torch.cuda.is_available() else 'cuda'
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='needs Triton'),
    pytest.mark.skipif(DEVICE == 'cpu' and not INTERPRETED, reason='needs a GPU or TRITON_INTERPRET=1'),
    pytest.mark.filterwarnings('ignore:TRITON_DEFAULT_FP_FUSION')]

# a tile, less than a tile, one pixel a map, several tiles of the rows, several of the channels
SHAPES = [(8, 32, 4, 4), (3, 5, 3, 7), (4, 16, 1, 1), (5, 7, 9, 11), (2, 70, 9, 8)]


def case(shape, dtype=torch.float32, offset=0.):
    "A map, a gradient behind the layer, and a norm whose weights have both signs, all on the device"
    gen = torch.Generator().manual_seed(0)
    x = (offset + torch.randn(shape, generator=gen)).to(DEVICE, dtype)
    g = torch.randn(shape, generator=gen).to(DEVICE, dtype)
    norm = nn.BatchNorm2d(shape[1], track_running_stats=False)
    for p in norm.parameters(): nn.init.normal_(p, generator=gen)
    return x, g, norm.to(DEVICE)


def exact(x, g, norm, slope, leave_out_moments=False):
    "Output and gradients by PyTorch in float64"
    x = x.double().requires_grad_()
    weight = norm.weight.detach().double().requires_grad_()
    bias = norm.bias.detach().double().requires_grad_()
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    if leave_out_moments: mean, var = mean.detach(), var.detach()
    normal = (x - mean) / (var + norm.eps).sqrt()
    out = leaky_relu(normal * weight[:, None, None] + bias[:, None, None], slope)
    return out.detach(), *torch.autograd.grad(out, (x, weight, bias), g.double())


def found(x, g, norm, slope):
    "Output and gradients by the kernels"
    from fused import FusedNorm
    layer = FusedNorm(norm, slope)
    x = x.clone().requires_grad_()
    out = layer(x)
    return out.detach(), *torch.autograd.grad(out, (x, layer.weight, layer.bias), g)


def test_the_oracle_is_pytorchs_layer():
    x, g, norm = case((5, 7, 9, 11))
    norm = norm.double()
    x = x.double().requires_grad_()
    out = leaky_relu(norm(x), .2)
    gradients = torch.autograd.grad(out, (x, *norm.parameters()), g.double())
    for a, b in zip((out, *gradients), exact(x.detach(), g, norm, .2)): assert_close(a, b)


@pytest.mark.parametrize('parts', [64, 2, 1])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_norm_and_activation_in_float32(shape, parts, monkeypatch):
    "Sums of a few hundred rows, in as many parts as allowed: roundings of 6e-8 of numbers of 1 to 100"
    import fused
    monkeypatch.setattr(fused, 'MOST_PARTS', parts)
    for slope, order in ((0., torch.channels_last), (.2, torch.contiguous_format)):
        x, g, norm = case(shape)
        x = x.to(memory_format=order)
        for a, b in zip(found(x, g, norm, slope), exact(x, g, norm, slope)):
            assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_norm_and_activation_in_bfloat16(shape):
    "Inside they are exact to float32, so that output and gradient are rounded once"
    x, g, norm = case(shape, torch.bfloat16)
    for a, b in zip(found(x, g, norm, .2), exact(x, g, norm, .2)):
        once = ONCE if a.dtype == torch.bfloat16 else 0.
        assert_close(a.double(), b, rtol=once + 1e-5, atol=1e-5 * b.abs().max().item())


def test_a_mean_far_from_zero_costs_no_digits():
    "Squares of numbers near 1,000 would lose six of seven digits; what is left is the rounding of x, 6e-5"
    x, g, norm = case((5, 7, 9, 11), offset=1000.)
    for a, b in zip(found(x, g, norm, .2), exact(x, g, norm, .2)):
        assert_close(a.double(), b, rtol=0, atol=3e-4 * b.abs().max().item())


def test_wrong_gradients_would_be_seen():
    "Without the way through the moments, and of another slope"
    x, g, norm = case((5, 7, 9, 11))
    _, g_x, *_ = found(x, g, norm, .2)
    for wrong in (exact(x, g, norm, .2, leave_out_moments=True), exact(x, g, norm, .1)):
        with pytest.raises(AssertionError): assert_close(g_x.double(), wrong[1], rtol=1e-3, atol=1e-3)


def test_two_calls_give_the_same_bits():
    x, g, norm = case((5, 7, 9, 11))
    for a, b in zip(found(x, g, norm, .2), found(x, g, norm, .2)): assert torch.equal(a, b)


@pytest.mark.parametrize('decay', [0., .1])
def test_adam_that_writes_copies_is_the_packages(decay):
    "Five updates with other learning rates; the order of a few products differs by roundings of 6e-8"
    from fused import CopyingAdam
    gen = torch.Generator().manual_seed(0)
    def net(): return nn.Sequential(nn.Linear(40, 31), nn.BatchNorm1d(31), nn.Linear(31, 3)).to(DEVICE)
    nets = [net(), net()]
    nets[1].load_state_dict(nets[0].state_dict())
    ours, other = nets
    optim = Optimisation(weight_decay=decay, beta1=.5, beta2=.99)
    package = optimiser(ours, 1e-2, optim)
    copied = {p: nn.Parameter(p.detach().bfloat16()) for i in (0, 2) for p in other[i].parameters()}
    copying = CopyingAdam(optimiser(other, 1e-2, optim), copied)
    for lr in (1e-2, 1e-2, 3e-3, 3e-3, 1e-3):
        for p, q in zip(ours.parameters(), other.parameters()):
            p.grad = torch.randn(p.shape, generator=gen).bfloat16().float().to(DEVICE)
            if q in copied: copied[q].grad = p.grad.bfloat16()
            else: q.grad = p.grad.clone()
        for opt in (package, copying):
            for group in opt.param_groups: group['lr'] = lr
            opt.step()
        for p, q in zip(ours.parameters(), other.parameters()): assert_close(q, p, rtol=1e-5, atol=1e-7)
    for p, copy in copied.items(): assert_close(copy.float(), p, rtol=ONCE, atol=0)
