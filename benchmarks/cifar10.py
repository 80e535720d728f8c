"""CIFAR-10 at full size on a GPU, all in one command: the step benchmark, then the paper's networks by three fields.

    python benchmarks/cifar10.py DATA OUT [--minutes 6] [--device cuda] [--features FILE.py:NAME] [--FIELD VALUE ...]

DATA is a folder made by `coulomb-gan prepare cifar10`. The three runs have the paper's settings for as many steps as
fit into --minutes each: self-charge kept, dropped, and 8,192 real charges a step in place of the minibatch's 128. With
--features each is measured in that network at its end (50,000 samples; --samples for fewer). Every finished run ends
in OUT/NAME.tgz in parts of 15 MB: the run folder with a slim checkpoint, from which the report can be rendered on
another machine: join the parts with `cat`, unpack, and `coulomb-gan evaluate NAME`; the three side by side in a folder
by `execute(notebook('methods'), FOLDER)` of `coulomb_gan.reproduce`. Further options are fields of `Experiment` that
are no yes or no, for all three. A second call continues where the first stopped.
"""
import argparse
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import fields, replace
from pathlib import Path

from coulomb_gan.algorithm import slim
from coulomb_gan.compare import affordable
from coulomb_gan.experiment import Experiment
from coulomb_gan.presets import experiment
from coulomb_gan.reproduce import measure
from coulomb_gan.runs import load_checkpoint, save_checkpoint, write_whole
from coulomb_gan.spaces import load_space, summary
from coulomb_gan.training import fit

RUNS = {'released-0': {}, 'dropped-0': dict(self_charge=0.), 'charges8192-0': dict(charges=8064)}
PART = 15 * 2**20


def train(e, out, seconds):
    "A run of as many steps as fit into a time; the number once chosen is kept."
    config = out / 'config.json'
    steps = json.loads(config.read_text())['steps'] if config.exists() else affordable(e, seconds)
    return fit(replace(e, steps=steps, eval_every=max(1, steps // 8)), out)


def pack(run, out):
    "The run folder with a slim checkpoint, as a compressed tar in parts."
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode='w:gz', compresslevel=1) as archive:
        for path in sorted(run.rglob('*')):
            if path.suffix != '.pt' and path.is_file(): archive.add(path, Path(run.name, path.relative_to(run)))
        newest = max((run / 'checkpoints').glob('*.pt'), key=lambda p: int(p.stem))
        save_checkpoint(small := out / f'.{run.name}.slim', slim(load_checkpoint(newest)))
        archive.add(small, Path(run.name, 'checkpoints', newest.name))
        small.unlink()
    data = buffer.getvalue()
    for part in out.glob(f'{run.name}.tgz.*'): part.unlink()
    for i in range(0, len(data), PART): write_whole(out / f'{run.name}.tgz.{i // PART:02}', data[i:i + PART])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data')
    parser.add_argument('out', type=Path)
    parser.add_argument('--minutes', type=float, default=6., help='of training for each of the three runs')
    parser.add_argument('--features', help='network to measure with, FILE.py:NAME')
    parser.add_argument('--samples', type=int, default=50_000, help='images it measures')
    for f in fields(Experiment):
        kind = float if f.default is None else type(f.default)
        if f.name not in ('data', 'steps', 'eval_every') and kind is not bool:
            parser.add_argument('--' + f.name.replace('_', '-'), type=kind, default=argparse.SUPPRESS)
    o = vars(parser.parse_args())
    data, out, minutes, features, samples = (o.pop(k) for k in ('data', 'out', 'minutes', 'features', 'samples'))
    device = o.setdefault('device', 'cuda')
    if not (out / 'step.txt').exists():
        bench = [sys.executable, Path(__file__).with_name('step.py'), '--device', device, '--seconds', '1']
        write_whole(out / 'step.txt', subprocess.run(bench, stdout=subprocess.PIPE, check=True).stdout)
    print((out / 'step.txt').read_text(), flush=True)
    for name, changes in RUNS.items():
        run = train(experiment('cifar10', data=data, **o | changes), out / name, minutes * 60)
        if features: print(name, summary(measure(run.out, load_space(features, device), samples=samples)), flush=True)
        pack(run.out, out)
        looks = [(m['step'], round(m['energy'], 5)) for m in run.metrics if 'energy' in m]
        print(f'{name}: F after steps {looks}', flush=True)


if __name__ == '__main__': main()
