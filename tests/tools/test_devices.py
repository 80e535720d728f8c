"""Devices: their form, and one that is not there, wherever one is asked for."""
import pytest
import torch

from coulomb_gan.devices import check_device, check_form
from coulomb_gan.files import RunError
from coulomb_gan.training.encoders import find_encoder
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.train_encoder import load_encoder


@pytest.mark.parametrize('device', ['cpu', 'cuda', 'cuda:0', 'cuda:12'])
def test_forms(device): check_form(device)


OTHERS = ['gpu', '', 'cuda:', 'cuda:x', 'cuda:-1', 'cuda:01', 'cuda:\u0661', 'meta', 'mps', 'cpu:0', 'CUDA', ' cpu', 'cpu\n', None, 0, torch.device('cpu')]


@pytest.mark.parametrize('check', [check_form, check_device])
@pytest.mark.parametrize('device', OTHERS, ids=repr)
def test_other_forms_are_refused(check, device):
    with pytest.raises(ValueError, match="device must be such as 'cpu'") as caught: check(device)
    assert repr(device) in str(caught.value) and '\n' not in str(caught.value)


@pytest.fixture
def gpus(monkeypatch):
    "Lets the machine have some GPUs."
    def give(n):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: n > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: n)
    return give


def test_devices_that_are_there(gpus):
    gpus(2)
    for device in ('cpu', 'cuda', 'cuda:0', 'cuda:1'): check_device(device)


def test_one_too_many(gpus):
    gpus(2)
    with pytest.raises(RunError, match='this machine has no cuda:2; its CUDA devices count from cuda:0 to cuda:1'): check_device('cuda:2')
    for number in (10, 128, 256): pytest.raises(RunError, check_device, f'cuda:{number}')


ASKED = {
    'load_run': lambda device: load_run('digits', device),
    'load_encoder': lambda device: load_encoder('nowhere', device),
    'find_encoder': lambda device: find_encoder('digits', device)}


@pytest.mark.parametrize('asked', ASKED.values(), ids=ASKED)
def test_wherever_a_device_is_asked_for(asked, gpus):
    gpus(0)
    with pytest.raises(RunError, match='this machine has no CUDA device; use --device cpu'): asked('cuda')
    with pytest.raises(ValueError, match="device must be such as 'cpu', 'cuda' or 'cuda:1', got 'tpu'"): asked('tpu')


def test_nothing_is_asked_of_no_encoder(gpus):
    gpus(0)
    assert find_encoder('', 'cuda') is None
