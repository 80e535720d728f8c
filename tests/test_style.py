"""The budgets of the house style, measured on the stored notebooks and the generated modules.

A budget is a function from one notebook to the list of its faults, each naming the cell, what was got and the limit.
"""
import ast
import io
import json
import re
import tokenize
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
OPEN_ENDED = {'index', '00_paper'}                     # these, and the experiments, need no closing section
PROTOCOL = {'forward'}                                 # methods whose signature another library fixes
LONGER = {'fit': 45, '_train': 45}                 # functions that are read as a whole
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
MACHINE_PATH = re.compile(r'(?:(?<![\w.])|(?<=\\[nt]))/(?:home|root|work|tmp)/')      # not inside a web address


# --- reading a notebook -------------------------------------------------------------------------------------------

class Cell:
    def __init__(self, nb, i, cell):
        self.where, self.kind = f"{nb} cell {i} #{cell.get('id', '?')}", cell['cell_type']
        self.source, self.outputs = ''.join(cell['source']), cell.get('outputs', [])
        self.tags = cell['metadata'].get('tags', [])
        self.directives = re.findall(r'^#\|\s*(.+?)\s*$', self.source, flags=re.M) if self.kind == 'code' else []

    def has(self, *names): return any(d.split()[0] in names for d in self.directives)
    exported = property(lambda self: self.has('export', 'exports', 'exporti'))
    public = property(lambda self: self.has('export', 'exports'))

    @property
    def lines(self): return [l for l in self.source.splitlines() if l.strip() and not l.startswith('#|')]

    @property
    def logic(self):
        "Lines that compute: `lines` without the docstrings and without the one-a-line docments of a signature."
        drop = set()
        for node in ast.walk(self.tree):
            if isinstance(node, (*FUNCTION, ast.ClassDef)):
                if ast.get_docstring(node): drop |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
                if isinstance(node, FUNCTION): drop |= set(range(node.lineno + 1, node.body[0].lineno))
        numbered = enumerate(self.source.splitlines(), 1)
        return [l for i, l in numbered if l.strip() and not l.startswith('#|') and i not in drop]

    @property
    def tree(self): return ast.parse(re.sub(r'^\s*[%!].*$', '', self.source, flags=re.M))


class Notebook:
    def __init__(self, name, text):
        self.name, self.text, self.experiment = name, text, name.startswith('experiments/')
        self.cells = [Cell(name, i, c) for i, c in enumerate(json.loads(text)['cells'])]
        self.code = [c for c in self.cells if c.kind == 'code']
        self.exported = [c for c in self.code if c.exported]

    def headings(self, level=r'#{1,6}'):
        "(cell, title) of every markdown heading, code fences left out"
        for c in self.cells:
            prose = re.sub(r'^```.*?^```', '', c.source, flags=re.M | re.S) if c.kind == 'markdown' else ''
            yield from ((c, title) for title in re.findall(rf'^{level} +(.+?)\s*$', prose, flags=re.M))


def read(path): return path.read_text(encoding='utf-8')

@cache
def load(path): return Notebook(path.relative_to(ROOT/'nbs').with_suffix('').as_posix(), read(path))


# --- reading signatures -------------------------------------------------------------------------------------------

def public_names(cell):
    "The names a cell adds to `__all__`"
    for node in cell.tree.body if cell.public else []:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, 'target', None)]
        names = [node.name] if hasattr(node, 'name') else [t.id for t in targets if isinstance(t, ast.Name)]
        yield from (n for n in names if not n.startswith('_'))


def defined(cell): return [n.name for n in cell.tree.body if hasattr(n, 'name')]


def is_record(node):
    "A dataclass or a named tuple: its fields are its signature"
    marks = [ast.unparse(n) for n in node.decorator_list + node.bases]
    return any(re.match(r'(\w+\.)?(dataclass|NamedTuple)\b', m) for m in marks)


def parameters(node):
    "(name, first line, last line) of each parameter of a function, or of each field of a dataclass"
    if isinstance(node, ast.ClassDef):
        for f in node.body:
            if isinstance(f, ast.AnnAssign) and 'ClassVar' not in ast.unparse(f.annotation):
                yield f.target.id, f.lineno, f.end_lineno
        return
    args = node.args
    positional = args.posonlyargs + args.args
    defaults = [None]*(len(positional) - len(args.defaults)) + args.defaults + args.kw_defaults
    for a, default in zip(positional + args.kwonlyargs, defaults):
        if a.arg not in ('self', 'cls'): yield a.arg, a.lineno, (default or a).end_lineno


