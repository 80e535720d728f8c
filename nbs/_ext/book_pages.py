"""A stored notebook as a page of the book: directives gone, links from the ledger to sections. Plain data in, plain data out."""
import json
import re
from pathlib import Path

CHAPTERS = {
    '1_field': 'Field', '2_objectives': 'Objectives', '3_networks': 'Networks', '4_data': 'Data', '5_metrics': 'Metrics',
    '6_training': 'Training', '7_reporting': 'Reporting', 'experiments': 'Experiments', 'tools': 'Tools'}
FIRST = '0*', 'playground/see_it_move'  # the pages at the top, in their order
API = ('coulomb_gan', 'field', 'objectives', 'networks', 'data', 'metrics', 'training', 'reporting', 'tools')
ROW = re.compile(r'\[(\w+)\]\(([\w/]+)\.ipynb\): ([^;|]+?)(?=;| \|)')


def table_of_contents():
    "The order of the book, as the last cell of its first page"
    def tree(caption, *names): return '\n'.join(['```{toctree}', ':hidden:', ':glob:', f':caption: {caption}', '', *names, '```'])
    parts = [tree('Start', *FIRST)]
    parts += [tree(caption, f'{folder}/*') for folder, caption in CHAPTERS.items()]
    parts.append(tree('Reference', *(f'api/{name}' for name in API), 'reports', 'changes'))
    return dict(cell_type='markdown', id='contents', metadata={}, source='\n\n'.join(parts))


def without_directives(source):
    "Code as a reader sees it; None for a cell that is not for readers"
    if re.search(r'^#\|\s*(hide|default_exp)\b', source, flags=re.M): return None
    return re.sub(r'^#\|.*\n?', '', source, flags=re.M)


def slug(title):
    "The anchor that a heading gets: its words, formulas left out"
    words = re.sub(r'\$[^$]*\$', '', title.strip()).lower()
    return re.sub(r'[^\w\- ]', '', words).replace(' ', '-')


def headings(nb):
    "Titles of the sections of a notebook, code fences left out"
    for cell in nb['cells']:
        if cell['cell_type'] != 'markdown': continue
        prose = re.sub(r'^```.*?^```', '', ''.join(cell['source']), flags=re.M | re.S)
        yield from re.findall(r'^#{1,4} +(.+?)\s*$', prose, flags=re.M)


def linked_rows(text, read):
    "A table of the ledger whose entries lead to their sections; `read` gives the notebook of a name"
    def link(row):
        name, page, section = row.groups()
        title = next((t for t in headings(read(page)) if section.lower() in t.lower()), None)
        if title is None: raise ValueError(f'the ledger names {page}: {section}, but that page has no such heading')
        return f'[{name}: {section}]({page}.ipynb#{slug(title)})'
    return ROW.sub(link, text)


def code_cell(cell, prose):
    "A cell of code as a reader sees it, `prose` applied to the Markdown it printed; None if it is not for readers"
    source = without_directives(''.join(cell['source']))
    if source is None: return None
    hidden = 'remove_input' in cell['metadata'].get('tags', [])
    outputs = [dict(output) for output in cell['outputs']]
    for output in outputs:
        text = ''.join(output.get('data', {}).get('text/markdown', ''))
        if text: output['data'] = {**output['data'], 'text/markdown': prose(text)}
    return dict(cell, source=source, outputs=outputs, metadata=dict(tags=['remove-input']) if hidden else {})


def book_page(name, nb, read):
    "The notebook of a page, as the book shows it; `read` gives the notebook of a name"
    prose = lower_anchors if '/' in name else from_nbs
    printed = (lambda text: linked_rows(text, read)) if name == '00_paper' else prose
    cells = []
    for cell in nb['cells']:
        if cell['cell_type'] == 'code': shown = code_cell(cell, printed)
        else: shown = dict(cell, source=prose(''.join(cell['source'])))
        if shown: cells.append(shown)
    if name == 'index': cells.append(table_of_contents())
    return dict(nb, cells=cells)


OUTSIDE = r'\[([^\]]+)\]\((\w+|[A-Z]\w*\.md|benchmarks/README\.md)\)'  # links to folders, and to files above the notebooks


def from_nbs(text):
    "Links of the README and of the pages at the top; folders, files beside them and reports are no pages of the book"
    text = re.sub(r'(?<=\]\()(nbs/|\.\./)', '', text)
    text = re.sub(r'\[([^\]]+)\]\((reports/[\w-]+/report\.html)\)', r'<a href="\2">\1</a>', text)
    text = text.replace('](CHANGELOG.md)', '](changes.md)')
    return lower_anchors(re.sub(OUTSIDE, r'\1', text))


def lower_anchors(text):
    "Links to sections, which notebooks write with capitals"
    return re.sub(r'(\]\([\w./]*)#([\w-]+)\)', lambda m: f'{m[1]}#{m[2].lower()})', text)


def reports(root):
    "The committed reports: (name, title), in the order of their names"
    for page in sorted(Path(root).glob('*/report.html')):
        nb = json.loads(page.with_suffix('.ipynb').read_text(encoding='utf-8'))
        yield page.parent.name, next(headings(nb), page.parent.name)
