"""Each candidate of benchmarks/candidates.py is the package's step, only otherwise computed.

On a GPU recorded too; without one the Triton kernels run in the interpreter, in a process of their own.
"""
import functools
import importlib.util
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import candidates
import gpu
from candidates import (
    CANDIDATES, ChangedStep, CopiedWeights, FlatAdam, PaddedConv2d, PaddedConvTranspose2d, RowsConv2d)
from coulomb_gan.networks.layers import PatchConv2d
from coulomb_gan.training.algorithm import train_step, update
from coulomb_gan.training.config import Experiment, Optimisation
from coulomb_gan.training.cuda_graph import WARM_UP
from coulomb_gan.training.optimisers import optimiser
from coulomb_gan.training.state import TrainState
from step import Row

ROOT = Path(__file__).resolve().parents[2]
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() and not INTERPRETED else 'cpu'
SHAPE = 3, 16, 16
TINY = Experiment().changed(networks='dcgan', width_g=32, width_d=8, batch=8, precision='bfloat16',
                            device=DEVICE)
needs_triton = pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='needs Triton')
pytestmark = pytest.mark.filterwarnings('ignore:TRITON_DEFAULT_FP_FUSION')


def real(seed=0):
    "Real samples of a step"
    gen = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(TINY.optim.batch, *SHAPE, generator=gen) - 1).to(DEVICE)

def changed(name, e=TINY):
    "A state with a candidate; skips where its kernels cannot run"
    candidate = CANDIDATES[name]
    if candidate.triton and not candidates.runs_triton(DEVICE): pytest.skip('its kernels cannot run here')
    t = TrainState(e, SHAPE)
    candidate.change(t)
    return t

def gradients(t):
    "Losses before an update, and the gradients of all weights by their network"
    losses = torch.stack(update(t, real()))
    return losses, [[p.grad.float().flatten() for p in weights] for weights in (t.weights_g, t.weights_d)]

def relative(a, b): return ((a - b).norm() / b.norm()).item()


# --- all candidates -----------------------------------------------------------------------------------------

EXACTLY = dict(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)  # not TF32

SEEDED = [TINY.changed(seed=seed) for seed in range(16)]  # other weights and z

@functools.cache
def in_float32(e=TINY):
    "What the package's step gives in float32"
    t = TrainState(e.changed(precision='float32'), SHAPE)
    with torch.backends.cudnn.flags(**EXACTLY): return gradients(t)

def errors(t, exact):
    "Of the losses and of each network's gradient, relative"
    losses, nets = gradients(t)
    exact_losses, exact_nets = exact
    of_nets = [relative(torch.cat(a), torch.cat(b)) for a, b in zip(nets, exact_nets)]
    return [relative(losses, exact_losses), *of_nets]

def typical_errors(states):
    "Geometric means over states of all seeds, each beside float32 of the same seed"
    found = [errors(t, in_float32(e)) for t, e in zip(states, SEEDED, strict=True)]
    return [statistics.geometric_mean(each) for each in zip(*found)]

@functools.cache
def of_the_package():
    "Typical errors of its own step in bfloat16"
    return typical_errors([TrainState(e, SHAPE) for e in SEEDED])

def check_precision(states):
    """A step in bfloat16 must be as near to float32 as the package's, up to a rounding and what chance may do

    Rounding in another order makes a gradient of G .08 to .48 wrong, by the seed, and those of two orders differ by
    a factor of e^.5; so their geometric means over sixteen seeds differ by e^.13, and half as much again is three
    times that.
    """
    for got, ours in zip(typical_errors(states), of_the_package()): assert got <= 1.5 * ours + 2**-8


@pytest.mark.parametrize('name', CANDIDATES)
def test_a_step_is_as_exact_as_the_packages(name): check_precision([changed(name, e) for e in SEEDED])


@pytest.mark.parametrize('name', [name for name in CANDIDATES if 'bf16' not in name])
def test_a_step_in_float32_is_the_packages(name):
    "Up to sums in another order, 1e-6, which batch norms of eight numbers enlarge as they do bfloat16's 2^-8"
    t = changed(name, TINY.changed(precision='float32'))
    with torch.backends.cudnn.flags(**EXACTLY): assert max(errors(t, in_float32())) < 1e-3


