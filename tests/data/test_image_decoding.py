"""Images of every mode and turn, and damage beside the pixels, which costs nothing."""
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from coulomb_gan.data.image_decoding import quiet_pillow, read_image, square, to_rgb
from made_files import encoded, noise, quietly


# --- eight bits, three channels -----------------------------------------------------------------------------------

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr',
                                  'HSV', 'I', 'I;16', 'I;16B'])
def test_every_mode_becomes_rgb(mode):
    assert (to_rgb(Image.new(mode, (5, 7))).mode, to_rgb(Image.new(mode, (5, 7))).size) == ('RGB', (5, 7))


@pytest.mark.parametrize('mode,colour,want', [
    ('1', 1, (255, 255, 255)), ('L', 77, (77, 77, 77)), ('LA', (0, 0), (255, 255, 255)), ('RGBA', (9, 8, 7, 255), (9, 8, 7)),
    ('CMYK', (0, 255, 255, 0), (255, 0, 0)), ('I;16', 257 * 5, (5, 5, 5)), ('I', 65535, (255, 255, 255))])
def test_colours_of_a_mode(mode, colour, want):
    assert to_rgb(Image.new(mode, (1, 1), colour)).getpixel((0, 0)) == want


@pytest.mark.parametrize('options,want', [
    (dict(size=32), 'a square of 20 pixels is smaller than 32'), (dict(size=64, crop=18), '18 pixels is smaller than 64'),
    (dict(size=16, crop=24, upscale=True), '30x20 pixels have no room for a crop of 24')])
def test_image_that_is_too_small_is_refused(options, want):
    with pytest.raises(ValueError, match=want): square(noise(20, 30), **options)


@pytest.mark.parametrize('turn', range(1, 9))
def test_image_that_is_turned_comes_out_upright(turn):
    "The eight ways to hold a camera, against numpy"
    a = np.asarray(noise(8, 8))
    ways = [a, a[:, ::-1], a[::-1, ::-1], a[::-1], a.transpose(1, 0, 2), np.rot90(a, -1), a[::-1, ::-1].transpose(1, 0, 2),
            np.rot90(a)]
    exif = Image.Exif()
    exif[0x0112] = turn
    got = square(read_image(encoded(Image.fromarray(a), exif=exif)), 8)
    assert (got == ways[turn - 1].transpose(2, 0, 1)).all()


# --- damage beside the pixels -------------------------------------------------------------------------------------

def chunk(kind, body, spoilt=False):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body) ^ spoilt)

def segment(kind, body): return b'\xff' + bytes([kind]) + struct.pack('>H', len(body) + 2) + body

BOMB = b'\0' + zlib.compress(bytes(1 << 22))
EXIF = b'Exif\0\0'
CHUNKS = {
    'comment with a wrong checksum': chunk(b'tEXt', b'a\0b', True), 'comment in an unknown packing': chunk(b'zTXt', b'a\0\7b'),
    'comment that swells': chunk(b'zTXt', b'a\0' + BOMB), 'comment that is no zlib': chunk(b'zTXt', b'a\0\0b'),
    'short international comment': chunk(b'iTXt', b'a'), 'empty profile': chunk(b'iCCP', b''),
    'profile with a wrong checksum': chunk(b'iCCP', b'icc\0' + BOMB, True), 'profile that swells': chunk(b'iCCP', b'icc\0' + BOMB),
    'profile in an unknown packing': chunk(b'iCCP', b'icc\0\7b'), 'profile that is no zlib': chunk(b'iCCP', b'icc\0\0b'),
    'short gamma': chunk(b'gAMA', b'a'), 'short primaries': chunk(b'cHRM', b'abc'), 'empty intent': chunk(b'sRGB', b''),
    'short resolution': chunk(b'pHYs', b'abc'), 'empty time': chunk(b'tIME', b''), 'EXIF of no kind': chunk(b'eXIf', b'no TIFF'),
    'EXIF with a wrong checksum': chunk(b'eXIf', b'II*\0', True), 'short EXIF': chunk(b'eXIf', b'II*\0'),
    'empty EXIF': chunk(b'eXIf', b''), 'animation of no frames': chunk(b'acTL', bytes(8)), 'short animation': chunk(b'acTL', b'a'),
    'short frame': chunk(b'fcTL', b'abc'), 'private chunk': chunk(b'abCd', b'x')}
