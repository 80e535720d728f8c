"""One thread, no windows: runs are compared bit for bit, here and in the processes the tests start."""
import os
import shutil

os.environ.update(OMP_NUM_THREADS='1', PYTHONUNBUFFERED='1')

import matplotlib
import pytest
import torch

matplotlib.use('Agg')      # here only: the kernels that execute reports choose for themselves
torch.set_num_threads(1)


def pytest_make_parametrize_id(val):
    "Bytes are named by their number: packed ones hold the time they were packed at, and every process must find the same names"
    return f'{len(val)} bytes' if isinstance(val, bytes) else None


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    "Runs a command line in an empty folder: exit code, output, lines on stderr"
    from coulomb_gan.reporting.cli import main
    monkeypatch.chdir(tmp_path)
    def run(line):
        with pytest.raises(SystemExit) as done: main(line.split())
        out, err = capsys.readouterr()
        return done.value.code, out, err.splitlines()
    return run


@pytest.fixture
def unprivileged():
    "What a command line begins with so that read-only places are read-only for it, for root too"
    if os.geteuid() != 0: return []
    if not shutil.which('setpriv'): pytest.skip('root may write everywhere, and there is no setpriv to change that')
    drop = '-dac_override,-dac_read_search'
    return ['setpriv', f'--bounding-set={drop}', f'--inh-caps={drop}']