def signatures(tree):
    "(label, node) of everything in a cell that must carry docments"
    for node in tree.body:
        if getattr(node, 'name', '_').startswith('_'): continue
        if isinstance(node, FUNCTION): yield node.name, node
        if not isinstance(node, ast.ClassDef): continue
        if is_record(node): yield node.name, node
        for m in node.body:
            if isinstance(m, FUNCTION) and (m.name == '__init__' or m.name[0] != '_') and m.name not in PROTOCOL:
                yield f'{node.name}.{m.name}', m


def patched(node):
    "The class that fastcore's `patch` gives a function to"
    marked = isinstance(node, FUNCTION) and 'patch' in [ast.unparse(d) for d in node.decorator_list]
    return ast.unparse(node.args.args[0].annotation) if marked else None


def methods(trees):
    "Class -> its bases, class -> its public methods, those that are patched in included"
    bases, own = {}, {}
    for node in (n for tree in trees for n in tree.body):
        if isinstance(node, ast.ClassDef):
            bases[node.name] = [ast.unparse(b) for b in node.bases]
            own.setdefault(node.name, set()).update(m.name for m in node.body if isinstance(m, FUNCTION))
        elif patched(node): own.setdefault(patched(node), set()).add(node.name)
    return bases, own


def inherited(trees):
    "Labels of methods that override one of a public base class, where the docments stand"
    bases, own = methods([*everywhere(), *trees])
    def above(name): return {m for base in bases.get(name, ()) for m in own.get(base, set()) | above(base)}
    return {label for name in own for m in own[name] & above(name) if m != '__init__' for label in (f'{name}.{m}', (name, m))}


@cache
def everywhere():
    "Trees of all exported public cells"
    return [c.tree for path in NOTEBOOKS for c in load(path).exported if c.public]


def undocumented(source, node):
    "Parameters without a comment of their own: one parameter a line, the comment beside it"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0] for t in tokens if t.type == tokenize.COMMENT}
    spans = list(parameters(node))
    for name, first, last in spans:
        shared = [n for n, f, l in spans if n != name and f <= last and first <= l]
        if shared or not comments.intersection(range(first, last + 1)): yield name


# --- reading code -------------------------------------------------------------------------------------------------

OPERATIONS = (ast.Call, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Subscript, ast.Attribute, ast.IfExp,
              ast.AugAssign, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def functions(tree):
    "Outermost functions, methods included"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTION): yield node
        else: yield from functions(node)


def operations(tree):
    "Operations, and the lines that hold them, in the bodies of functions without their docstrings"
    ops, lines = 0, 0
    for f in functions(tree):
        body = f.body[1:] if ast.get_docstring(f) else f.body
        nodes = [n for statement in body for n in ast.walk(statement)]
        ops += sum(isinstance(n, OPERATIONS) for n in nodes)
        lines += len({n.lineno for n in nodes if hasattr(n, 'lineno')})
    return ops, lines


def packed(node):
    "Several names assigned at once from what is computed or chosen in the same line"
    if not isinstance(node, ast.Assign) or not any(isinstance(t, (ast.Tuple, ast.List)) for t in node.targets): return False
    if isinstance(node.value, ast.IfExp): return True
    if not isinstance(node.value, (ast.Tuple, ast.List, ast.ListComp, ast.GeneratorExp)): return False
    return any(isinstance(n, (ast.Call, ast.IfExp)) for n in ast.walk(node.value))


def bare_and(node, source):
    "`x and y or z`, `... and y if`: an `and` inside an `or`, without parentheses of its own"
    if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or): return False
    lines = source.splitlines()
    inner = [v for v in node.values if isinstance(v, ast.BoolOp)]
    return any(not lines[v.lineno - 1][:v.col_offset].endswith('(') for v in inner)


