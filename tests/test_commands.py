"""The command line in-process: what is wrong is one line, what is right shows in the output."""
from dataclasses import asdict, fields

import pytest
from PIL import Image

from coulomb_gan import __version__
from coulomb_gan.commands import cli, main
from coulomb_gan.data import prepared
from coulomb_gan.experiment import Experiment
from coulomb_gan.reproduce import EXPERIMENTS

FIELDS = [f.name for f in fields(Experiment)]
TINY = '--steps 20 --batch 16 --width-g 16 --width-d 16 --depth-g 1 --depth-d 1 --eval-samples 50 --eval-every 20'


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    "Runs a command line in an empty folder: exit code, output, lines on stderr"
    monkeypatch.chdir(tmp_path)
    def run(line):
        with pytest.raises(SystemExit) as done: main(line.split())
        out, err = capsys.readouterr()
        return done.value.code, out, err.splitlines()
    return run


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


CHANGED = {'data': 'elsewhere', 'networks': 'dcgan', 'decay': 'none', 'device': 'cuda', 'self_charge': False,
           'alternating': True} | dict.fromkeys(['eps_end', 'lr_end', 'lr_g', 'lr_d', 'beta1', 'beta2', 'ema'], .375)


@pytest.mark.parametrize('name', FIELDS)
def test_every_field_is_settable(name, run):
    value = CHANGED[name] if name in CHANGED else type(getattr(Experiment(), name))(7)
    given = flag(name) + f' {value}'
    if isinstance(value, bool): given = flag(name) if value else '--no-' + flag(name)[2:]
    code, out, err = run(f'show digits {given}')
    assert (code, err) == (0, [])
    assert f'{name} = {value}' in out.splitlines() and getattr(EXPERIMENTS['digits'], name) != value


@pytest.mark.parametrize('command', ['show', 'train', 'reproduce'])
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
    assert sorted(cli.commands) == ['evaluate', 'list', 'prepare', 'reproduce', 'show', 'train']
    assert all(command in out for command in cli.commands)


def test_train_leaves_a_run_and_says_what_next(run, tmp_path):
    code, out, _ = run(f'train digits {TINY}')
    assert code == 0 and 'coulomb-gan evaluate runs/digits' in out
    assert (tmp_path / 'runs' / 'digits' / 'result.json').exists()


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
    'show digits --no-self-charge --batch 1': 'batch must lie in [2, ',
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


def test_wrong_name_among_several_stops_before_training(run, tmp_path):
    assert run('reproduce digits mixtur')[0] == 2
    assert not (tmp_path / 'runs').exists()


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
