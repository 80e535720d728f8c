"""From a name to a page, end to end: train, render, copy, render elsewhere."""
import json
import math
import random
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch
from PIL import Image

from coulomb_gan.reporting import compare as compare_module
from coulomb_gan.reporting import reproduce as reproduce_module
from coulomb_gan.reporting.compare import compare
from coulomb_gan.training.config import Experiment
from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.training.presets import METHODS, experiment, method
from coulomb_gan.reporting.reproduce import add_result, execute, render, reproduce
from coulomb_gan.training.run_folder import load_checkpoint, save_checkpoint
from coulomb_gan.files import RunError
from coulomb_gan.training.fit import fit, load_run

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(steps=100, eval_every=50, log_every=10, eval_samples=100, width_g=16, width_d=16, depth_g=1, depth_d=1, batch=32)
COMMON = {'steps', 'seconds', 'seed', 'hardware', 'commit', 'energy', 'n_samples'}
IMAGES = COMMON | {'energy_floor'}
DIGITS = IMAGES | {'frechet', 'frechet_floor', 'feature_space', 'class_shares'}
TEXT = COMMON | {'jsd', 'jsd_floor', 'corpus', 'lines_copied', 'words_known', 'diagnostics'}
MIXTURE = COMMON | {'modes', 'within_3sigma', 'share_min', 'share_max', 'variance_min', 'variance_max'}


def figures(nb): return [o for c in nb.cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {})]


def check_page(folder, least, *forbidden):
    "One self-contained page with figures, and neither errors nor paths of this machine"
    html = (folder / 'report.html').read_text(encoding='utf-8')
    assert html.count('<img') >= least and html.count('src="data:image/png;base64,') >= least
    assert re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)\s*=\s*["\']?(?:https?:)?//[^>]*', html) == []
    for text in ('Traceback', str(ROOT), str(Path.home()), *forbidden): assert text not in html


def check_notebook(folder, least, *forbidden):
    text = (folder / 'report.ipynb').read_text(encoding='utf-8')
    nb = nbformat.reads(text, as_version=4)
    nbformat.validate(nb)
    assert len(figures(nb)) >= least
    assert [t for c in nb.cells for t in c.metadata.get('tags', [])] == ['parameters', 'injected-parameters']
    assert {k for c in nb.cells for k in c.metadata} <= {'tags'}
    for word in ('papermill', 'Traceback', str(ROOT), str(Path.home()), *forbidden): assert word not in text


def numbers(value):
    if isinstance(value, dict): value = list(value.values())
    return [n for v in value for n in numbers(v)] if isinstance(value, list) else [value]


def check_result(folder, keys):
    result = json.loads((folder / 'result.json').read_text())
    assert keys <= result.keys()
    assert all(math.isfinite(n) for n in numbers(result) if isinstance(n, float))
    return result


def report_of(name, tmp_path, keys, least, monkeypatch, parameters=dict(n_samples=1000), **changes):
    monkeypatch.setattr(reproduce_module, 'render', partial(render, **parameters))      # fewer samples: half the time
    monkeypatch.chdir(tmp_path)      # statistics of the training set are kept there
    out, report = tmp_path / 'run', tmp_path / 'reports' / name
    page = reproduce(name, out, report=report, progress=False, **SMALL | changes)
    assert page == report / 'report.html'
    for folder in (out, report):
        check_page(folder, least, str(tmp_path))
        check_notebook(folder, least, str(tmp_path))
    assert sorted(p.name for p in report.iterdir()) == ['report.html', 'report.ipynb', 'result.json']
    return check_result(report, keys)


def test_digits(tmp_path, monkeypatch):
    result = report_of('digits', tmp_path, DIGITS, 4, monkeypatch)
    assert result['steps'] == 100 and len(result['class_shares']) == 10
    # ten float32 shares
    assert sum(result['class_shares']) == pytest.approx(1, abs=1e-6)


def test_mixture_on_a_server_without_a_screen(tmp_path, monkeypatch):
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    result = report_of('mixture', tmp_path, MIXTURE, 4, monkeypatch)
    assert 0 <= result['modes'] <= 25 and 0 <= result['within_3sigma'] <= 1


def test_text(tmp_path, monkeypatch):
    result = report_of('text-builtin', tmp_path, TEXT, 2, monkeypatch, dict(n_charges=100), steps=20, eval_every=10,
                       eval_samples=640)
    for name in ('jsd', 'jsd_floor'): assert [*result[name]] == list('123456')
    assert all(result['jsd_floor'][n] < result['jsd'][n] <= 1 for n in '123456')
    assert result['corpus'] == 'text-builtin' and result['n_samples'] == 640


def test_methods_side_by_side_in_the_plane(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, 'execute', partial(execute, n_samples=500))
    page = compare('mixture', tmp_path / 'runs', methods=['wide-dropped', 'wgan-gp'], seeds=2,
                   report=tmp_path / 'report', progress=False, **SMALL | dict(steps=20))
    assert page == tmp_path / 'report' / 'report.html'
    check_page(tmp_path / 'report', 2, str(tmp_path))
    result = json.loads((tmp_path / 'report' / 'result.json').read_text())
    assert [*result] == ['wide-dropped', 'wgan-gp'] and all(len(seeds) == 2 for seeds in result.values())
    learned, ordinary = result['wide-dropped'][0], result['wgan-gp'][0]
    assert {'F', 'r2', 'within_3sigma', 'steps', 'seconds'} <= learned.keys() and 'r2' not in ordinary
    assert learned['steps'] == 20 and learned['F'] != result['wide-dropped'][1]['F']


def make_pictures(folder, count=80, side=20):
    "Colour images of one random tint each, with noise"
    folder.mkdir()
    gen = torch.Generator().manual_seed(0)
    for i in range(count):
        tint = torch.rand(3, generator=gen) * 200
        pixels = tint + 55 * torch.rand(side, side, 3, generator=gen)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f'{i}.png')


