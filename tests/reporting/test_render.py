"""Notebooks that are executed: where, by which interpreter, and what their report does not tell."""
import json
import sys
from pathlib import Path

import nbformat
import pytest

from coulomb_gan.files import RunError
from coulomb_gan.reporting import render as render_module
from coulomb_gan.reporting.render import PLACES, check_places, check_tools, copy_report, execute, notebook, to_html
from pages import check_page, figures, make_notebook


@pytest.fixture(scope='module')
def page_of_nothing(tmp_path_factory):
    "A notebook that says which interpreter ran it and with which parameters"
    return make_notebook(tmp_path_factory.mktemp('notebook') / 'nothing.ipynb', "out = ''\nresults = ''\ndata_path = ''",
                         'import sys\nprint(sys.executable, out, results, data_path)')

def said(folder): return nbformat.read(folder / 'report.ipynb', 4).cells[-1].outputs[0].text.split()

def injected(folder):
    "The cell of parameters in the report"
    cell, = [c for c in nbformat.read(folder / 'report.ipynb', 4).cells if 'injected-parameters' in c.metadata.tags]
    return cell.source


# --- before anything is done --------------------------------------------------------------------------------------

@pytest.mark.parametrize('missing', ['papermill', 'nbconvert', 'ipykernel', 'math_core'])
def test_what_a_report_needs_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setattr(render_module, 'find_spec', lambda name: None if name == missing else name)
    for check in (check_tools, lambda: check_places(tmp_path)):
        with pytest.raises(RunError, match=f'a report needs {missing}, which is not installed; pip install {missing}'): check()


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / 'file').write_text('')
    check_places(tmp_path / 'new' / 'folder', None)
    with pytest.raises(RunError, match='cannot write .*file'): check_places(tmp_path, tmp_path / 'file' / 'report')
    assert [p.name for p in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('kind', ['images', 'mixture', 'text', 'methods'])
def test_notebooks_have_the_parameters_of_a_report(kind):
    cells = nbformat.read(notebook(kind), 4).cells
    cell, = [c for c in cells if 'parameters' in c.metadata.get('tags', ())]
    names = {}
    exec(cell.source, names)
    assert {'name', 'out', 'settings'} <= names.keys() and (names['out'], names['settings']) == ('', {})
    assert kind == 'methods' or {*PLACES} - {'images'} <= names.keys()


def test_the_report_of_given_images_has_its_places_among_the_parameters():
    cell, = [c for c in nbformat.read(notebook('given_images'), 4).cells if 'parameters' in c.metadata.get('tags', ())]
    names = {}
    exec(cell.source, names)
    assert {*PLACES} & names.keys() == {'images', 'data_path', 'out'}


# --- where, and by whom -------------------------------------------------------------------------------------------

def test_a_report_runs_in_the_interpreter_that_asks_for_it(page_of_nothing, tmp_path, monkeypatch):
    "Whatever Jupyter finds under the name python3"
    spec = tmp_path / 'jupyter/kernels/python3/kernel.json'
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(dict(argv=['/bin/false'], display_name='Python 3', language='python')))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path / 'jupyter'))
    execute(page_of_nothing, tmp_path)
    assert said(tmp_path)[0] == sys.executable


@pytest.mark.parametrize('name', ['out', 'run', 'e', 'a"b', 'ü b'])
def test_the_saved_report_is_python_whatever_the_folder_is_called(name, page_of_nothing, place):
    Path(name).mkdir()
    execute(page_of_nothing, Path(name), n_samples=3, settings={'optim': {'steps': 4}, 'out': True})
    found = {}
    exec(injected(Path(name)), found)
    assert (found['out'], found['n_samples'], found['settings']) == ('.', 3, {'optim': {'steps': 4}, 'out': True})


def test_a_report_elsewhere_leaves_the_run_alone_and_names_no_place(page_of_nothing, tmp_path):
    for name in ('run', 'page'): (tmp_path / name).mkdir()
    execute(page_of_nothing, tmp_path / 'run', tmp_path / 'page', data_path=str(tmp_path / 'data'))
    assert list((tmp_path / 'run').iterdir()) == []
    assert said(tmp_path / 'page')[1:] == [str(tmp_path / name) for name in ('run', 'page', 'data')]
    assert injected(tmp_path / 'page').splitlines()[1:] == ['out = "."']


def test_figures_are_drawn_on_a_server_without_a_screen(tmp_path, monkeypatch):
    "A kernel that inherited the backend would draw into no notebook"
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    drawing = make_notebook(tmp_path / 'drawing.ipynb', "out = ''", 'import matplotlib.pyplot as plt\nplt.plot([1, 2]);')
    execute(drawing, tmp_path / 'run')
    assert len(figures(nbformat.read(tmp_path / 'run/report.ipynb', 4))) == 1
    check_page(tmp_path / 'run', 1, str(tmp_path))


# --- what goes wrong ----------------------------------------------------------------------------------------------

def test_a_failing_cell_is_one_line_and_leaves_the_report_before(page_of_nothing, tmp_path):
    execute(page_of_nothing, tmp_path)
    before = [(tmp_path / f'report.{end}').read_bytes() for end in ('html', 'ipynb')]
    broken = make_notebook(tmp_path / 'broken.ipynb', "out = ''", '1 / 0')
    with pytest.raises(RunError) as caught: execute(broken, tmp_path)
    assert str(caught.value) == 'cell 3 of broken.ipynb failed: ZeroDivisionError: division by zero'
    assert [(tmp_path / f'report.{end}').read_bytes() for end in ('html', 'ipynb')] == before


def test_a_report_that_cannot_be_written_is_told_before_the_notebook_runs(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setattr(render_module, 'executed', lambda *a: pytest.fail('it ran'))
    with pytest.raises(RunError, match='cannot write'): execute(notebook('images'), tmp_path, tmp_path / 'file')


# --- the page -----------------------------------------------------------------------------------------------------

def test_a_page_needs_nothing_from_elsewhere(tmp_path):
    path = make_notebook(tmp_path / 'report.ipynb', 'n = 1', 'f = n')
    nb = nbformat.read(path, 4)
    nb.cells.append(nbformat.v4.new_markdown_cell('# A title\n\n$a^2$ <script src="https://host.org/x.js"></script> *end*'))
    nbformat.write(nb, path)
    html = to_html(path).read_text(encoding='utf-8')
    assert 'A title' in html and '<em>end</em>' in html and '<script' not in html and 'host.org' not in html


def test_copies_hold_the_page_its_notebook_and_the_numbers(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    for name in ('report.ipynb', 'report.html', 'result.json', 'config.json'): (run / name).write_text(name)
    page = run / 'report.html'
    assert copy_report(page, None) == copy_report(page, run) == copy_report(page, run / '..' / 'run') == page
    assert copy_report(page, tmp_path / 'a' / 'copy') == tmp_path / 'a' / 'copy' / 'report.html'
    assert {p.name: p.read_text() for p in (tmp_path / 'a/copy').iterdir()} == {
        name: name for name in ('report.ipynb', 'report.html', 'result.json')}
    with pytest.raises(RunError, match='cannot write'): copy_report(page, page / 'copy')
