"""The command line in-process: what is wrong is one line, what is right shows in the output."""
import json
import os
import shutil
import warnings
from functools import partial, reduce
from pathlib import Path

import pytest
import torch

from coulomb_gan import __version__
from coulomb_gan.data.datasets import digits
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.metrics.feature_extractors import FeatureExtractor, evaluate_features
from coulomb_gan.metrics.frechet import Statistics, save_statistics, statistics
from coulomb_gan.reporting import cli_compare, cli_evaluate, cli_reproduce
from coulomb_gan.reporting import reproduce
from coulomb_gan.reporting.cli import cli, main
from coulomb_gan.training.config import options
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import EXPERIMENTS, experiment, methods_for
from faults import without_privileges
from pages import files, make_pictures

TINY = '--steps 20 --batch 16 --width-g 16 --width-d 16 --depth-g 1 --depth-d 1 --eval-samples 70 --eval-every 20'


# --- what is right ------------------------------------------------------------------------------------------------

def test_list_names_every_experiment(run):
    code, out, err = run('list')
    assert (code, err) == (0, [])
    title, *lines = out.splitlines()
    assert title.split() == ['name', 'networks', 'objective', 'steps', 'data']
    assert [line.split()[:4] for line in lines] == [
        [name, e.networks.name, e.objective.name, str(e.optim.steps)] for name, e in EXPERIMENTS.items()]
    data = {line.split()[0]: ' '.join(line.split()[4:]) for line in lines}
    assert data['digits'] == '1,347 of 1x8x8' and data['celeba'] == 'not here; coulomb-gan prepare celeba'


def test_list_measures_the_time_of_what_is_here(run, monkeypatch):
    "A hundred seconds afford a thousand steps"
    monkeypatch.setattr('coulomb_gan.reporting.cli.affordable', lambda e, seconds: 10 * seconds)
    _, out, _ = run('list --time')
    words = {line.split()[0]: line.split()[4:6] for line in out.splitlines()[1:]}
    assert words['digits'] == ['26.7', 'min'] and words['mixture-full'] == ['1.2', 'd'] and words['celeba'][0] == '-'


def test_without_a_command_it_says_what_to_do_first(run):
    code, out, err = run('')
    assert (code, err) == (0, []) and 'First: `doctor` checks the installation' in out


def test_version(run):
    code, out, _ = run('--version')
    assert code == 0 and __version__ in out


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_show_prints_resolved_fields(name, run):
    code, out, err = run(f'show {name}')
    assert (code, err) == (0, [])
    e = EXPERIMENTS[name]
    values = {option: reduce(getattr, path, e) for option, path in options(e).items()}
    values |= dict(networks=e.networks.name, objective=e.objective.name)
    assert out.splitlines() == [f'{option} = {value}' for option, value in values.items()]


@pytest.mark.parametrize('command', sorted(cli.commands))
def test_help_of_every_command(command, run):
    code, out, err = run(f'{command} --help')
    assert (code, err) == (0, []) and out.startswith(f'Usage: coulomb-gan {command}')


def test_help_lists_the_commands(run):
    code, out, _ = run('--help')
    assert code == 0
    assert sorted(cli.commands) == ['advise', 'compare', 'doctor', 'evaluate', 'export', 'list', 'prepare', 'reproduce', 'sample', 'settings', 'show',
                                    'status', 'summary', 'train']
    assert all(command in out for command in cli.commands)


def test_train_leaves_a_run_and_says_what_next(run, tmp_path):
    code, out, _ = run('train tiny --steps 20')
    assert (code, out) == (0, 'trained 20 steps; report on it with: coulomb-gan evaluate runs/tiny\n')
    assert (tmp_path / 'runs' / 'tiny' / 'result.json').exists()


def test_train_again_loads_what_is_finished(run, tmp_path):
    assert run('train tiny --out run')[0] == 0
    before = files(tmp_path / 'run')
    assert run('train tiny --out run')[:2] == (0, 'trained 40 steps; report on it with: coulomb-gan evaluate run\n')
    assert files(tmp_path / 'run') == before


