"""One thread, no windows: runs are compared bit for bit, here and in the processes the tests start."""
import os

os.environ.update(OMP_NUM_THREADS='1', PYTHONUNBUFFERED='1')

import matplotlib
import torch

matplotlib.use('Agg')      # here only: the kernels that execute reports choose for themselves
torch.set_num_threads(1)
