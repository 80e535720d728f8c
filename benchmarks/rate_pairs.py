"""A grid of learning rates: how far samples are from the data after equal time, by method and by pair of rates.

    python benchmarks/rate_pairs.py digits --out runs/rate-pairs
    python benchmarks/rate_pairs.py cifar10 --out runs/rate-pairs --data data/cifar10 --features runs/judge --narrower 8

The non-saturating game (on images with the networks of DCGAN), WGAN-GP with one critic step, and the learned Coulomb
GAN, each with every pair of RATES for G and D, constant, seed 0. A method's steps are those that fit into --seconds of
the processor, measured once, since rates cost no time. The Fréchet distance is measured on --samples images, in the
features of the digits classifier, or of the encoder in the folder --features. Runs are kept in --out, so that the
command goes on where it was stopped; the numbers go to --into, which the notebook nbs/experiments/rate_pairs.ipynb
shows. A run that ends in numbers that are not finite has no distance.
"""
import argparse
from pathlib import Path

import torch

from coulomb_gan.data.catalogue import load
from coulomb_gan.files import read_json, write_json
from coulomb_gan.metrics.registry import DigitsDistance
from coulomb_gan.reporting.compare import affordable
from coulomb_gan.reporting.reproduce import evaluate_run
from coulomb_gan.training.fit import fit
from coulomb_gan.training.presets import experiment, method
from coulomb_gan.training.safeguards import NotFinite
from coulomb_gan.training.table4 import narrowed, table4
from coulomb_gan.training.train_encoder import encoder_extractor

RATES = 2.5e-4, 1e-3, 4e-3, 1.6e-2
SAME = {'decay': 'none', 'weight_decay': 0., 'ema': 0., 'monitor': '', 'eval_samples': 500}  # of all runs


def games(name, narrower, **options):
    "Method -> experiment, whose rates are still to be set."
    if name == 'digits':
        base = experiment(name)
        found = {'coulomb': base, 'non-saturating': method('non-saturating', base), 'wgan-gp': method('wgan-gp', base)}
    else:
        entries = table4(name)
        found = {'coulomb': entries['coulomb'], 'non-saturating': entries['dcgan'], 'wgan-gp': entries['wgan-gp']}
    found['wgan-gp'] = found['wgan-gp'].changed(critic_steps=1)
    return {key: narrowed(e.changed(**SAME, **options), narrower) for key, e in found.items()}


def trained(e, out):
    "Trains a run unless it was; whether it ended well, and did not diverge."
    try: fit(e, out, progress=False)
    except NotFinite as error:
        print(f'{out}: {error}', flush=True)
        return False
    return True


def distance(e, out, extractor, samples):
    "Fréchet distance of a run, trained unless it was, and of that its finite-sample bias; None where it diverged."
    if not trained(e, out): return None
    found = evaluate_run(out, extractor, samples=samples, progress=False)
    return [found['frechet'], found['bias']]


def grid(e, out, extractor, samples):
    "Distances by rate of G (row) and of D (column)."
    rows = []
    for lr_g in RATES:
        rows.append([])
        for lr_d in RATES:
            found = distance(e.changed(lr_g=lr_g, lr_d=lr_d), out / f'{lr_g:g}-{lr_d:g}', extractor, samples)
            print(out, lr_g, lr_d, found, flush=True)
            rows[-1].append(found)
    return rows


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('name', choices=['digits', 'cifar10', 'celeba'])
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--data', help='folder of prepared images')
    parser.add_argument('--features', type=Path, help='folder of a trained encoder; of the digits not needed')
    parser.add_argument('--narrower', type=int, default=1)
    parser.add_argument('--seconds', type=float, default=20.)
    parser.add_argument('--samples', type=int, default=5000)
    parser.add_argument('--into', type=Path, default=Path('nbs/experiments/rate_pairs.json'))
    return parser.parse_args()


def main():
    "The grids of one data set, into the file of all."
    o = options()
    torch.set_num_threads(1)
    changes = {'data': o.data} if o.data else {}
    extractor = encoder_extractor(o.features) if o.features else DigitsDistance().extractor(load('digits'), 'cpu')
    found = {}
    for key, e in games(o.name, o.narrower, **changes).items():
        folder = o.out / o.name / key
        noted = folder / 'steps.json'
        folder.mkdir(parents=True, exist_ok=True)
        if not noted.exists(): write_json(noted, {'steps': affordable(e, o.seconds)})
        steps = read_json(noted)['steps']
        e = e.changed(steps=steps, eval_every=steps)
        found[key] = {'steps': steps, 'distances': grid(e, folder, extractor, o.samples)}
    stored = read_json(o.into) if o.into.exists() else {}
    stored[o.name] = {'rates': RATES, 'seconds': o.seconds, 'samples': o.samples, 'features': extractor.name, **found}
    o.into.parent.mkdir(parents=True, exist_ok=True)
    write_json(o.into, stored)


if __name__ == '__main__': main()