# --- with another feature extractor -------------------------------------------------------------------------------

NETWORKS = """
from torch import float32, manual_seed, nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh())
    def forward(self, images): return self.layers(images.to(float32) / 255)

def other(): return lambda images: images.flatten(1).float()[:, 20:24]
"""
SEEN = 'evaluate digits --features nets.py:Net'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run on digits, one on points, one that was stopped; a file with networks and made-up published statistics"
    place = tmp_path_factory.mktemp('trained')
    for name in ('digits', 'mixture'): fit(experiment('tiny', data=name, steps=20), place / name, progress=False)
    shutil.copytree(place / 'digits', place / 'stopped')
    (place / 'stopped' / 'result.json').unlink()
    (place / 'nets.py').write_text(NETWORKS)
    save_statistics(place / 'published.npz', Statistics(torch.zeros(6), torch.eye(6)))
    (place / 'junk.npz').write_text('text')
    return place


@pytest.fixture
def see(run, trained, tmp_path, monkeypatch):
    "As `run`, in a copy of `trained`; in place of the page a note of what `result.json` held when it was asked for"
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    rendered = []
    def render(out, *where):
        rendered.append(json.loads((out / 'result.json').read_text()))
        return out / 'report.html'
    monkeypatch.setattr(cli_evaluate, 'render', render)
    return lambda line: (*run(line), rendered)


def test_evaluate_measures_then_renders(see):
    code, out, _, rendered = see(f'{SEEN} --samples 200')
    assert code == 0 and len(rendered) == 1
    assert '200 samples against 1,347 real images in nets-Net' in out.splitlines()[0]
    assert out.splitlines()[1:] == ['open digits/report.html']
    found = rendered[0]['metrics']['nets-Net']
    assert (found['n'], found['n_reference'], found['reference']) == (200, 1347, 'digits')
    assert {'frechet', 'bias', 'kid', 'precision', 'recall'} <= found.keys() and 'fid' not in found
    assert rendered[0]['steps'] == 20 and 'energy_train' in rendered[0]['metrics']


def test_the_number_is_that_of_samples_drawn_in_order(see, trained):
    "Against features, statistics and the documented seeds written out; batches of 8 x 16, so seeds 2 and 2 + 128"
    see(f'{SEEN} --samples 200')
    found = json.loads(Path('digits/result.json').read_text())['metrics']['nets-Net']
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 6)
    net = lambda images: layer(images.flatten(1).float() / 255).tanh()
    r = load_run(Path('digits'))
    x = torch.cat([r.sample(128, seed=2), r.sample(72, seed=130)])
    train = digits().train
    with torch.no_grad(): y = statistics(net(train), 10_000)
    # float32 features in other batches: rounding of 1e-6 in features near 0.1
    assert evaluate_features(FeatureExtractor('same', net), x, y)['frechet'] == pytest.approx(found['frechet'], rel=1e-4)


def test_extractors_stand_side_by_side_and_references_are_kept(see):
    see(f'{SEEN} --samples 100')
    kept = list(Path('data/statistics').iterdir())
    assert [p.name.rpartition('-')[0] for p in kept] == ['nets-Net']
    before = kept[0].stat().st_mtime_ns
    assert see('evaluate digits --features nets.py:other --samples 90')[0] == 0
    *_, rendered = see(f'{SEEN} --samples 80')
    assert kept[0].stat().st_mtime_ns == before
    found = rendered[-1]['metrics']
    assert {name: found[name]['n'] for name in ('nets-Net', 'nets-other')} == {'nets-Net': 80, 'nets-other': 90}


def test_published_reference(see):
    code, out, _, rendered = see(f'{SEEN} --reference published.npz --samples 80')
    found = rendered[0]['metrics']['nets-Net']
    assert code == 0 and 'against an unknown number' in out
    assert (found['reference'], found['n_reference'], 'kid' in found) == ('published.npz', None, False)
    assert not Path('data').exists()


def test_without_a_network_nothing_is_measured(see):
    code, out, err, rendered = see('evaluate digits')
    assert (code, out, err) == (0, 'open digits/report.html\n', [])
    assert [*rendered[0]['metrics']] == ['energy_train']


