"""All objectives on faces of 64 by 64 pixels: how alike samples are, and what an independent critic sees.

    coulomb-gan prepare celeba64.tar data/faces --size 64
    python benchmarks/many_paths_faces.py data/faces --out runs/many-paths

Every objective has the DCGAN's networks an eighth as wide, those that need an autoencoder their own, one pair of rates,
a batch of 64 and as many steps; BEGAN's step takes ten times as long as any other, and the page does without. Runs are
kept in --out, so that the command goes on where it was stopped; more --seeds are added to those that --into has, which
the notebook nbs/experiments/many_paths.ipynb shows.
"""
import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torchvision.utils import save_image

from coulomb_gan.data.catalogue import load
from coulomb_gan.data.datasets import to_float
from coulomb_gan.files import read_json, write_json
from coulomb_gan.metrics.ms_ssim import mean_ms_ssim
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.run_folder import newest_checkpoint
from coulomb_gan.training.presets import experiment, method
from coulomb_gan.training.table4 import narrowed
from many_paths import critic_distance
from rate_pairs import trained

SAME = {'batch': 64, 'lr_g': 2e-4, 'lr_d': 2e-4, 'beta1': .5, 'decay': 'none', 'weight_decay': 0., 'ema': 0.}
NETWORKS = {'began': 'began-autoencoder', 'mmd-gan': 'mmd-autoencoder'}  # of the other objectives: dcgan-radford
PLAYED = {  # row -> objective and options of its own; one update of D a step
    'minimax': ('minimax', {}),
    'non-saturating': ('non-saturating', {}),
    'gan-gp': ('gan-gp', {}),
    'dragan': ('dragan', {}),
    'wgan-gp': ('wgan-gp', {'critic_steps': 1}),
    'began': ('began', {}),
    'mmd-gan': ('mmd-gan', {'critic_steps': 1, 'more_critic_steps': 1}),
    'coulomb': ('coulomb', {}),
    'exact-force': ('exact-force', {'charges': 64}),
    'non-saturating, no norm in D': ('non-saturating', {'norm_d': 'none'}),  # as those with a penalty have it
    'non-saturating, r1 = 1': ('non-saturating', {'r1': 1., 'norm_d': 'none'}),
}
MEASURED = 512  # images whose likeness is measured, in batches of 16


def games(data, steps, narrower):
    "Row -> experiment."
    found = {}
    for row, (objective, options) in PLAYED.items():
        networks = NETWORKS.get(objective, 'dcgan-radford')
        base = experiment('celeba', data=data, networks=networks, **SAME)
        e = method(objective, base).changed(steps=steps, eval_every=steps, eval_samples=100, **options)
        found[row] = narrowed(e, narrower)
    return found


def faces_critic():
    "A convolutional one for images of 64 by 64 pixels."
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(.2),
        nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(.2),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(.2),
        nn.Flatten(), nn.Linear(64 * 8 * 8, 1))


def measured(x, real):
    "MS-SSIM of pairs of images, and the critic's distance from real ones; four digits."
    likeness, _ = mean_ms_ssim(x[:MEASURED], batch=16)
    distance = critic_distance(x, real, faces_critic, steps=150, betas=(.5, .9))
    return [float(f'{value:.4g}') for value in (likeness, distance)]


def run(e, out, real):
    "What a run measures, trained unless it was; None where it diverged."
    if not trained(e, out): return None
    x = load_run(out).sample(len(real), seed=1)
    return measured(x, real)


def draw(rows, out, path):
    "Ten samples of each row's first seed, row under row; without rows that diverged, or whose runs are elsewhere."
    folders = [out / f'{row}-0' for row in rows]
    samples = [load_run(folder).sample(10, seed=1) for folder in folders if newest_checkpoint(folder)]
    save_image((torch.cat(samples) + 1) / 2, path, nrow=10)


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('data', help='folder of prepared faces')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--narrower', type=int, default=8)
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--methods', nargs='+', choices=PLAYED, default=list(PLAYED))
    parser.add_argument('--into', type=Path, default=Path('nbs/experiments/many_paths_faces.json'))
    return parser.parse_args()


def main():
    "Fills the file, seed after seed."
    o = options()
    torch.set_num_threads(1)
    real = to_float(load(o.data).test)
    setting = {'steps': o.steps, 'narrower': o.narrower, 'held_out': len(real)}
    found = read_json(o.into) if o.into.exists() else {**setting, 'real': measured(real[::2], real[1::2]), 'rows': {}}
    stored = {key: found[key] for key in setting}
    if stored != setting: raise SystemExit(f'{o.into} has {stored}, got {setting}; use another file')
    for seed in range(o.seeds):
        for row, e in games(o.data, o.steps, o.narrower).items():
            if row not in o.methods: continue
            ends = found['rows'].setdefault(row, {})
            if str(seed) in ends: continue
            start = time.process_time()
            ends[str(seed)] = run(e.changed(seed=seed), o.out / f'{row}-{seed}', real)
            write_json(o.into, found)
            print(f'{row}, seed {seed}: {ends[str(seed)]}, {time.process_time() - start:.0f} s', flush=True)
    draw(found['rows'], o.out, o.into.with_suffix('.jpg'))


if __name__ == '__main__': main()
