"""The command line in-process: what is wrong is one line, what is right shows in the output."""
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from coulomb_gan import __version__
from coulomb_gan.reporting import cli
from coulomb_gan.reporting.cli import cli, main
from coulomb_gan.data.datasets import digits
from coulomb_gan.data.catalogue import prepared
from coulomb_gan.training.config import Experiment
from coulomb_gan.metrics.frechet import Statistics, load_statistics, save_statistics, statistics
from coulomb_gan.files import RunError
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.reporting.reproduce import EXPERIMENTS, measure
from coulomb_gan.metrics.feature_extractors import FeatureExtractor, evaluate
from coulomb_gan.training.fit import fit, load_run

FIELDS = [f.name for f in fields(Experiment)]
TINY = '--steps 20 --batch 16 --width-g 16 --width-d 16 --depth-g 1 --depth-d 1 --eval-samples 70 --eval-every 20'


def flag(name): return '--' + name.replace('_', '-')


# --- what is right ------------------------------------------------------------------------------------------------

def test_list_names_every_experiment(run):
    code, out, err = run('list')
    assert (code, err) == (0, [])
    assert [line.split() for line in out.splitlines()] == [[k, e.networks, e.data] for k, e in EXPERIMENTS.items()]


def test_version(run):
    code, out, _ = run('--version')
    assert code == 0 and __version__ in out


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_show_prints_resolved_fields(name, run):
    code, out, err = run(f'show {name}')
    assert (code, err) == (0, [])
    assert out.splitlines() == [f'{k} = {v}' for k, v in asdict(EXPERIMENTS[name]).items()]


CHANGED = {'data': 'elsewhere', 'networks': 'dcgan', 'decay': 'none', 'precision': 'bfloat16', 'device': 'cuda',
           'alternating': True, 'batch_norm_g': False, 'batch_norm_d': False, 'objective': 'direct', 'activation_d': 'elu', 'memory': 512}
CHANGED |= dict.fromkeys(['eps_end', 'lr_end', 'lr_g', 'lr_d', 'beta1', 'beta2', 'ema', 'self_term'], .375)


@pytest.mark.parametrize('name', FIELDS)
def test_every_field_is_settable(name, run):
    value = CHANGED[name] if name in CHANGED else type(getattr(Experiment(), name))(7)
    given = flag(name) + f' {value}'
    if isinstance(value, bool): given = flag(name) if value else '--no-' + flag(name)[2:]
    code, out, err = run(f'show digits {given}')
    assert (code, err) == (0, [])
    assert f'{name} = {value}' in out.splitlines() and getattr(EXPERIMENTS['digits'], name) != value


@pytest.mark.parametrize('command', ['show', 'train', 'reproduce', 'compare'])
def test_help_mentions_every_field(command, run):
    code, out, err = run(f'{command} --help')
    assert (code, err) == (0, [])
    assert [f for f in FIELDS if f'{flag(f)} ' not in out.replace('/', ' ')] == []


@pytest.mark.parametrize('command', sorted(cli.commands))
def test_help_of_every_command(command, run):
    code, out, err = run(f'{command} --help')
    assert (code, err) == (0, []) and out.startswith(f'Usage: coulomb-gan {command}')


def test_help_lists_the_commands(run):
    code, out, _ = run('--help')
    assert code == 0
    assert sorted(cli.commands) == ['compare', 'evaluate', 'list', 'prepare', 'reproduce', 'show', 'train']
    assert all(command in out for command in cli.commands)


def test_train_leaves_a_run_and_says_what_next(run, tmp_path):
    code, out, _ = run(f'train digits {TINY}')
    assert code == 0 and 'coulomb-gan evaluate runs/digits' in out
    assert (tmp_path / 'runs' / 'digits' / 'result.json').exists()


