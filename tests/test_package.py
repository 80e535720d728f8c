"""What is installed: imports with the core requirements alone, notebooks in the wheel, a command that starts."""
import configparser
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted('.'.join(p.relative_to(ROOT/'coulomb_gan').with_suffix('').parts)
                 for p in (ROOT/'coulomb_gan').rglob('*.py') if not p.stem.startswith('_'))
NOTEBOOKS = sorted(p.name for p in (ROOT/'nbs/experiments').glob('*.ipynb'))
SOURCES = ['pyproject.toml', 'setup.py', 'settings.ini', 'README.md', 'LICENSE']


def settings():
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


# --- imports ------------------------------------------------------------------------------------------------------

BARE = '''
import importlib, importlib.abc, sys
import fastcore, matplotlib.pyplot, numpy, torch, torchvision

BLOCKED = {'click', 'tqdm', 'lmdb', 'sklearn', 'scipy', 'torch_fidelity', 'papermill', 'nbconvert', 'nbformat', 'nbclient',
           'IPython', 'ipykernel', 'jupyterlab', 'nbdev', 'execnb', 'ghapi', 'hypothesis', 'pytest', 'math_core'}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in BLOCKED: raise ImportError(f'{name} is blocked')

before = set(sys.modules)
sys.meta_path.insert(0, Block())
for name in sys.argv[1:]: importlib.import_module(name)
new = {n.split('.')[0] for n in set(sys.modules) - before}
print(sorted(new & BLOCKED))
'''


def import_bare(*names):
    return subprocess.run([sys.executable, '-c', BARE, *names], capture_output=True, text=True)


def test_modules_import_with_the_core_requirements_alone():
    names = ['coulomb_gan', *(f'coulomb_gan.{m}' for m in MODULES if not m.startswith('reporting.cli'))]
    assert len(names) > 10
    done = import_bare(*names)
    assert (done.returncode, done.stdout) == (0, '[]\n'), done.stderr


def test_blocking_works():
    done = import_bare('coulomb_gan.reporting.cli')
    assert done.returncode == 1 and 'click is blocked' in done.stderr


@pytest.mark.parametrize('module', MODULES)
def test_public_names_exist(module):
    loaded = import_module(f'coulomb_gan.{module}')
    assert loaded.__all__ and [n for n in loaded.__all__ if not hasattr(loaded, n)] == []


def test_version_is_that_of_the_settings():
    assert import_module('coulomb_gan').__version__ == settings()['version']


# --- the wheel ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built from a copy of the tree, with what is installed here"
    tree, out = tmp_path_factory.mktemp('tree'), tmp_path_factory.mktemp('out')
    for name in SOURCES: shutil.copy(ROOT/name, tree)
    for folder in ('coulomb_gan', 'nbs'):
        shutil.copytree(ROOT/folder, tree/folder, ignore=shutil.ignore_patterns('__pycache__', '.*', 'runs'))
    command = 'pip wheel --quiet --no-build-isolation --no-deps --no-index --no-cache-dir -w'.split()
    built = subprocess.run([sys.executable, '-m', *command, out, tree], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(out.glob('*.whl')))


def member(wheel, end): return next(n for n in wheel.namelist() if n.endswith(end))


def test_wheel_holds_the_experiment_notebooks(wheel):
    assert NOTEBOOKS
    for name in NOTEBOOKS:
        assert wheel.read(f'coulomb_gan/experiments/{name}') == (ROOT/'nbs/experiments'/name).read_bytes()


def test_wheel_holds_every_module_and_nothing_else(wheel):
    want = {p.relative_to(ROOT).as_posix() for p in (ROOT/'coulomb_gan').rglob('*.py')}
    want |= {f'coulomb_gan/experiments/{name}' for name in NOTEBOOKS} | {'coulomb_gan/py.typed'}
    want |= {'coulomb_gan/' + p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs/experiments').rglob('*.yaml')}
    want |= {'coulomb_gan/experiments/hyperparameter_search.json'}
    assert {n for n in wheel.namelist() if '.dist-info/' not in n} == want


def test_console_scripts_start_something(wheel):
    config = configparser.ConfigParser(delimiters=['='])
    config.read_string(wheel.read(member(wheel, 'entry_points.txt')).decode())
    assert list(config['console_scripts']) == ['coulomb-gan']
    module, name = config['console_scripts']['coulomb-gan'].split(':')
    assert callable(getattr(import_module(module), name, None)), f'{module} has no {name}'


def test_wheel_names_every_requirement(wheel):
    metadata = Parser().parsestr(wheel.read(member(wheel, '/METADATA')).decode())
    want = (settings()['requirements'] + ' ' + settings()['pip_requirements']).split()
    got = [r for r in metadata.get_all('Requires-Dist') if 'extra ==' not in r]
    names = lambda words: sorted(w.split('<')[0].split('>')[0].split('=')[0] for w in words)
    assert names(got) == names(want)
    assert metadata['Version'] == settings()['version']


UNPACKED = '''
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from coulomb_gan.reporting.reproduce import notebook
for kind in ('images', 'mixture', 'text', 'methods', 'given_images'):
    assert notebook(kind).is_file() and Path(sys.argv[1]) in notebook(kind).parents, notebook(kind)
'''


def test_unpacked_wheel_finds_its_notebooks(wheel, tmp_path):
    wheel.extractall(tmp_path)
    done = subprocess.run([sys.executable, '-c', UNPACKED, tmp_path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
