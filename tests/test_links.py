"""Every link of the notebooks and the README leads somewhere, and every file that a text names by its path exists."""
import re

import pytest

from test_style import NOTEBOOKS, ROOT, load

LINK = re.compile(r'\]\(([^)\s]+)\)')
NAMED = re.compile(r'`((?:nbs|reports|benchmarks|tests|coulomb_gan)/[\w./-]+)`')


def prose(text): return re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)


def dead(text, folder):
    "Links of a text in a folder that lead nowhere"
    targets = [t.split('#')[0] for t in LINK.findall(prose(text)) if not re.match(r'https?:|#|attachment:', t)]
    links = [t for t in targets if not (folder / t).exists()]
    return links + [t for t in NAMED.findall(prose(text)) if not (ROOT / t).exists()]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / 'nbs').as_posix())
def test_links_of_a_notebook(path):
    folder = ROOT if path.name == 'index.ipynb' else path.parent
    nb = load(path)
    outputs = [''.join(o.get('data', {}).get('text/markdown', '')) for c in nb.code for o in c.outputs]
    texts = [c.source for c in nb.cells if c.kind == 'markdown'] + outputs
    found = [t for text in texts for t in dead(text, folder)]
    assert not found, found
    in_a_chapter = path.parent != ROOT / 'nbs'
    if in_a_chapter: assert not [t for text in texts for t in outside(text)]


def outside(text):
    "Links of a page in a chapter to files above the notebooks, which the book has no page for"
    return [t for t in LINK.findall(prose(text)) if t.startswith('../../')]


def test_links_out_of_the_book_are_found(): assert outside('[a](../../README.md) [b](../1_field/x.ipynb)') == ['../../README.md']


def test_links_of_the_readme(): assert not dead((ROOT / 'README.md').read_text(encoding='utf-8'), ROOT)


def test_dead_links_are_found():
    assert dead('[a](nowhere.ipynb) [b](README.md#top) [c](https://x.org/y) `tests/nowhere.py`', ROOT) == ['nowhere.ipynb', 'tests/nowhere.py']
