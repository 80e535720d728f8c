"""Everything an accelerator is needed for, in one command; each part leaves its result in OUT as soon as it has it.

    python benchmarks/gpu.py OUT --faces FACES.tar [--features FILE.py:NAME] [--encoder SPEC]
                             [--parts fields,tests,step,sums,candidates,train,measure,pack]
                             [--minutes PART=MINUTES ...]
                             [--samples N] [--part-mib 16] [--OPTION VALUE ...]

| part       | what it does                                                            | leaves             |
|------------|-------------------------------------------------------------------------|--------------------|
| fields     | with --encoder: learned, exact, in features and drifting, on faces at   | fields/, run       |
|            | 64x64 with the paper's networks, its minutes shared out; with           | folders;           |
|            | --features the Fréchet distance of each                                 | fields.txt         |
| tests      | the tests that need a GPU                                               | tests.txt          |
| step       | benchmarks/step.py at 32 and 64 pixels, with its check against float64  | step.txt           |
| sums       | benchmarks/streaming.py: sums over pairs, with Triton, cdist and KeOps  | sums.txt           |
| candidates | benchmarks/candidates.py at 32 pixels: what could make the step faster  | candidates.txt     |
| train      | CelebA at 64x64 with the paper's networks, for its minutes; every       | celeba/, a run     |
|            | minute an evaluation: energy, samples, checkpoint                       | folder; train.txt  |
| measure    | the diagnostics of equilibrium at held-out faces; with --features the   | measure.txt        |
|            | Fréchet distance to held-out faces and its finite-sample bias           |                    |
| pack       | the run folders with an inference checkpoint, split into parts          | runs.tgz.00, ...   |

A part that fails or runs out of its minutes says so in its file, and the next one begins. FACES.tar holds any number of
pictures; a tenth is held out. Further options are those of `coulomb-gan train celeba`. To render the report elsewhere:
`cat runs.tgz.* | tar xz`, prepare the same pictures there, and `coulomb-gan evaluate celeba --data FOLDER`.
"""
import io
import subprocess
import sys
import tarfile
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import click
import torch

from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.files import write_whole
from coulomb_gan.metrics.feature_extractors import load_extractor, reference, summary
from coulomb_gan.reporting.cli_options import GroupedCommand, setting_options
from coulomb_gan.reporting.compare import affordable
from coulomb_gan.reporting.reproduce import evaluate_run
from coulomb_gan.training.feature_methods import feature_methods
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import experiment
from coulomb_gan.environment import environment
from coulomb_gan.training.run_folder import newest_checkpoint, read_config, save_checkpoint
from coulomb_gan.training.state import inference_checkpoint

HERE = Path(__file__).resolve().parent
MINUTES = {'fields': 3., 'tests': 1.5, 'step': .5, 'sums': .5, 'candidates': .5, 'train': 1.5}
GPU_TESTS = ('training/test_gpu.py', 'training/test_fused.py', 'training/test_candidates.py',
             'field/test_fused_sums.py')
KEPT = 10_000  # held-out faces whose features are kept


@dataclass
class Plan:
    "What was asked for."
    out: Path  # folder of all results
    faces: Path | None  # tar of pictures
    features: str | None  # 'FILE.py:NAME', the network to measure with
    samples: int  # images it measures
    part_mib: float  # size of the parts of the packed run
    device: str
    minutes: dict  # part -> its bound
    options: dict = field(default_factory=dict)  # of the run, by their flat names
    @property
    def run(self):
        "The run folder."
        return self.out / 'celeba'
    @property
    def data(self):
        "The prepared faces."
        return self.out / 'data'


# --- tests, step, sums, candidates: programs of their own ---------------------------------------------------------

def program(minutes, *arguments):
    "Runs Python as a process of its own and prints what it said, to the end of its minutes at most."
    command = [sys.executable, *map(str, arguments)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=HERE.parent,
                              timeout=60 * minutes)
    except subprocess.TimeoutExpired as stopped:
        said = stopped.stdout or b''
        print(said.decode())
        raise RuntimeError(f'stopped after {minutes:g} minutes') from None
    print(done.stdout.decode())
    if done.returncode: raise RuntimeError(f'exit code {done.returncode}')