def tricks(cell):
    "(what, line) for each line that a reader must unpack"
    lines = cell.source.splitlines()
    for node in ast.walk(cell.tree):
        what = None
        if packed(node): what = 'a packed assignment'
        elif bare_and(node, cell.source): what = 'and beside or without parentheses'
        elif isinstance(node, ast.Call) and any(isinstance(n, ast.NamedExpr) for a in node.args for n in ast.walk(a)):
            what = 'an assignment inside an argument'
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.left, ast.List):
            if not isinstance(node.right, (ast.Constant, ast.Call, ast.BinOp)): what = 'a list times a flag'
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[0].isupper():
            starred = any(isinstance(a, ast.Starred) for a in node.args)
            if starred or len(node.args) > 4: what = 'fields filled by position'
        if what: yield what, lines[node.lineno - 1].strip()


# --- the budgets --------------------------------------------------------------------------------------------------

BUDGETS = []
def budget(f): BUDGETS.append(f); return f


@budget
def exported_cell_length(nb, limit=30):
    "Two functions that are read as a whole may be longer"
    faults = []
    for cell in nb.exported:
        longer = max([LONGER.get(name, limit) for name in defined(cell)] or [limit])
        if len(cell.lines) > longer: faults.append(f'{cell.where}: {len(cell.lines)} lines, limit {longer}')
    return faults

@budget
def median_exported_length(nb, limit=8, few=8):
    "Of a page with eight or more of them; a median of few says little"
    got = median([len(c.logic) for c in nb.exported]) if len(nb.exported) >= few else 0
    return [f'{nb.name}: the median exported cell has {got} lines of logic, limit {limit}'] if got > limit else []

@budget
def module_length(nb, limit=150):
    "Lines of logic of the whole module; documentation is free"
    got = sum(len(c.logic) for c in nb.exported)
    return [f'{nb.name}: {got} exported lines of logic, limit {limit}'] if got > limit else []

@budget
def line_width(nb, limit=110):
    "Of every code cell that a reader sees"
    wide = [(c.where, l) for c in nb.code if not c.has('hide') for l in c.lines if len(l) > limit]
    return [f'{where}: width {len(l)}, limit {limit}: {l.strip()[:60]}...' for where, l in wide]

@budget
def density(nb, limit=4.):
    "What the eye must unpack in a line"
    counts = [operations(c.tree) for c in nb.exported]
    got = sum(ops for ops, _ in counts) / (sum(lines for _, lines in counts) or 1)
    return [f'{nb.name}: {got:.2f} operations a line, limit {limit}'] if got > limit else []

@budget
def one_public_symbol(nb):
    return [f'{c.where}: {len(names)} public symbols, limit 1: {", ".join(names)}'
            for c in nb.exported if len(names := list(public_names(c))) > 1]

@budget
def helpers_have_docstrings(nb):
    helpers = [(c, n) for c in nb.exported for n in c.tree.body if isinstance(n, (*FUNCTION, ast.ClassDef))]
    return [f'{c.where}: `{n.name}` has no docstring' for c, n in helpers if not ast.get_docstring(n)]

@budget
def plain_lines(nb):
    return [f'{c.where}: {what}: {line[:60]}' for c in nb.exported for what, line in tricks(c)]

@budget
def docments(nb):
    cells = [c for c in nb.exported if c.public]
    skip = inherited([c.tree for c in cells])
    return [f'{c.where}: `{label}` lacks a comment on {name}' for c in cells for label, node in signatures(c.tree)
            if label not in skip and (patched(node), label) not in skip for name in undocumented(c.source, node)]

@budget
def exported_names_are_used(nb):
    faults = []
    for i, cell in enumerate(nb.code):
        later = [n for c in nb.code[i+1:] if not c.exported for n in ast.walk(c.tree)]
        used = {n.id for n in later if isinstance(n, ast.Name)}
        used |= {n.attr for n in later if isinstance(n, ast.Attribute)}
        faults += [f'{cell.where}: no later cell checks `{n}`' for n in public_names(cell) if n not in used]
    return faults

@budget
def hidden_share(nb, limit=.2):
    got, total = sum(c.has('hide') for c in nb.code), len(nb.code)
    return [f'{nb.name}: {got} of {total} code cells hidden, limit {limit:.0%}'] if got >= limit*total > 0 else []

