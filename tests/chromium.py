"""A page in Chromium without a network, and the server that hands it out."""
import json
import shutil
from http.server import SimpleHTTPRequestHandler
from urllib.parse import urlparse

WIDE, NARROW = (1280, 900), (390, 844)       # a laptop, a telephone


class Files(SimpleHTTPRequestHandler):
    "The book, without a line for every file"
    def log_message(self, *parts): pass
    def do_GET(self):
        if self.path != '/favicon.ico': return super().do_GET()
        self.send_response(204)
        self.end_headers()


class Browser:
    "A page in Chromium: what it requested, what it complained of, how wide it is"
    def __init__(self, site):
        from selenium import webdriver
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which('chromium') or shutil.which('google-chrome')
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
        for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking',
                     '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'):
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which('chromedriver')))
        self.driver.set_script_timeout(120)
        self.site = site
        self.run = self.driver.execute_script

    def size(self, width, height):
        shape = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', shape)

    def prefer(self, **features):
        "What the reader's system asks for: `scheme='dark'`, `motion='reduce'`"
        names = dict(scheme='prefers-color-scheme', motion='prefers-reduced-motion')
        values = [dict(name=names[name], value=value) for name, value in features.items()]
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=values))

    def scripts(self, on): self.driver.execute_cdp_cmd('Emulation.setScriptExecutionDisabled', dict(value=not on))

    def open(self, page, size=WIDE):
        for log in ('browser', 'performance'): self.driver.get_log(log)
        self.size(*size)
        self.driver.get(f'{self.site}/{page}')
        return self

    def wait(self, condition, seconds=60):
        "Until a script returns something true, which is handed back"
        from selenium.webdriver.support.ui import WebDriverWait
        return WebDriverWait(self.driver, seconds).until(lambda d: d.execute_script(f'return {condition}'), condition)

    def faults(self):
        "Failed requests, requests to elsewhere, and what the console says since the page was opened"
        found = [e['message'] for e in self.driver.get_log('browser') if e['level'] in ('SEVERE', 'WARNING')]
        for entry in self.driver.get_log('performance'):
            event = json.loads(entry['message'])['message']
            what = event['params']
            if event['method'] == 'Network.loadingFailed' and not what.get('canceled'): found.append(f'failed: {what["errorText"]}')
            if event['method'] == 'Network.responseReceived' and what['response']['status'] >= 400:
                found.append(f'{what["response"]["status"]}: {what["response"]["url"]}')
            if event['method'] == 'Network.requestWillBeSent':
                url = urlparse(what['request']['url'])
                if url.scheme not in ('data', 'blob', 'chrome') and not url.geturl().startswith(self.site):
                    found.append(f'elsewhere: {url.geturl()}')
        return found

    def overflow(self):
        "The elements that stand out of the page to the right; none if the page is as wide as the window"
        return self.run('''
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width && document.body.scrollWidth <= width) return [];
            const boxed = e => { for (let p = e.parentElement; p; p = p.parentElement)
                if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX) && p !== document.body) return true; return false; };
            return [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > width + 1 && !boxed(e))
                .slice(0, 5).map(e => e.outerHTML.slice(0, 160)).concat([`${document.documentElement.scrollWidth} > ${width}`]);''')

    def raw_tex(self):
        "TeX that a reader would see, code left out"
        return self.run(r'''
            const seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
            for (let node; node = seen.nextNode();) {
                if (node.parentElement.closest('pre, code, script, style, annotation, [class*=jp-OutputArea-output] > pre')) continue;
                if (/\\[a-zA-Z]{2,}|\$\$|\$[^\s$][^$\n]*\$/.test(node.data)) found.push(node.data.trim().slice(0, 160));
            }
            return found;''')
