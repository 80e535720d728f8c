"""From a name to a page, end to end: train, continue, load, render, copy, render elsewhere, measure.

(The digits are reproduced in `test_papermill`, from what the plain command has trained.)"""
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from coulomb_gan.data import catalogue
from coulomb_gan.data.catalogue import DATASETS, DataSet, published
from coulomb_gan.data.datasets import Data, content_digest
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.files import RunError
from coulomb_gan.metrics.feature_extractors import FeatureExtractor
from coulomb_gan.metrics.frechet import load_statistics
from coulomb_gan.reporting import render as render_module
from coulomb_gan.reporting import reproduce as reproduce_module
from coulomb_gan.reporting.render import execute, notebook
from coulomb_gan.reporting.reproduce import REPORTS, evaluate_run, finished_run, render, report_of, reported_run, reproduce
from coulomb_gan.reporting.sections import add_metrics, read_result
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import experiment
from coulomb_gan.training.run_folder import load_checkpoint, newest_checkpoint, save_checkpoint
from pages import SMALL, check_notebook, check_page, check_result, files, make_notebook, make_pictures, shown_here


def quickly(e, out, **options): return fit(e, out, progress=False, **options)


# --- three kinds of data ------------------------------------------------------------------------------------------

def test_mixture(place):
    "A perfect generator would cover 25 modes"
    quickly(experiment('mixture', **SMALL), Path('run'))
    text, n_figures = shown_here('mixture', name='', out='run', n_samples=1000)
    assert n_figures >= 4 and '| modes | paper: at least 25 |' in text
    found = check_result(Path('run'), 'energy', 'n_samples', 'share_min', 'share_max', 'variance_min', 'variance_max')['metrics']
    assert 0 <= found['modes'] <= 25 and 0 <= found['within_3sigma'] <= 1


def test_a_notebook_continues_what_was_killed(place, monkeypatch):
    "On texts, to the same last bit, on a server without a screen"
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    e = experiment('text-builtin', **SMALL | dict(steps=20, eval_every=10, eval_samples=640))
    quickly(e, Path('whole'))
    out = Path(shutil.copytree('whole', 'killed'))
    for lost in ('checkpoints/20.pt', 'result.json'): (out / lost).unlink()
    execute(notebook('text'), out, name='text-builtin', settings=e.to_dict(), n_charges=100)
    saved, whole = newest_checkpoint(out), newest_checkpoint(Path('whole'))
    assert saved['progress']['step'] == 20 and torch.equal(saved['gen'], whole['gen'])
    for part in ('g', 'd', 'g_ema'): assert all(torch.equal(w, whole[part][name]) for name, w in saved[part].items())
    check_page(out, 2, str(place))
    check_notebook(out, 2, str(place))
    found = check_result(out, 'energy', 'lines_copied', 'words_known', 'diagnostics')['metrics']
    for name in ('jsd', 'jsd_bias'): assert [*found[name]] == list('123456')
    assert all(found['jsd_bias'][n] < found['jsd'][n] <= 1 for n in '123456')
    assert found['corpus'] == 'text-builtin' and found['n_samples'] == 640


# --- what a notebook reports on -----------------------------------------------------------------------------------

NESTED = {'optim': dict(steps=4), 'record': dict(eval_every=2)}


def test_a_name_and_a_folder_train_and_then_only_load(place):
    run = reported_run('tiny', 'run', NESTED)
    assert (run.out, run.state.progress.step, run.experiment) == (Path('run'), 4, experiment('tiny', NESTED))
    before = files('run')
    again = reported_run('tiny', 'run', NESTED)
    assert files('run') == before and torch.equal(again.sample(9), run.sample(9))
    assert torch.equal(reported_run('', 'run', {}).sample(9), run.sample(9)) and files('run') == before


def test_a_name_and_a_folder_continue(place):
    whole = reported_run('tiny', 'whole', NESTED)
    shutil.copytree('whole', 'run')
    for lost in ('run/checkpoints/4.pt', 'run/result.json'): Path(lost).unlink()
    run = reported_run('tiny', 'run', NESTED)
    assert run.state.progress.step == 4 and torch.equal(run.sample(9), whole.sample(9)) and Path('run/result.json').exists()


