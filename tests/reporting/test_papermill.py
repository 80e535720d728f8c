"""The plain `papermill` command on the experiment notebooks, as a batch script calls it, and the files of parameters."""
import copy
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
import yaml

from coulomb_gan.data.catalogue import DATASETS
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.reporting import reproduce as reproduce_module
from coulomb_gan.reporting.render import execute, notebook
from coulomb_gan.reporting.reproduce import reproduce
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import EXPERIMENTS, experiment
from pages import check_notebook, check_page, check_result, figures, files, make_pictures

PARAMETERS = sorted(notebook('images').parent.glob('parameters/*.yaml'))
USAGE = re.compile(r'# papermill nbs/experiments/(\w+)\.ipynb report\.ipynb '
                   r'-f nbs/experiments/parameters/(\S+) -p out runs/(\S+)')


def stem(path): return path.stem

def merged(settings, smaller):
    "A mapping of mappings with entries replaced"
    both = copy.deepcopy(settings)
    for name, value in smaller.items():
        both[name] = merged(both.get(name, {}), value) if isinstance(value, Mapping) else value
    return both

def usage(path):
    "Of a file of parameters: the notebook it is for, itself, name of the run folder"
    found = USAGE.fullmatch(path.read_text(encoding='utf-8').splitlines()[0])
    assert found, f'{path.name} does not begin with how it is used'
    return found.groups()

def parameters_of(kind):
    "Names in the cell of parameters of a notebook"
    cell, = [c for c in nbformat.read(notebook(kind), 4).cells if 'parameters' in c.metadata.get('tags', ())]
    names = {}
    exec(cell.source, {}, names)
    return names


# --- files of parameters ------------------------------------------------------------------------------------------

def test_there_is_one_for_every_data_set_of_the_paper_and_for_own_images():
    wanted = {name for name, entry in DATASETS.items() if entry.load is None}
    assert wanted | {'digits', 'mixture', 'text-builtin'} == {path.stem for path in PARAMETERS}


@pytest.mark.parametrize('path', PARAMETERS, ids=stem)
def test_parameters_are_those_of_a_preset_and_its_notebook(path):
    given = yaml.safe_load(path.read_text(encoding='utf-8'))
    kind, itself, run = usage(path)
    assert notebook(kind).exists() and itself == path.name and given['name'] == run == path.stem
    assert {'name', 'settings'} <= given.keys() <= parameters_of(kind).keys()
    assert given['name'] in EXPERIMENTS and isinstance(given['settings'], Mapping)
    e = experiment(given['name'], given['settings'])      # a number such as 1e-4, a text for YAML, would be refused here
    entry = DATASETS[Path(e.data).name]
    assert entry.report == kind and (e.data in DATASETS or e.data == f'data/{path.stem}')


@pytest.mark.parametrize('path', PARAMETERS, ids=stem)
def test_what_is_to_be_done_before_is_said(path):
    kind, _, run = usage(path)
    comment = ' '.join(line.lstrip('# ') for line in path.read_text(encoding='utf-8').splitlines() if line.startswith('#'))
    if DATASETS[Path(EXPERIMENTS[run].data).name].load is None: assert f'coulomb-gan prepare {run} PATH' in comment
    else: assert 'no preparation' in comment


@pytest.mark.parametrize('settings', [
    {'optim': {'stesp': 3}}, {'optims': {}}, {'optim': {'lr_g': '1e-4'}}, {'record': {'device': 'gpu'}}], ids=str)
def test_wrong_settings_would_be_refused(settings):
    with pytest.raises(ValueError): experiment('digits', settings)


# --- the command --------------------------------------------------------------------------------------------------

SMALLER = {
    'digits': {'networks': dict(width_g=16, width_d=16, depth_g=1, depth_d=1), 'optim': dict(batch=32, steps=60),
               'record': dict(eval_every=30, log_every=10, eval_samples=100, monitor='')},      # a classifier less to train
    'cifar10': {'networks': dict(width_g=8, width_d=8), 'optim': dict(batch=16, steps=6),
                'record': dict(eval_every=3, log_every=1, eval_samples=40, device='cpu')}}


class Call(NamedTuple):
    "A call, and what it left"
    name: str      # the file of parameters
    e: Experiment      # what it asks for
    out: Path      # run folder
    log: str
    report: nbformat.NotebookNode
    files: dict      # of the run folder


