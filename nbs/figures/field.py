"""Draws field.webp: generated samples that follow the force find eight groups of data. python nbs/figures/field.py"""
import io
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import torch
from PIL import Image

from coulomb_gan import Plummer, force, plots, potential

FRAMES = 60
EXTENT = -4.5, 4.5, -4.5, 4.5
CELLS = 40  # of the map, a side


def clouds(gen):
    "Real samples in eight groups, generated ones in one place."
    angle = torch.arange(8) * torch.pi / 4
    centres = 3 * torch.stack([angle.cos(), angle.sin()], 1)
    y = centres.repeat(30, 1) + .15 * torch.randn(240, 2, generator=gen)
    x = torch.tensor([1.2, -.6]) + .3 * torch.randn(240, 2, generator=gen)
    return x, y


def frame(x, y, kernel, step, top):
    "One picture."
    figure, ax = plt.subplots(figsize=(3.6, 3.7), dpi=90)
    a = plots.grid_points(EXTENT, CELLS)
    phi = potential(a, x, y, kernel).view(CELLS, CELLS)
    ax.imshow(phi, origin='lower', extent=EXTENT, cmap='RdBu', vmin=-top, vmax=top, interpolation='bicubic')
    plots.points(y, x, ax).get_legend().remove()
    ax.set(xticks=[], yticks=[], title=f'step {step}', xlim=EXTENT[:2], ylim=EXTENT[2:])
    stored = io.BytesIO()
    figure.savefig(stored)
    plt.close(figure)
    return Image.open(stored).convert('RGB')


def main():
    "Sixty frames; steps between two of them grow, as the motion slows down."
    gen = torch.Generator().manual_seed(0)
    kernel = Plummer(d=1, eps=.4)
    x, y = clouds(gen)
    top = potential(x, x, y, kernel).abs().max().item()
    frames, step = [], 0
    for number in range(FRAMES):
        frames.append(frame(x, y, kernel, step, top))
        for _ in range(1 + number**2 // 60):
            x = x + .5 * force(x, x, y, kernel)
            step += 1
    first, *others = frames
    durations = [900] + [80] * (FRAMES - 2) + [2500]
    first.save(Path(__file__).with_name('field.webp'), save_all=True, append_images=others, duration=durations,
               loop=0, quality=55, method=6)


if __name__ == '__main__': main()
