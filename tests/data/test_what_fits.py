"""What does not fit is named, whichever door it comes in by; what is left of other data is not taken for these."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from coulomb_gan.data.catalogue import load
from coulomb_gan.data.folders import example
from coulomb_gan.data.given_images import given_images
from coulomb_gan.data.image_decoding import to_rgb
from coulomb_gan.data.in_memory import from_memory
from coulomb_gan.data.prepare_images import prepare
from coulomb_gan.data.prepare_text import prepare_text
from coulomb_gan.data.synthetic import mixture
from coulomb_gan.files import RunError


@pytest.fixture
def pictures(tmp_path):
    "A folder of 30 images of 16 pixels"
    folder = tmp_path / 'pictures'
    folder.mkdir()
    gen = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(gen.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(folder / f'{i:02}.png')
    return folder


def prepared(pictures, tmp_path):
    out = tmp_path / 'out'
    prepare(pictures, out, size=8, workers=0, progress=False)
    return out


def test_classes_of_other_images_are_not_taken_for_theirs(pictures, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    np.save(out / 'labels.npy', np.zeros(30, np.int64))
    assert load(prepared(pictures, tmp_path)).train_labels is None


@pytest.mark.parametrize('wrong', [dict(held_out=30), dict(held_out=31), dict(held_out=-1)], ids=str)
def test_a_manifest_that_leaves_nothing_to_learn_from_is_refused(pictures, tmp_path, wrong):
    out = prepared(pictures, tmp_path)
    path = out / 'manifest.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(RunError, match='is damaged .it holds out'): load(out)


def test_images_of_two_channels_are_refused(pictures, tmp_path):
    out = prepared(pictures, tmp_path)
    images = np.load(out / 'images.npy')
    np.save(out / 'images.npy', images[:, :2])
    with pytest.raises(RunError, match='expected uint8 .n, 1 or 3, side, side.'): load(out)


@pytest.mark.parametrize('wrong', [dict(units='words'), dict(vocabulary=['a', 'bc']), dict(vocabulary='aba')], ids=str)
def test_a_manifest_of_text_changed_by_hand_is_refused(tmp_path, wrong):
    source = tmp_path / 'lines.txt'
    source.write_text('some lines of text\n' * 40)
    prepare_text(source, tmp_path / 'out', progress=False)
    path = tmp_path / 'out/manifest.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(RunError, match='manifest.json is damaged'): load(tmp_path / 'out')


@pytest.mark.parametrize('crop', [0, -5, 2.5])
def test_a_crop_that_is_none_is_refused(pictures, tmp_path, crop):
    with pytest.raises(ValueError, match='crop'): prepare(pictures, tmp_path / 'out', size=8, crop=crop, workers=0)


def test_the_reason_of_most_files_is_shown():
    assert example({'a': 'torn', 'b': 'too small', 'c': 'too small'}) == "such as 'b': too small"


def test_of_several_arrays_none_is_taken(tmp_path):
    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(tmp_path / 'two.npz', real=images, fake=images + 1)
    with pytest.raises(ValueError, match='holds real, fake, expected one array'):
        given_images(tmp_path / 'two.npz', (3, 8, 8))
    np.savez(tmp_path / 'empty.npz')
    with pytest.raises(ValueError, match='holds no array, expected one array'):
        given_images(tmp_path / 'empty.npz', (3, 8, 8))
    np.savez(tmp_path / 'named.npz', real=images, samples=images + 1)
    assert given_images(tmp_path / 'named.npz', (3, 8, 8)).unique().tolist() == [1]


def test_what_is_transparent_is_white_in_sixteen_bits_too():
    grey = Image.fromarray(np.array([[1000, 40_000]], np.uint16))
    grey.info['transparency'] = 1000
    assert np.asarray(to_rgb(grey))[0, :, 0].tolist() == [255, round(40_000 / 257)]


@pytest.mark.parametrize('variance', [.1, .3, 1.])
def test_a_mixture_has_its_means_and_its_covariance(variance):
    "Of the residuals of all points, a tenth of them held out: means and covariance to five standard errors"
    data = mixture(100_000, variance=variance)
    x = torch.cat([data.train, data.test]).double()
    means = data.modes.means.double()
    rest = x - means[torch.cdist(x, means).argmin(1)]
    n = len(rest)
    assert rest.mean(0).abs().max() < 5 * (variance / n)**.5
    wanted = variance * torch.eye(2, dtype=torch.float64)
    assert (rest.T.cov() - wanted).abs().max() < 5 * variance * (2 / n)**.5


def test_an_array_that_may_not_be_written_to_is_copied():
    points = np.random.default_rng(0).normal(size=(20, 2))
    points.flags.writeable = False
    assert from_memory(points).shape == (2,)  # without the warning of torch, which would be an error here