@budget
def one_title(nb):
    titles = [c for c, _ in nb.headings('#')]
    if len(titles) != 1: return [f'{nb.name}: {len(titles)} first-level headings, expected 1']
    alone = re.fullmatch(r'# [^\n]+\n+> [^\n]+(\n> [^\n]+)*\s*', titles[0].source)
    got = titles[0].source[:80]
    return [] if alone else [f'{titles[0].where}: expected a title and a "> " subtitle alone, got {got!r}']

@budget
def closing_section(nb):
    last = ([t for _, t in nb.headings()] or ['no heading'])[-1]
    closed = last == 'What we established' or nb.experiment or nb.name in OPEN_ENDED
    return [] if closed else [f"{nb.name}: ends with '{last}', expected 'What we established'"]

@budget
def stored_size(nb, limit=600_000):
    got = len(nb.text.encode())
    return [f'{nb.name}: {got/1e3:.0f} kB stored, limit {limit/1e3:.0f} kB'] if got > limit else []

@budget
def image_size(nb, limit=150_000):
    images = [(c.where, len(''.join(o.get('data', {}).get('image/png', '')))*3//4) for c in nb.code for o in c.outputs]
    return [f'{where}: a PNG of {got/1e3:.0f} kB, limit {limit/1e3:.0f} kB' for where, got in images if got > limit]

@budget
def no_stored_errors(nb):
    return [f"{c.where}: stored {o.get('ename')}" for c in nb.code for o in c.outputs if o['output_type'] == 'error']

@budget
def no_skipped_cells(nb):
    return [f'{c.where}: {d}' for c in nb.code for d in c.directives if re.fullmatch(r'eval:\s*false', d)]

@budget
def default_dtype_is_set_back(nb):
    "Notebooks are tested in one process: what one leaves set meets the next."
    code = '\n'.join(c.source for c in nb.code)
    last = ([None] + re.findall(r'set_default_dtype\((.+?)\)', code))[-1]
    return [f'{nb.name}: ends with the default dtype {last}'] if last not in (None, 'torch.float32') else []

@budget
def no_machine_paths(nb):
    return [f'{nb.name}: {nb.text[m.start():m.end()+30]!r}' for m in MACHINE_PATH.finditer(nb.text)]

@budget
def experiment_form(nb, limit=25):
    if not nb.experiment: return []
    tagged = sum('parameters' in c.tags for c in nb.cells)
    faults = [f'{nb.name}: {tagged} cells tagged parameters, expected 1'] if tagged != 1 else []
    if len(nb.cells) > limit: faults.append(f'{nb.name}: {len(nb.cells)} cells, limit {limit}')
    for c in nb.code:
        nodes = list(ast.walk(c.tree))
        defined = [n.name for n in nodes if isinstance(n, (*FUNCTION, ast.ClassDef))]
        assigned = [n for n in nodes if isinstance(n, (ast.Assign, ast.AnnAssign, ast.NamedExpr))]
        defined += [ast.unparse(n) for n in assigned if isinstance(n.value, ast.Lambda)]
        faults += [f'{c.where}: defines {d}, experiments only import' for d in defined]
    return faults


# --- the tests ----------------------------------------------------------------------------------------------------

def test_the_package_is_plain(limit=3.):
    "Mean over all modules; the codebases people hold up have 0.9 to 2.8"
    counts = [operations(c.tree) for path in NOTEBOOKS for c in load(path).exported]
    got = sum(ops for ops, _ in counts) / sum(lines for _, lines in counts)
    assert got <= limit, f'{got:.2f} operations a line, limit {limit}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT/'nbs').as_posix())
@pytest.mark.parametrize('check', BUDGETS, ids=lambda f: f.__name__)
def test_notebook(check, path):
    faults = check(load(path))
    assert not faults, '\n'.join(['', *faults])


def test_no_machine_paths_elsewhere():
    patterns = ['README.md', 'Makefile', 'settings.ini', 'coulomb_gan/**/*.py', 'tests/**/*.py', 'benchmarks/*.py',
                'reports/**/*.json', 'reports/**/*.ipynb', 'nbs/*.py', 'nbs/_ext/*.py', 'nbs/*.md', 'nbs/playground/*']
    texts = {p.relative_to(ROOT): read(p) for pattern in patterns for p in sorted(ROOT.glob(pattern))}
    faults = [f'{p}: {t[m.start():m.end()+30]!r}' for p, t in texts.items() for m in MACHINE_PATH.finditer(t)]
    assert not faults, '\n'.join(faults)


# --- the budgets can be exceeded ----------------------------------------------------------------------------------

def md(source): return dict(cell_type='markdown', id='m', metadata={}, source=source)
def py(source, outputs=(), tags=()):
    return dict(cell_type='code', id='c', metadata={'tags': list(tags)}, source=source, outputs=list(outputs))

def made_up(name, *cells): return Notebook(name, json.dumps({'cells': cells}))

GOOD = made_up(
    'made_up', md('# Title\n> Subtitle'), *[py(f'n + {i}') for i in range(4)],
    py('#| export\ndef f(\n    x, # a point\n    *args, n=(1,\n     2), # a pair\n    **kw):\n    "Doc"\n    return x'),
    py('#| export\n@dataclass(frozen=True)\nclass C:\n    "Doc"\n    a: int = 1 # unit\n    def g(self, q): # one\n        pass'),
    py('#| export\nclass Sub(C):\n    "Doc"\n    def g(self, q): pass'), py('#| hide\nassert f(1) == C().a == Sub().a'),
    md('## What we established\n```python\n# not a heading\n```'))
BAD = made_up(
    'made_up', md('# Title\n> Subtitle\n\nand more'), md('# Another title'),
    py('#| export\ndef f(x, y): # both\n' + '    x[0].a[1](y + 1, [y.b for y in x])\n'*160 + '    ' + 'z'*120
       + '\ndef h(a): # one\n    b, c = f(a), a\nclass K: pass'),
    py('#| export\n@dataclass\nclass C:\n    a: int = 1\n    def g(self, q): pass'),
    py('#| hide\n#| eval: false\n"/' + 'home/me"', [dict(output_type='error', ename='ValueError')]),
    py('torch.set_default_dtype(torch.float64)\nplot()', [dict(output_type='display_data', data={'image/png': 'A'*900_000})]), md('## Afterthoughts'))
GOOD_EXPERIMENT = made_up(
    'experiments/made_up', md('# Title\n> Subtitle'), py('n = 1', tags=['parameters']), py('fit(key=lambda r: n)'))
LONG = made_up('made_up', *[py('#| export\n' + 'x = f(1)\n'*9)]*8)
BAD_EXPERIMENT = made_up('experiments/made_up', py('def f(): pass'), py('g = lambda: 1'), *[py('1')]*24)


@pytest.mark.parametrize('check', BUDGETS, ids=lambda f: f.__name__)
def test_budget_can_fail(check):
    assert check(GOOD) == [] == check(GOOD_EXPERIMENT)
    assert check({experiment_form: BAD_EXPERIMENT, median_exported_length: LONG}.get(check, BAD))


def test_faults_are_named():
    assert [f.split(': ')[1] for f in docments(BAD)] == [
        '`f` lacks a comment on x', '`f` lacks a comment on y',
        '`C` lacks a comment on a', '`C.g` lacks a comment on q']
    assert [f.split(': ')[1] for f in plain_lines(BAD)] == ['a packed assignment']
    assert len(experiment_form(BAD_EXPERIMENT)) == 4
    slash = '/'
    assert [bool(MACHINE_PATH.search(slash + t)) for t in ('tmp/a', 'root/a', 'temp/a')] == [True, True, False]
    assert not MACHINE_PATH.search('https:' + '//host.org' + slash + 'work/a')
    assert exported_names_are_used(BAD) == [
        *[f'made_up cell 2 #c: no later cell checks `{name}`' for name in 'fhK'],
        'made_up cell 3 #c: no later cell checks `C`']
    for line, what in (('x = a and b or c', 'and beside or'), ('f(x := 1)', 'inside an argument'), ('[1] * flag', 'times a flag'),
                       ('Gauge(*a)', 'by position'), ('a, b = (f(c) for c in d)', 'packed'), ('a, b = c if d else e', 'packed')):
        assert any(what in f for f in plain_lines(made_up('x', py('#| export\n' + line)))), line
    for line in ('x = (a and b) or c', 'a, b = f(x)', 'a, b = b, a', '[1] * 3', 'Gauge(1, 2)'):
        assert not plain_lines(made_up('x', py('#| export\n' + line))), line
