"""What the book does to a notebook, and its reference pages, without building it."""
import inspect
import json
import re
from html import unescape
from importlib import import_module

import pytest

import book_pages
import line_breaks
import reference
from coulomb_gan.formulas import mathml
from test_style import NOTEBOOKS, ROOT, load

CHAPTERS = [name for name in book_pages.API if name != 'coulomb_gan']


def read(name): return json.loads((ROOT / f'nbs/{name}.ipynb').read_text(encoding='utf-8'))
def names(): return [p.relative_to(ROOT / 'nbs').with_suffix('').as_posix() for p in NOTEBOOKS]


# --- notebooks ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('source, shown', [
    ('#| export\nx = 1', 'x = 1'), ('#| default_exp a.b', None), ('#| hide\nassert x', None),
    ('x = 1  # | not one', 'x = 1  # | not one'), ('#| exports\n#| more\ny', 'y')])
def test_directives_go_and_hidden_cells_with_them(source, shown): assert book_pages.without_directives(source) == shown


@pytest.mark.parametrize('name', names())
def test_a_page_keeps_all_text_and_all_outputs_of_what_is_shown(name):
    before = read(name)
    after = book_pages.book_page(name, before, read)
    assert before == read(name), 'the notebook itself was changed'
    cells = {cell['id']: cell for cell in after['cells']}
    for cell in before['cells']:
        source = ''.join(cell['source'])
        if re.match(r'#\| *(hide|default_exp)', source):
            assert cell['id'] not in cells
            continue
        shown = cells[cell['id']]
        assert '#|' not in re.findall(r'^#\|', shown['source'], flags=re.M)
        assert len(shown.get('outputs', [])) == len(cell.get('outputs', []))
        if 'remove_input' in cell['metadata'].get('tags', []): assert shown['metadata']['tags'] == ['remove-input']


def test_every_chapter_is_in_the_contents():
    folders = {p.parent.name for p in NOTEBOOKS} - {'nbs'}
    assert folders == {*book_pages.CHAPTERS}
    contents = book_pages.table_of_contents()['source']
    for folder in folders: assert f'\n{folder}/*\n' in contents
    for name in book_pages.API: assert f'\napi/{name}\n' in contents and (ROOT / f'nbs/api/{name}.md').exists()
    for name in book_pages.FIRST: assert {'.ipynb', '.md'} & {p.suffix for p in (ROOT / 'nbs').glob(f'{name}.*')}


# --- links --------------------------------------------------------------------------------------------------------

def ledger():
    "The printed rows of the ledger"
    outputs = [o for c in load(ROOT / 'nbs/00_paper.ipynb').code for o in c.outputs]
    texts = [''.join(o.get('data', {}).get('text/markdown', '')) for o in outputs]
    return [line for text in texts for line in text.splitlines() if re.search(r'\.ipynb\): ', line)]


def test_every_row_of_the_ledger_leads_to_its_sections():
    rows = ledger()
    assert len(rows) > 40
    for row in rows:
        linked = book_pages.linked_rows(row + '\n', read)
        links = re.findall(r'\]\(([\w/]+)\.ipynb#([\w-]+)\)', linked)
        assert len(links) == len(re.findall(r'\.ipynb\): ', row)), row
        for name, anchor in links: assert anchor in map(book_pages.slug, book_pages.headings(read(name)))


def test_a_row_without_its_section_is_refused():
    with pytest.raises(ValueError, match='names 1_field/02_kernels: Nowhere, but that page has no such heading'):
        book_pages.linked_rows('| P1 | a | [kernels](1_field/02_kernels.ipynb): Nowhere | b |', read)


def test_links_of_the_first_page_point_into_the_book():
    text = '[a](nbs/1_field/02_kernels.ipynb#The-Laplacian) [b](reports/digits/report.html) [c](CHANGELOG.md) [d](nbs/1_field) [e](CONTRIBUTING.md) `nbs/x`'
    assert book_pages.from_nbs(text) == ('[a](1_field/02_kernels.ipynb#the-laplacian) <a href="reports/digits/report.html">b</a> '
                                         '[c](changes.md) d e `nbs/x`')


# --- formulas -----------------------------------------------------------------------------------------------------

def content(html): return re.sub(r'</?math>|<wbr>|</mtext>(?:</math><wbr><math>)?<mtext>', '', html)

@pytest.mark.parametrize('tex, n', [('a', 1), (r'a=b', 1), (r'\Phi(a)=\int\rho(b)\,k(a,b)\,db = \frac12\sum_i k_i(a,x)+\frac13\sum_j k_j(a,y)', 3),
                                    (r'f(a_1,a_2,a_3)', 1), (r'f(a_1,a_2,a_3,a_4,a_5,a_6,a_7,a_8,a_9,a_{10},a_{11})', 3),
                                    (r'\text{mean of the real neighbours}', 3), (r'\frac{a=b=c=d=e=f=g=h=i=j=k=l}{2}', 1)])
def test_long_formulas_break_where_a_line_may_end(tex, n):
    whole = mathml(tex)
    broken = line_breaks.breakable(whole)
    assert content(broken) == content(whole) and broken.count('<math>') == broken.count('</math>') == n


# --- reference ----------------------------------------------------------------------------------------------------

def written(function):
    "The docments beside the parameters of a function, read off its source"
    head = inspect.getsource(function).partition('\n)')[0]
    return re.findall(r'^ +\**\w+.*?  # (.+)$', head, flags=re.M)


@pytest.mark.parametrize('chapter', CHAPTERS)
def test_every_public_name_is_there_with_its_docments(chapter):
    text = reference.chapter(chapter)
    modules = reference.modules(chapter)
    folder = ROOT / 'coulomb_gan' / ('' if chapter == 'tools' else chapter)
    assert len(modules) == len([p for p in folder.glob('*.py') if not p.stem.startswith('_')])
    for full, page in modules:
        module = import_module(full)
        assert f'[Page](../{page})' in text and (ROOT / 'nbs' / page).exists()
        for name in module.__all__:
            assert re.search(rf'\{{py:\w+\}} {name}\b.*\n:module: {re.escape(full)}\n', text), f'{full}.{name}'
            thing = getattr(getattr(module, name), 'callback', getattr(module, name))
            if not inspect.isfunction(thing): continue
            for meaning in written(inspect.unwrap(thing)):
                assert reference.cell(meaning) in text, f'{full}.{name}: {meaning}'


def test_docments_of_star_arguments_types_and_defaults():
    from coulomb_gan.field.kernels import Plummer
    from coulomb_gan.field.potential import check_points
    assert '| `**sets` | named sets of points, each `(n, m)` | `Tensor` |' in reference.table(check_points)
    assert '| `eps` | softening length, data units | `float \\| Tensor` | `1.0` |' in reference.table(Plummer)
    assert unescape(reference.signature(Plummer)) == '(d=1.0, eps=1.0)'


def test_the_door_leads_to_every_name():
    import coulomb_gan
    text = reference.chapter('coulomb_gan')
    for name in coulomb_gan.__all__: assert f'`{name} <coulomb_gan.{coulomb_gan._HOMES[name]}.{name}>`' in text
