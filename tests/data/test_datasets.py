"""One scale for pixels, digests of contents, data sets from memory, and minibatches wherever the data lie."""
import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from coulomb_gan.data import datasets
from coulomb_gan.data.prefetching import Prefetched
from coulomb_gan.data.datasets import Data, Modes, Samples, content_digest, digits, fits, identity
from coulomb_gan.data.in_memory import from_memory
from coulomb_gan.data.datasets import to_float, to_uint8
from coulomb_gan.data.text import Corpus
from coulomb_gan.files import RunError
from coulomb_gan.training.fit import fit
from coulomb_gan.training.presets import experiment


def property_test(f): return settings(derandomize=True, deadline=None, max_examples=30)(f)

def seeded(seed=0): return torch.Generator().manual_seed(seed)

def bytes_of(*shape, seed=0): return torch.randint(256, shape, dtype=torch.uint8, generator=seeded(seed))


# --- one scale ----------------------------------------------------------------------------------------------------

def test_every_level_comes_back():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert (floats[0], floats[-1], floats.dtype) == (-1, 1, torch.float32)
    assert torch.equal(to_uint8(floats), levels)
    for dtype in (torch.float64, torch.float16): assert torch.equal(to_uint8(floats.to(dtype)), levels)


@property_test
@given(st.floats(-10, 10))
def test_a_pixel_is_the_nearest_level_of_the_clipped_value(value):
    level = to_uint8(torch.tensor([value], dtype=torch.float64)).item()
    assert abs((level / 127.5 - 1) - min(max(value, -1), 1)) <= 1 / 255 + 1e-12


def test_floats_pass_unchanged():
    points = torch.randn(4, 2, generator=seeded())
    assert to_float(points) is points


# --- what a data set says of itself -------------------------------------------------------------------------------

