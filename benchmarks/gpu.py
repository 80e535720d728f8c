"""Everything an accelerator is needed for, in one command; each part leaves its result in OUT as soon as it has it.

    python benchmarks/gpu.py OUT --faces FACES.tar [--features FILE.py:NAME] [--parts tests,step,train,measure,pack]
                             [--minutes PART=MINUTES ...] [--samples N] [--part-mib 16] [--FIELD VALUE ...]

| part    | what it does                                                            | leaves             |
|---------|-------------------------------------------------------------------------|--------------------|
| tests   | the tests that need a GPU                                               | tests.txt          |
| step    | benchmarks/step.py at 32 and 64 pixels, with its check against float64  | step-32.txt, ...   |
| train   | CelebA at 64x64 with the paper's networks, for its minutes, looked at   | celeba/, a run     |
|         | every minute: energy, samples, checkpoint                               | folder; train.txt  |
| measure | the diagnostics of equilibrium at held-out faces; with --features the   | measure.txt        |
|         | Fréchet distance to held-out faces and its finite-sample bias           |                    |
| pack    | the run folder with a half-precision checkpoint, split into parts       | celeba.tgz.00, ... |

A part that fails or runs out of its minutes says so in its file, and the next one begins. FACES.tar holds any number of
pictures; a tenth is held out. Further options are fields of `Experiment`, for the run. To render the report elsewhere:
`cat celeba.tgz.* | tar xz`, prepare the same pictures there, and `coulomb-gan evaluate celeba --data FOLDER`.
"""
import io
import json
import subprocess
import sys
import tarfile
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import click
import torch

from coulomb_gan.reporting import reproduce
from coulomb_gan.metrics import feature_extractors
from coulomb_gan.training.algorithm import slim
from coulomb_gan.reporting.cli import field_options
from coulomb_gan.reporting.compare import affordable
from coulomb_gan.metrics.equilibrium import diagnose
from coulomb_gan.metrics.frechet import save_statistics, statistics
from coulomb_gan.files import write_whole
from coulomb_gan.field.kernels import Plummer
from coulomb_gan.networks.build import sample
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.run_folder import load_checkpoint, save_checkpoint
from coulomb_gan.training.fit import fit, load_run

HERE = Path(__file__).resolve().parent
MINUTES = {'tests': 1.5, 'step': 1., 'train': 5., 'measure': 1., 'pack': .5}  # nine in all


def program(minutes, *arguments):
    "Runs Python as a process of its own and prints what it said, to the end of its minutes at most"
    command = [sys.executable, *map(str, arguments)]
    try: done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=HERE.parent,
                               timeout=60 * minutes)
    except subprocess.TimeoutExpired as e:
        print((e.stdout or b'').decode())
        raise RuntimeError(f'stopped after {minutes:g} minutes') from None
    print(done.stdout.decode())
    if done.returncode: raise RuntimeError(f'exit code {done.returncode}')


def tests(o):
    program(o.minutes['tests'], '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/test_gpu.py')


def step(o):
    for side in (32, 64):
        program(o.minutes['step'] / 2, HERE / 'step.py', '--side', side, '--device', o.device, '--seconds', .5,
                '--batch', o.fields.get('batch', 128))


def train(o):
    data = o.out / 'data'
    print(prepare(o.faces, data, 64, progress=False)['count'], 'faces')
    e = experiment('celeba', **dict(precision='bfloat16') | o.fields | dict(data=str(data), device=o.device))
    config = o.run / 'config.json'
    if config.exists(): e = replace(e, **{k: json.loads(config.read_bytes())[k] for k in ('steps', 'eval_every')})
    else:
        steps = affordable(e, 60 * o.minutes['train'])
        e = replace(e, steps=steps, eval_every=max(1, int(steps / o.minutes['train'])))
    run = fit(e, o.run)
    for m in run.metrics:
        if 'energy' in m: print(f'step {m["step"]:,}: F {m["energy"]:.5f} after {m["seconds"]:.0f} seconds')


