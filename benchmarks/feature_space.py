"""A training step in feature space against the encoder alone, forward and backward, in one process.

    python benchmarks/feature_space.py [--encoder FILE.py:FUNCTION] [--side 64] [--narrower 8] [--batch 128]
                                       [--device cpu|cuda] [--seconds 20]

The step draws stored real features, generates, goes through the encoder and back, sums the forces of all heads and
moves the generator; on a GPU it is recorded as one CUDA graph. The encoder alone gets as many images, and the gradient of
the sum of its maps in them. Without --encoder it is torchvision's SqueezeNet with random weights, which takes as long.
"""
import argparse
import statistics
import time
from functools import partial

import torch
from torchvision.models import squeezenet1_1

from coulomb_gan.objectives.heads import flat_rows
from coulomb_gan.tables import table
from coulomb_gan.training.cuda_graph import GraphedStep
from coulomb_gan.training.encoders import Encoder, Stages, find_encoder
from coulomb_gan.training.feature_methods import OURS
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.state import TrainState
from coulomb_gan.training.table4 import narrowed
from measuring import timed


def encoder_of(spec, device):
    "The encoder of a run, or a SqueezeNet with random weights."
    if spec: return find_encoder(spec, device)
    net = Stages(squeezenet1_1().features).to(device).eval().requires_grad_(False)
    return Encoder('squeezenet1_1-random', net)


def encode(encoder, images):
    "Forward and backward pass of the encoder alone."
    x = images.clone().requires_grad_()
    total = sum(f.sum() for f in encoder(x))
    torch.autograd.grad(total, x)


def measured(objective, encoder, o):
    "Median seconds of the encoder alone and of the step, in turn."
    e = experiment('celeba', objective=objective, device=o.device, batch=o.batch, **OURS)
    t = TrainState(narrowed(e, o.narrower), (3, o.side, o.side))
    t.encoder = encoder
    step = GraphedStep(t)
    images = torch.rand(o.batch, 3, o.side, o.side, device=o.device) * 2 - 1
    game = t.experiment.objective
    with torch.no_grad(): rows = flat_rows(game.features(images, encoder)).half()
    y = rows.repeat(2, 1)[:game.n_real(o.batch)]
    times = {'encoder': [], 'step': []}
    end = time.perf_counter() + o.seconds
    while time.perf_counter() < end or len(times['step']) < 5:
        times['encoder'].append(timed(partial(encode, encoder, images), o.device))
        times['step'].append(timed(partial(step, y), o.device))
    return [statistics.median(found[1:]) for found in times.values()], rows.shape[1]


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('--encoder', default='', help='as objectives name it')
    parser.add_argument('--side', type=int, default=64, help='of the images, pixels')
    parser.add_argument('--narrower', type=int, default=8, help='times as few channels of the generator as published')
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=20., help='for the two timings of one method')
    return parser.parse_args()


def main():
    "A line a method."
    o = options()
    encoder = encoder_of(o.encoder, o.device)
    rows = []
    for objective in ('exact-force-features', 'drifting'):
        (alone, step), features = measured(objective, encoder, o)
        rows.append([objective, features, f'{alone * 1e3:.1f}', f'{step * 1e3:.1f}', f'{step / alone:.2f}'])
    threads = torch.get_num_threads()
    print(f'{encoder.name}, {o.side} pixels, batch {o.batch}, {o.device}, {threads} threads, torch {torch.__version__}\n')
    print(table(rows, ['method', 'features', 'encoder alone: ms', 'step: ms', 'ratio']))


if __name__ == '__main__': main()
