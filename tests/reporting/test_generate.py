"""What is made of a trained generator: files of samples in every form, and a program that needs torch alone."""
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from coulomb_gan.data.datasets import to_uint8
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.files import RunError
from coulomb_gan.reporting.generate import export_generator, share_run, write_samples
from coulomb_gan.training.fit import fit
from coulomb_gan.training.loading import load_run
from coulomb_gan.training.presets import experiment
from pages import files, make_pictures

TEXT = dict(data='text-builtin', networks='text', width_g=8, width_d=8, depth_g=1, depth_d=1)
RUNS = {'digits': {}, 'mixture': dict(data='mixture'), 'text': TEXT, 'colours': dict(data='data/colours', ema=.5),
        'dcgan': dict(data='data/squares', networks='dcgan', width_g=8, width_d=8)}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run of two steps of every kind, and the prepared pictures that two of them learned from"
    place = tmp_path_factory.mktemp('place')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        make_pictures(place / 'raw', count=40)
        for name, side in (('colours', 8), ('squares', 16)):
            prepare('raw', f'data/{name}', side, progress=False, workers=0)
        for name, changes in RUNS.items():
            e = experiment('tiny', steps=2, eval_every=2, eval_samples=20).changed(**changes)
            fit(e, Path(name), progress=False)
    return place


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    "Copies, in the working directory"
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return {name: load_run(Path(name)) for name in RUNS}


# --- samples ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, shape, mode', [
    ('digits', (8, 8, 1), 'L'), ('colours', (8, 8, 3), 'RGB'), ('dcgan', (16, 16, 3), 'RGB')])
def test_pictures_and_arrays_hold_the_same_samples(name, shape, mode, runs):
    "More of them than a batch"
    write_samples(runs[name], 21, Path('new/pictures'), seed=7)
    write_samples(runs[name], 21, Path('array.npz'), seed=7)
    with np.load('array.npz') as found: images = found['samples']
    assert images.shape == (21, *shape) and images.dtype == np.uint8
    expected = to_uint8(runs[name].sample(21, seed=7)).permute(0, 2, 3, 1)
    assert_close(torch.from_numpy(images), expected, rtol=0, atol=0)
    paths = sorted(Path('new/pictures').iterdir())
    assert [p.name for p in paths] == [f'{i:06d}.png' for i in range(21)]
    pictures = [Image.open(p) for p in paths]
    assert {p.mode for p in pictures} == {mode}
    assert (np.stack([np.asarray(p).reshape(shape) for p in pictures]) == images).all()


def test_points_are_an_array(runs):
    write_samples(runs['mixture'], 21, Path('points.npz'), seed=7)
    with np.load('points.npz') as found: points = torch.from_numpy(found['samples'])
    assert_close(points, runs['mixture'].sample(21, seed=7), rtol=0, atol=0)


def test_texts_are_lines(runs):
    run = runs['text']
    write_samples(run, 21, Path('lines.txt'), seed=7)
    write_samples(run, 21, Path('lines.npz'), seed=7)
    lines = run.data.corpus.decode(run.sample(21, seed=7).argmax(-1))
    assert Path('lines.txt').read_text(encoding='utf-8') == ''.join(f'{line}\n' for line in lines)
    with np.load('lines.npz') as found: assert found['samples'].tolist() == lines


def test_a_seed_names_the_samples(runs):
    "And the first of many are those of few, up to whole batches"
    def drawn(n, seed):
        write_samples(runs['mixture'], n, Path('x.npz'), seed)
        with np.load('x.npz') as found: return found['samples']
    assert (drawn(32, 3) == drawn(32, 3)).all() and not (drawn(32, 3) == drawn(32, 4)).any()
    write_samples(runs['mixture'], 32, Path('default.npz'))
    with np.load('default.npz') as found: assert (found['samples'] == drawn(32, 0)).all()