UNSEEN = {
    'evaluate digits --samples 100': 'need --inception or --features',
    'evaluate digits --reference published.npz': 'need --inception or --features',
    'evaluate digits --inception': 'FID needs',
    'evaluate digits --inception nothing.pth': 'nothing.pth does not exist. FID needs',
    'evaluate digits --inception published.npz': 'holds no weights',
    'evaluate digits --features nets.py': 'FILE.py:FUNCTION',
    'evaluate digits --features none.py:Net': 'FILE.py:FUNCTION',
    'evaluate digits --features nets.py:Nett': "no function 'Nett'",
    f'{SEEN} --samples 6': 'nets-Net: 6 samples and 1,347 real images; expected more than 6',
    f'{SEEN} --samples 1': '--samples',
    f'{SEEN} --samples many': '--samples',
    f'{SEEN} --reference junk.npz': 'junk.npz: expected an npz',
    f'{SEEN} --reference nothing.npz': 'nothing.npz: expected an npz',
    f'{SEEN} --data mixture': 'other data',
    f'{SEEN} --data nowhere': 'are not at nowhere',
    f'{SEEN} --out junk.npz': 'cannot write junk.npz',
    'evaluate digits --features nets.py:other --reference published.npz': 'got 6 features, nets-other has 4',
    'evaluate mixture --features nets.py:Net': 'holds no images',
    'evaluate stopped --features nets.py:Net': 'not finished',
    'evaluate nothing --features nets.py:Net': 'holds no run',
}


@pytest.mark.parametrize('line', UNSEEN)
def test_what_cannot_be_measured_is_one_line(line, see, monkeypatch):
    "And it leaves the results alone, and renders nothing"
    monkeypatch.setenv('TORCH_HOME', 'empty')
    before = Path('digits/result.json').read_text()
    code, out, err, rendered = see(line)
    assert code in (1, 2) and (out, rendered) == ('', [])
    assert len(err) == 1 and err[0].startswith('coulomb-gan: ') and UNSEEN[line] in err[0]
    assert Path('digits/result.json').read_text() == before


def test_evaluate_finds_data_that_were_moved_and_writes_elsewhere(run, tmp_path, monkeypatch):
    rendered = []
    def render(*where):
        rendered.append(where)
        return Path('page')
    monkeypatch.setattr(cli_evaluate, 'render', render)
    assert run('evaluate run --data moved --out page')[0] == 0
    assert rendered == [(Path('run'), Path('page'), 'moved')]


def test_a_run_that_may_not_be_written_is_evaluated_elsewhere(run, tmp_path, monkeypatch):
    "On a machine where the working directory may not be written either, the cache is lost and the number is not"
    monkeypatch.setattr(reproduce, 'execute', partial(reproduce.execute, n_samples=300))
    make_pictures(tmp_path / 'raw', count=60, side=8)
    prepare('raw', 'data/pictures', 8, workers=0, progress=False)
    assert run('train tiny --data data/pictures --out run')[0] == 0
    (tmp_path / 'net.py').write_text('def make(): return lambda images: images.float().flatten(1)[:, 18:22]\n')
    for name in ('closed', 'page'): (tmp_path / name).mkdir()
    for path in [tmp_path / 'closed', tmp_path / 'run', *(tmp_path / 'run').rglob('*')]: path.chmod(0o555)
    before = files(tmp_path / 'run')
    def evaluate(options=''):
        def there():
            os.chdir(tmp_path / 'closed')
            warnings.simplefilter('always')
            return run(f'evaluate ../run --features ../net.py:make --samples 100 {options}')
        code, _, err = without_privileges(there)
        return code, [line for line in err if line.startswith('coulomb-gan: ')]
    code, said = evaluate()
    assert code == 1 and len(said) == 1 and said[0].startswith('coulomb-gan: cannot write ../run')
    code, said = evaluate('--out ../page')
    assert code == 0 and len(said) == 1 and 'so it is computed again next time' in said[0]
    found = json.loads((tmp_path / 'page/result.json').read_text())['metrics']
    assert found['net-make']['n'] == 100 and found['n_samples'] == 300 and (tmp_path / 'page/report.html').exists()
    assert files(tmp_path / 'run') == before and not [*(tmp_path / 'closed').iterdir()]