@pytest.fixture(scope='module')
def moved(tmp_path_factory):
    "A run on a prepared folder that lies beside it, as the presets have it; the run itself was moved"
    place = tmp_path_factory.mktemp('place')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        make_pictures(place / 'pictures')
        prepare(Path('pictures'), Path('data/folder'), 16)
        e = experiment('folder', networks='mlp', **SMALL)
        assert e.data == 'data/folder'
        fit(e, Path('runs/folder'), progress=False)
        shutil.move(place / 'runs', place / 'elsewhere')
    return place


def test_moved_run_of_own_images_renders_without_training(moved, monkeypatch):
    monkeypatch.chdir(moved)
    out = Path('elsewhere/folder')
    kept = {p: p.read_bytes() for p in out.rglob('*') if p.suffix in ('.jsonl', '.pt', '.png')}
    assert render(out, n_samples=600) == out / 'report.html'
    assert {p: p.read_bytes() for p in kept} == kept
    assert {p for p in out.rglob('*') if p.suffix in ('.jsonl', '.pt', '.png')} == kept.keys()
    check_page(out, 3, str(moved))
    check_notebook(out, 3, str(moved))
    result = check_result(out, IMAGES)
    assert result['n_samples'] == 600 and 'class_shares' not in result


# --- a report of anything that trained ----------------------------------------------------------------------------

def collapse(out, last):
    "All weights of the generator become zero but the last bias, whose second entry is given: every sample is the same"
    for path in (out / 'checkpoints').glob('*.pt'):
        saved = load_checkpoint(path)
        for net in ('g', 'average'):
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