FOLDER, NPZ, TXT = 'new', 'new.npz', 'new.txt'
FORMS = {'digits': {FOLDER: None, NPZ: None, TXT: 'expected a folder or x.npz'},
         'mixture': {FOLDER: 'expected x.npz', NPZ: None, TXT: 'expected x.npz'},
         'text': {FOLDER: 'expected x.npz or x.txt', NPZ: None, TXT: None}}


@pytest.mark.parametrize('name, out', [(name, out) for name in FORMS for out in FORMS[name]])
def test_a_form_that_samples_do_not_have_is_refused(name, out, runs):
    before = files('.')
    refused = FORMS[name][out]
    if refused:
        with pytest.raises(ValueError, match=refused): write_samples(runs[name], 3, Path(out))
        assert files('.') == before
    else:
        write_samples(runs[name], 3, Path(out))
        assert Path(out).exists()


def test_places_that_cannot_be_written_are_named_before_anything_is_drawn(runs, monkeypatch):
    Path('file').write_text('')
    monkeypatch.setattr(type(runs['digits']), 'sample', lambda *a: pytest.fail('it drew'))
    for out in ('file/x', 'file/x.npz'):
        with pytest.raises(RunError, match='cannot write'): write_samples(runs['digits'], 3, Path(out))
    with pytest.raises(RunError, match='cannot write'): export_generator(runs['digits'], Path('file/x.pt2'))


def test_from_the_command_line(runs, run):
    code, out, err = run('sample colours --n 5 --seed 3 --out here/five')
    assert (code, out, err) == (0, '5 samples in here/five\n', [])
    write_samples(runs['colours'], 5, Path('there'), seed=3)
    here, there = ({p.name: p.read_bytes() for p in Path(folder).iterdir()} for folder in ('here/five', 'there'))
    assert here == there and len(here) == 5
    assert run('sample digits --out many.npz')[1] == '64 samples in many.npz\n'
    assert run('sample text --n 3 --out lines.txt')[1] == '3 samples in lines.txt\n'
    for name in ('new/many.npz', 'newer/lines.txt'):
        assert run(f'sample text --n 3 --out {name}')[0] == 0 and Path(name).exists()


def test_of_data_that_were_moved(runs, run):
    "Their kind is needed, to know the form; the generator alone is not, so it is exported without them"
    shutil.move('data', 'elsewhere')
    code, _, err = run('sample colours --out x')
    assert code == 1 and len(err) == 1 and err[0].startswith('coulomb-gan: the data of colours are not at data/colours')
    assert run('sample colours --n 2 --out x --data elsewhere/colours')[0] == 0 and len([*Path('x').iterdir()]) == 2
    code, _, err = run('sample colours --out y --data elsewhere/squares')
    assert code == 1 and len(err) == 1 and 'colours was trained on other data: digest was' in err[0] and not Path('y').exists()
    assert run('export colours')[0] == 0 and Path('colours/generator.pt2').exists()


# --- the generator ------------------------------------------------------------------------------------------------

ALONE = '''
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'coulomb_gan': raise ImportError('coulomb_gan is blocked')

sys.meta_path.insert(0, Block())
try: import coulomb_gan
except ImportError: pass
else: sys.exit('coulomb_gan can be imported')
import torch
for name in sys.argv[1:]:
    generator = torch.export.load(f'{name}.pt2').module()
    given = torch.load(f'{name}-z.pt')
    torch.save([generator(z) for z in given], f'{name}-x.pt')
print([name for name in sys.modules if name.startswith('coulomb_gan')])
'''


def test_the_file_works_where_the_package_cannot_be_imported(runs):
    "Another process, isolated, with every kind of networks, gives the samples of the averaged generator"
    sizes = 2, 16, 33
    for name, r in runs.items():
        export_generator(r, Path(f'{name}.pt2'))
        gen = torch.Generator().manual_seed(5)
        torch.save([torch.randn(n, r.experiment.networks.latent, generator=gen) for n in sizes], f'{name}-z.pt')
    done = subprocess.run([sys.executable, '-I', '-c', ALONE, *runs], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, '[]\n'), done.stderr
    for name, r in runs.items():
        given, got = torch.load(f'{name}-z.pt'), torch.load(f'{name}-x.pt')
        with torch.no_grad(): expected = [r.state.g_ema(z) for z in given]
        # the file has another order of memory, in which a convolution's few hundred terms round otherwise
        for x, x_here in zip(got, expected): assert_close(x, x_here, rtol=0, atol=5e-6)
        # the first is that of `sample` for the same vectors, but for the clipping of images
        gen = torch.Generator().manual_seed(5)
        assert_close(torch.randn(2, r.experiment.networks.latent, generator=gen), given[0], rtol=0, atol=0)