def test_without_a_folder_a_small_run_in_a_temporary_one(place):
    run = reported_run('tiny', '', {'optim': dict(lr_g=.25)}, steps=3, eval_every=3)
    assert (run.state.progress.step, run.experiment.optim.lr_g) == (3, .25)
    assert place not in run.out.parents and not [*place.iterdir()]


def test_progress_is_seen_and_then_cleared(place, capsys):
    reported_run('tiny', 'run', NESTED)
    out, err = capsys.readouterr()
    assert 'run:   0%' in err and '4/4' in err


@pytest.mark.parametrize('name, settings, message', [
    ('tiny', {'optim': dict(steps=4, lr_g=.5)}, 'optim.lr_g was 0.001 and is now 0.5'),
    ('tiny', {'optim': dict(stesp=4)}, "did you mean 'steps'"),
    ('tiny', {'optims': {}}, "did you mean 'optim'"),
    ('tiny', {'optim': 4}, 'optim must be a mapping of options, got 4'),
    ('mixture', NESTED, 'was trained on other data'),
    ('tyni', {}, "did you mean 'tiny'"),
    ('', {}, 'not finished')], ids=str)
def test_other_settings_are_refused_and_leave_the_run(name, settings, message, place):
    reported_run('tiny', 'run', NESTED)
    if not name: Path('run/result.json').unlink()
    before = files('run')
    with pytest.raises((RunError, ValueError), match=message): reported_run(name, 'run', settings)
    assert files('run') == before


@pytest.mark.parametrize('name', ['tiny', ''])
def test_numbers_of_a_notebook_are_kept_elsewhere(name, place):
    reported_run('tiny', 'run', NESTED)
    before = files('run')
    Path('page').mkdir()
    add_metrics(reported_run(name, 'run', NESTED if name else {}, results='page'), energy=.5)
    assert files('run') == before and json.loads(Path('page/result.json').read_text())['metrics']['energy'] == .5


# --- a run that was moved -----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def moved(tmp_path_factory):
    "A run on a prepared folder that lies beside it, as the presets have it; the run itself was moved"
    place = tmp_path_factory.mktemp('place')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        make_pictures(place / 'pictures')
        prepare(Path('pictures'), Path('data/folder'), 16, progress=False)
        e = experiment('folder', networks='mlp', **SMALL)
        assert e.data == 'data/folder'
        quickly(e, Path('runs/folder'))
        shutil.move(place / 'runs', place / 'elsewhere')
    return place


def test_moved_run_of_own_images_renders_without_training(moved, monkeypatch):
    monkeypatch.chdir(moved)
    out = Path('elsewhere/folder')
    def kept(): return {name: found for name, found in files(out).items() if Path(name).suffix in ('.jsonl', '.pt', '.png')}
    before = kept()
    assert render(out, n_samples=600) == out / 'report.html'
    assert kept() == before
    check_page(out, 3, str(moved))
    check_notebook(out, 3, str(moved))
    found = check_result(out, 'energy', 'energy_bias')['metrics']
    assert found['n_samples'] == 600 and 'class_frequencies' not in found


def test_moved_data_are_named(moved, monkeypatch, tmp_path):
    monkeypatch.chdir(moved)
    shutil.copytree('elsewhere/folder', tmp_path / 'run')
    shutil.copytree('data/folder', tmp_path / 'data/there')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match='the data of run are not at .*; name their folder with --data'): finished_run(Path('run'))
    with pytest.raises(RunError, match='not at data/here'): finished_run(Path('run'), data='data/here')
    run = finished_run(Path('run'), data='data/there')
    assert len(run.data.train) == 72
    assert len(reported_run('', 'run', {}, data_path='data/there').data.train) == 72
    rendered = []
    monkeypatch.setattr(reproduce_module, 'execute', lambda *where, **parameters: rendered.append((where, parameters)))
    render(Path('run'), Path('page'), 'data/there')
    assert rendered == [((notebook('images'), Path('run'), Path('page'), True), dict(name='', data_path='data/there'))]


def test_failing_cell_is_one_line(moved, monkeypatch):
    monkeypatch.chdir(moved)
    broken = make_notebook(moved / 'broken.ipynb', "out = ''", 'share = 1 / 0')
    monkeypatch.setattr(reproduce_module, 'notebook', lambda kind: broken)
    with pytest.raises(RunError) as caught: render(Path('elsewhere/folder'))
    assert str(caught.value) == 'cell 3 of broken.ipynb failed: ZeroDivisionError: division by zero'


