"""README.md is nbs/index.ipynb, rendered by `make readme`."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_readme_is_the_rendered_index(tmp_path):
    for part in ('nbs/index.ipynb', 'Makefile', 'settings.ini'):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    (tmp_path / '.venv').mkdir()
    (tmp_path / '.venv/bin').symlink_to(Path(sys.executable).parent)
    done = subprocess.run(['make', '-o', '.venv/.ready', 'readme'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'README.md').read_text() == (ROOT / 'README.md').read_text(), 'run `make readme`'
    pictures = re.findall(r'\]\((nbs/figures/[^)]+)\)', (ROOT / 'README.md').read_text())
    drawn = [name for name in pictures if Path(name).name.startswith('README_')]
    assert drawn, 'the README shows no figure of its own'
    for name in drawn: assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), f'run `make readme`: {name}'
    for name in pictures: assert (ROOT / name).exists()