LETTERS = Corpus(None, None, ('?', '`', 'a'))
KINDS = {
    'images': Data(bytes_of(20, 3, 4, 4), bytes_of(5, 3, 4, 4)),
    'points': Data(torch.randn(20, 2, generator=seeded()), torch.zeros(5, 2), modes=Modes(torch.zeros(1, 2), 1.)),
    'text': Data(torch.arange(60).view(20, 3) % 3, torch.zeros(5, 3), corpus=LETTERS),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kind_shape_and_floats(kind):
    data = KINDS[kind]
    floats = data.floats(data.train[:7])
    assert data.kind == kind and floats.dtype == torch.float32 and floats.shape == (7, *data.shape)
    back = {'images': to_uint8, 'points': lambda f: f, 'text': lambda f: f.argmax(-1)}[kind](floats)
    assert torch.equal(back, data.train[:7])


def test_identity_names_what_a_reader_compares():
    points, texts = KINDS['points'], KINDS['text']
    assert identity(points) == dict(digest='', shape=[2], train=20, held_out=5)
    assert identity(texts) == dict(digest='', shape=[3, 3], train=20, held_out=5, vocabulary=content_digest('?`a'))


# --- digests ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n', [1, 9_999, 10_000, 10_001, 25_000])
def test_digest_equals_that_of_the_whole_contents(n):
    "However many blocks it is read in"
    part = torch.arange(2 * n, dtype=torch.int32).view(n, 2)
    whole = hashlib.sha256(f'({n}, 2) torch.int32'.encode() + part.numpy().tobytes()).hexdigest()
    assert content_digest(part) == whole[:16]


def test_digest_does_not_depend_on_the_layout():
    part = bytes_of(50, 3, 4, 4)
    other_layout = part.contiguous(memory_format=torch.channels_last)
    assert content_digest(part) == content_digest(other_layout) == content_digest(part.clone())
    assert content_digest(part[::2]) == content_digest(part[::2].clone())


def test_digests_of_other_contents_differ():
    a = torch.zeros(20, 3, dtype=torch.uint8)
    pixel = a.clone()
    pixel[19, 2] = 1
    parts = [(a,), (pixel,), (a[:19],), (a.float(),), (a.view(3, 20),), (a, a), (a, 'a'), ('a', a), ('a',), ('b',),
             ('\udcff',), ()]
    assert len({content_digest(*part) for part in parts}) == len(parts)


def test_digits_are_the_same_every_time():
    "Runs know their data by this digest"
    one, other = digits(), digits()
    assert one.digest == other.digest == content_digest_of_digits()
    assert torch.equal(one.train, other.train) and torch.equal(one.test_labels, other.test_labels)
    assert (len(one.train), len(one.test), one.shape, one.name) == (1347, 450, (1, 8, 8), 'digits')


def content_digest_of_digits():
    from sklearn.datasets import load_digits
    raw = load_digits()
    pixels = [[[[round(255 * v / 16) for v in row] for row in image]] for image in raw.images]
    return content_digest(torch.tensor(pixels, dtype=torch.uint8), torch.tensor(raw.target, dtype=torch.int64))


def test_no_digit_is_in_both_parts():
    data = digits()
    assert len(torch.cat([data.train, data.test]).flatten(1).unique(dim=0)) == 1797


# --- from memory: what is taken -----------------------------------------------------------------------------------

PIXELS = bytes_of(30, 3, 8, 8)
GREY = bytes_of(30, 1, 8, 8)
CLASSES = torch.arange(30) % 7
FLOATS = to_float(PIXELS)


def pictures(pixels, mode='RGB'):
    return [(Image.fromarray(p.permute(1, 2, 0).squeeze(-1).numpy(), mode), int(c)) for p, c in zip(pixels, CLASSES)]


class Endless(Dataset):
    "Says how long it is, but gives items beyond"
    def __len__(self): return 30
    def __getitem__(self, i): return PIXELS[i % 30], int(CLASSES[i % 30])


# name -> (samples, stored pixels, whether classes come along)
TAKEN = {
    'bytes, tensor': (PIXELS, PIXELS, False),
    'bytes, array': (PIXELS.numpy(), PIXELS, False),
    'bytes, channels last in memory': (PIXELS.contiguous(memory_format=torch.channels_last), PIXELS, False),
    'floats, tensor': (FLOATS, PIXELS, False),
    'floats, array of doubles': (FLOATS.double().numpy(), PIXELS, False),
    'floats, half precision': (FLOATS.half(), PIXELS, False),
    'floats with a gradient': (FLOATS.clone().requires_grad_(), PIXELS, False),
    'pictures': (pictures(PIXELS), PIXELS, True),
    'grey pictures': (pictures(GREY, 'L'), GREY, True),
    'arrays, channels last': ([(p.permute(1, 2, 0).numpy(), c) for p, c in zip(PIXELS, CLASSES)], PIXELS, True),
    'grey arrays': ([(p[0].numpy(), int(c)) for p, c in zip(GREY, CLASSES)], GREY, True),
    'tensors, channels first': (TensorDataset(PIXELS, CLASSES), PIXELS, True),
    'grey tensors': ([(p[0], c) for p, c in zip(GREY, CLASSES)], GREY, True),
    'tensors of floats': (TensorDataset(FLOATS, CLASSES), PIXELS, True),
    'a part of a data set': (Subset(TensorDataset(PIXELS.repeat(2, 1, 1, 1), CLASSES.repeat(2)), range(30, 60)), PIXELS, True),
    'a data set without an end': (Endless(), PIXELS, True),
    'classes of NumPy': ([(p, np.int64(c)) for p, c in zip(PIXELS, CLASSES)], PIXELS, True),
    'attributes for classes': ([(p, torch.ones(40)) for p in PIXELS], PIXELS, False),
    'texts for classes': ([(p, 'a dog') for p in PIXELS], PIXELS, False),
    'None for classes': ([(p, None) for p in PIXELS], PIXELS, False),
}


@pytest.mark.parametrize('name', TAKEN)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_taken(name):
    samples, stored, labelled = TAKEN[name]
    data = from_memory(samples)
    want = from_memory(stored)
    assert (data.kind, data.train.dtype, data.shape) == ('images', torch.uint8, tuple(stored.shape[1:]))
    assert torch.equal(data.train, want.train) and torch.equal(data.test, want.test) and data.digest == want.digest
    assert (data.train_labels is not None) == (data.test_labels is not None) == labelled
    if not labelled: return
    for part, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        for picture, label in zip(part, labels):  # each class beside its own picture
            assert label == CLASSES[(stored == picture).flatten(1).all(1).nonzero().item()]


POINTS = 50 * torch.randn(30, 2, generator=seeded())
FORMS = {'tensor': POINTS, 'array of doubles': POINTS.double().numpy(), 'data set': TensorDataset(POINTS, CLASSES)}


@pytest.mark.parametrize('form', FORMS)
def test_points_are_taken_as_they_are(form):
    data = from_memory(FORMS[form])
    assert torch.equal(torch.cat([data.test, data.train]).sort(0).values, POINTS.sort(0).values)
    assert (data.kind, data.train.dtype, data.shape, len(data.train), len(data.test)) == ('points', torch.float32, (2,), 27, 3)


@property_test
@given(st.integers(2, 300))
def test_a_tenth_is_held_out_and_nothing_is_lost(n):
    numbers = torch.arange(2. * n).view(n, 2)
    data = from_memory(numbers)
    assert len(data.test) == math.ceil(n / 10)
    rows = torch.cat([data.train, data.test])
    assert torch.equal(rows[rows[:, 0].argsort()], numbers)
    again = from_memory(numbers.clone())
    assert torch.equal(again.train, data.train) and again.digest == data.digest
    assert from_memory(numbers.flip(0)).digest != data.digest


def test_what_is_stored_is_a_copy():
    pixels = PIXELS.clone()
    data = from_memory(pixels)
    pixels.zero_()
    assert data.digest == from_memory(PIXELS).digest and data.train.any()


def test_a_data_set_passes_as_it_is():
    data = digits()
    assert from_memory(data) is data


# --- from memory: torchvision -------------------------------------------------------------------------------------

def fake(*transforms, n=20):
    return FakeData(n, (3, 8, 8), 5, transform=v2.Compose([*transforms]) if transforms else None)


def test_a_data_set_of_torchvision_in_all_its_forms():
    "Pictures, their bytes, and floats once they are on the scale of the field, are the same data"
    floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    forms = [fake(), fake(v2.PILToTensor()), fake(*floats, v2.Normalize([.5] * 3, [.5] * 3)), TensorDataset(*stacked(fake()))]
    found = [from_memory(form) for form in forms]
    assert len({data.digest for data in found}) == 1
    for data in found: assert torch.equal(data.train_labels, found[0].train_labels) and data.shape == (3, 8, 8)
    assert len(found[0].train) == 18 and found[0].train_labels.dtype == torch.int64
    with pytest.raises(ValueError, match=r'must span \[-1, 1\], got \[0, 1\]; give uint8 or rescale'):
        from_memory(fake(*floats))


def stacked(dataset):
    items = list(dataset)
    return torch.stack([v2.functional.pil_to_tensor(p) for p, _ in items]), torch.tensor([c for _, c in items])


def test_grey_pictures_of_torchvision_have_one_channel():
    assert from_memory(fake(v2.Grayscale())).shape == (1, 8, 8)


def test_a_run_learns_from_a_data_set_of_torchvision_and_knows_it_again(tmp_path):
    e = experiment('tiny', steps=2, eval_every=2)
    run = fit(e, tmp_path, data=fake(), progress=False)
    assert run.sample(3).shape == (3, 3, 8, 8)
    fit(e, tmp_path, data=fake(v2.PILToTensor()), progress=False)
    with pytest.raises(RunError, match='digest'): fit(e, tmp_path, data=fake(v2.RandomHorizontalFlip(1.)), progress=False)


# --- from memory: what is refused ---------------------------------------------------------------------------------

def changed(samples, value):
    samples = samples.clone()
    samples[3, 0] = value
    return samples


REFUSED = {
    'floats from 0 to 1': (PIXELS / 255., r'must span \[-1, 1\], got \[0, 1\]'),
    'floats from 0 to 255': (PIXELS.float(), r'must span \[-1, 1\], got \[0, 255\]'),
    'floats beyond 1': (1.01 * FLOATS, r'must span \[-1, 1\], got \[-1.01, 1.01\]'),
    'floats below 0 alone, too low': (FLOATS - 1, r'must span \[-1, 1\], got \[-2, 0\]'),
    'NaN in an image': (changed(FLOATS, float('nan')), 'hold NaN or infinity'),
    'NaN in a point': (changed(torch.zeros(5, 2), float('nan')), 'hold NaN or infinity'),
    'infinity in a point': (changed(torch.zeros(5, 2), float('inf')), 'hold NaN or infinity'),
    'one image': (PIXELS[:1], 'got 1 samples, expected 2 or more'),
    'one point': (torch.zeros(1, 2), 'got 1 samples'),
    'an empty tensor': (PIXELS[:0], 'got 0 samples'),
    'empty floats': (FLOATS[:0], 'got 0 samples'),
    'an image alone': (PIXELS[0], r'got samples \(3, 8, 8\), expected images \(n, c, h, w\) or points \(n, m\)'),
    'numbers in a row': (torch.zeros(9), r'got samples \(9,\)'),
    'a number': (torch.tensor(3.), r'got samples \(\)'),
    'videos': (torch.zeros(5, 3, 2, 8, 8), r'got samples \(5, 3, 2, 8, 8\)'),
    'bytes that are points': (PIXELS.flatten(1), 'got samples of torch.uint8, expected uint8 images, or floats'),
    'integers': (PIXELS.long(), 'got samples of torch.int64'),
    'integers that are points': (torch.zeros(5, 2).long(), 'got samples of torch.int64'),
    'truth values': (PIXELS > 99, 'got samples of torch.bool'),
    'complex numbers': (torch.zeros(5, 2) * 1j, 'got samples of torch.complex64'),
    'pictures of 16 bits': ([(Image.new('I;16', (8, 8)), 0)] * 5, 'got samples of torch.uint16'),
    'pictures of two levels': ([(Image.new('1', (8, 8)), 0)] * 5, 'got samples of torch.bool'),
    'pictures of two sizes': ([(Image.new('RGB', (8, side)), 0) for side in (8, 8, 9)],
                              r'pictures of 2 shapes \[\(3, 8, 8\), \(3, 9, 8\)\]'),
    'grey and coloured pictures': ([(Image.new(mode, (8, 8)), 0) for mode in ('L', 'RGB')], 'pictures of 2 shapes'),
    'an empty data set': ([], 'got pictures of 0 shapes'),
    'pictures without classes': ([Image.new('RGB', (8, 8))] * 5, r'an item of type Image, expected a pair \(picture, class\)'),
    'arrays in a list': ([*PIXELS[:, :2].numpy()], 'got an item of type ndarray'),
    'triples': ([(PIXELS[0], 0, 0)] * 5, 'got an item of type tuple'),
    'a name': ('digits', "got the name 'digits', expected samples"),
    'a loader': (DataLoader(TensorDataset(PIXELS, CLASSES)), 'got DataLoader, expected a tensor, an array, or a data set'),
    'an iterator': (iter([(PIXELS[0], 0)]), 'got list_iterator'),
    'nothing': (None, 'got NoneType'),
    'a size': (64, 'got int'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused(name):
    samples, words = REFUSED[name]
    with pytest.raises(ValueError, match=words): from_memory(samples)


# --- where minibatches are drawn ----------------------------------------------------------------------------------

@pytest.mark.parametrize('size, free, there', [(499, 1000, True), (500, 1000, False), (0, 0, False), (1, 3, True)])
def test_samples_live_on_a_gpu_if_they_take_less_than_half_of_what_is_free(size, free, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (free, 10**12))
    stored = torch.zeros(size, dtype=torch.uint8)
    assert fits(stored, 'cuda:1') == there and fits(stored, 'cpu')


@pytest.mark.parametrize('kind', KINDS)
def test_streamed_rows_equal_resident_rows(kind, monkeypatch):
    data, index = KINDS[kind], torch.randint(20, (11,), generator=seeded())
    resident = Samples(data, 'cpu')
    monkeypatch.setattr(datasets, 'fits', lambda stored, device: False)
    streamed = Samples(data, 'cpu')
    assert (resident.resident, streamed.resident, len(resident), len(streamed)) == (True, False, 20, 20)
    assert torch.equal(streamed[index], resident[index]) and torch.equal(resident[index], data.floats(data.train[index]))
    assert resident.stored.data_ptr() == data.train.data_ptr()


def test_streamed_run_equals_resident_run(tmp_path, monkeypatch):
    e = experiment('tiny', steps=20, eval_every=20)
    resident = fit(e, tmp_path / 'resident', progress=False).sample(20)
    monkeypatch.setattr(datasets, 'fits', lambda stored, device: False)
    streamed = fit(e, tmp_path / 'streamed', progress=False).sample(20)
    assert torch.equal(streamed, resident)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_streamed_rows_on_a_gpu(monkeypatch):
    stored = Data(bytes_of(100, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    index = torch.randint(100, (20,), device='cuda')
    resident = Samples(stored, 'cuda')
    monkeypatch.setattr(datasets, 'fits', lambda stored, device: False)
    streamed = Samples(stored, 'cuda')
    assert (resident.stored.device.type, streamed.stored.device.type) == ('cuda', 'cpu')
    assert streamed[index].device.type == 'cuda' and torch.equal(streamed[index], resident[index])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_samples_on_a_gpu_are_taken(): assert from_memory(PIXELS.cuda()).digest == from_memory(PIXELS).digest


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_prefetched_run_equals_resident_run(tmp_path, monkeypatch):
    "Rows are read beside the step before; the random numbers are those of the usual order"
    e = experiment('tiny', steps=200, eval_every=200, device='cuda', flip=True)
    resident = fit(e, tmp_path / 'resident', progress=False).sample(20)
    monkeypatch.setattr(datasets, 'fits', lambda stored, device: False)
    assert Prefetched(digits(), 'cuda').stream is not None
    prefetched = fit(e, tmp_path / 'prefetched', progress=False).sample(20)
    torch.testing.assert_close(prefetched, resident)
