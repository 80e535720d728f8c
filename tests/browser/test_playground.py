"""The playground computes what the package computes, its energy falls, and hands, fingers and keys reach it."""
import pytest
import torch

from coulomb_gan.field.kernels import Gaussian, Laplace, Plummer
from coulomb_gan.field.potential import energy, force, potential
from coulomb_gan.objectives.drifting import pair_weights, weighted_force

PAGES = ['playground/index.html', 'playground/see_it_move.html']
STATE = "document.querySelector('.playground').dataset"


def points(n, seed):
    "Some of them together, some far apart"
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=gen, dtype=torch.float64) * torch.linspace(.05, 3, n, dtype=torch.float64)[:, None]


def flat(c): return c.flatten().tolist()


def close(found, expected):
    "To 1e-6 of the largest"
    found = torch.tensor(found, dtype=torch.float64).view(expected.shape)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize('kernel, name', [
    (Plummer(1, .4), dict(name='plummer', d=1, width=.4)), (Plummer(2.5, .1), dict(name='plummer', d=2.5, width=.1)),
    (Plummer(.25, 2), dict(name='plummer', d=.25, width=2)), (Gaussian(.7), dict(name='gaussian', width=.7)),
    (Laplace(.3), dict(name='laplace', width=.3))], ids=str)
def test_the_field_is_that_of_the_package(kernel, name, browser):
    browser.open(PAGES[0])
    x, y, a = points(40, 0), points(25, 1), points(10, 2)
    found = browser.run('''
        const [x, y, a, kernel] = arguments, found = Field.field(x, y, kernel);
        return [[...found.force], found.energy, [...Field.potential(a, x, y, kernel)]];''', flat(x), flat(y), flat(a), name)
    close(found[0], force(x, x, y, kernel))
    close(found[1], energy(x, y, kernel, unbiased=False))
    close(found[2], potential(a, x, y, kernel))
    other = browser.run('return [...Field.field(arguments[0], arguments[1], arguments[2]).force]', flat(x), flat(y), dict(name, width=.5))
    with pytest.raises(AssertionError): close(other, force(x, x, y, kernel))


@pytest.mark.parametrize('width', [.1, .4, 2.])
def test_the_mean_shift_is_that_of_the_package(width, browser):
    browser.open(PAGES[0])
    x, y = points(40, 0), points(25, 1)
    weights = pair_weights('mean-shift', torch.cdist(x, y), torch.cdist(x, x), width)
    close(browser.run('return [...Field.meanShift(...arguments)]', flat(x), flat(y), width), weighted_force(x, y, *weights))


@pytest.mark.parametrize('page', PAGES)
def test_the_energy_falls(page, browser):
    browser.open(page)
    first = float(browser.run(f'return {STATE}.energy'))
    readings = [first]
    for steps in (20, 60, 100):
        browser.wait(f'+{STATE}.steps >= {steps}')
        readings.append(float(browser.run(f'return {STATE}.energy')))
    assert readings == sorted(readings, reverse=True) and readings[-1] < first / 2
    assert not browser.faults()


def set_to(browser, name, value):
    browser.run('''const e = document.querySelector('.playground .' + arguments[0]); e.value = arguments[1];
        for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true}));''', name, value)


@pytest.mark.parametrize('kernel', ['plummer', 'gaussian', 'laplace', 'drifting'])
@pytest.mark.parametrize('preset', ['eight', 'two', 'far', 'single'])
def test_every_start_moves_with_every_kernel(kernel, preset, browser):
    browser.open(PAGES[0])
    set_to(browser, 'kernel', kernel)
    set_to(browser, 'preset', preset)
    browser.wait(f'+{STATE}.steps >= 3 && Number.isFinite(+{STATE}.energy)')
    assert not browser.faults()


def paused(browser, page=PAGES[0]):
    browser.open(page)
    browser.run("document.querySelector('.playground .run').click()")
    browser.wait(f"{STATE}.running === 'false'")
    return float(browser.run(f'return {STATE}.energy'))


PLACE = "const b = document.querySelector('.view').getBoundingClientRect(); return [b.left + b.width * 5 / 6, b.top + b.height / 2]"


def test_the_mouse_drags_a_mode(browser):
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    before = paused(browser)
    a, b = map(int, browser.run(PLACE))                        # the mode at (3, 0)
    actions = ActionBuilder(browser.driver)
    mouse = actions.pointer_action
    mouse.move_to_location(a, b).pointer_down().move_to_location(a - 60, b + 30).pointer_up()
    actions.perform()
    browser.wait(f'+{STATE}.energy !== {before!r}')


def test_a_finger_drags_a_mode(browser):
    before = paused(browser)
    a, b = browser.run(PLACE)
    for kind, moved in (('touchStart', 0), ('touchMove', 20), ('touchMove', 60), ('touchEnd', None)):
        touched = [] if moved is None else [dict(x=a - moved, y=b)]
        browser.driver.execute_cdp_cmd('Input.dispatchTouchEvent', dict(type=kind, touchPoints=touched))
    browser.wait(f'+{STATE}.energy !== {before!r}')


def test_keys_move_a_mode_and_run(browser):
    from selenium.webdriver.common.keys import Keys
    before = paused(browser)
    view = browser.driver.find_element('css selector', '.view')
    view.send_keys('n', Keys.ARROW_LEFT, Keys.ARROW_UP)
    browser.wait(f'+{STATE}.energy !== {before!r}')
    steps = browser.run(f'return +{STATE}.steps')
    view.send_keys(' ')
    browser.wait(f'+{STATE}.steps > {steps} + 2')
    view.send_keys('r')
    browser.wait(f'+{STATE}.steps < {steps} + 2')


def test_it_stands_still_where_motion_is_unwelcome(browser):
    browser.prefer(motion='reduce')
    try:
        browser.open(PAGES[0])
        assert browser.run(f'return [{STATE}.running, {STATE}.steps]') == ['false', '0']
        browser.run("document.querySelector('.playground .once').click()")
        browser.wait(f'+{STATE}.steps > 0')
        assert browser.run(f'return {STATE}.running') == 'false'
    finally:
        browser.prefer(motion='no-preference')
