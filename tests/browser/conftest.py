"""Chromium, headless and without a network, on the built book: `make test-browser`. Skipped where there is no book or no browser."""
import os
import shutil
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from chromium import Browser, Files


@pytest.fixture(scope='session')
def book():
    "The folder of the built book"
    if 'BOOK' not in os.environ: pytest.skip('needs the built book and a browser: make test-browser')
    folder = Path(os.environ['BOOK']).resolve()
    if not (folder / 'index.html').exists(): pytest.skip(f'{os.environ["BOOK"]} holds no book: make book')
    return folder


@pytest.fixture(scope='session')
def site(book):
    "Its address on this machine"
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Files, directory=str(book)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='session')
def browser(site):
    pytest.importorskip('selenium', reason='needs selenium: make test-browser')
    missing = [names for names in (('chromium', 'google-chrome'), ('chromedriver',)) if not any(map(shutil.which, names))]
    if missing: pytest.skip(f'no {missing[0][0]}: apt-get install chromium chromium-driver')
    browser = Browser(site)
    yield browser
    browser.driver.quit()
