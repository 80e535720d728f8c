"""The book: `make book` builds it from the notebooks with the outputs that are stored in them; nothing is executed."""
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE / '_ext'), str(HERE.parent)]

settings = ConfigParser(delimiters=['='])
settings.read(HERE.parent / 'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']

project = settings['title']
author = settings['author']
copyright = settings['copyright']
version = release = settings['version']
language = 'en'

extensions = ['myst_nb', 'book']
exclude_patterns = ['_*', '**/.ipynb_checkpoints', 'experiments/runs']
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ['mystnb.unknown_mime_type', 'misc.highlighting_failure']

html_theme = 'sphinx_book_theme'
html_title = project
html_static_path = ['_static']
html_css_files = ['book.css']
html_js_files = [('book.js', {'priority': 1})]
html_math_renderer = 'mathml'
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_context = {'default_mode': 'auto'}
html_theme_options = {
    'show_toc_level': 2,
    'show_navbar_depth': 1,
    'home_page_in_toc': True,
    'use_download_button': False,
    'use_fullscreen_button': False,
    'pygments_light_style': 'a11y-high-contrast-light',
    'pygments_dark_style': 'a11y-high-contrast-dark',
}