# --- what is handed on --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('line, asked', [('', ('mixture', 'runs/mixture')), (' --full', ('mixture-full', 'runs/mixture-full'))])
def test_the_full_length_has_its_own_run_and_the_same_report(line, asked, run, monkeypatch):
    calls = []
    def reproduced(preset, out, report, loggers, **changes):
        calls.append((preset, str(out), str(report), changes))
        return report / 'report.html'
    monkeypatch.setattr(cli_reproduce, 'reproduce', reproduced)
    code, out, _ = run(f'reproduce mixture{line} --report reports --seed 3')
    assert (code, calls) == (0, [(*asked, 'reports/mixture', dict(seed=3))])
    assert out.splitlines()[-1] == f'{asked[0]}: open reports/mixture/report.html'


@pytest.mark.parametrize('line, asked', [
    ('', (Path('runs/digits-methods'), 3, None, None)),
    (' --methods coulomb,wgan-gp --seeds 2 --seconds 5 --out a --report b --batch 64', (Path('a'), 2, 5., Path('b')))])
def test_compare_hands_on_what_was_given(line, asked, run, monkeypatch):
    calls = []
    def compared(experiments, *a, **measuring): return calls.append((experiments, a, measuring)) or 'page'
    monkeypatch.setattr(cli_compare, 'compare', compared)
    assert run(f'compare digits{line}')[:2] == (0, 'open page\n')
    (experiments, handed, measuring), = calls
    assert handed == asked and measuring == {'extractors': []}
    assert [*experiments] == (['coulomb', 'wgan-gp'] if line else methods_for(experiment('digits')))
    assert {e.optim.batch for e in experiments.values()} == {64 if line else 256}


# --- what is wrong ------------------------------------------------------------------------------------------------

WRONG = {
    'show digit': "did you mean 'digits'?",
    'show qqqq': 'expected one of tiny, digits, mixture',
    'shwo digits': 'show',
    'tran digits': 'train',
    'train cifar': "did you mean 'cifar10'?",
    'reproduce digits mixtur': "did you mean 'mixture'?",
    'show': 'NAME',
    'show digits mixture': 'mixture',
    'reproduce': 'NAMES',
    'evaluate': 'name a RUN folder, or --images FOLDER with --data DATA',
    'evaluate --images nothing': '--images needs --data',
    'evaluate --images nothing --data digits': 'nothing does not exist',
    'evaluate broken --images nothing --data digits': 'name one of them',
    'evaluate --images file --data mixture': 'mixture holds points',
    'evaluate --images file --data nowhere': 'nowhere holds no prepared images',
    'evaluate --images file --data digits': 'file holds no images',
    'evaluate --images broken --data digits --samples 9': '--samples is for a run',
    'evaluate --images broken --data digits': "broken: 'config.json' cannot be read as an image",
    'reproduce digits --full': "there is no experiment 'digits-full'",
    'reproduce digits cifar10': 'data/cifar10',
    'compare cifar10': 'data/cifar10',
    'compare digit': "did you mean 'digits'?",
    'compare digits --methods coulomb,wgan': "did you mean 'wgan-gp'?",
    'compare digits --methods coulomb,released': "'released' was renamed to 'coulomb'",
    'compare digits --methods exact-forces': "did you mean 'exact-force'?",
    'compare digits --methods': '--methods',
    'train tiny --decay none --patience 3': "patience has no effect with decay 'none', only with plateau",
    'train tiny --optimiser rmsprop --beta1 .3': "beta1 has no effect with optimiser 'rmsprop', only with adam or muon",
    'train tiny --objective wgan-gp --penalty-noise uniform': "penalty_noise has no effect with penalty_at 'between'",
    'compare digits --seeds 0': '--seeds',
    'compare digits --seconds 0': '--seconds',
    'train mixture --monitor digits': "the metric 'digits' is for images, got points",
    'train digits --monitor ngrams': "the metric 'ngrams' is for text, got images",
    'train digits --monitor modes': "the metric 'modes' is for points, got images",
    'train digits --monitor digitz': "did you mean 'digits'?",
    'train text-builtin --eval-samples 639': '640 or more, got 639',
    'train text-builtin --networks mlp': "'mlp' are for points or images",
    'train digits --monitor inception': 'FID needs',
    'train tiny --monitor net.py:pixels --eval-samples 64': 'net-pixels has 64 features: eval_samples must be more, got 64',
    'train tiny --monitor net.py:pixel': "no function 'pixel'",
    'train celeba --objective wgan-gp --data digits --networks dcgan': 'side',
    'train cifar10': 'data/cifar10',
    'train digits --data nowhere': 'nowhere',
    f'train digits {TINY} --networks dcgan': 'depth_g is not for',
    'train digits --networks dcgan': 'side',
    'train mixture --networks dcgan': 'dcgan',
    f'train digits {TINY} --device cuda': 'no CUDA device',
    f'train digits {TINY} --out file': 'file',
    f'train digits {TINY} --out file/run': 'file',
    'evaluate nothing': 'nothing',
    'evaluate file': 'file',
    'evaluate broken': 'broken',
}
PROGRESS = ('images:', 'reading:', 'digits:', 'mixture:', 'run:')


