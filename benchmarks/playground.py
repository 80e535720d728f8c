"""Frames a second of the playground in a headless Chromium, which draws without a GPU: `python benchmarks/playground.py`.

The screen asks for 60 frames a second; fewer mean that a step of the samples and the drawing together took longer than that.
"""
import shutil
import sys
import time
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / 'nbs/playground/index.html'
SECONDS = 10
SET = '''for (const [name, value] of Object.entries(arguments[0])) {
    const element = document.querySelector('.playground .' + name);
    element.value = value;
    for (const kind of ['input', 'change']) element.dispatchEvent(new Event(kind, {bubbles: true}));
}'''


def browser():
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium') or shutil.which('google-chrome')
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=1280,1000'): options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which('chromedriver')))


def frames(driver): return int(driver.execute_script("return document.querySelector('.playground').dataset.frames"))


def rate(driver, **controls):
    "Frames a second over ten seconds"
    driver.get(PAGE.as_uri())
    driver.execute_script(SET, controls)
    time.sleep(1)
    begun, first = time.perf_counter(), frames(driver)
    time.sleep(SECONDS)
    return (frames(driver) - first) / (time.perf_counter() - begun)


def step_time(driver, **controls):
    "Milliseconds of one step without drawing, the median of 21"
    driver.get(PAGE.as_uri())
    return driver.execute_script('''
        const {n, kernel, d} = arguments[0], times = [], random = m => Float64Array.from({length: 2 * m}, Math.random);
        const x = random(n), y = random(200), k = {name: kernel, d, width: .4};
        for (let i = 0; i < 21; i++) {
            const begun = performance.now();
            if (kernel === 'drifting') Field.meanShift(x, y, .4); else Field.field(x, y, k, 0);
            times.push(performance.now() - begun);
        }
        return times.sort((a, b) => a - b)[10];''', controls)


if __name__ == '__main__':
    driver = browser()
    print('| samples | kernel | d | frames a second | ms a step |\n|---|---|---|---|---|')
    try:
        for n in (300, 500):
            for kernel, d in (('plummer', 1), ('plummer', 2.5), ('gaussian', 1), ('laplace', 1), ('drifting', 1)):
                controls = dict(n=n, kernel=kernel, d=d)
                print(f'| {n} | {kernel} | {d} | {rate(driver, **controls):.0f} | {step_time(driver, **controls):.1f} |')
                sys.stdout.flush()
    finally:
        driver.quit()
