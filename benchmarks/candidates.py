"""Candidates for a faster step of the paper's image networks in bfloat16, each beside the package's step.

    python benchmarks/candidates.py [--side 32] [--batch 128 512] [--device cpu|cuda] [--seconds 1]
                                    [--width 1024]

Every row is the package's own step, recorded as a CUDA graph, with one thing changed in its state. It gives
milliseconds, how many times faster than the package's step, the share of the bfloat16 matrix throughput
measured here, and the largest difference of the first losses, relative to the largest of the package's:
rounding, as updates amplify it. The last row has the fastest candidate of each kind together, of those at
least 5 % faster than the package. A table for each batch; then, by kind of kernel, where the time of the
package's step goes: last, so that the profiler slows nothing that is timed.

| candidate        | kind      | what changes                                                                |
|------------------|-----------|-----------------------------------------------------------------------------|
| searched         | search    | cuDNN times its algorithms first                                            |
| G contiguous     | layout G  | G in PyTorch's usual order of memory                                        |
| D contiguous     | layout D  | D in PyTorch's usual order of memory                                        |
| padded channels  | few       | the 3 channels of an image become 8 in D's first and G's last convolution   |
| patches          | small     | D's convolution of 4x4 maps as one product over patches, channels last;     |
|                  |           | unless copies are held, autocast rounds its weights in both passes          |
| fused norm       | norm      | batch norm and activation as Triton kernels (fused.py), also backward       |
| bf16 weights     | optimiser | the networks hold bfloat16 copies; a foreach copy for gradients and weights |
| flat Adam        | optimiser | the weights of a group are views of one tensor, which Adam moves            |
| flat Adam, bf16  | optimiser | both                                                                        |
| Adam writes bf16 | optimiser | a Triton kernel (fused.py) reads bfloat16 gradients, writes weights, copies |

On a CPU nothing is recorded, both orders of memory are one, and the Triton rows need TRITON_INTERPRET=1: a
rehearsal with small sizes (--device cpu --width 32 --batch 8), whose times mean nothing.
"""
import argparse
import importlib.util
import os
import re
import statistics
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, linear, pad
from torch.profiler import ProfilerActivity, profile

from coulomb_gan.environment import environment
from coulomb_gan.networks.layers import PatchConv2d
from coulomb_gan.tables import table
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.cuda_graph import WARM_UP, GraphedStep
from coulomb_gan.training.state import TrainState
from measuring import wait
from step import REPEATS, Row, noise, operations, throughput, time_all

WINS = 1.05  # times faster, from which a candidate is worth keeping
FIRST = WARM_UP + 3  # steps whose losses are compared; on a GPU the last three are replayed
ALIGNED = 64  # elements: each weight of a flat tensor begins at 128 bytes or more
PROFILED = 5  # steps
NETWORKS = ('g', 'opt_g', 'weights_g'), ('d', 'opt_d', 'weights_d')  # of a state, by name


# --- fused norm ---------------------------------------------------------------------------------------------

def slope_of(layer):
    "Slope of an activation below zero, 0 for ReLU; None for other layers."
    if isinstance(layer, nn.ReLU): return 0.
    if isinstance(layer, nn.LeakyReLU): return layer.negative_slope


def fuse_norms(t):
    "Every batch norm together with the activation behind it."
    from fused import FusedNorm  # needs Triton
    for net in (t.g, t.d):
        for i, layer in enumerate(net):
            if not isinstance(layer, nn.BatchNorm2d): continue
            slope = slope_of(net[i + 1])
            net[i] = FusedNorm(layer, slope)
            net[i + 1] = nn.Identity()


# --- optimiser ----------------------------------------------------------------------------------------------

def hold_copies(net):
    "Puts bfloat16 copies into convolutions and products, as autocast would; weight -> copy."
    copies = {}
    for layer in net.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear): continue
        for name, p in list(layer.named_parameters(recurse=False)):
            copies[p] = nn.Parameter(p.detach().bfloat16())
            setattr(layer, name, copies[p])
    return copies


class CopiedWeights:
    "An optimiser of float32 weights whose bfloat16 copies are in the network."
    def __init__(self, opt, copies):
        self.opt = opt
        self.weights = list(copies)
        self.copies = list(copies.values())
        for p in self.weights:
            if p.grad is None: p.grad = torch.zeros_like(p)
        self.gradients = [p.grad for p in self.weights]

    @property
    def param_groups(self):
        "Where the step puts its learning rate."
        return self.opt.param_groups

    @torch.no_grad()
    def step(self):
        "One update of the weights, then of their copies."
        torch._foreach_copy_(self.gradients, [copy.grad for copy in self.copies])
        self.opt.step()
        torch._foreach_copy_(self.copies, self.weights)