# --- a report of anything that trained ----------------------------------------------------------------------------

def collapse(out, last):
    "All weights of the generator become zero but the last bias, whose second entry is given: every sample is the same"
    for path in (out / 'checkpoints').glob('*.pt'):
        saved = load_checkpoint(path)
        for net in ('g', 'g_ema'):
            saved[net] = {k: torch.zeros_like(w) for k, w in saved[net].items()}
            [*saved[net].values()][-1][1] = last
        save_checkpoint(path, saved)

def few_pictures(folder): make_pictures(folder, count=10, side=8)

def alike_pictures(folder):
    folder.mkdir()
    for i in range(40): Image.new('RGB', (8, 8), 'grey').save(folder / f'{i}.png')

def few_lines(path):
    gen = random.Random(0)
    path.write_text(''.join(''.join(gen.choices('abcdefgh ', k=20)) + '\n' for _ in range(200)), encoding='utf-8')


ODD = {     # data, networks, where the generator collapsed to, whether the metrics are lost, what is left out
    'ten pictures': (few_pictures, 'mlp', None, False, '1 held-out image'),
    'the same picture forty times': (alike_pictures, 'mlp', 0., True, '4 held-out images'),
    'two hundred lines, all padding': (few_lines, 'text', 1., False, '20 held-out lines'),
    'collapsed onto the origin': ('mixture', 'mlp', 0., False, None),
    'a single outlying point': ('mixture-narrow', 'mlp', 1e3, True, 'no component has more than two samples inside')}


@pytest.mark.filterwarnings('ignore')      # of empty figures, which a kernel shows and goes on
@pytest.mark.parametrize('case', ODD)
def test_a_report_of_anything_that_trained_renders(case, place):
    make, networks, collapsed, lost, left_out = ODD[case]
    data = make if isinstance(make, str) else 'data'
    if callable(make): make(place / 'raw')
    if make is few_lines: prepare_text('raw', 'data', progress=False)
    elif data == 'data': prepare('raw', 'data', 8, progress=False)
    sizes = dict(latent=2, width_g=8, width_d=8, depth_g=1, depth_d=1, batch=32)
    short = dict(steps=4, eval_every=2, log_every=2, eval_samples=16)
    run = quickly(Experiment(data=data).changed(networks=networks, **sizes, **short), Path('run'))
    if collapsed is not None: collapse(run.out, collapsed)
    if lost: (run.out / 'metrics.jsonl').unlink()
    else: shutil.rmtree(run.out / 'samples')      # a run folder fetched without them
    text, _ = shown_here(report_of(run), name='', out='run', **{'n_charges' if networks == 'text' else 'n_samples': 300})
    assert '**4 steps in' in text and (left_out is None or f'Left out: {left_out}' in text)
    check_result(run.out)


def three_lines():
    "Points on three lines, of which nobody knows a mode"
    gen = torch.Generator().manual_seed(0)
    along, across = torch.rand(900, generator=gen) * 4, torch.arange(900) % 3 - 1.
    points = torch.stack([along, across + .02 * torch.randn(900, generator=gen)], 1)
    return Data(points[:800], points[800:], digest=content_digest(points))


def test_points_without_known_modes(place, monkeypatch):
    monkeypatch.setitem(DATASETS, 'three-lines', DataSet('points', 'mixture', load=three_lines))
    run = quickly(experiment('tiny', data='three-lines'), Path('run'))
    assert (report_of(run), run.data.kind, run.data.modes) == ('mixture', 'points', None)
    text, n_figures = shown_here('mixture', name='', out='run', n_samples=500)
    assert 'Data: **three-lines**, 800 training and 100 held-out points.' in text and n_figures >= 3
    assert 'Left out: the components of these data are unknown' in text and '| modes |' not in text
    found = check_result(Path('run'), 'energy', 'diagnostics')['metrics']
    assert 'modes' not in found and found['n_samples'] == 500
    monkeypatch.delitem(DATASETS, 'three-lines')
    with pytest.raises(RunError, match='the data of run are not at three-lines'): finished_run(Path('run'))


