"""Minibatches are the same whether the data lie on the device or are streamed to it."""
import pytest
import torch

from coulomb_gan.data import datasets
from coulomb_gan.data.datasets import Data, Samples
from coulomb_gan.training.config import Experiment
from coulomb_gan.training.fit import fit


def test_streamed_run_equals_resident_run(tmp_path, monkeypatch):
    e = Experiment(latent=4, width_g=16, width_d=16, depth_g=1, depth_d=1, batch=16, steps=20, eval_every=20,
                   eval_samples=50)
    resident = fit(e, tmp_path / 'resident', progress=False).sample(20)
    monkeypatch.setattr(datasets, 'fits', lambda stored, device: False)
    streamed = fit(e, tmp_path / 'streamed', progress=False).sample(20)
    assert torch.equal(streamed, resident)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_streamed_rows_on_a_gpu(monkeypatch):
    stored = Data(torch.randint(256, (100, 3, 8, 8), dtype=torch.uint8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    index = torch.randint(100, (20,), device='cuda')
    resident = Samples(stored, 'cuda')
    monkeypatch.setattr(datasets, 'fits', lambda stored, device: False)
    streamed = Samples(stored, 'cuda')
    assert (resident.stored.device.type, streamed.stored.device.type) == ('cuda', 'cpu')
    assert streamed[index].device.type == 'cuda' and torch.equal(streamed[index], resident[index])
