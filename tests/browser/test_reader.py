"""What a reader does: searches, folds code, turns the page dark, reads without scripts."""
from chromium import NARROW

PAGE = '1_field/02_kernels.html'
SHOWN = "[...document.querySelectorAll('.cell_input .highlight')].filter(e => e.offsetHeight).length"


def test_search_finds_the_laplacian(browser):
    browser.open('search.html?q=Laplacian')
    titles = browser.wait("[...document.querySelectorAll('#search-results li a')].map(a => a.textContent).filter(t => t).length > 4 && "
                          "[...document.querySelectorAll('#search-results li')].map(li => li.textContent)")
    assert any('Kernels' in t for t in titles) and not browser.faults()


def test_search_finds_public_names(browser):
    browser.open('search.html?q=Plummer')
    browser.wait("[...document.querySelectorAll('#search-results a')].some(a => a.href.endsWith('#coulomb_gan.field.kernels.Plummer'))")


def test_code_is_folded_by_one_switch_which_is_remembered(browser):
    browser.open(PAGE)
    cells = browser.run(f'return {SHOWN}')
    assert cells > 10
    browser.run("document.querySelector('.code-switch').click()")
    assert browser.run(f'return {SHOWN}') == 0
    browser.open('1_field/05_potential.html', NARROW)
    assert browser.run(f'return {SHOWN}') == 0
    browser.run("document.querySelectorAll('.code-fold')[1].click()")
    assert browser.run(f'return {SHOWN}') == 1
    browser.run("document.querySelector('.code-switch').click()")
    browser.open(PAGE)
    assert browser.run(f'return {SHOWN}') == cells


def test_all_is_there_without_scripts(browser):
    browser.open(PAGE)
    cells = browser.run(f'return {SHOWN}')
    browser.scripts(False)
    try:
        browser.open(PAGE)
        assert browser.run(f'return {SHOWN}') == cells
        assert browser.run("return document.querySelectorAll('math').length") > 50
        height = browser.run("return document.querySelector('mfrac').getBoundingClientRect().height")
        assert height > 15                     # a fraction is drawn as one
    finally:
        browser.scripts(True)


def test_dark_and_light(browser):
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765"
    text = light.replace('backgroundColor', 'color')
    try:
        for page in (PAGE, 'playground/index.html'):
            for scheme, bright in (('light', True), ('dark', False)):
                browser.prefer(scheme=scheme)
                browser.open(page)
                ground, ink = browser.run(f'return [{light}, {text}]')
                if page == 'playground/index.html' and bright: ground = 1.         # white by default, which reads as transparent
                assert (ground > .8, ink < .4) == (bright, bright), (page, scheme, ground, ink)
    finally:
        browser.prefer(scheme='light')


def test_formulas_have_their_font(browser):
    browser.open(PAGE)
    browser.wait("document.fonts.ready.then(() => true)")
    assert browser.run("return [...document.fonts].filter(f => f.family.includes('STIX') && f.status === 'loaded').length") == 1