def test_another_step_would_be_seen():
    "Another slope of D's activations, another batch norm"
    def other_slope(layer): layer.negative_slope = .1
    def other_norm(layer): layer.eps = .1
    for kind, spoil in ((nn.LeakyReLU, other_slope), (nn.BatchNorm2d, other_norm)):
        states = [TrainState(e, SHAPE) for e in SEEDED]
        for t in states:
            for layer in t.d:
                if isinstance(layer, kind): spoil(layer)
        with pytest.raises(AssertionError): check_precision(states)


@pytest.mark.parametrize('name', CANDIDATES)
def test_weights_move_as_the_packages(name):
    "Adam first moves a weight by the learning rate, whatever its gradient: where that is noise, either way"
    e = TINY.changed(weight_decay=.01)
    steps = [changed(name, e), TrainState(e, SHAPE)]
    before = [p.detach().clone() for p in steps[1].weights_d]
    for t in steps: train_step(t, real())
    moved = [torch.cat([(p.float() - q).flatten() for p, q in zip(masters(t), before)]) for t in steps]
    alike = (moved[0] - moved[1]).abs() < .1 * e.optim.lr_d
    assert alike.float().mean() > .9


def masters(t):
    "The float32 weights of D in the order of its parameters"
    copies = getattr(t.opt_d, 'copies', None)
    if copies is None: return t.weights_d
    pairs = copies.items() if isinstance(copies, dict) else zip(t.opt_d.weights, copies)
    master = {copy: p for p, copy in pairs}
    return [master.get(p, p) for p in t.weights_d]


@pytest.mark.skipif(DEVICE == 'cpu', reason='needs a CUDA device')
@pytest.mark.parametrize('name', CANDIDATES)
def test_recorded_steps_are_the_packages(name):
    "Twelve updates enlarge a rounding; each batch is another one, so that a stale one would be seen"
    changed(name)
    ours, other = ChangedStep(TINY, SHAPE), ChangedStep(TINY, SHAPE, [name])
    ys = [real(seed) for seed in range(12)]
    losses = [torch.stack([torch.stack(step(y)) for y in ys]) for step in (ours, other)]
    assert other.step.recorded and other.step.plain_steps == WARM_UP
    assert candidates.difference(losses[1], losses[0]) < .1
    assert len({tuple(pair.tolist()) for pair in losses[1]}) == len(ys)


# --- optimisers ---------------------------------------------------------------------------------------------

def twins(decay):
    "Two equal networks, one weight of them channels last, and the package's Adam for each"
    def net(): return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 7))
    nets = [net(), net()]
    nets[1].load_state_dict(nets[0].state_dict())
    optim = Optimisation(weight_decay=decay, beta1=.5, beta2=.99)
    return [(net, optimiser(net.to(DEVICE, memory_format=torch.channels_last), 1e-2, optim)) for net in nets]

def updates(opt, weights):
    "Five updates of the same gradients with other learning rates, which bfloat16 holds exactly"
    gen = torch.Generator().manual_seed(1)
    for lr in (1e-2, 1e-2, 3e-3, 3e-3, 1e-3):
        for p in weights:
            gradient = torch.randn(p.shape, generator=gen).bfloat16()
            p.grad = torch.empty_like(p, requires_grad=False).copy_(gradient)
        for group in opt.param_groups: group['lr'] = lr
        opt.step()