def papermill(name, e, place):
    "The console script beside this interpreter, as in the first line of a file of parameters"
    command = [Path(sys.executable).with_name('papermill'), notebook('images'), 'report.ipynb', '-f', 'smaller.yaml',
               '-p', 'out', place / 'run', '-p', 'n_samples', '300', '--log-output']
    done = subprocess.run(command, cwd=place, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = nbformat.read(place / 'report.ipynb', 4)
    return Call(name, e, place / 'run', done.stdout + done.stderr, report, files(place / 'run'))


@pytest.fixture(scope='module', params=SMALLER)
def called(request, tmp_path_factory):
    "A full-scale file of parameters with smaller settings, and a call with it"
    name, place = request.param, tmp_path_factory.mktemp('place')
    given = yaml.safe_load((PARAMETERS[0].parent / f'{name}.yaml').read_text(encoding='utf-8'))
    smaller = SMALLER[name]
    if name == 'cifar10':
        make_pictures(place / 'raw', count=300, side=32)
        prepare(place / 'raw', place / 'pictures', 32, dataset='cifar10', progress=False, workers=0)
        smaller = merged(smaller, {'data': str(place / 'pictures')})
    given['settings'] = merged(given['settings'], smaller)
    (place / 'smaller.yaml').write_text(yaml.safe_dump(given), encoding='utf-8')
    return papermill(name, experiment(name, given['settings']), place)


def test_a_call_trains_and_reports(called):
    "Into a run folder like any other; its log shows how far it is"
    optim, record = called.e.optim, called.e.record
    steps, evaluated = optim.steps, range(record.eval_every, optim.steps + 1, record.eval_every)
    assert re.search(rf'run: +0%.* 0/{steps} ', called.log)
    assert re.search(rf'run: 100%.* {steps}/{steps} .*loss_d=.*energy=', called.log)
    assert {f'checkpoints/{step}.pt' for step in evaluated} <= called.files.keys()
    assert {f'samples/{step}.png' for step in evaluated} <= called.files.keys()
    run = load_run(called.out)
    assert (run.experiment.to_dict(), run.state.progress.step) == (called.e.to_dict(), steps)
    assert [line['step'] for line in run.metrics] == [*range(record.log_every, steps + 1, record.log_every)]
    result = check_result(called.out, 'energy', 'energy_bias', 'energy_copies', 'energy_train', 'birthday', 'n_samples')
    assert result['steps'] == steps and result['metrics']['n_samples'] == 300
    assert ('class_frequencies' in result['metrics']) == (called.name == 'digits')


def test_the_notebook_shows_what_was_run(called):
    outputs = [o for c in called.report.cells for o in c.get('outputs', [])]
    assert len(figures(called.report)) >= 4 and not [o for o in outputs if o.output_type == 'error']
    text = '\n'.join(o.data.get('text/markdown', '') for o in outputs if 'data' in o)
    assert f'**{called.e.optim.steps} steps in' in text and f'| width_g | {called.e.networks.width_g} |' in text
    assert ('| FID | 27.3 |' in text) == (called.name == 'cifar10')      # the paper's


def unchanged(first, second):
    "Nothing but reports is new, and the numbers are the same"
    new = {name for name, found in second.items() if first.get(name) != found}
    assert new <= {'result.json', 'report.ipynb', 'report.html'} and first.keys() <= second.keys()
    assert first['result.json'][0] == second['result.json'][0]


def test_a_second_call_only_reports(called):
    "The same call, or `coulomb-gan reproduce` with the same settings, which calls the same notebook"
    if called.name == 'cifar10':
        again = papermill(called.name, called.e, called.out.parent)
        steps = called.e.optim.steps
        assert f'{steps}/{steps} [00:00<?' in again.log and ' 0/' not in again.log
        unchanged(called.files, again.files)
        return
    settings = {option: value for part in SMALLER['digits'].values() for option, value in part.items()}
    page = called.out.parent / 'page'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce_module, 'execute', partial(execute, n_samples=300))
        assert reproduce('digits', called.out, page, progress=False, **settings) == page / 'report.html'
    unchanged(called.files, files(called.out))
    for folder in (called.out, page):
        check_page(folder, 4, str(called.out.parent))
        check_notebook(folder, 4, str(called.out.parent))
    assert sorted(p.name for p in page.iterdir()) == ['report.html', 'report.ipynb', 'result.json']
    found = check_result(page)['metrics']
    # ten float32 shares
    assert len(found['class_frequencies']) == 10 and sum(found['class_frequencies']) == pytest.approx(1, abs=1e-6)
    assert {'frechet', 'bias', 'n', 'accuracy', 'trained_in'} == found['digits-classifier-64'].keys()