@pytest.mark.parametrize('case', ODD)
def test_a_report_of_anything_that_trained_renders(case, tmp_path, monkeypatch):
    make, networks, collapsed, lost, left_out = ODD[case]
    monkeypatch.chdir(tmp_path)
    data = make if isinstance(make, str) else 'data'
    if make is few_lines:
        make(tmp_path / 'raw')
        prepare_text('raw', 'data', progress=False)
    elif data == 'data':
        make(tmp_path / 'raw')
        prepare('raw', 'data', 8, progress=False)
    e = Experiment(data=data, networks=networks, latent=2, width_g=8, width_d=8, depth_g=1, depth_d=1, batch=32, steps=4,
                   eval_every=2, log_every=2, eval_samples=16)
    out = fit(e, Path('run'), progress=False).out
    if collapsed is not None: collapse(out, collapsed)
    if lost: (out / 'metrics.jsonl').unlink()
    else: shutil.rmtree(out / 'samples')      # a run folder fetched without them
    page = render(out, **{'n_charges' if networks == 'text' else 'n_samples': 300})
    check_page(out, 0, str(tmp_path))
    assert left_out is None or f'Left out: {left_out}' in page.read_text(encoding='utf-8')
    check_result(out, {'steps'})


def test_what_a_report_needs_is_looked_at_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce_module, 'find_spec', lambda name: None if name == 'ipykernel' else name)
    with pytest.raises(RunError, match='a report needs ipykernel, which is not installed; pip install ipykernel'):
        reproduce('digits', tmp_path / 'run', progress=False)
    monkeypatch.undo()
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match='cannot write .*file'):
        reproduce('digits', tmp_path / 'run', report=tmp_path / 'file' / 'report', progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_methods_of_texts_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_module, 'execute', partial(execute, n_samples=640))
    tiny = dict(width_g=8, width_d=8, depth_g=1, depth_d=1, batch=16, steps=2, eval_samples=640)
    compare('text-builtin', tmp_path / 'runs', methods=['released', 'wgan-gp'], seeds=1, progress=False, **tiny)
    result = json.loads((tmp_path / 'runs' / 'result.json').read_text())
    assert {'F', 'jsd4', 'jsd6', 'r2'} <= result['released'][0].keys() and 'r2' not in result['wgan-gp'][0]


def test_a_method_is_the_same_whatever_preset_it_is_applied_to(tmp_path):
    for name in METHODS:
        e, other = (method(name, experiment(preset)) for preset in ('mixture-direct', 'mixture'))
        options = [(x.objective, x.self_term, x.charges, x.memory // x.batch, x.smoothing, x.alternating) for x in (e, other)]
        assert options[0] == options[1]
    assert method('released', experiment('mixture-direct')).objective == 'coulomb'


# --- where, and by whom -------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def page_of_nothing(tmp_path_factory):
    "A notebook that says which interpreter ran it and with which parameters"
    path = tmp_path_factory.mktemp('notebook') / 'nothing.ipynb'
    nb = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("out = ''\nresults = ''\ndata_path = ''", metadata=dict(tags=['parameters'])),
        nbformat.v4.new_code_cell('import sys\nprint(sys.executable, out, results, data_path)')],
        metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    nbformat.write(nb, path)
    return path


def said(folder): return nbformat.read(folder / 'report.ipynb', 4).cells[-1].outputs[0].text.split()


def test_a_report_runs_in_the_interpreter_that_asks_for_it(page_of_nothing, tmp_path, monkeypatch):
    "Whatever Jupyter finds under the name python3"
    spec = tmp_path / 'jupyter/kernels/python3/kernel.json'
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(dict(argv=['/bin/false'], display_name='Python 3', language='python')))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path / 'jupyter'))
    execute(page_of_nothing, tmp_path)
    assert said(tmp_path)[0] == sys.executable