SEGMENTS = {
    'EXIF of no kind': segment(0xe1, EXIF + b'no TIFF'), 'short EXIF': segment(0xe1, EXIF + b'II*\0'),
    'EXIF that ends early': segment(0xe1, EXIF + b'II*\0\x08\0\0\0\xff\xff' + b'abc'),
    'EXIF with a value beyond its end': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\0\1\1\x1a\0\5\0\0\0\1\0\0\0\x99\0\0\0\0'),
    'orientation in words': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\1a\0\0\0\0\0\0\0'),
    'orientation 9': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x09\0\0\0\0\0\0'),
    'orientation that is beyond the end': segment(0xe1, EXIF + b'MM\0*\0\0\0\x08\1\0' + 3 * b'\1\x12\0\7\0\xff\xff\xff\0\0\0\0'),
    'profile': segment(0xe2, b'ICC_PROFILE\0\1\5garbage'), 'short profile': segment(0xe2, b'ICC_PROFILE\0'),
    'several images that are none': segment(0xe2, b'MPF\0garbage'),
    'several images of zero': segment(0xe2, b'MPF\0II*\0\x08\0\0\0\0\0\0\0\0\0'),
    'Photoshop': segment(0xed, b'Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\1a'), 'short Adobe': segment(0xee, b'Adobe'),
    'short JFIF': segment(0xe0, b'JFIF'), 'comment like a marker': segment(0xfe, b'\xff\xd8\xff'), 'empty comment': segment(0xfe, b''),
    'XMP that is no XML': segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0<bad')}

def first(data):
    "A file as a square of eight pixels; in words if it cannot be used"
    try:
        with quiet_pillow: return square(read_image(data), 8)
    except Exception as e: return f'{type(e).__name__}: {e}'

def assert_same(data, whole):
    got = first(data)
    assert isinstance(got, np.ndarray), got
    assert (got == first(whole)).all()

@pytest.mark.parametrize('behind', [False, True], ids=['before the pixels', 'behind the pixels'])
@pytest.mark.parametrize('name', CHUNKS)
def test_damage_beside_the_pixels_of_a_png_costs_nothing(name, behind):
    whole = encoded(noise())
    at = len(whole) - 12 if behind else 33
    assert_same(whole[:at] + CHUNKS[name] + whole[at:], whole)


@pytest.mark.parametrize('name', SEGMENTS)
def test_damage_beside_the_pixels_of_a_jpeg_costs_nothing(name):
    whole = encoded(noise(), 'JPEG')
    assert_same(whole[:2] + SEGMENTS[name] + whole[2:], whole)


@pytest.mark.parametrize('form', ['WEBP', 'AVIF', 'TIFF', 'PNG', 'JPEG'])
@pytest.mark.parametrize('options', [dict(exif=EXIF + b'no TIFF header'), dict(exif=EXIF + b'II*\0'),
                                     dict(icc_profile=b'no profile'), dict(comment=b'\xff\xfe')], ids=str)
def test_damage_beside_the_pixels_costs_nothing_in_any_form(form, options):
    image = noise()
    try: data = encoded(image, form, **options)
    except Exception: pytest.skip(f'Pillow does not write this into {form}')
    assert_same(data, encoded(image, form))


@pytest.mark.parametrize('form,damage', [('PNG', CHUNKS['comment with a wrong checksum']), ('JPEG', SEGMENTS['short profile'])])
@pytest.mark.parametrize('turn', range(1, 9))
def test_damage_elsewhere_leaves_the_orientation(turn, form, damage):
    exif = Image.Exif()
    exif[0x0112] = turn
    whole = encoded(noise(8, 12), form, exif=exif)
    at = 33 if form == 'PNG' else 2
    assert_same(whole[:at] + damage + whole[at:], whole)


@pytest.mark.parametrize('spoil', [
    lambda png: png[:len(png) // 2], lambda png: png.replace(b'IDAT', b'IDAX'), lambda png: png[:20] + b'x' + png[21:],
    lambda png: png[:60] + b'xxxx' + png[64:]], ids=['half', 'no pixels', 'size', 'pixels'])
def test_damaged_pixels_are_not_taken_for_a_damaged_comment(spoil):
    whole = encoded(noise())
    with_comment = whole[:33] + CHUNKS['comment with a wrong checksum'] + whole[33:]
    assert isinstance(first(spoil(whole)), str) and isinstance(first(spoil(with_comment)), str)


@pytest.mark.parametrize('limit,used', [(16 * 16, True), (16 * 16 - 1, True), (16 * 16 // 2, True), (16 * 8 - 1, False)])
def test_image_too_large_for_pillow_is_named(limit, used, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
    got = first(encoded(noise()))
    assert isinstance(got, np.ndarray) if used else 'decompression bomb' in got


def test_warnings_of_pillow_stop_no_thread_and_come_back(place):
    whole = encoded(noise(), 'JPEG')
    several = whole[:2] + SEGMENTS['several images that are none'] + whole[2:]
    (place / 'tree').mkdir()
    for i in range(200): (place / f'tree/{i}.jpg').write_bytes(several)
    before = list(warnings.filters)
    manifest = quietly('tree', 'out', workers=8)
    assert (manifest['count'], manifest['skipped'], warnings.filters) == (200, {}, before)
    with pytest.raises(UserWarning): Image.open(io.BytesIO(several))