def test_a_monitored_metric_has_its_own_figure(place):
    Path('mine.py').write_text('def coarse(): return lambda images: images.float()[:, 0, ::4, ::4].flatten(1)\n')
    make_pictures(place / 'raw', count=60, side=8)
    prepare('raw', 'data/pictures', 8, progress=False, workers=0)
    found = []
    for monitor in ('', 'mine.py:coarse'):
        out = f'run{len(found)}'
        quickly(experiment('tiny', data='data/pictures', monitor=monitor), Path(out))
        found.append(shown_here('images', name='', out=out, n_samples=200)[1])
    assert found[1] == found[0] + 1


# --- the paper's numbers ------------------------------------------------------------------------------------------

NAMED = {'data/pictures': ('cifar10', 27.3), 'data/celeba': ('cifar10', 27.3), 'data/cifar10': (None, 27.3),
         'data/lsun': (None, 31.2), 'data/mine': (None, None), 'data/folder': ('folder', None),
         'data/cifar10-small': (None, None)}      # folder -> name in the manifest, the paper's FID


@pytest.mark.parametrize('folder', NAMED)
def test_a_prepared_folder_is_known_by_its_manifest_else_by_its_name(folder, place):
    dataset, fid = NAMED[folder]
    make_pictures(place / 'raw', count=20, side=8)
    prepare('raw', folder, 8, progress=False, workers=0, **dict(dataset=dataset) if dataset else {})
    assert published(catalogue.load(folder)).get('fid') == fid


def row(text, name):
    "Cells of the row of that name in the table of numbers: paper, here, what it says"
    line, = [line for line in text.partition('what it says |')[2].partition('\n\n')[0].splitlines() if line.startswith(f'| {name} |')]
    return [cell.strip() for cell in line.strip('|').split('|')][1:]


@pytest.mark.parametrize('dataset, paper, words', [('cifar10', '27.3', "2.7 above the paper's"), ('folder', '–', 'the paper has none for these data')])
def test_the_papers_fid_stands_beside_ours(dataset, paper, words, place):
    "Where the images are the paper's; ours is made up"
    make_pictures(place / 'raw', count=60, side=8)
    prepare('raw', 'data/pictures', 8, progress=False, workers=0, dataset=dataset)
    run = quickly(experiment('tiny', data='data/pictures', steps=4, eval_every=4), Path('run'))
    text, _ = shown_here('images', name='', out='run', n_samples=200)
    assert row(text, 'FID')[:2] == [paper, '–'] and 'not measured' in row(text, 'FID')[2]
    add_metrics(run, **{'inception-v3-compat': dict(fid=30., bias=1.)})
    text, _ = shown_here('images', name='', out='run', n_samples=200)
    assert row(text, 'FID') == [paper, '30', words] and '| inception-v3-compat |' in text


@pytest.mark.parametrize('dataset', ['billion_word', 'mine'])
def test_the_papers_divergences_stand_beside_ours(dataset, place):
    few_lines(place / 'raw')
    prepare_text('raw', 'data/lines', progress=False, **dict(dataset=dataset) if dataset == 'billion_word' else {})
    tiny = dict(networks='text', width_g=8, width_d=8, depth_g=1, depth_d=1, steps=2, eval_every=2)
    quickly(experiment('tiny', data='data/lines', **tiny), Path('run'))
    text, _ = shown_here('text', name='', out='run', n_charges=100)
    paper, here, words = row(text, 'JSD-4')
    if dataset == 'mine': assert (paper, words) == ('0.35 on another text', 'no comparison')
    else: assert paper == '0.35' and words == f"{float(here) - .35:.3g} above the paper's"


# --- which notebook -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('data, kind', [
    ('digits', 'images'), ('mixture', 'mixture'), ('mixture-narrow', 'mixture'), ('text-builtin', 'text')])
def test_report_of_what_is_built_in(data, kind, place):
    networks = 'text' if kind == 'text' else 'mlp'
    tiny = dict(networks=networks, width_g=8, width_d=8, depth_g=1, depth_d=1, steps=1, eval_samples=20)
    run = quickly(experiment('tiny', data=data, **tiny), Path('run'))
    assert report_of(run) == kind and notebook(kind).exists() and kind in REPORTS.values()


