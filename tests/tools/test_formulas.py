"""Every formula of the notebooks becomes MathML, in the report of an experiment too."""
import re
from xml.etree import ElementTree

import pytest
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from coulomb_gan.formulas import mathml
from test_style import NOTEBOOKS, ROOT, load


class Collect(IPythonRenderer):
    "Keeps the formulas of a text, with whether they are displayed"
    def __init__(self):
        super().__init__(escape=False)
        self.found = []
    def block_math(self, body):
        self.found.append((body, True))
        return ''
    def inline_math(self, body):
        self.found.append((body, False))
        return ''


def formulas(*texts):
    collect = Collect()
    for text in texts: MarkdownWithMath(renderer=collect).render(text)
    return collect.found


def refused(tex, display):
    "What is wrong with a formula; None if nothing is"
    try: element = ElementTree.fromstring(mathml(tex, display))
    except (ValueError, ElementTree.ParseError) as e: return str(e)
    left = re.findall(r'\\[a-zA-Z]+|[&$]', ''.join(element.itertext()))
    return f'{tex}: {left} is left' if left else None


def markdown(path):
    "Texts of a notebook, outputs included"
    nb = load(path)
    shown = [o.get('data', {}) for c in nb.code for o in c.outputs]
    outputs = [''.join(data.get(kind, '')) for data in shown for kind in ('text/markdown', 'text/latex')]
    return [c.source for c in nb.cells if c.kind == 'markdown'] + outputs


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / 'nbs').as_posix())
def test_formulas_of_a_notebook(path):
    faults = [fault for formula in formulas(*markdown(path)) if (fault := refused(*formula))]
    assert not faults, '\n'.join(['', *faults])


def test_there_are_formulas_and_poor_ones_are_found():
    assert sum(len(formulas(*markdown(path))) for path in NOTEBOOKS) > 1000
    assert formulas('$a$ costs \\$5, $$b\n$$') == [('a', False), ('b\n', True)]
    assert all(map(refused, (r'\unknown', r'\frac', r'\text{\$}', r'\text{\&}'), [False] * 4)) and refused('a', True) is None