@pytest.mark.parametrize('decay', [0., .1])
def test_flat_adam_is_the_packages(decay):
    "Elementwise the same arithmetic: the last bit may differ where a processor takes eight numbers at once"
    (net, opt), (other, its) = twins(decay)
    strides = [p.stride() for p in other.parameters()]
    flat = FlatAdam(its)
    assert [p.stride() for p in other.parameters()] == strides
    for p, q in zip(net.parameters(), other.parameters()): assert torch.equal(p, q)
    storages = {p.untyped_storage().data_ptr() for p in other.parameters()}
    assert len(storages) == (2 if decay else 1)  # those that decay, and the others
    updates(opt, list(net.parameters()))
    updates(flat, list(other.parameters()))
    for p, q in zip(net.parameters(), other.parameters()): assert_close(q, p, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('change', [lambda opt: opt, FlatAdam])
def test_copied_weights_follow_the_packages(change):
    "And the copies are their weights, rounded"
    (net, opt), (other, its) = twins(.1)
    its = change(its)
    originals = list(other.parameters())
    copies = candidates.hold_copies(other)
    low, high = torch.bfloat16, torch.float32
    assert [p.dtype for p in other.parameters()] == [low, low, high, high, low, low]
    updates(opt, list(net.parameters()))
    updates(CopiedWeights(its, copies), list(other.parameters()))
    for p, q in zip(net.parameters(), originals): assert_close(q, p, rtol=1e-6, atol=1e-8)
    for p, copy in copies.items(): assert torch.equal(copy, p.bfloat16())


def test_a_decay_of_all_weights_would_be_seen():
    (net, opt), (other, its) = twins(.1)
    for group in its.param_groups: group['weight_decay'] = .1
    updates(opt, list(net.parameters()))
    updates(FlatAdam(its), list(other.parameters()))
    with pytest.raises(AssertionError): assert_close(other[1].bias, net[1].bias, rtol=1e-6, atol=1e-8)


def test_the_average_follows_flat_weights():
    "On a CPU, where both steps are the same to the last bits"
    e = TINY.changed(ema=.9, precision='float32', device='cpu')
    states = changed('flat Adam', e), TrainState(e, SHAPE)
    for t in states:
        for seed in range(3): train_step(t, real(seed).cpu())
    for p, q in zip(states[0].weights_ema, states[1].weights_ema): assert_close(p, q, rtol=1e-4, atol=1e-6)
    moved = [relative(p, q) for p, q in zip(states[0].weights_ema, states[0].weights_g)]
    assert max(moved) > 0


# --- convolutions -------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    'padded': (PaddedConv2d, nn.Conv2d(3, 7, 5, stride=2, padding=2)),
    'padded, without bias': (PaddedConv2d, nn.Conv2d(3, 7, 5, stride=2, padding=2, bias=False)),
    'padded, transposed': (PaddedConvTranspose2d,
                           nn.ConvTranspose2d(6, 3, 5, stride=2, padding=2, output_padding=1)),
    'patches': (RowsConv2d, PatchConv2d(6, 7, 5, stride=2, padding=2, bias=False)),
}

@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_convolutions_are_the_layers(name, order):
    "Values and gradients in float64"
    kind, conv = CONVOLUTIONS[name]
    conv = conv.double().to(memory_format=order)
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(5, conv.in_channels, 4, 4, generator=gen, dtype=torch.float64).to(memory_format=order)
    x.requires_grad_()
    found = []
    for layer in (kind(conv), conv):
        out = layer(x)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found.append([out, *torch.autograd.grad((out * weights).sum(), (x, *conv.parameters()))])
    for a, b in zip(*found): assert_close(a, b)


def test_layers_are_where_they_belong():
    t = TrainState(TINY.changed(width_d=64), SHAPE)
    candidates.pad_channels(t)
    candidates.use_patches(t)
    assert isinstance(t.d[0], PaddedConv2d) and isinstance(t.g[-2], PaddedConvTranspose2d)
    by_patches = [layer.conv.in_channels for layer in t.d if isinstance(layer, RowsConv2d)]
    assert by_patches == [128, 256]  # at 4x4 and 2x2


# --- kernels ------------------------------------------------------------------------------------------------

TYPES = {'powers_ptr': '*fp64', 'x_ptr': '*bf16', 'g_ptr': '*bf16', 'out_ptr': '*bf16', 'g_x_ptr': '*bf16',
         'copy_ptr': '*bf16'}

def type_of(name):
    "Of a kernel's argument, for the compiler"
    if name.isupper(): return 'constexpr'
    if name in TYPES: return TYPES[name]
    if name.endswith('_ptr'): return '*fp32'
    return 'i32' if name.startswith(('n', 'rows')) else 'fp32'


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason='the interpreter compiles nothing')
@pytest.mark.parametrize('name', ['moments', 'forward', 'sums', 'backward', 'adam'])
def test_kernels_compile_for_an_h100(name, tmp_path, monkeypatch):
    "Down to its machine code, which no GPU is needed for"
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    import fused
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    kernel = getattr(fused, f'{name}_kernel')
    sizes = {'R': fused.ROWS, 'C': fused.CHANNELS, 'PARTS': fused.MOST_PARTS, 'N': fused.ELEMENTS}
    signature = {argument: type_of(argument) for argument in kernel.arg_names}
    constants = {argument: sizes[argument] for argument, kind in signature.items() if kind == 'constexpr'}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget('cuda', 90, 32))
    assert compiled.asm['cubin']


