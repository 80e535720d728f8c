"""Seconds of each section of a report on images of 64×64 pixels, after a run of a few steps.

    python benchmarks/report.py DATA [--steps 60] [--width 64] [--samples 10000]

DATA is a folder that `coulomb-gan prepare images` made. The run goes through the paper's networks at the width given, and
lives in a temporary folder.
"""
import argparse
import tempfile
from pathlib import Path

import torch

from coulomb_gan.reporting.render import executed, notebook, section_titles
from coulomb_gan.training.fit import fit
from coulomb_gan.training.presets import experiment
from measuring import print_head, print_row


def options():
    "Those of the command line."
    parser = argparse.ArgumentParser()
    parser.add_argument('data', type=Path)
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('--width', type=int, default=64, help='of both networks')
    parser.add_argument('--samples', type=int, default=10_000, help='that the report examines')
    return parser.parse_args()


def trained(o, folder):
    "A run of a few steps."
    e = experiment('celeba', data=str(o.data.resolve()), device='cpu', steps=o.steps, eval_every=o.steps,
                   width_g=o.width, width_d=o.width, eval_samples=500, monitor='')
    return fit(e, folder)


def seconds(nb):
    "Section -> seconds of its cells."
    found = {}
    for cell, title in zip(nb.cells, section_titles(nb)):
        notes = cell.metadata.get('papermill', {})
        found[title] = found.get(title, 0.) + (notes.get('duration') or 0.)
    return found


def main():
    "One report, a row a section."
    o = options()
    with tempfile.TemporaryDirectory() as folder:
        run = trained(o, Path(folder, 'run'))
        print(f'{len(run.data.train):,} images of {run.data.shape}, width {o.width}, {o.samples:,} samples, '
              f'torch {torch.__version__}, {torch.get_num_threads()} threads\n')
        nb = executed(notebook('images'), dict(name='', out=str(run.out), n_samples=o.samples))
    print_head('section', 'seconds')
    taken = seconds(nb)
    for title, each in taken.items(): print_row(title or 'loading', f'{each:.1f}')
    print_row('together', f'{sum(taken.values()):.1f}')


if __name__ == '__main__': main()