# --- what stops it ------------------------------------------------------------------------------------------------

def test_what_a_report_needs_is_looked_at_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(render_module, 'find_spec', lambda name: None if name == 'ipykernel' else name)
    with pytest.raises(RunError, match='a report needs ipykernel, which is not installed; pip install ipykernel'):
        reproduce('digits', tmp_path / 'run', progress=False)
    monkeypatch.undo()
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match='cannot write .*file'):
        reproduce('digits', tmp_path / 'run', report=tmp_path / 'file' / 'report', progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_report_of_nothing_is_one_line(tmp_path):
    with pytest.raises(RunError, match='holds no run') as caught: render(tmp_path / 'nothing')
    assert '\n' not in str(caught.value)


def test_unfinished_run_is_refused_in_words(place):
    "A run that was stopped has no result.json yet"
    quickly(experiment('tiny', steps=2), Path('run'))
    Path('run/result.json').unlink()
    with pytest.raises(RunError) as caught: render(Path('run'))
    message = str(caught.value)
    assert message == 'run is not finished; continue it first'


def test_report_folder_may_be_the_run_folder(place, monkeypatch):
    def executed(source, out, **parameters):
        for name in ('report.ipynb', 'report.html'): (out / name).write_text(name)
        return out / 'report.html'
    monkeypatch.setattr(reproduce_module, 'execute', executed)
    page = reproduce('tiny', Path('run'), report=Path('run'), progress=False, steps=2)
    assert page == Path('run/report.html') and page.read_text() == 'report.html' and Path('run/result.json').exists()


def test_the_notebook_gets_the_settings_that_were_trained(place, monkeypatch):
    "So that it finds the run finished"
    asked = []
    monkeypatch.setattr(reproduce_module, 'execute', lambda source, out, **parameters: asked.append((source, out, parameters)))
    monkeypatch.setattr(reproduce_module, 'copy_report', lambda page, report: page)
    reproduce('tiny', Path('run'), progress=False, steps=2, seed=5, objective='wgan-gp', penalty_weight=3.)
    (source, out, parameters), = asked
    assert source == notebook('images') and parameters['name'] == 'tiny'
    before = files(out)
    assert reported_run(out=str(out), **parameters).experiment.objective.penalty.weight == 3. and files(out) == before


# --- with a feature extractor -------------------------------------------------------------------------------------

def test_prepared_set_is_known_by_its_digest(place):
    Path('pictures').mkdir()
    for i in range(60): Image.new('RGB', (8, 8), (4 * i, 100, 2 * i)).save(f'pictures/{i}.png')
    prepare(Path('pictures'), Path('data/folder'), 8, workers=1, progress=False)
    digest = json.loads(Path('data/folder/manifest.json').read_text())['digest']
    quickly(experiment('tiny', data='data/folder', steps=2), Path('run'))
    corner = FeatureExtractor('corner', lambda images: images[:, :, 0, 0].float())
    found = evaluate_run(Path('run'), corner, samples=40, progress=False)
    assert [p.name for p in Path('data/statistics').iterdir()] == [f'corner-{digest[:16]}.npz']
    assert found['n_reference'] == load_statistics(Path(f'data/statistics/corner-{digest[:16]}.npz')).n == 54
    assert read_result(load_run(Path('run')))['metrics']['corner'] == found and found['reference'] == 'folder'


def test_too_few_is_told_before_anything_is_drawn(place):
    "Only the sixteen images that tell the number of features are shown to the network"
    quickly(experiment('tiny', steps=2), Path('run'))
    shown = []
    def net(images):
        shown.append(len(images))
        return images.flatten(1).float()
    pixels = FeatureExtractor('pixels', net)
    for few in (dict(samples=64), dict(reference=Path('published.npz'))):
        with pytest.raises(ValueError): evaluate_run(Path('run'), pixels, **few)
    assert shown == [16, 16]
    Path('run/result.json').unlink()
    with pytest.raises(RunError, match='not finished'): evaluate_run(Path('run'), pixels)


def test_where_numbers_cannot_be_written_nothing_is_measured(place):
    Path('file').write_text('')
    with pytest.raises(RunError, match='cannot write file'):
        evaluate_run(Path('run'), FeatureExtractor('none', lambda images: pytest.fail('it looked')), to=Path('file'))