@needs_triton
@pytest.mark.skipif(INTERPRETED or DEVICE == 'cuda', reason='this is that process, or a GPU runs them itself')
def test_kernels_in_the_interpreter():
    "All tests of the kernels, and those above with their candidates"
    chosen = 'test_fused or (test_candidates and (fused or writes))'
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/training/test_fused.py',
         'tests/training/test_candidates.py', '-k', chosen],
        cwd=ROOT, env=os.environ | {'TRITON_INTERPRET': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert ' passed' in done.stdout and 'cannot run here' not in done.stdout


# --- the script ---------------------------------------------------------------------------------------------

def test_kernels_are_sorted_by_their_names():
    names = {
        'sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64': 'convolutions',
        'sm80_xmma_wgrad_implicit_gemm_indexed_bf16bf16': 'convolutions',
        'void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>': 'convolutions',
        'void cudnn::bn_bw_1C11_kernel_new<float>': 'batch norm',
        'void at::native::batch_norm_backward_reduce_channels_last_kernel<4>': 'batch norm',
        'nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT': 'products',
        'void multi_tensor_apply_kernel<TensorListMetadata<4>, FusedAdamMathFunctor<float>>': 'optimiser',
        'void vectorized_elementwise_kernel<4, bfloat16_copy_kernel_cuda>': 'casts and copies',
        'Memcpy DtoD (Device -> Device)': 'casts and copies',
        'void vectorized_elementwise_kernel<4, leaky_relu_backward_kernel>': 'activations',
        'void reduce_kernel<512, 1, ReduceOp<float, MeanOps>>': 'rest',
    }
    assert {name: candidates.kind_of(name) for name in names} == names


def test_winners_are_the_fastest_of_each_kind():
    "None of a kind where all are less than 5 % faster"
    seconds = {'package': 1., 'flat Adam': .9, 'bf16 weights': .8, 'fused norm': .951, 'searched': .96,
               'patches': 2.}
    rows = {name: Row(None, 'bfloat16', seconds=[each]) for name, each in seconds.items()}
    assert candidates.winners(rows) == ['bf16 weights', 'fused norm']


def test_a_candidate_that_fails_leaves_the_others_their_rows(monkeypatch, capsys):
    def fail(t): raise RuntimeError('no kernel')
    monkeypatch.setattr(CANDIDATES['searched'], 'change', fail)
    missing = {}
    y = real()
    ours = candidates.first_losses(ChangedStep(TINY, SHAPE), y)
    names = {name: [name] for name in ('searched', 'flat Adam')}
    rows = candidates.all_rows(TINY, SHAPE, y, names, ours, missing)
    assert [*rows] == ['flat Adam'] and missing == {'searched': 'failed: RuntimeError'}
    assert 'no kernel' in capsys.readouterr().err


def test_the_script_rehearses():
    "Every row of the table, and why one is missing"
    sizes = '--device cpu --side 16 --width 16 --batch 4 --seconds 0'.split()
    without = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    done = subprocess.run([sys.executable, 'benchmarks/candidates.py', *sizes], cwd=ROOT, capture_output=True,
                          text=True, env=without | {'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    rows = [line.split(' | ') for line in done.stdout.splitlines()]
    for name, candidate in CANDIDATES.items():
        found = [row for row in rows if row[0] == f'| {name}']
        assert len(found) == 1
        assert (found[0][1] == 'needs a GPU') == candidate.triton


def test_the_bounds_are_seven_and_a_half_minutes():
    "Of all parts but the last two, which nothing stops"
    assert sum(gpu.MINUTES.values()) == 7.5 and gpu.MINUTES.keys() | {'measure', 'pack'} == gpu.PARTS.keys()
