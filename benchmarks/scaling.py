"""Throughput of N processes over one, and what of a step is spent in messages.

`python benchmarks/scaling.py OUT.json` starts torchrun with 1, 2 and 4 processes (`--sizes 1 2` for others) and measures
at a fixed whole batch and at a fixed batch a process; on GPUs add `--device cuda`. Processes that share cores share them
fairly, so where there are fewer cores than processes no gain can be seen: the table says how many there are.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from coulomb_gan.training.algorithm import rows_of_a_step, train_step
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.launched import joined, own_device
from coulomb_gan.training.state import TrainState

CALLS = 'all_reduce', 'all_gather_into_tensor'
SHAPE = (3, 32, 32)


class Messages:
    "Number, bytes and seconds of the messages of a run; on a GPU it waits for each, which costs some time itself"
    def __init__(self, on_gpu):
        self.number = self.bytes = self.seconds = 0
        for name in CALLS: setattr(dist, name, self.counted(getattr(dist, name), on_gpu))
    def counted(self, call, on_gpu):
        def counted(tensor, *rest, **options):
            begun = time.perf_counter()
            found = call(tensor, *rest, **options)
            if on_gpu: torch.cuda.synchronize()
            self.seconds += time.perf_counter() - begun
            self.number += 1
            self.bytes += tensor.numel() * tensor.element_size()
            return found
        return counted


def experiment(batch, device, width):
    return Experiment().changed(networks='dcgan', width_g=width, width_d=width // 2, batch_norm_d=False, batch=batch, device=device)


def measure(out, batch, steps, device, width):
    "A process: seconds a step after three to warm up, and its messages"
    device = own_device(device)
    on_gpu = device.startswith('cuda')
    with joined(device) as world:
        t = TrainState(experiment(batch, device, width), SHAPE, world)
        y = 2 * torch.rand(rows_of_a_step(t), *SHAPE, device=device) - 1
        for _ in range(3): train_step(t, y)
        messages = Messages(on_gpu)
        if on_gpu: torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(steps): train_step(t, y)
        if on_gpu: torch.cuda.synchronize()
        seconds = (time.perf_counter() - begun) / steps
        found = dict(processes=world.size, batch=batch, seconds=seconds, cores=os.cpu_count(), weights=sum(p.numel() for p in t.weights),
                     messages=messages.number / steps, bytes=messages.bytes / steps, in_messages=messages.seconds / steps)
        if world.rank == 0: Path(out).write_text(json.dumps(found))


def launched(n, out, batch, options):
    "The numbers of one measurement"
    line = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}', __file__, '--worker', str(batch), str(out),
            '--steps', str(options.steps), '--device', options.device, '--width', str(options.width)]
    subprocess.run(line, check=True)
    return json.loads(Path(out).read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('--sizes', type=int, nargs='+', default=[1, 2, 4])
    parser.add_argument('--batch', type=int, default=32, help='of one process')
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--width', type=int, default=64)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--worker', type=int, help='batch; a process of a measurement')
    options = parser.parse_args()
    if options.worker:
        torch.set_num_threads(1)
        return measure(options.out, options.worker, options.steps, options.device, options.width)
    cases = {'fixed whole batch': lambda n: options.batch, 'fixed batch a process': lambda n: n * options.batch}
    found = {case: [launched(n, options.out, batch(n), options) for n in options.sizes] for case, batch in cases.items()}
    options.out.write_text(json.dumps(found, indent=1) + '\n')
    for case, rows in found.items():
        for row in rows:
            gain = row['batch'] / row['seconds'] / (rows[0]['batch'] / rows[0]['seconds'])
            print(f"{case:22} N = {row['processes']}  {row['seconds'] * 1e3:7.1f} ms  {gain:.2f} of one  messages {row['messages']:.0f}, "
                  f"{row['bytes'] / 1e6:.2f} MB, {row['in_messages'] * 1e3:.1f} ms  ({row['cores']} cores)")


if __name__ == '__main__': main()
