"""Images of other programs: untouched, or one line that names the first that does not fit."""
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coulomb_gan.data.given_images import GREY, given_images, untouched
from made_files import GEN, encoded, fill, fill_cifar, noise, tarred

COLOUR, DIGITS = (3, 16, 16), (1, 8, 8)


def grey(h=8, w=8): return Image.fromarray(GEN.integers(0, 256, (h, w), dtype=np.uint8))


def pixels_of(folder): return np.stack([np.asarray(Image.open(p)).transpose(2, 0, 1) for p in sorted(Path(folder).iterdir())])


@pytest.mark.parametrize('form', ['folder', 'zip', 'tar.gz'])
def test_every_form_gives_the_same_pixels(form, place):
    fill('made', 9)
    source = 'made'
    if form == 'zip':
        with zipfile.ZipFile('made.zip', 'w') as archive:
            for path in sorted(Path('made').iterdir()): archive.write(path)
        source = 'made.zip'
    if form == 'tar.gz': source = tarred('made.tar.gz', 'made', 'made', 'w:gz')
    got = given_images(source, COLOUR)
    assert np.array_equal(got.numpy(), pixels_of('made')) and got.is_contiguous()


@pytest.mark.parametrize('mode', ['L', 'LA', 'I', 'I;16', '1'])
def test_grey_images_of_every_mode_fit_grey_data(mode, place):
    values = GEN.integers(0, 2 if mode == '1' else 256, (8, 8))
    stored = {'I;16': (values * 257).astype(np.uint16), 'I': (values * 257).astype(np.int32), '1': values.astype(bool)}
    image = Image.fromarray(stored.get(mode, values.astype(np.uint8)))
    if mode == 'LA': image = image.convert('LA')
    assert image.mode in GREY
    want = values * 255 if mode == '1' else values
    assert np.array_equal(untouched(image, DIGITS)[0], want)
    with pytest.raises(ValueError, match='is grey, the data are in colour'): untouched(image, (3, 8, 8))


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', 'CMYK', 'YCbCr', 'LAB'])
def test_colour_images_of_every_mode_fit_no_grey_data(mode):
    image = Image.new(mode, (8, 8))
    assert mode not in GREY
    with pytest.raises(ValueError, match='is in colour, the data are grey'): untouched(image, DIGITS)


BAD = {
    'notes.txt': (b'text', "'notes.txt' cannot be read as an image; mend it or take it away"),
    'empty.png': (b'', "'empty.png' cannot be read as an image"),
    'half.png': (encoded(noise())[:300], "'half.png' cannot be read as an image"),
    'small.png': (encoded(noise(8, 8)), "'small.png' has 8x8 pixels, the data have 16x16; make them at that size"),
    'tall.png': (encoded(noise(16, 8)), "'tall.png' has 8x16 pixels, the data have 16x16"),
    'grey.png': (encoded(grey(16, 16)), "'grey.png' is grey, the data are in colour; convert them to RGB"),
    'deep/grey.png': (encoded(grey(16, 16)), "'deep/grey.png' is grey"),
}


@pytest.mark.parametrize('name', BAD)
def test_one_bad_file_is_named(name, place):
    data, words = BAD[name]
    fill('made', 5)
    Path('made', name).parent.mkdir(exist_ok=True)
    Path('made', name).write_bytes(data)
    with pytest.raises(ValueError) as error: given_images('made', COLOUR)
    assert str(error.value).startswith('made: ') and words in str(error.value) and '\n' not in str(error.value)


def test_what_cannot_be_used_is_not_left_out_in_silence(place):
    fill('made', 5)
    Path('made/gone.png').symlink_to('nowhere')
    with pytest.raises(ValueError, match="made: 1 files cannot be used, such as 'gone.png': a link that leads nowhere"):
        given_images('made', COLOUR)


@pytest.mark.parametrize('n, words', [(0, 'holds no files; expected images'), (1, 'got 1 image, expected 2 or more')])
def test_too_few(n, words, place):
    fill('made', n)
    with pytest.raises(ValueError, match=f'made: {words}'): given_images('made', COLOUR)


def test_a_set_in_batches_is_read_too(place):
    pixels, _ = fill_cifar('cifar', 3)
    assert given_images('cifar', (3, 32, 32)).shape == (18, 3, 32, 32)


ARRAYS = {
    'floats': (np.zeros((4, 16, 16, 3)), 'holds float64'), 'channels first': (np.zeros((4, 3, 16, 16), np.uint8), 'holds uint8'),
    'other size': (np.zeros((4, 8, 8, 3), np.uint8), 'has 8x8 pixels'), 'grey': (np.zeros((4, 16, 16), np.uint8), 'is grey'),
    'one': (np.zeros((1, 16, 16, 3), np.uint8), 'got 1 image'), 'rows': (np.zeros((4, 768), np.uint8), 'holds uint8')}


@pytest.mark.parametrize('ending', ['.npy', '.npz'])
@pytest.mark.parametrize('name', ARRAYS)
def test_arrays_that_do_not_fit(name, ending, place):
    array, words = ARRAYS[name]
    np.save('x.npy', array) if ending == '.npy' else np.savez('x.npz', samples=array)
    with pytest.raises(ValueError, match=f'x{ending}: {words}'): given_images(f'x{ending}', COLOUR)


def test_arrays_that_fit(place):
    rgb, one = GEN.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8), GEN.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.savez('x.npz', seeds=np.arange(4), samples=rgb)
    np.savez('y.npz', rgb)
    np.save('z.npy', one)
    for name in ('x.npz', 'y.npz'): assert np.array_equal(given_images(name, COLOUR).numpy(), rgb.transpose(0, 3, 1, 2))
    assert np.array_equal(given_images('z.npy', DIGITS).numpy()[:, 0], one)


def test_a_damaged_array_is_named_and_calls_nothing(place):
    np.save('x.npy', np.array([{}], dtype=object), allow_pickle=True)
    Path('y.npz').write_bytes(b'PK')
    for name in ('x.npy', 'y.npz'):
        with pytest.raises(ValueError, match=f'{name}: holds no array of images'): given_images(name, COLOUR)
    shutil.copy('x.npy', 'made.png')
    with pytest.raises(ValueError, match='made.png holds no images; expected'): given_images('made.png', COLOUR)