def copy_weights(t, optimiser=CopiedWeights):
    "Networks of bfloat16 copies. The average of G, which follows the float32 weights, is not adapted."
    for net_name, opt_name, weights_name in NETWORKS:
        net = getattr(t, net_name)
        opt = getattr(t, opt_name)
        copies = hold_copies(net)
        setattr(t, opt_name, optimiser(opt, copies))
        setattr(t, weights_name, list(net.parameters()))


def write_copies(t):
    "The same networks, their copies written by Adam itself."
    from fused import CopyingAdam  # needs Triton
    copy_weights(t, CopyingAdam)


def flattened(weights):
    "One tensor, and views of it shaped and laid out in memory as each of the weights."
    sizes = [-(-p.numel() // ALIGNED) * ALIGNED for p in weights]
    flat = weights[0].new_zeros(sum(sizes))
    pieces = flat.split(sizes)
    return flat, [piece.as_strided(p.shape, p.stride()) for piece, p in zip(pieces, weights)]


class FlatAdam:
    "The package's Adam on one tensor for each of its groups, of which the weights become views."
    def __init__(self, opt):
        self.weights = []
        self.gradients = []
        groups = []
        for group in opt.param_groups:
            weights = group['params']
            flat, views = flattened(weights)
            flat_gradient, gradients = flattened(weights)
            for p, view, gradient in zip(weights, views, gradients):
                p.data = view.copy_(p.detach())
                p.grad = gradient
            whole = nn.Parameter(flat)
            whole.grad = flat_gradient
            groups.append(dict(params=[whole], weight_decay=group['weight_decay']))
            self.weights += weights
            self.gradients += gradients
        first = opt.param_groups[0]
        shared = {name: first[name] for name in ('lr', 'betas', 'eps')}
        self.adam = torch.optim.Adam(groups, fused=True, **shared)

    @property
    def param_groups(self):
        "Where the step puts its learning rate."
        return self.adam.param_groups

    @torch.no_grad()
    def step(self):
        "One update, from gradients that lie elsewhere or already in their place."
        there = [(at, p.grad) for at, p in zip(self.gradients, self.weights) if p.grad is not at]
        if there:
            places, gradients = zip(*there)
            torch._foreach_copy_(places, gradients)
        self.adam.step()


def flatten(t):
    "Flat Adam for both networks."
    t.opt_g = FlatAdam(t.opt_g)
    t.opt_d = FlatAdam(t.opt_d)


def flatten_and_copy(t):
    "Flat Adam, and networks of bfloat16 copies."
    flatten(t)
    copy_weights(t)


# --- convolutions -------------------------------------------------------------------------------------------

def as_it_is(t):
    "Nothing changes in the state."


def contiguous_g(t):
    "G in PyTorch's usual order of memory."
    t.g.to(memory_format=torch.contiguous_format)


def contiguous_d(t):
    "D in PyTorch's usual order of memory."
    t.d.to(memory_format=torch.contiguous_format)


def eighths(channels):
    "Channels that are missing to a multiple of eight."
    return -channels % 8


class PaddedConv2d(nn.Module):
    "A convolution whose input gets channels of zeros."
    def __init__(self, conv):
        super().__init__()
        self.conv = conv
    def forward(self, x):
        more = 0, 0, 0, 0, 0, eighths(x.shape[1])
        weight = pad(self.conv.weight, more)
        return conv2d(pad(x, more), weight, self.conv.bias, self.conv.stride, self.conv.padding)


class PaddedConvTranspose2d(nn.Module):
    "A transposed convolution with further channels of output, which are cut off."
    def __init__(self, conv):
        super().__init__()
        self.conv = conv
    def forward(self, x):
        conv = self.conv
        more = eighths(conv.out_channels)
        weight = pad(conv.weight, (0, 0, 0, 0, 0, more))
        bias = pad(conv.bias, (0, more))
        out = conv_transpose2d(x, weight, bias, conv.stride, conv.padding, conv.output_padding)
        return out[:, :conv.out_channels]


def pad_channels(t):
    "D's first and G's last convolution with multiples of eight channels."
    t.d[0] = PaddedConv2d(t.d[0])
    t.g[-2] = PaddedConvTranspose2d(t.g[-2])


class RowsConv2d(nn.Module):
    "A convolution without bias as one product over patches, channels last inside and outside."
    def __init__(self, conv):
        super().__init__()
        self.conv = conv
    def forward(self, x):
        conv = self.conv
        side, _ = conv.kernel_size
        stride, _ = conv.stride
        edge, _ = conv.padding
        maps = pad(x, (edge, edge, edge, edge)).permute(0, 2, 3, 1)  # (n, h, w, c)
        patches = maps.unfold(1, side, stride).unfold(2, side, stride)  # (n, h', w', c, 5, 5)
        patches = patches.permute(0, 1, 2, 4, 5, 3)  # (n, h', w', 5, 5, c)
        weight = conv.weight.permute(0, 2, 3, 1)  # (o, 5, 5, c)
        out = linear(patches.flatten(3), weight.flatten(1))  # (n, h', w', 25 c) @ (25 c, o)
        return out.permute(0, 3, 1, 2)


def use_patches(t):
    "D's convolution of the smallest maps by patches."
    for i, layer in enumerate(t.d):
        by_rows = isinstance(layer, PatchConv2d) and layer.bias is None
        if by_rows: t.d[i] = RowsConv2d(layer)


# --- the candidates -----------------------------------------------------------------------------------------

@dataclass
class Candidate:
    "One change of the step; of each kind a step can have one."
    kind: str
    change: Callable = as_it_is  # of a fresh state, in place
    triton: bool = False  # whether it needs Triton
    search: bool = False  # whether cuDNN times its algorithms first


# layouts and layers come before the optimisers, which take the weights as they then are
CANDIDATES = {
    'searched': Candidate('search', search=True),
    'G contiguous': Candidate('layout G', contiguous_g),
    'D contiguous': Candidate('layout D', contiguous_d),
    'padded channels': Candidate('few', pad_channels),
    'patches': Candidate('small', use_patches),
    'fused norm': Candidate('norm', fuse_norms, triton=True),
    'bf16 weights': Candidate('optimiser', copy_weights),
    'flat Adam': Candidate('optimiser', flatten),
    'flat Adam, bf16': Candidate('optimiser', flatten_and_copy),
    'Adam writes bf16': Candidate('optimiser', write_copies, triton=True),
}


def runs_triton(device):
    "Whether Triton is there and can run here."
    if importlib.util.find_spec('triton') is None: return False
    return device == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1'


class ChangedStep:
    "The package's step with some candidates."
    def __init__(self, e, shape, names=()):
        chosen = [candidate for name, candidate in CANDIDATES.items() if name in names]
        t = TrainState(e, shape)
        for candidate in chosen: candidate.change(t)
        self.step = GraphedStep(t)
        self.search = any(candidate.search for candidate in chosen)
    def __call__(self, y):
        flags = dict(enabled=True, benchmark=self.search, deterministic=False, allow_tf32=True)
        with torch.backends.cudnn.flags(**flags): return self.step(y)


def first_losses(step, y):
    "Those of the first steps, `(FIRST, 2)`; on a GPU the step is recorded behind them."
    losses = [torch.stack(step(y)) for _ in range(FIRST)]
    return torch.stack(losses)


def difference(found, ours):
    "The largest of each loss, relative to the largest of the package's."
    apart = (found - ours).abs().amax(0)
    return (apart / ours.abs().amax(0)).max().item()


# --- where the time goes ------------------------------------------------------------------------------------

# kind -> what names its kernels, those of a GPU and the operators of a CPU; the first that is found counts
KINDS = {
    'batch norm': r'batch_norm|bn_fw|bn_bw',
    'convolutions': r'fprop|dgrad|wgrad|conv|cudnn|nhwc|nchw',
    'products': r'gemm|gemv|nvjet|splitk|cublas|addmm|aten::mm|bmm',
    'optimiser': r'adam',
    'casts and copies': r'copy|memcpy',
    'activations': r'relu|threshold|clamp|tanh',
}


def kind_of(kernel):
    "What a kernel does, by its name."
    name = kernel.lower()
    for kind, pattern in KINDS.items():
        if re.search(pattern, name): return kind
    return 'rest'


def kernel_times(step, y, device):
    "Microseconds and calls a step of each kernel by name; on a CPU of each operator."
    on_gpu = device == 'cuda'
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        for _ in range(PROFILED): step(y)
        wait(device)
    times = {}
    for event in seen.key_averages():
        total = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if total: times[event.key] = total / PROFILED, event.count / PROFILED
    return times


def time_table(times):
    "A line a kind of kernel, the longest first."
    milliseconds = Counter()
    calls = Counter()
    longest = {}
    for name, (each, count) in sorted(times.items(), key=lambda item: item[1]):
        kind = kind_of(name)
        milliseconds[kind] += each / 1e3
        calls[kind] += count
        longest[kind] = name
    whole = milliseconds.total()
    lines = []
    for kind, each in milliseconds.most_common():
        name = longest[kind].replace('|', ' ')
        lines.append([kind, f'{each:.3f}', f'{each / whole:.0%}', f'{calls[kind]:.0f}', name[:70]])
    return table(lines, ['kernels', 'ms a step', 'of all', 'calls a step', 'longest of them'])


# --- the table ----------------------------------------------------------------------------------------------

def seconds_of(row):
    "Of a step."
    return statistics.median(row.seconds)


def winners(rows):
    "The fastest candidate of each kind, where it is faster enough."
    package = seconds_of(rows['package'])
    fastest_first = sorted(rows, key=lambda name: seconds_of(rows[name]))
    best = {}
    for name in fastest_first:
        faster = package / seconds_of(rows[name])
        if faster < WINS: break
        kind = CANDIDATES[name].kind
        best.setdefault(kind, name)
    return list(best.values())


def all_rows(e, shape, y, names, ours, missing):
    "Name -> row, each begun. One that fails is named among the missing, and the others go on."
    rows = {}
    for name, chosen in names.items():
        try:
            step = ChangedStep(e, shape, chosen)
            error = difference(first_losses(step, y), ours)
            rows[name] = Row(step, 'bfloat16', error=error)
        except Exception as problem:
            traceback.print_exc()
            missing[name] = f'failed: {type(problem).__name__}'
    return rows


def report(rows, missing, flops, rate):
    "A line a row, and one for each candidate without, with the reason."
    package = seconds_of(rows['package'])
    lines = []
    for name, row in rows.items():
        seconds = seconds_of(row)
        faster = package / seconds
        share = flops / seconds / rate
        lines.append([name, f'{seconds * 1e3:.3f}', f'{faster:.3f}', f'{share:.1%}', f'{row.error:.1e}'])
    for name, reason in missing.items(): lines.append([name, reason, None, None, None])
    head = ['candidate', 'ms', 'times faster', 'of bf16 matrix throughput', 'difference of first losses']
    return table(lines, head)


def measure(e, shape, seconds):
    "The table of one batch size."
    device = e.record.device
    y = noise(e, shape)
    ours = first_losses(ChangedStep(e, shape), y)

    # one candidate after the other
    names = {'package': []}
    missing = {}
    for name, candidate in CANDIDATES.items():
        if candidate.triton and not runs_triton(device): missing[name] = 'needs a GPU'
        else: names[name] = [name]
    rows = all_rows(e, shape, y, names, ours, missing)
    time_all(rows, y, device, seconds)

    # the winners together
    best = winners(rows)
    if len(best) > 1:
        together = all_rows(e, shape, y, {' + '.join(best): best}, ours, missing)
        time_all({'package': rows['package']} | together, y, device, seconds)
        rows |= together

    flops = operations(e, shape, y)
    rate = throughput(device, 'bfloat16')
    print(f'\n{len(y)} images of {shape}: {flops / 1e9:.0f} GFLOP a step; '
          f'bfloat16 products {rate / 1e12:.2f} TFLOP/s\n')
    print(report(rows, missing, flops, rate), flush=True)


def show_times(e, shape):
    "Where the time of the package's step goes."
    y = noise(e, shape)
    step = ChangedStep(e, shape)
    first_losses(step, y)
    times = kernel_times(step, y, e.record.device)
    print(f'\n{len(y)} images of {shape}: the package\'s step\n')
    print(time_table(times), flush=True)


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('--side', type=int, default=32)
    parser.add_argument('--batch', type=int, nargs='+', default=[128, 512])
    parser.add_argument('--device', choices=REPEATS, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=1., help='for all timings of one row')
    parser.add_argument('--width', type=int, default=1024, help='channels of both networks at 4x4 and below')
    return parser.parse_args()


def main():
    "All sizes of batch."
    o = options()
    shape = 3, o.side, o.side
    latent = 16 if o.side == 32 else 32
    e = Experiment().changed(networks='dcgan', latent=latent, width_g=o.width, width_d=o.width // 8,
                             device=o.device, precision='bfloat16')
    hardware = environment(o.device)['hardware']
    print(f'{hardware}, torch {torch.__version__}')
    sizes = [e.changed(batch=batch) for batch in o.batch]
    for size in sizes: measure(size, shape, o.seconds)
    for size in sizes: show_times(size, shape)


if __name__ == '__main__': main()