def test_the_file_gives_the_samples_that_are_written(runs):
    "A batch from the latent vectors of a seed"
    for name, r in runs.items():
        export_generator(r, Path('g.pt2'))
        n = r.experiment.optim.batch
        z = torch.randn(n, r.experiment.networks.latent, generator=torch.Generator().manual_seed(9))
        x = torch.export.load('g.pt2').module()(z)
        if x.ndim == 4: x = x.clamp(-1, 1)
        assert_close(x, r.sample(n, seed=9), rtol=0, atol=5e-6)


def test_it_is_the_average_that_is_exported(runs):
    r = runs['colours']
    z = torch.randn(4, r.experiment.networks.latent)
    export_generator(r, Path('g.pt2'))
    x = torch.export.load('g.pt2').module()(z)
    with torch.no_grad():
        assert torch.equal(x, r.state.g_ema(z)) and not torch.equal(x, r.state.g(z))


def test_export_from_the_command_line(runs, run):
    code, out, err = run('export digits')
    assert (code, err) == (0, [])
    assert out == "torch.export.load('digits/generator.pt2').module() maps latent vectors to samples\n"
    assert run('export digits --out new/mine.pt2')[0] == 0
    z = torch.randn(3, runs['digits'].experiment.networks.latent)
    one, other = (torch.export.load(p).module()(z) for p in ('digits/generator.pt2', 'new/mine.pt2'))
    assert torch.equal(one, other)


# --- one line for what is wrong -----------------------------------------------------------------------------------

WRONG = {
    'sample': 'RUN',
    'sample digits': '--out',
    'sample nothing --out x': 'nothing holds no run',
    'sample digits mixture --out x': 'mixture',
    'sample digits --out x --n 0': '--n',
    'sample digits --out x --n many': '--n',
    'sample digits --out x --nn 4': '--n',
    'sample digits --out x --seed -1': '--seed',
    'sample digits --out x.txt': 'expected a folder or x.npz',
    'sample mixture --out x': 'samples of mixture are points: got --out x, expected x.npz',
    'sample text --out x': 'expected x.npz or x.txt',
    'sample digits --out digits/config.json/x': 'cannot write',
    'sample digits --out x --data nowhere': 'the data of digits are not at nowhere',
    'sample digits --out x --data mixture': 'other data',
    'export': 'RUN',
    'export nothing': 'nothing holds no run',
    'export digits --out digits/config.json/x': 'cannot write',
    'export digits --seed 3': '--seed'}


@pytest.mark.parametrize('line', WRONG)
def test_wrong_input_is_one_line(line, runs, run):
    before = files('.')
    code, out, err = run(line)
    assert code in (1, 2) and out == '' and len(err) == 1 and err[0].startswith('coulomb-gan: ') and WRONG[line] in err[0]
    assert files('.') == before


def test_a_shared_run_goes_into_a_new_folder_alone(runs):
    "In a folder of a run it would take the place of its checkpoint"
    for name in ('digits', 'mixture'):
        before = files(Path(name))
        with pytest.raises(ValueError, match=f'{name} is not empty; choose a new folder'): share_run(runs['digits'], name)
        assert files(Path(name)) == before
    share_run(runs['digits'], 'shared')
    assert_close(load_run('shared').sample(4), runs['digits'].sample(4), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('n', [0, -1, 2.5, '3'])
def test_a_number_of_samples_is_a_whole_one(n, runs):
    with pytest.raises(ValueError, match='n must be a whole number from 1'): runs['digits'].sample(n)
