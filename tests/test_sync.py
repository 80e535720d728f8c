"""What is generated equals its source: notebooks are clean, modules are exported, pins are met."""
import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
PINS = {'nbdev': '<3', 'fastcore': '<2', 'execnb': '<0.2', 'ghapi': '<2'}      # newer ones break the settings.ini era


def settings():
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def canonical(name): return re.sub(r'[-_.]+', '-', name).lower()


def direct_requirements():
    cfg = settings()
    words = ' '.join(cfg.get(key, '') for key in ('requirements', 'pip_requirements', 'dev_requirements')).split()
    return {canonical(r.name): r.specifier for r in map(Requirement, words)}


def cleaned(text):
    "The notebook as `nbdev_clean` would write it"
    from execnb.nbio import nb2str
    from nbdev.clean import clean_nb
    cfg, nb = settings(), json.loads(text)
    clean_nb(nb, allowed_metadata_keys=cfg['allowed_metadata_keys'].split(),
             allowed_cell_metadata_keys=cfg['allowed_cell_metadata_keys'].split(),
             clean_ids=cfg.getboolean('clean_ids'))
    return nb2str(nb)


def modules(folder):
    "Sources by path; the package's own `__init__` and `__main__` are written by hand"
    found = {p.relative_to(folder).as_posix(): p.read_text(encoding='utf-8') for p in sorted(folder.rglob('*.py'))}
    return {name: text for name, text in found.items() if name not in ('__init__.py', '__main__.py')}


def first_difference(a, b):
    pairs = zip(a.splitlines() + ['<end>'], b.splitlines() + ['<end>'])
    return next((f'line {i}: {x[:80]!r} and {y[:80]!r}' for i, (x, y) in enumerate(pairs, 1) if x != y), 'line ends')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT/'nbs').as_posix())
def test_notebook_is_clean(path):
    text = path.read_text(encoding='utf-8')
    clean = cleaned(text)
    assert clean == text, f'{path.name}: run nbdev_clean; stored and clean differ at {first_difference(text, clean)}'


def test_cleaning_can_fail():
    cell = dict(cell_type='code', id='a', source=['1'], outputs=[], execution_count=7,
                metadata={'tags': ['parameters'], 'scrolled': True})
    clean = json.loads(cleaned(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5))))['cells'][0]
    assert clean['execution_count'] is None and clean['metadata'] == {'tags': ['parameters']}


def test_modules_are_exported(tmp_path):
    "Exporting a copy of the notebooks reproduces the package byte for byte, the module index included"
    shutil.copy(ROOT/'settings.ini', tmp_path)
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.*'))
    (tmp_path/'coulomb_gan').mkdir()
    export = subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()'],
                            cwd=tmp_path, capture_output=True, text=True)
    assert export.returncode == 0, export.stderr
    fresh, stored = modules(tmp_path/'coulomb_gan'), modules(ROOT/'coulomb_gan')
    assert fresh.keys() == stored.keys(), f'run nbdev_export; exported {sorted(fresh)}, stored {sorted(stored)}'
    stale = [f'{name}: run nbdev_export; stored and exported differ at {first_difference(stored[name], fresh[name])}'
             for name in fresh if fresh[name] != stored[name]]
    assert not stale, '\n'.join(stale)


@pytest.mark.parametrize('name', PINS)
def test_pin_is_present(name):
    got = str(direct_requirements().get(name, 'nothing'))
    assert PINS[name] in got.split(','), f'settings.ini: {name} needs {PINS[name]}, got {got}'


def test_constraints_are_exact():
    "Every direct requirement has one version known to pass, inside the range settings.ini allows"
    path = ROOT/'constraints.txt'
    if not path.exists(): pytest.skip('no constraints.txt')
    lines = [l.split('#')[0].split(';')[0].strip() for l in path.read_text(encoding='utf-8').splitlines()]
    exact = {canonical(n): v for n, v in (l.split('==') for l in lines if re.fullmatch(r'[\w.\-\[\]]+==[\w.+!]+', l))}
    for name, allowed in direct_requirements().items():
        assert name in exact, f'constraints.txt: no exact version of {name}'
        fits = allowed.contains(exact[name], prereleases=True)
        assert fits, f'constraints.txt: {name} {exact[name]} is outside {allowed}'