@pytest.fixture
def things(tmp_path):
    "A file, one with a network, and a run folder with an unreadable configuration"
    (tmp_path / 'file').write_text('text')
    (tmp_path / 'net.py').write_text('def pixels(): return lambda images: images.float().flatten(1)\n')
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'config.json').write_text('{')


@pytest.mark.usefixtures('things')
@pytest.mark.parametrize('line', WRONG, ids=lambda line: line.replace(f' {TINY}', ''))
def test_wrong_input_is_one_line(line, run, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', 'empty')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    code, _, err = run(line)
    err = [e for e in err if e.strip() and not e.lstrip().startswith(PROGRESS)]
    assert code in (1, 2)
    assert len(err) == 1 and err[0].startswith('coulomb-gan: ')
    assert WRONG[line] in err[0]


def test_contradiction_names_the_field_and_leaves_the_run(run, tmp_path):
    assert run('train tiny --out run')[0] == 0
    before = files(tmp_path)
    code, _, err = run('train tiny --out run --eps 2')
    assert code == 1 and len(err) == 1 and 'objective.eps was 1.0 and is now 2.0' in err[0]
    assert files(tmp_path) == before


@pytest.mark.parametrize('line', ['reproduce digits mixtur', 'reproduce digits cifar10', 'compare digits --methods coulomb,wgan',
                                  'reproduce digits text-builtin --networks mlp', 'reproduce digits mixture --monitor digits'])
def test_wrong_name_among_several_stops_before_training(line, run, tmp_path):
    assert run(line)[0] == 2
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('line', ['show digit --debug', '--debug show digit'])
def test_debug_shows_the_traceback_behind_the_line(line, run):
    code, _, err = run(line)
    assert code == 2 and err[0] == 'Traceback (most recent call last):' and 'presets.py' in ''.join(err)
    assert err[-1] == "coulomb-gan: there is no experiment 'digit'; did you mean 'digits'?"


def test_a_warning_is_one_line(run, tmp_path):
    assert run('train tiny --out run')[0] == 0
    path = tmp_path / 'run/config.json'
    config = json.loads(path.read_text())
    del config['dataset']
    path.write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        code, _, err = run('train tiny --out run')
    said = [line for line in err if 'does not say which data' in line]
    assert code == 0 and len(said) == 1 and said[0].startswith('coulomb-gan: run does not say')


def test_unexpected_errors_are_not_hidden(monkeypatch):
    "Only known errors become one line; a bug keeps its traceback"
    monkeypatch.setitem(EXPERIMENTS, 'digits', None)
    with pytest.raises(AttributeError): main(['list'])
