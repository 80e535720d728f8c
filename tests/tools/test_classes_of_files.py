"""Classes and functions that a user names as FILE.py:NAME."""
import pytest
import torch

from coulomb_gan.objectives.base import OBJECTIVES
from coulomb_gan.networks.base import NETWORKS, build
from coulomb_gan.reporting.cli import main
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import experiment

OWN = '''
from dataclasses import dataclass
from torch import nn
from coulomb_gan.networks.base import Networks
from coulomb_gan.objectives.base import Objective

def pair(latent, shape): return nn.Linear(latent, *shape), nn.Linear(*shape, 1)
def alone(latent, shape): return nn.Linear(latent, *shape)
def broken(latent, shape): return 1 / 0, None
NUMBER = 3

@dataclass(frozen=True)
class Wide(Networks):
    width: int = 8  # units
    def generator(self, shape): return nn.Sequential(nn.Linear(self.latent, self.width), nn.Linear(self.width, *shape))
    def discriminator(self, shape): return nn.Linear(*shape, 1)

@dataclass(frozen=True)
class Difference(Objective):
    "A critic without a bound"
    scale: float = 1.
    def loss_d(self, d, b):
        d_x, d_y = d(b.x, b.y)
        return self.scale * (d_x.mean() - d_y.mean())
    def loss_g(self, d, b): return -d(b.x).mean()
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own.py').write_text(OWN)
    return tmp_path


def settings(**changes):
    return experiment('tiny', data='mixture', steps=6, eval_every=3, eval_samples=20, **changes)


@pytest.mark.parametrize('networks', ['own.py:pair', 'own.py:Wide'])
def test_a_run_of_a_users_file_resumes_bit_for_bit(networks, own):
    e = settings(networks=networks, objective='own.py:Difference', scale=.5)
    whole = fit(e, own / 'whole', progress=False)
    fit(e.changed(steps=3), own / 'parts', progress=False)
    parts = fit(e, own / 'parts', progress=False)
    assert torch.equal(whole.sample(20), parts.sample(20))
    assert load_run(own / 'whole').experiment == e and e.objective.scale == .5


def test_a_class_has_options_of_its_own(own):
    e = settings(networks='own.py:Wide', width=5)
    assert build(e.networks, (2,))[0][0].out_features == 5
    with pytest.raises(ValueError, match='width must be of type int'): e.changed(width='x')


def test_from_the_command_line(own, run):
    code, out, err = run('train tiny --data mixture --steps 3 --eval-samples 20 --networks own.py:pair --objective own.py:Difference --out r')
    assert code == 0, err
    assert load_run(own / 'r').experiment.networks.name == 'own.py:pair'


@pytest.mark.parametrize('spec, message', [
    ('nowhere.py:pair', 'nowhere.py: FileNotFoundError'), ('own.py:pear', "own.py has no function 'pear'"),
    ('own.py:NUMBER', "own.py has no function 'NUMBER'")])
@pytest.mark.parametrize('registry', [NETWORKS, OBJECTIVES], ids=lambda r: r.what)
def test_what_a_file_lacks_is_one_line(registry, spec, message, own):
    with pytest.raises(ValueError, match=message): registry.find(spec)


def test_what_is_of_another_kind_is_refused(own):
    with pytest.raises(ValueError, match='pair is no class of objective'): settings(objective='own.py:pair')
    with pytest.raises(ValueError, match='networks must be of type Networks'): settings(networks='own.py:Difference')
    with pytest.raises(ValueError, match='objective must be of type Objective'): settings(objective='own.py:Wide')


@pytest.mark.parametrize('name, message', [('alone', 'must return a generator and a discriminator, got Linear'),
                                           ('broken', 'own.py, line 9: ZeroDivisionError')])
def test_a_function_that_makes_no_pair_is_named_before_the_run_folder_is_made(name, message, own):
    with pytest.raises(ValueError, match=message): fit(settings(networks=f'own.py:{name}'), own / 'run', progress=False)
    assert not (own / 'run').exists()


def test_a_run_whose_file_is_gone_says_so(own):
    fit(settings(networks='own.py:pair'), own / 'run', progress=False)
    (own / 'own.py').unlink()
    NETWORKS.of_files.clear()
    with pytest.raises(Exception, match='was made with own.py, which is not here; run this where that file lies'): load_run(own / 'run')


FAULTY = '''
from dataclasses import dataclass
from torch import nn
from coulomb_gan.objectives.base import Objective

class Judge(nn.Linear):
    def forward(self, x): return super().forward(x).nothing()

def flat(latent, shape): return nn.Linear(latent, 5), nn.Linear(5, 1)
def judged(latent, shape): return nn.Linear(latent, *shape), Judge(*shape, 1)

@dataclass(frozen=True)
class Misspelt(Objective):
    def loss_d(self, d, b): return d(b.y).men()
    def loss_g(self, d, b): return d(b.x).mean()
'''

@pytest.mark.parametrize('option, words', [
    ('--networks faulty.py:flat', 'faulty.py:flat made (2, 5) of 2 latent vectors, expected (2, 2)'),
    ('--networks faulty.py:judged', "faulty.py, line 7: AttributeError: 'Tensor' object has no attribute 'nothing'"),
    ('--objective faulty.py:Misspelt', "faulty.py, line 14: AttributeError: 'Tensor' object has no attribute 'men'")])
def test_a_fault_of_a_users_code_is_one_line_with_its_place(option, words, own, capsys):
    (own / 'faulty.py').write_text(FAULTY)
    line = f'train tiny --data mixture --steps 2 --out run {option}'
    with pytest.raises(SystemExit) as ended: main(line.split())
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith('coulomb-gan: ')]
    assert ended.value.code in (1, 2) and said == [f'coulomb-gan: {words}']
    if 'flat' in option: assert not (own / 'run').exists()


def test_a_users_generator_is_tried_without_a_trace(own):
    "Neither its mode nor a random number"
    pair = NETWORKS.find('own.py:pair')
    torch.manual_seed(0)
    g, _ = build(pair(latent=3), (2,))
    torch.manual_seed(0)
    other, _ = pair(latent=3)._pair((2,))
    assert torch.equal(g.weight, other.weight) and g.training
