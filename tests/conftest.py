"""One thread, no windows: runs are compared bit for bit, here and in the processes the tests start."""
import os

os.environ.update(OMP_NUM_THREADS='1', PYTHONUNBUFFERED='1')

import matplotlib
import pytest
import torch

matplotlib.use('Agg')      # here only: the kernels that execute reports choose for themselves
torch.set_num_threads(1)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    "Runs a command line in an empty folder: exit code, output, lines on stderr"
    from coulomb_gan.commands import main
    monkeypatch.chdir(tmp_path)
    def run(line):
        with pytest.raises(SystemExit) as done: main(line.split())
        out, err = capsys.readouterr()
        return done.value.code, out, err.splitlines()
    return run