# --- in another network's eyes ------------------------------------------------------------------------------------

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
SMALL = dict(steps=20, batch=16, width_g=16, width_d=16, depth_g=1, depth_d=1, eval_samples=70, eval_every=20)
SEEN = 'evaluate digits --features nets.py:Net'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run on digits, one on points, one that was stopped; a file with networks and made-up published statistics"
    place = tmp_path_factory.mktemp('trained')
    for name in ('digits', 'mixture'): fit(replace(Experiment(data=name), **SMALL), place / name, progress=False)
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
    monkeypatch.setattr(commands, 'render', render)
    return lambda line: (*run(line), rendered)


@pytest.mark.parametrize('line, asked', [('', ('mixture', 'runs/mixture')), (' --full', ('mixture-full', 'runs/mixture-full'))])
def test_the_full_length_has_its_own_run_and_the_same_report(line, asked, run, monkeypatch):
    calls = []
    def reproduce(preset, out, report, **changes):
        calls.append((preset, str(out), str(report), changes))
        return report / 'report.html'
    monkeypatch.setattr(commands, 'reproduce', reproduce)
    code, out, _ = run(f'reproduce mixture{line} --report reports --seed 3')
    assert (code, calls) == (0, [(*asked, 'reports/mixture', dict(seed=3))])
    assert out.splitlines()[-1] == f'{asked[0]}: open reports/mixture/report.html'


def test_evaluate_measures_then_renders(see):
    code, out, _, rendered = see(f'{SEEN} --samples 200')
    assert code == 0 and len(rendered) == 1
    assert '200 samples against 1,347 real images in nets-Net' in out.splitlines()[0]
    assert out.splitlines()[1:] == ['open digits/report.html']
    found = rendered[0]['fidelity']['nets-Net']
    assert (found['n'], found['n_reference'], found['reference']) == (200, 1347, 'digits')
    assert {'frechet', 'floor', 'kid', 'precision', 'recall'} <= found.keys() and 'fid' not in found
    assert rendered[0]['steps'] == 20


def test_the_number_is_that_of_samples_drawn_in_order(see, trained):
    "Against features, statistics and the documented seeds written out; batches of 8 x 16, so seeds 2 and 2 + 128"
    see(f'{SEEN} --samples 200')
    result = json.loads(Path('digits/result.json').read_text())['fidelity']['nets-Net']
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 6)
    net = lambda images: layer(images.flatten(1).float() / 255).tanh()
    r = load_run(Path('digits'))
    x = torch.cat([r.sample(128, seed=2), r.sample(72, seed=130)])
    train = digits().train
    with torch.no_grad(): y = statistics(net(train), 10_000)
    # float32 features in other batches: rounding of 1e-6 in features near 0.1
    assert evaluate(FeatureExtractor('same', net), x, y)['frechet'] == pytest.approx(result['frechet'], rel=1e-4)


def test_spaces_stand_side_by_side_and_references_are_kept(see):
    see(f'{SEEN} --samples 100')
    kept = list(Path('data/statistics').iterdir())
    assert [p.name.rpartition('-')[0] for p in kept] == ['nets-Net']
    before = kept[0].stat().st_mtime_ns
    assert see('evaluate digits --features nets.py:other --samples 90')[0] == 0
    *_, rendered = see(f'{SEEN} --samples 80')
    assert kept[0].stat().st_mtime_ns == before
    assert {k: v['n'] for k, v in rendered[-1]['fidelity'].items()} == {'nets-Net': 80, 'nets-other': 90}


def test_published_reference(see):
    code, out, _, rendered = see(f'{SEEN} --reference published.npz --samples 80')
    found = rendered[0]['fidelity']['nets-Net']
    assert code == 0 and 'against an unknown number' in out
    assert (found['reference'], found['n_reference'], 'kid' in found) == ('published.npz', None, False)
    assert not Path('data').exists()


def test_without_a_network_nothing_is_measured(see):
    code, out, err, rendered = see('evaluate digits')
    assert (code, out, err) == (0, 'open digits/report.html\n', [])
    assert 'fidelity' not in rendered[0]


