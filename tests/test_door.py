"""The importers' door: light, complete, typed; and the same commands by `python -m`."""
import re
import subprocess
import sys

import pytest

import coulomb_gan
from test_style import ROOT

NAMES = ['Plummer', 'potential', 'potentials', 'force', 'energy', 'Experiment', 'experiment', 'EXPERIMENTS', 'fit',
         'load_run', 'reproduce']


def python(code, *args, **options):
    return subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, **options)


def test_import_leaves_torch_and_matplotlib_out():
    code = "import sys, coulomb_gan\nprint({'torch', 'matplotlib', 'numpy', 'click'} & {*sys.modules})"
    done = python(code)
    assert (done.returncode, done.stdout) == (0, 'set()\n'), done.stderr


def test_every_name_of_the_door_leads_to_its_home():
    assert sorted(coulomb_gan.__all__) == sorted(NAMES)
    for name in NAMES:
        found = getattr(coulomb_gan, name)
        assert name in dir(coulomb_gan)
        if hasattr(found, '__name__'): assert found.__name__ == name and found.__module__.startswith('coulomb_gan.')
    with pytest.raises(AttributeError, match="no attribute 'plumer'"): coulomb_gan.plumer


def test_six_lines():
    "What an importer does first"
    done = python('''
import torch
from coulomb_gan import Plummer, energy, force, potentials
kernel, x, y = Plummer(d=1, eps=1), torch.randn(64, 2), torch.rand(64, 2)
phi_x, phi_y = potentials(x, y, kernel)
assert phi_x.shape == phi_y.shape == (64,)
assert energy(x + 2 * force(x, x, y, kernel), y, kernel) < energy(x, y, kernel)
''')
    assert done.returncode == 0, done.stderr


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, '-m', 'coulomb_gan', 'list'], capture_output=True, text=True)
    assert done.returncode == 0 and 'cifar10' in done.stdout, done.stderr
    wrong = subprocess.run([sys.executable, '-m', 'coulomb_gan', 'show', 'digit'], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count('\n')) == (2, 1) and "did you mean 'digits'?" in wrong.stderr


TYPED = '''
from pathlib import Path
import torch
from torch import Tensor
import coulomb_gan
from coulomb_gan import EXPERIMENTS, Experiment, Plummer, energy, experiment, fit, force, load_run, potential, potentials
from coulomb_gan import reproduce

kernel = Plummer(d=1., eps=.5)
x, y = torch.randn(8, 2), torch.randn(8, 2)
phi: Tensor = potential(x, x, y, kernel)
phi_x, phi_y = potentials(x, y, kernel)
f: Tensor = force(x, x, y, kernel)
F: float = energy(x, y, kernel).item()
e: Experiment = experiment('digits', batch=64).changed(lr_g=1e-3)
nested: dict = e.to_dict()
again: Experiment = EXPERIMENTS['digits'].revised(nested)
run = fit(e, 'out', data=x, progress=False)
samples: Tensor = load_run('out').sample(64, seed=3)
lines: list[dict] = run.metrics
page: Path = reproduce('digits', 'out')
coulomb_gan.Plummer(1.)
'''
WRONG = {'experiment(3)': 'arg-type', 'load_run("a").sample("many")': 'arg-type', 'energy(x, y)': 'call-arg',
         'Plummer(depth=1.)': 'call-arg', 'e.chnged()': 'attr-defined'}


@pytest.fixture(scope='module')
def errors(tmp_path_factory):
    "What mypy says of code that is right and of code that is wrong, in one run"
    folder = tmp_path_factory.mktemp('typed')
    (folder / 'right.py').write_text(TYPED)
    (folder / 'wrong.py').write_text(TYPED + '\n'.join(WRONG))
    command = [sys.executable, '-m', 'mypy', '--config-file', 'pyproject.toml', '--follow-imports', 'silent',
               folder / 'right.py', folder / 'wrong.py']
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def test_types_of_the_door_are_accepted(errors):
    assert errors[-1].startswith('Found'), errors
    assert not [line for line in errors if 'right.py' in line]


def test_wrong_uses_are_seen(errors):
    first = TYPED.count('\n') + 1
    for number, (use, kind) in enumerate(WRONG.items(), first):
        assert [line for line in errors if f'wrong.py:{number}: error:' in line and f'[{kind}]' in line], use


def ruff(*paths):
    "What ruff finds with the rules of pyproject.toml"
    command = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'concise',
               '--config', 'pyproject.toml', *paths]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_no_fault_that_ruff_finds():
    "In notebooks, the modules made of them, tests and benchmarks"
    found = ruff('.')
    assert found.returncode == 0, found.stdout


def test_ruff_finds_faults(tmp_path):
    (tmp_path / 'unused.py').write_text('import os\nprint(undefined)\n')
    assert re.findall(r'F401|F821', ruff(tmp_path).stdout) == ['F401', 'F821']


def test_readme_has_a_line_a_chapter_in_the_order_of_reading():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(readme.splitlines()) <= 100
    chapters = sorted(folder.name for folder in (ROOT / 'nbs').glob('[0-9]_*'))
    lines = [line for line in readme.splitlines() if line[:1].isdigit()]
    assert [f'](nbs/{chapter})' in line for chapter, line in zip(chapters, lines, strict=True)] == [True] * 7
    beside = [path.relative_to(ROOT).as_posix() for path in (ROOT / 'nbs').glob('[0-9]*.ipynb')]
    assert not [page for page in beside if f']({page})' not in readme]


def test_version_is_everywhere_the_same():
    assert f'version = {coulomb_gan.__version__}\n' in (ROOT / 'settings.ini').read_text(encoding='utf-8')
    assert f'## {coulomb_gan.__version__}' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