def measure(o):
    run = load_run(o.run, o.device)
    e, y = run.experiment, run.data.floats(run.data.test).to(o.device)
    read_d = partial(sample, run.state.d, batch=e.batch)
    print(diagnose(run.sample, read_d, y, Plummer(e.d, e.eps), e.batch + e.charges, self_term=e.self_term))
    if not o.features: return
    space, reference = feature_extractors.load_extractor(o.features, o.device), o.out / 'held-out.npz'
    save_statistics(reference, statistics(feature_extractors.features(space, run.data.test), keep=10_000))
    found = reproduce.measure(o.run, space, reference, o.samples, progress=False)
    print(feature_extractors.summary(found))


def pack(o):
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode='w:gz', compresslevel=1) as archive:
        for path in sorted(o.run.rglob('*')):
            name = Path(o.run.name, path.relative_to(o.run))
            if path.is_file() and path.suffix != '.pt' and path.name[0] != '.': archive.add(path, name)
        newest = max((o.run / 'checkpoints').glob('*.pt'), key=lambda p: int(p.stem))
        save_checkpoint(small := o.out / 'small.pt', slim(load_checkpoint(newest)))
        archive.add(small, Path(o.run.name, 'checkpoints', newest.name))
        small.unlink()
    data, size = buffer.getvalue(), int(o.part_mib * 2**20)
    for i in range(0, len(data), size):
        write_whole(o.out / f'{o.run.name}.tgz.{i // size:02}', data[i:i + size])
    print(f'{len(data) / 2**20:.1f} MiB in parts of {o.part_mib:g}')


PARTS = {'tests': tests, 'step': step, 'train': train, 'measure': measure, 'pack': pack}


def perform(name, o):
    "One part; what it prints goes into its file, whether it ends well or not"
    begun, said = time.perf_counter(), io.StringIO()
    try:
        with redirect_stdout(said): PARTS[name](o)
        ended = 'done'
    except Exception as e:
        traceback.print_exc()
        ended = f'FAILED: {type(e).__name__}: {e}'
    seconds = time.perf_counter() - begun
    text = f'{name}: {ended}, {seconds:.0f} seconds on {where(o.device)}\n{said.getvalue()}'
    print(text, flush=True)
    write_whole(o.out / f'{name}.txt', text.encode())
    return ended == 'done'


def where(device):
    return torch.cuda.get_device_name(device) if device.startswith('cuda') else f'a CPU, {torch.get_num_threads()} threads'


def bounds(values):
    "Minutes of each part, from PART=MINUTES"
    given = dict(v.split('=') for v in values)
    unknown = {*given} - {*MINUTES}
    if unknown: raise click.BadParameter(f'no part {", ".join(unknown)}; there are {", ".join(MINUTES)}')
    return MINUTES | {k: float(v) for k, v in given.items()}


@field_options
@click.command(help=__doc__.splitlines()[0])
@click.argument('out', type=Path)
@click.option('--faces', type=click.Path(exists=True, path_type=Path), help='tar of faces, 64x64')
@click.option('--features', metavar='FILE.py:NAME', help='network to measure with')
@click.option('--samples', default=10_000, show_default=True, help='images it measures')
@click.option('--parts', default=','.join(PARTS), show_default=True)
@click.option('--minutes', multiple=True, metavar='PART=MINUTES', help=f'bounds of a part; else {MINUTES}')
@click.option('--part-mib', default=16., show_default=True, help='size of the parts of the packed run')
def main(out, faces, features, samples, parts, minutes, part_mib, **fields):
    names = parts.split(',')
    for name in names:
        if name not in PARTS: raise click.BadParameter(f'no part {name!r}; there are {", ".join(PARTS)}')
    if 'train' in names and not faces: raise click.UsageError('train needs --faces, a tar of pictures')
    out.mkdir(parents=True, exist_ok=True)
    given = {k: v for k, v in fields.items() if v is not None}
    device = given.pop('device', 'cuda')
    o = SimpleNamespace(out=out, run=out / 'celeba', device=device, fields=given, faces=faces, features=features,
                        samples=samples, minutes=bounds(minutes), part_mib=part_mib)
    sys.exit(not all([perform(name, o) for name in names]))


if __name__ == '__main__': main()
