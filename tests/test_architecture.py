"""Chapters are read in order: a module imports from its own chapter and from earlier ones only, and nothing in a circle.

Imports inside functions count, and so do those of the notebooks' checks, but for the few named in `EXCEPTIONS`.
"""
import ast
import re

import pytest

from test_style import NOTEBOOKS, ROOT, load

PACKAGE = ROOT / 'coulomb_gan'
CHAPTERS = ['field', 'objectives', 'networks', 'data', 'metrics', 'training', 'reporting']
TOOLS = {p.stem for p in (ROOT / 'nbs/tools').glob('*.ipynb')}          # used everywhere; they use each other only
SOURCES = sorted(p for p in PACKAGE.rglob('*.py') if not p.stem.startswith('_'))
# Checks that need what stands later, and why
EXCEPTIONS = {
    ('1_field/05_potential', 'data'): 'the share of the self term is measured on digits',
}


def order(module):
    "Number of a module's chapter; tools come first"
    return 0 if module[0] in TOOLS else 1 + CHAPTERS.index(module[0])


def imports(tree, here=()):
    "Modules of the package that are imported anywhere in a tree, as tuples such as ('field', 'kernels')"
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        parts = (node.module or '').split('.')
        if node.level: parts = [*here[:len(here) - node.level], *parts]
        elif parts[0] == 'coulomb_gan': parts = parts[1:]
        else: continue
        parts = [p for p in parts if p]
        if not parts or (len(parts) == 1 and parts[0] in CHAPTERS): yield from ((*parts, name.name) for name in node.names)
        else: yield tuple(parts)


def modules(found): return {m for m in found if m[0] in TOOLS or m[0] in CHAPTERS}


def upward(own, found):
    "Imports of a module from a later chapter; of a tool, from anything but a tool"
    return sorted('.'.join(other) for other in modules(found) if order(other) > order(own))


def graph():
    own = {p: p.relative_to(PACKAGE).with_suffix('').parts for p in SOURCES}
    return {own[p]: modules(imports(ast.parse(p.read_text(encoding='utf-8')), own[p])) for p in SOURCES}


def circle(arrows):
    "A list of modules of which each imports the next and the last the first; None if there is none"
    done = set()
    def visit(node, path):
        if node in path: return path[path.index(node):]
        if node in done: return None
        for other in arrows.get(node, ()):
            if found := visit(other, [*path, node]): return found
        done.add(node)
    return next((found for node in arrows if (found := visit(node, []))), None)


def test_every_module_has_a_chapter():
    homeless = ['/'.join(m) for m in graph() if m[0] not in TOOLS and m[0] not in CHAPTERS]
    assert not homeless, homeless


def test_imports_point_to_earlier_chapters():
    faults = [f'{".".join(own)} imports {other}' for own, found in graph().items() for other in upward(own, found)]
    assert not faults, '\n'.join(['', *faults])


def test_no_circle():
    found = circle(graph())
    assert not found, ' -> '.join('.'.join(m) for m in found)


def chapter_of(notebook):
    "The chapter of a notebook; None for the introduction and the experiments, which may use everything"
    folder = re.match(r'(?:\d_)?(\w+)/', notebook)
    return folder[1] if folder and folder[1] in (*CHAPTERS, 'tools') else None


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / 'nbs').as_posix())
def test_checks_use_what_has_been_read(path):
    nb = load(path)
    chapter = chapter_of(nb.name)
    if chapter is None: return
    own = (next(iter(TOOLS)),) if chapter == 'tools' else (chapter,)
    found = {m for c in nb.code if not c.exported for m in imports(c.tree)}
    faults = [other for other in upward(own, found) if (nb.name, other.split('.')[0]) not in EXCEPTIONS]
    assert not faults, f'{nb.name} checks with {", ".join(faults)}'


def test_exceptions_are_needed():
    "The list may shrink and says why"
    for name, chapter in EXCEPTIONS:
        nb = load(ROOT / f'nbs/{name}.ipynb')
        found = {m[0] for c in nb.code if not c.exported for m in imports(c.tree)}
        assert chapter in found, f'{name} needs {chapter} no more'


def test_faults_are_found():
    tree = ast.parse('from ..training.fit import fit\ndef f():\n    from coulomb_gan.reporting import cli\nfrom coulomb_gan import plots')
    found = set(imports(tree, ('metrics', 'bad')))
    assert found == {('training', 'fit'), ('reporting', 'cli'), ('plots',)}
    assert upward(('metrics', 'bad'), found) == ['reporting.cli', 'training.fit']
    assert upward(('plots',), {('field', 'kernels')}) == ['field.kernels'] and not upward(('field', 'a'), {('files',)})
    assert circle({1: [2], 2: [3], 3: [1]}) and circle({1: [2, 3], 2: [3], 3: []}) is None