def test_prepared_set_is_known_by_its_manifest(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('pictures').mkdir()
    for i in range(60): Image.new('RGB', (8, 8), (4 * i, 100, 2 * i)).save(f'pictures/{i}.png')
    prepare(Path('pictures'), Path('data/folder'), 8, workers=1)
    digest = json.loads(Path('data/folder/manifest.json').read_text())['digest']
    fit(replace(Experiment(data='data/folder'), **SMALL), Path('run'), progress=False)
    space = FeatureExtractor('corner', lambda images: images[:, :, 0, 0].float())
    found = measure(Path('run'), space, samples=40, progress=False)
    assert [p.name for p in Path('data/statistics').iterdir()] == [f'corner-{digest[:16]}.npz']
    assert found['n_reference'] == load_statistics(Path(f'data/statistics/corner-{digest[:16]}.npz')).n == 54


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


def test_too_few_is_told_before_anything_is_drawn(trained, monkeypatch):
    "Only the sixteen images that tell the number of features are shown to the network"
    monkeypatch.chdir(trained)
    shown = []
    def net(images):
        shown.append(len(images))
        return images.flatten(1).float()
    for few in (dict(samples=64), dict(reference=Path('published.npz'))):
        with pytest.raises(ValueError): measure(trained / 'digits', FeatureExtractor('pixels', net), **few)
    assert shown == [16, 16]
    with pytest.raises(RunError, match='not finished'): measure(trained / 'stopped', FeatureExtractor('pixels', net))


# --- what is wrong ------------------------------------------------------------------------------------------------

WRONG = {
    'show digit': "did you mean 'digits'?",
    'show qqqq': 'known: digits, mixture',
    'show digits --bacht 64': '--batch',
    'shwo digits': 'show',
    'tran digits': 'train',
    'train cifar': "did you mean 'cifar10'?",
    'reproduce digits mixtur': "did you mean 'mixture'?",
    'prepare celeb .': "did you mean 'celeba'?",
    'show': 'NAME',
    'show digits mixture': 'mixture',
    'reproduce': 'NAMES',
    'evaluate': 'RUN',
    'show digits --batch': '--batch',
    'show digits --batch x': '--batch',
    'show digits --batch 2.5': '--batch',
    'show digits --batch 0': 'batch must',
    'show digits --batch -3': 'batch must',
    'show digits --steps 1e3': '--steps',
    'show digits --steps 0': 'steps must',
    'show digits --latent 0': 'latent must',
    'show digits --depth-g 0': 'depth_g must',
    'show digits --width-g 0': 'width_g must',
    'show digits --eps nan': 'eps must',
    'show digits --eps 0': 'eps must',
    'show digits --eps inf': 'eps must',
    'show digits --eps-end 0': 'eps_end must',
    'show digits --eps-end nan': 'eps_end must',
    'show digits --d -1': 'd must',
    'show digits --d nan': 'd must',
    'show digits --lr-g -1': 'lr_g must',
    'show digits --lr-d 2': 'lr_d must',
    'show digits --beta1 1': 'beta1 must',
    'show digits --beta2 1': 'beta2 must',
    'show digits --ema 1': 'ema must',
    'show digits --ema nan': 'ema must',
    'show digits --smoothing -1': 'smoothing must',
    'show digits --weight-decay -1': 'weight_decay must',
    'show digits --lr-end 2': 'lr_end must',
    'show digits --patience 0': 'patience must',
    'show digits --log-every 0': 'log_every must',
    'show digits --eval-every 0': 'eval_every must',
    'show digits --eval-samples 0': 'eval_samples must',
    'show digits --eval-samples 1': 'eval_samples must',      # the unbiased energy needs two
    'show digits --seed -1': 'seed must',
    'show digits --seed x': '--seed',
    'show digits --decay linear': 'plateau',
    'show digits --networks resnet': 'dcgan',
    'show digits --device gpu': "'gpu'",
    'show digits --self-charge 0 --batch 1': 'batch must lie in [2, ',
    'show digits --self-charge -1': 'self_term must',
    'show digits --charges -1': 'charges must',
    'show digits --memory 100': 'memory must be a multiple of batch, got 100 and 256',
    'show digits --objective gan': 'non-saturating',
    'show digits --activation-d relu': 'elu',
    'reproduce digits --full': "there is no 'digits-full'",
    'show digits --objective wgan-gp --charges 128': "charges is not for the objective 'wgan-gp', got 128",
    'show digits --objective non-saturating --memory 256': "memory is not for the objective 'non-saturating'",
    'show digits --objective direct --alternating': "alternating is not for the objective 'direct'",
    'show mixture-direct --objective wgan-gp': "'wgan-gp'",
    'reproduce digits cifar10': 'data/cifar10',
    'compare digits --methods released,droped': "did you mean 'dropped'?",
    'compare cifar10': 'data/cifar10',
    'compare digit': "did you mean 'digits'?",
    'compare digits --methods direkt': "did you mean 'direct'?",
    'compare digits --seeds 0': '--seeds',
    'compare digits --seconds 0': '--seconds',
    'train mixture --distance digits': 'mixture holds none',
    'train digits --distance ngrams': 'is for texts',
    'train text-builtin --eval-samples 639': '640 or more, got 639',
    'train text-builtin --networks mlp': "'text' for texts",
    'train digits --distance inception': 'FID needs',
    'train digits --eval-samples 64': 'has 64 features: eval_samples must be more, got 64',
    'prepare billion_word': 'training-monolingual.tokenized.shuffled',
    'prepare billion_word nowhere': 'does not exist',
    'prepare billion_word file --size 3': '--size is not for billion_word',
    'prepare celeba file --units bytes': '--units is not for celeba',
    'train cifar10': 'data/cifar10',
    'train digits --data nowhere': 'nowhere',
    f'train digits {TINY} --networks dcgan': 'side',
    f'train mixture {TINY} --networks dcgan': 'dcgan',
    f'train digits {TINY} --device meta': "'meta'",
    f'train digits {TINY} --out file': 'file',
    f'train digits {TINY} --out file/run': 'file',
    'evaluate nothing': 'nothing',
    'evaluate file': 'file',
    'evaluate broken': 'broken',
    'prepare folder nothing': 'nothing',
    'prepare folder file': 'file',
    'prepare folder texts': 'a.png',
    'prepare folder texts --size 0': '--size',
    'prepare folder texts --out file': 'file',
}


PROGRESS = ('images:', 'digits:', 'mixture:', 'run:')


@pytest.fixture
def things(tmp_path):
    "A file, a folder of files that are no images, and a run folder with an unreadable configuration"
    (tmp_path / 'file').write_text('text')
    for name in ('texts', 'broken'): (tmp_path / name).mkdir()
    (tmp_path / 'texts' / 'a.png').write_text('no image')
    (tmp_path / 'broken' / 'config.json').write_text('{')


@pytest.mark.usefixtures('things')
@pytest.mark.parametrize('line', WRONG, ids=lambda line: line.replace(f' {TINY}', ''))
def test_wrong_input_is_one_line(line, run):
    code, _, err = run(line)
    err = [e for e in err if e.strip() and not e.lstrip().startswith(PROGRESS)]
    assert code in (1, 2)
    assert len(err) == 1 and err[0].startswith('coulomb-gan: ')
    assert WRONG[line] in err[0]


def test_contradiction_names_the_field_and_leaves_the_run(run, tmp_path):
    assert run(f'train digits {TINY} --out run')[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    code, _, err = run(f'train digits {TINY} --out run --eps 2')
    assert code == 1 and len(err) == 1 and 'eps was 1.0 and is now 2.0' in err[0]
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before


@pytest.mark.parametrize('line', ['reproduce digits mixtur', 'reproduce digits cifar10', 'compare digits --methods released,droped',
                                  'reproduce digits text-builtin --networks mlp', 'reproduce digits mixture --distance digits'])
def test_wrong_name_among_several_stops_before_training(line, run, tmp_path):
    assert run(line)[0] == 2
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('line', ['show digit --debug', '--debug show digit'])
def test_debug_shows_the_traceback_behind_the_line(line, run):
    code, _, err = run(line)
    assert code == 2 and err[0] == 'Traceback (most recent call last):' and 'presets.py' in ''.join(err)
    assert err[-1] == "coulomb-gan: there is no 'digit'; did you mean 'digits'?"


def test_a_warning_is_one_line(run, tmp_path):
    assert run(f'train digits {TINY} --out run')[0] == 0
    path = tmp_path / 'run/config.json'
    config = json.loads(path.read_text())
    del config['dataset']
    path.write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        code, _, err = run(f'train digits {TINY} --out run')
    said = [line for line in err if 'does not say which data' in line]
    assert code == 0 and len(said) == 1 and said[0].startswith('coulomb-gan: run does not say')


def test_evaluate_finds_data_that_were_moved_and_writes_elsewhere(run, tmp_path, monkeypatch):
    rendered = []
    def render(*where):
        rendered.append(where)
        return Path('page')
    monkeypatch.setattr(commands, 'render', render)
    assert run('evaluate run --data moved --out page')[0] == 0
    assert rendered == [(Path('run'), Path('page'), 'moved')]


def test_a_run_that_may_not_be_written_is_evaluated_elsewhere(run, tmp_path, unprivileged):
    "On a machine where the working directory may not be written either, the cache is lost and the number is not"
    assert run(f'train digits {TINY} --out run')[0] == 0
    (tmp_path / 'net.py').write_text('def make(): return lambda images: images.float().flatten(1)[:, 18:22]\n')
    for name in ('closed', 'page'): (tmp_path / name).mkdir()
    for path in [tmp_path / 'closed', tmp_path / 'run', *(tmp_path / 'run').rglob('*')]: path.chmod(0o555)
    def evaluate(*options):
        line = [*unprivileged, sys.executable, '-c', 'from coulomb_gan.commands import main; main()', 'evaluate', '../run',
                '--features', '../net.py:make', '--samples', '100', *options]
        done = subprocess.run(line, cwd=tmp_path / 'closed', text=True, capture_output=True)
        return done.returncode, [l for l in done.stderr.splitlines() if l.startswith('coulomb-gan: ') or 'Traceback' in l]
    code, said = evaluate()
    assert code == 1 and len(said) == 1 and said[0].startswith('coulomb-gan: cannot write ../run')
    code, said = evaluate('--out', '../page')
    assert code == 0 and len(said) == 1 and 'so it is computed again next time' in said[0]
    found = json.loads((tmp_path / 'page/result.json').read_text())['fidelity']['net-make']
    assert found['n'] == 100 and (tmp_path / 'page/report.html').exists()


def test_failed_prepare_does_not_spoil_what_was_there(run, tmp_path):
    "A second source that cannot be used must not leave a blend of two data sets behind"
    for name, count, level in (('first', 20, 50), ('second', 15, 200)):
        (tmp_path / name).mkdir()
        for i in range(count): Image.new('RGB', (8, 8), (level,) * 3).save(tmp_path / name / f'{i}.png')
    for i in range(5): (tmp_path / 'second' / f'text{i}.png').write_text('no image')
    assert run('prepare folder first --size 8')[0] == 0
    assert run('prepare folder second --size 8')[0] == 2
    try: levels = prepared('data/folder').train.unique().tolist()
    except ValueError: levels = []      # refused: as good as the old images
    assert levels in ([], [50])


def test_unexpected_errors_are_not_hidden(monkeypatch):
    "Only known errors become one line; a bug keeps its traceback"
    monkeypatch.setitem(EXPERIMENTS, 'digits', None)
    with pytest.raises(AttributeError): main(['list'])
