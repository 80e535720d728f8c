"""Reports, looked into: a self-contained page, an anonymous notebook, finite numbers; and cells executed in this process."""
import ast
import json
import math
import re
from pathlib import Path

import IPython.display
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from PIL import Image

from coulomb_gan.reporting.render import notebook

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(steps=100, eval_every=50, log_every=10, eval_samples=100, width_g=16, width_d=16, depth_g=1, depth_d=1, batch=32)
TOP = {'steps', 'seconds', 'eval_seconds', 'seed', 'hardware', 'commit', 'data_digest', 'metrics'}      # of every `result.json`


# --- what is looked into ------------------------------------------------------------------------------------------

def figures(nb): return [o for c in nb.cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {})]

def check_page(folder, least, *forbidden):
    "One self-contained page with figures, and neither errors nor paths of this machine"
    html = (folder / 'report.html').read_text(encoding='utf-8')
    assert html.count('<img') >= least and html.count('src="data:image/png;base64,') >= least
    assert re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)\s*=\s*["\']?(?:https?:)?//[^>]*', html) == []
    for text in ('Traceback', str(ROOT), str(Path.home()), *forbidden): assert text not in html

def check_notebook(folder, least, *forbidden):
    "One notebook with figures and one cell of parameters, and neither bookkeeping nor paths of this machine"
    text = (folder / 'report.ipynb').read_text(encoding='utf-8')
    nb = nbformat.reads(text, as_version=4)
    nbformat.validate(nb)
    assert len(figures(nb)) >= least
    assert all(f.metadata['image/png']['alt'] for f in figures(nb))
    assert [t for c in nb.cells for t in c.metadata.get('tags', [])] == ['parameters', 'injected-parameters']
    assert {k for c in nb.cells for k in c.metadata} <= {'tags'}
    for word in ('papermill', 'Traceback', str(ROOT), str(Path.home()), *forbidden): assert word not in text

def numbers(value):
    if isinstance(value, dict): value = list(value.values())
    return [n for v in value for n in numbers(v)] if isinstance(value, list) else [value]

def check_result(folder, *metrics):
    "All numbers are finite and the named metrics are there; the whole `result.json`"
    result = json.loads((folder / 'result.json').read_text())
    assert TOP <= result.keys() and {*metrics} <= result['metrics'].keys()
    assert all(math.isfinite(n) for n in numbers(result) if isinstance(n, float))
    return result

def files(folder, *parts):
    "Contents and times of all files, or of those in some parts of a folder"
    found = [p for part in parts or ('',) for p in Path(folder, part).rglob('[!.]*') if p.is_file() and p.name != 'lock.json']
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


# --- made up ------------------------------------------------------------------------------------------------------

def make_pictures(folder, count=80, side=20):
    "Colour images of one random tint each, with noise"
    folder.mkdir(parents=True)
    gen = torch.Generator().manual_seed(0)
    for i in range(count):
        tint = torch.rand(3, generator=gen) * 200
        pixels = tint + 55 * torch.rand(side, side, 3, generator=gen)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f'{i}.png')

def make_notebook(path, *sources):
    "Cells of code, the first of them with the parameters"
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata.tags = ['parameters']
    python = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=python), path)
    return path


# --- a report without a kernel ------------------------------------------------------------------------------------

def value_of(source, names):
    "Executes a cell; the value of its last line, if that is an expression"
    tree = ast.parse(source)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, 'cell', 'exec'), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), 'cell', 'exec'), names)
    return eval(compile(ast.Expression(last.value), 'cell', 'eval'), names)

def shown_here(kind, **parameters):
    "What an experiment notebook shows, executed here, where a test may have registered things: its texts, number of figures"
    shown, names = [], {}
    plt.close('all')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IPython.display, 'display', lambda what, **more: shown.append(what))
        for cell in nbformat.read(notebook(kind), 4).cells:
            if cell.cell_type != 'code': continue
            shown.append(value_of(cell.source, names))
            if 'parameters' in cell.metadata.get('tags', ()): names |= parameters
    assert plt.get_fignums() == []      # each was shown, with an alternative text
    n_figures = sum(isinstance(s, plt.Figure) for s in shown)
    return '\n'.join(s.data for s in shown if isinstance(s, IPython.display.Markdown)), n_figures
