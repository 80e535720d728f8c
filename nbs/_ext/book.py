"""A Sphinx extension for this book: notebooks as their reader sees them, formulas as MathML, pages of the package."""
import json
import shutil
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import book_pages
import reference
from coulomb_gan.formulas import mathml
from line_breaks import breakable

ROOT = Path(__file__).resolve().parents[2]
log = logging.getLogger(__name__)


# --- notebooks ----------------------------------------------------------------------------------------------------

def read_notebook(name): return json.loads((ROOT / f'nbs/{name}.ipynb').read_text(encoding='utf-8'))


def on_source(app, name, source):
    "A notebook without what is for nbdev only"
    if not str(app.env.doc2path(name)).endswith('.ipynb'): return
    source[0] = json.dumps(book_pages.book_page(name, json.loads(source[0]), read_notebook))


# --- formulas -----------------------------------------------------------------------------------------------------

def formula(node, display):
    try: return mathml(node.astext(), display)
    except ValueError as e:
        log.warning(str(e), location=node)
        return ''


def visit_inline(translator, node):
    translator.body.append(breakable(formula(node, False)))
    raise nodes.SkipNode


def visit_block(translator, node):
    translator.body.append(f'<div class="math-block" tabindex="0">{formula(node, True)}</div>\n')
    raise nodes.SkipNode


# --- pages of the package, of the reports and of the playground ---------------------------------------------------

class Api(SphinxDirective):
    "The public names of a chapter of the package, with their docments"
    required_arguments = 1
    def run(self):
        text = reference.chapter(self.arguments[0])
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Reports(SphinxDirective):
    "A list of the committed reports"
    def run(self):
        text = '\n'.join(f'<li><a class="reference internal" href="reports/{name}/report.html">{title}</a> '
                         f'<code>{name}</code></li>' for name, title in book_pages.reports(ROOT / 'reports'))
        return [nodes.raw('', f'<ul class="simple">{text}</ul>', format='html')]


class Playground(SphinxDirective):
    "The playground inside a page of the book: the same element, styles and scripts as on its own page"
    def run(self):
        html = (ROOT / 'nbs/playground/index.html').read_text(encoding='utf-8')
        start, end = html.index('<!-- playground -->'), html.index('<!-- end of playground -->')
        head = '<link rel="stylesheet" href="playground.css">'
        scripts = ''.join(f'<script src="{name}.js"></script>' for name in ('field', 'playground'))
        return [nodes.raw('', head + html[start:end] + scripts, format='html')]


def copy_beside(app, error):
    "Reports and playground as they are, where the pages link to them"
    if error or app.builder.format != 'html': return
    out = Path(app.outdir)
    for page in ROOT.glob('reports/*/report.html'):
        folder = out / 'reports' / page.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, folder)
    (out / 'playground').mkdir(exist_ok=True)
    for ending in ('html', 'js', 'css'):
        for path in (ROOT / 'nbs/playground').glob(f'*.{ending}'): shutil.copy(path, out / 'playground')


def setup(app):
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_block, None))
    app.add_directive('api', Api)
    app.add_directive('reports', Reports)
    app.add_directive('playground', Playground)
    app.connect('source-read', on_source)
    app.connect('build-finished', copy_beside)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