@pytest.mark.parametrize('name', ['out', 'run', 'e', 'a"b', 'ü b'])
def test_the_saved_report_is_python_whatever_the_folder_is_called(name, page_of_nothing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    execute(page_of_nothing, Path(name), n_samples=3)
    cell, = [c for c in nbformat.read(Path(name, 'report.ipynb'), 4).cells if 'injected-parameters' in c.metadata.tags]
    found = {}
    exec(cell.source, found)
    assert (found['out'], found['n_samples']) == ('.', 3)


def test_a_report_elsewhere_leaves_the_run_alone_and_names_no_place(page_of_nothing, tmp_path):
    for name in ('run', 'page'): (tmp_path / name).mkdir()
    execute(page_of_nothing, tmp_path / 'run', tmp_path / 'page', data_path=str(tmp_path / 'data'))
    assert list((tmp_path / 'run').iterdir()) == []
    assert said(tmp_path / 'page')[1:] == [str(tmp_path / name) for name in ('run', 'page', 'data')]
    cell, = [c for c in nbformat.read(tmp_path / 'page/report.ipynb', 4).cells if 'injected-parameters' in c.metadata.tags]
    assert cell.source.splitlines()[1:] == ['out = "."']


def test_a_failed_report_leaves_the_one_before(page_of_nothing, tmp_path):
    execute(page_of_nothing, tmp_path)
    before = (tmp_path / 'report.html').read_bytes()
    broken = nbformat.read(page_of_nothing, 4)
    broken.cells[-1].source = '1 / 0'
    nbformat.write(broken, tmp_path / 'broken.ipynb')
    with pytest.raises(RunError, match='ZeroDivisionError'): execute(tmp_path / 'broken.ipynb', tmp_path)
    assert (tmp_path / 'report.html').read_bytes() == before


def test_numbers_of_a_run_that_may_not_be_written_are_kept_elsewhere(tmp_path):
    out = fit(experiment('digits', **SMALL | dict(steps=2, eval_every=2)), tmp_path / 'run', progress=False).out
    before = (out / 'result.json').read_bytes()
    (tmp_path / 'page').mkdir()
    elsewhere = load_run(out, results=str(tmp_path / 'page'))
    assert add_result(elsewhere)['steps'] == 2
    add_result(elsewhere, energy=.5)
    assert add_result(load_run(out, results=str(tmp_path / 'page')), more=1)['energy'] == .5
    assert (out / 'result.json').read_bytes() == before


def test_numbers_wait_for_another_writer_and_lose_nothing(tmp_path):
    r = fit(experiment('digits', **SMALL | dict(steps=2, eval_every=2)), tmp_path / 'run', progress=False)
    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda i: add_result(r, **{f'n{i}': i}), range(24)))
    assert {f'n{i}' for i in range(24)} <= add_result(r).keys()


def test_failing_cell_is_one_line(moved, monkeypatch):
    monkeypatch.chdir(moved)
    broken = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("out = ''", metadata=dict(tags=['parameters'])),
        nbformat.v4.new_code_cell('share = 1 / 0')],
        metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    nbformat.write(broken, moved / 'broken.ipynb')
    monkeypatch.setattr(reproduce_module, 'notebook', lambda kind: moved / 'broken.ipynb')
    with pytest.raises(RunError) as caught: render(Path('elsewhere/folder'))
    message = str(caught.value)
    assert message == 'cell 3 of broken.ipynb failed: ZeroDivisionError: division by zero'


def test_report_of_nothing_is_one_line(tmp_path):
    with pytest.raises(RunError, match='holds no run') as caught: render(tmp_path / 'nothing')
    assert '\n' not in str(caught.value)


def test_unfinished_run_is_refused_in_words(tmp_path):
    "A run that was stopped has no result.json yet"
    fit(experiment('digits', **SMALL), tmp_path / 'run', progress=False)
    (tmp_path / 'run' / 'result.json').unlink()
    with pytest.raises(RunError) as caught: render(tmp_path / 'run')
    message = str(caught.value)
    assert 'FileNotFoundError' not in message and '\n' not in message


def test_report_folder_may_be_the_run_folder(tmp_path, monkeypatch):
    def rendered(out):
        for name in ('report.ipynb', 'report.html', 'result.json'): (out / name).write_text(name)
        return out / 'report.html'
    monkeypatch.setattr(reproduce_module, 'fit', lambda e, out, progress: out.mkdir())
    monkeypatch.setattr(reproduce_module, 'render', rendered)
    page = reproduce('digits', tmp_path / 'run', report=tmp_path / 'run')
    assert page == tmp_path / 'run' / 'report.html' and page.read_text() == 'report.html'
