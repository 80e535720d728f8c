"""Every page of the book and every report: loads without a failed request, shows no TeX, is no wider than the window."""
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chromium import NARROW, WIDE

BOOK = Path(os.environ.get('BOOK', 'none'))
PAGES = sorted(p.relative_to(BOOK).as_posix() for p in BOOK.rglob('*.html')) or ['index.html']
GENERATED = {'genindex.html', 'search.html', 'py-modindex.html'}


@pytest.mark.parametrize('page', PAGES)
def test_page(page, browser):
    browser.open(page)
    faults = browser.faults() + browser.raw_tex() + [f'at {WIDE[0]}: {e}' for e in browser.overflow()]
    browser.size(*NARROW)
    faults += [f'at {NARROW[0]}: {e}' for e in browser.overflow()]
    assert not faults, '\n'.join(['', *faults])


def test_faults_are_found(browser):
    "The checks above, on a page that has every fault"
    browser.open('index.html')
    browser.run('''
        const add = html => document.body.insertAdjacentHTML('beforeend', html);
        add('<p>$\\\\frac12$</p><div style="width: 3000px">wide</div><img src="nowhere.png"><img src="https://host.example/x.png">');
        console.error('broken');''')
    browser.wait('[...document.images].slice(-2).every(i => i.complete)')
    found = '\n'.join(browser.faults())
    for part in ('broken', '404: ', 'elsewhere: https://host.example/x.png', 'failed: net::ERR_NAME_NOT_RESOLVED'): assert part in found
    assert browser.raw_tex() == ['$\\frac12$'] and 'wide' in '\n'.join(browser.overflow())


# --- order and links ----------------------------------------------------------------------------------------------

class Links(HTMLParser):
    "Targets and anchors of a page"
    def __init__(self, html):
        super().__init__()
        self.hrefs, self.ids, self.next = [], set(), None
        self.feed(html)
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'id' in attrs: self.ids.add(attrs['id'])
        if tag != 'a' or not attrs.get('href'): return
        self.hrefs.append(attrs['href'])
        if 'right-next' in (attrs.get('class') or ''): self.next = attrs['href']


@pytest.fixture(scope='module')
def links(book): return {page: Links((book / page).read_text(encoding='utf-8')) for page in PAGES}


def resolved(page, href):
    target, _, anchor = href.partition('#')
    path = os.path.normpath(Path(page).parent / target) if target else page
    return Path(path).as_posix(), anchor


def test_next_leads_through_the_whole_book(links):
    page, seen = 'index.html', []
    while page not in seen:
        seen.append(page)
        if links[page].next is None: break
        page, _ = resolved(page, links[page].next)
    chapters = {p for p in PAGES if not p.startswith('reports/') and p not in GENERATED | {'playground/index.html'}}
    assert {*seen} == chapters


def test_every_link_leads_somewhere(links, book):
    faults = []
    for page, found in links.items():
        for href in found.hrefs:
            if re.match(r'\w+:', href): continue
            target, anchor = resolved(page, href)
            if target in links:
                if anchor and anchor not in links[target].ids and not page.startswith('reports/'): faults.append(f'{page}: {href}')
            elif not (book / target).exists() and not page.startswith('reports/'): faults.append(f'{page}: {href}')
    assert not faults, '\n'.join(['', *faults[:20], f'{len(faults)} links'])


def test_every_row_of_the_ledger_leads_to_a_section(book, links):
    html = (book / '00_paper.html').read_text(encoding='utf-8')
    rows = [row for row in re.findall(r'<tr.*?</tr>', html, flags=re.S) if re.search(r'<td>\s*<p>(?:P\d|Theorem|Figure|Table|A\.)', row)]
    assert len(rows) > 40
    for row in rows:
        inside = [resolved('00_paper.html', href) for href in re.findall(r'href="([^"]+\.html#[^"]+)"', row)]
        assert inside, row
        for target, anchor in inside: assert anchor in links[target].ids
