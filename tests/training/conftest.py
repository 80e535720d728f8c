"""Small figures, prepared pictures, and a feature extractor."""
import matplotlib
import pytest
import torch
from PIL import Image

from coulomb_gan.data.prepare_images import prepare


@pytest.fixture(scope='module', autouse=True)
def small_figures():
    "Runs draw one at each evaluation, which takes most of the time of a tiny one"
    with matplotlib.rc_context({'savefig.dpi': 20}): yield


def pictures(folder, n, side, seed=0):
    "Prepares random colour pictures"
    raw = folder.with_name(f'raw-{folder.name}')
    raw.mkdir()
    gen = torch.Generator().manual_seed(seed)
    for i in range(n):
        pixels = torch.randint(256, (side, side, 3), generator=gen, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(raw / f'{i}.png')
    prepare(raw, folder, side, progress=False)
    return str(folder)


@pytest.fixture
def pictured(tmp_path):
    "Makes a prepared folder of pictures in the test's own folder"
    (tmp_path / 'data').mkdir()
    return lambda name, **sizes: pictures(tmp_path / 'data' / name, **sizes)


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    "A prepared folder of 60 random pictures of 16 pixels"
    return pictures(tmp_path_factory.mktemp('images') / 'prepared', n=60, side=16)


@pytest.fixture(scope='session')
def larger_images(tmp_path_factory):
    "A prepared folder of 60 random pictures of 32 pixels"
    return pictures(tmp_path_factory.mktemp('larger') / 'prepared', n=60, side=32)


@pytest.fixture(scope='session')
def extractor(tmp_path_factory):
    "A feature extractor of four features, as a user names one"
    path = tmp_path_factory.mktemp('extractor') / 'corners.py'
    path.write_text('def corners(): return lambda images: images.float().flatten(1)[:, :4]\n')
    return f'{path}:corners'


@pytest.fixture(scope='session')
def encoder(tmp_path_factory):
    "An encoder that averages squares of four pixels, as a user names one"
    path = tmp_path_factory.mktemp('encoder') / 'coarse.py'
    path.write_text('from torch.nn.functional import avg_pool2d\n'
                    'def coarse(): return lambda images: avg_pool2d(images, 2)\n')
    return f'{path}:coarse'