def tests(plan):
    "The tests that need a GPU."
    files = [Path('tests', name) for name in GPU_TESTS]
    program(plan.minutes['tests'], '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *files)


def step(plan):
    "The benchmark of one step at both sides of image."
    batch = plan.options.get('batch', 128)
    for side in (32, 64):
        program(plan.minutes['step'] / 2, HERE / 'step.py', '--side', side, '--device', plan.device,
                '--seconds', .5, '--batch', batch)


def sums(plan):
    "The benchmark of sums over pairs; on a CPU a rehearsal."
    scale = .005 if plan.device == 'cpu' else 1
    program(plan.minutes['sums'], HERE / 'streaming.py', '--device', plan.device, '--scale', scale)


def candidates(plan):
    "The benchmark of what could make the step faster; a batch or width of the options is a rehearsal's."
    sizes = []
    if 'batch' in plan.options: sizes += ['--batch', plan.options['batch']]
    if 'width_g' in plan.options: sizes += ['--width', plan.options['width_g']]
    program(plan.minutes['candidates'], HERE / 'candidates.py', '--device', plan.device, '--seconds', .3, *sizes)


# --- fields: runs in pixels and in features -----------------------------------------------------------------------

def prepared(plan):
    "Prepares the faces, once."
    manifest = prepare(plan.faces, plan.data, 64, progress=False)
    print(manifest['count'], 'faces')


def fields(plan):
    "The methods of `compare celeba --methods features`, for equal times, each measured if there is a network for it."
    prepared(plan)
    options = {
        'precision': 'bfloat16', 'batch': 128,  # the rows' own batch of 32 would leave a GPU idle
        **plan.options, 'data': str(plan.data), 'device': plan.device}
    rows = feature_methods('celeba', **options)
    seconds = 60 * plan.minutes['fields'] / len(rows)
    for row, e in rows.items():
        steps = affordable(e, seconds)
        run = fit(e.changed(steps=steps, eval_every=max(1, steps // 4)), plan.out / 'fields' / row, progress=False)
        print(f'{row}: {steps:,} steps, F {run.metrics[-1]["energy"]:.5f}')
        if plan.features: print(summary(measured(plan, run.out)))


# --- train, measure, pack -----------------------------------------------------------------------------------------

def cadence(e, run, minutes):
    "Steps of the run, and steps between evaluations: those it began with, else what fits into the minutes."
    if (run / 'config.json').exists():
        config = read_config(run)
        return config['optim']['steps'], config['record']['eval_every']
    steps = affordable(e, 60 * minutes)
    a_minute = int(steps / minutes)
    return steps, max(1, a_minute)


def train(plan):
    "Prepares the faces and trains, or goes on."
    prepared(plan)
    options = {'precision': 'bfloat16', **plan.options}
    options.pop('encoder', None)  # of the fields
    e = experiment('celeba', **options).changed(data=str(plan.data), device=plan.device)
    steps, eval_every = cadence(e, plan.run, plan.minutes['train'])
    run = fit(e.changed(steps=steps, eval_every=eval_every), plan.run)
    for line in run.metrics:
        if 'energy' not in line: continue
        print(f'step {line["step"]:,}: F {line["energy"]:.5f} after {line["seconds"]:.0f} seconds')


def measured(plan, run):
    "A run against the held-out faces."
    extractor = load_extractor(plan.features, plan.device)
    held_out = load_run(run, plan.device).data.test
    reference(extractor, held_out, plan.out, key='held-out', keep=KEPT)
    file = plan.out / f'{extractor.name}-held-out.npz'
    return evaluate_run(run, extractor, file, plan.samples, progress=False)


def measure(plan):
    "The diagnostics, and the Fréchet distance if there is a network for it."
    run = load_run(plan.run, plan.device)
    held_out = run.data.test
    print(run.diagnose(run.data.floats(held_out)))
    if plan.features: print(summary(measured(plan, plan.run)))


def add_run(archive, run, plan):
    "A run folder, with an inference checkpoint in place of its checkpoints."
    name = run.relative_to(plan.out)
    for path in sorted(run.rglob('*')):
        hidden = path.name.startswith('.')
        if hidden or path.suffix == '.pt' or not path.is_file(): continue
        archive.add(path, path.relative_to(plan.out))
    saved = newest_checkpoint(run)
    small = plan.out / 'small.pt'
    save_checkpoint(small, inference_checkpoint(saved))
    archive.add(small, name / 'checkpoints' / f'{saved["progress"]["step"]}.pt')
    small.unlink()


def packed(plan):
    "All run folders as a compressed tar."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w:gz', compresslevel=1) as archive:
        for config in sorted(plan.out.rglob('config.json')): add_run(archive, config.parent, plan)
    return buffer.getvalue()


def pack(plan):
    "The packed run in parts that can be sent."
    data = packed(plan)
    size = int(plan.part_mib * 2**20)
    for part in plan.out.glob('runs.tgz.*'): part.unlink()  # of an earlier call
    for number, first in enumerate(range(0, len(data), size)):
        write_whole(plan.out / f'runs.tgz.{number:02}', data[first:first + size])
    print(f'{len(data) / 2**20:.1f} MiB in parts of {plan.part_mib:g}')


PARTS = {'fields': fields, 'tests': tests, 'step': step, 'sums': sums, 'candidates': candidates, 'train': train,
         'measure': measure, 'pack': pack}


# --- the command --------------------------------------------------------------------------------------------------

def perform(name, plan):
    "One part; what it prints goes into its file, whether it ends well or not."
    begun = time.perf_counter()
    said = io.StringIO()
    ended = 'done'
    try:
        with redirect_stdout(said): PARTS[name](plan)
    except Exception as error:
        traceback.print_exc()
        ended = f'FAILED: {type(error).__name__}: {error}'
    seconds = time.perf_counter() - begun
    hardware = environment(plan.device)['hardware']
    text = f'{name}: {ended}, {seconds:.0f} seconds on {hardware}\n{said.getvalue()}'
    print(text, flush=True)
    write_whole(plan.out / f'{name}.txt', text.encode())
    return ended == 'done'


def check_parts(names, known):
    "Raises an error of the command line unless all are among the known parts."
    unknown = [name for name in names if name not in known]
    if unknown: raise click.BadParameter(f'no part {", ".join(unknown)}; there are {", ".join(known)}')


def bounds(values):
    "Minutes of each part, from PART=MINUTES."
    given = dict(value.split('=') for value in values)
    check_parts(given, MINUTES)
    return MINUTES | {name: float(minutes) for name, minutes in given.items()}


@setting_options
@click.command(cls=GroupedCommand, help=__doc__.splitlines()[0])
@click.argument('out', type=Path)
@click.option('--faces', type=click.Path(exists=True, path_type=Path), help='tar of faces, 64x64')
@click.option('--features', metavar='FILE.py:NAME', help='network to measure with')
@click.option('--samples', default=10_000, show_default=True, help='images it measures')
@click.option('--parts', help=f'some of {",".join(PARTS)} [all; fields with an --encoder]')
@click.option('--minutes', multiple=True, metavar='PART=MINUTES', help=f'bounds of a part; else {MINUTES}')
@click.option('--part-mib', default=16., show_default=True, help='size of the parts of the packed run')
def main(out, faces, features, samples, parts, minutes, part_mib, **options):
    "All parts that were asked for, one after the other."
    names = parts.split(',') if parts else [*PARTS]
    check_parts(names, PARTS)
    needy = {'fields', 'train'} & {*names}
    if needy and not faces: raise click.UsageError(f'{", ".join(needy)} needs --faces, a tar of pictures')
    given = {name: value for name, value in options.items() if value is not None}
    if 'encoder' not in given:  # through which the fields see
        if parts and 'fields' in names: raise click.UsageError('fields needs --encoder')
        names = [name for name in names if name != 'fields']
    device = given.pop('device', 'cuda')
    if device != 'cpu' and not torch.cuda.is_available():
        raise click.UsageError('this machine has no CUDA device; use --device cpu')
    plan = Plan(out=out, faces=faces, features=features, samples=samples, part_mib=part_mib, device=device,
                minutes=bounds(minutes), options=given)
    out.mkdir(parents=True, exist_ok=True)
    done = [perform(name, plan) for name in names]
    sys.exit(0 if all(done) else 1)


if __name__ == '__main__': main()
