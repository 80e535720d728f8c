"""Pages of reports: their order, what is folded, what each picture says, what works without scripts, and how large they are."""
import base64
import io
import re

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from coulomb_gan.html_pages import LARGEST, data_address
from coulomb_gan.reporting.render import notebook, section_titles, to_html

KINDS = ['images', 'mixture', 'text', 'methods', 'given_images']
LIMIT = 1_500_000      # bytes of a page


def png(side, noise=True):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8) * noise
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return base64.b64encode(file.getvalue()).decode()

def page_of(folder, *cells):
    nbformat.write(new_notebook(cells=[*cells]), folder / 'report.ipynb')
    return to_html(folder / 'report.ipynb').read_text(encoding='utf-8')

def drawn(data, **metadata): return new_code_cell('n = 1', outputs=[new_output('display_data', {'image/png': data}, metadata=metadata)])


@pytest.fixture(params=KINDS)
def stored(request):
    "An experiment notebook with its stored outputs"
    return nbformat.read(notebook(request.param), 4)


# --- the notebooks ------------------------------------------------------------------------------------------------

def test_samples_and_numbers_come_first_and_configuration_last(stored):
    sections = [title for title in dict.fromkeys(section_titles(stored)) if title]
    assert sections[:2] == ['Samples', 'Numbers']
    given = any('images = ' in c.source for c in stored.cells if 'parameters' in c.metadata.get('tags', ()))
    assert given or sections[-1] == 'Configuration'      # images of another program have none


def test_cells_are_short(stored):
    for cell in stored.cells:
        imports = cell.source.startswith(('import ', 'from '))
        if cell.cell_type == 'code' and not imports: assert len(cell.source.splitlines()) <= 8, cell.source


def test_every_stored_picture_says_what_it_shows(stored):
    texts = [o.metadata.get('image/png', {}).get('alt', '') for c in stored.cells for o in c.get('outputs', [])
             if 'image/png' in o.get('data', {})]
    assert texts and all(len(text.split()) >= 6 for text in texts) and len({*texts}) == len(texts)


def test_pages_of_the_stored_notebooks(stored, tmp_path):
    "Without scripts, folded, with headings to link to"
    html = page_of(tmp_path, *stored.cells)
    assert '<script' not in html and 'onclick' not in html and len(html.encode()) < LIMIT
    heads = re.findall(r'<h[12][^>]*\bid="([^"]+)"', html)
    assert len(heads) == len({*heads}) == html.count('<h1') + html.count('<h2')
    assert all(f'href="#{head}"' in html for head in heads)
    assert 'a figure of this section' not in html and html.count('<img') == html.count('alt=')
    if 'id="Configuration"' in html:
        inside = re.search(r'<details>.*?</details>', html, re.S)[0]
        assert '<table' in inside and ' open' not in inside.partition('>')[0]


# --- the frame ----------------------------------------------------------------------------------------------------

def test_one_switch_shows_the_code(tmp_path):
    html = page_of(tmp_path, new_markdown_cell('# A title'), new_code_cell('answer = 42'))
    assert html.count('type="checkbox"') == 1 and 'for="show-code"' in html and 'answer' in html
    assert '.jp-CodeCell .jp-Cell-inputWrapper { display: none; }' in html
    assert html.index('id="show-code"') < html.index('<main>')      # its style reaches what follows it
    assert '<title>A title</title>' in html and 'prefers-color-scheme: dark' in html and '@media print' in html


def test_pictures_have_the_text_of_their_cell(tmp_path):
    html = page_of(tmp_path, drawn(png(4), **{'image/png': {'alt': 'dots & <lines>'}}), drawn(png(5)))
    assert re.findall(r'alt="([^"]*)"', html) == ['dots &amp; &lt;lines&gt;', 'a figure of this section']


def test_large_pictures_are_shortened_in_the_page_alone(tmp_path):
    large = png(600)
    html = page_of(tmp_path, *(drawn(large) for _ in range(3)))
    assert 3 * len(large) > 2 * LIMIT > len(html) + LIMIT
    assert large in (tmp_path / 'report.ipynb').read_text()
    address = re.search(r'data:image/webp;base64,([^"]+)', html)[1]
    with Image.open(io.BytesIO(base64.b64decode(address))) as shown: assert (shown.format, shown.size) == ('WEBP', (600, 600))
    small = png(100)
    assert len(base64.b64decode(small)) < LARGEST and data_address(small) == f'data:image/png;base64,{small}'


def test_what_is_folded_holds_its_table(tmp_path):
    folded = '<details>\n<summary>more</summary>\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n</details>'
    html = page_of(tmp_path, new_code_cell('n', outputs=[new_output('display_data', {'text/markdown': folded})]))
    assert '<table' in re.search(r'<details>.*?</details>', html, re.S)[0]
