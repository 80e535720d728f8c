"""How near `prepare` comes to the rate at which the processor's cores decode, and how much memory it takes.

    python benchmarks/prepare.py [--images 100000] [--side 128] [--rounds 5]

Made JPEGs, as many as asked for from some hundred different ones, lie in an LMDB as LSUN's do. First, in rounds that
take turns, a twentieth of them is decoded by one thread a core and thrown away, and is prepared; both rates are
compared, by the clock and by the processor time of all threads, which other work on the machine does not change much.
Then all of them are prepared, in a process of its own, whose memory beside mapped files is read.
"""
import io
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import lmdb
import numpy as np
from PIL import Image, ImageFilter

from coulomb_gan.data.image_sources import open_source
from coulomb_gan.data.prepare_images import CHUNK, decode, prepare
from measuring import added_memory, in_child, print_head, print_row

SIZE = 64  # pixels a side of the prepared images, as for LSUN
DIFFERENT = 200


def make_jpegs(side):
    "JPEGs of smoothed noise: about as many bytes a pixel as photographs."
    rng = np.random.default_rng(0)
    files = []
    for _ in range(DIFFERENT):
        noise = rng.integers(0, 256, (side, side * 4 // 3, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1)).save(buffer, 'jpeg', quality=75)
        files.append(buffer.getvalue())
    return files


def make_lmdb(path, files, n):
    "A folder in LSUN's form with that many images."
    with lmdb.open(str(path), map_size=1 << 40) as env:
        for start in range(0, n, 10_000):
            with env.begin(write=True) as transaction:
                for i in range(start, min(n, start + 10_000)):
                    transaction.put(f'{i:08d}'.encode(), files[i % len(files)])


def rates(work, n):
    "Images a second by the clock, and a second of processor time."
    start, before = time.perf_counter(), time.process_time()
    work()
    return n / (time.perf_counter() - start), n / (time.process_time() - before)


def decoding_rate(source):
    "Images a second that the cores decode where nothing is kept."
    with open_source(source) as found, ThreadPoolExecutor(os.cpu_count()) as pool:
        names = list(found.items)
        def work():
            for i in range(0, len(names), 8 * CHUNK):
                for _ in pool.map(lambda name: decode(found, name, SIZE), names[i:i + 8 * CHUNK]): pass
        return rates(work, len(names))


def preparing_rate(source, out):
    "Images a second that are prepared."
    with open_source(source) as found: n = len(found.items)
    return rates(lambda: prepare(source, out, SIZE, progress=False), n)


@click.command()
@click.option('--images', type=int, default=100_000, show_default=True)
@click.option('--side', type=int, default=128, show_default=True)
@click.option('--rounds', type=int, default=5, show_default=True)
@click.option('--alone', type=Path, hidden=True)
def main(images, side, rounds, alone):
    "Prints two tables."
    if alone:
        found = []
        added = added_memory(lambda: found.extend(preparing_rate(alone, alone.with_name('all-prepared'))))
        return print(*found, added)
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        files = make_jpegs(side)
        few = max(2 * CHUNK, images // 20)
        make_lmdb(place / 'few', files, few)
        decoded, prepared = [], []
        for i in range(rounds):
            decoded.append(decoding_rate(place / 'few'))
            prepared.append(preparing_rate(place / 'few', place / f'out{i}'))
        print_head('a second of', 'decoded', 'prepared', 'share of the decoding rate, median (range)')
        for k, kind in enumerate(('the clock', 'processor time')):
            shares = [p[k] / d[k] for d, p in zip(decoded, prepared)]
            medians = [f'{statistics.median(found[k] for found in rows):,.0f}' for rows in (decoded, prepared)]
            print_row(kind, *medians, f'{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})')
        make_lmdb(place / 'all', files, images)
        rate, _, added = in_child(__file__, '--alone', place / 'all')
        size = (place / 'all-prepared/images.npy').stat().st_size / 1e6
        print_head('images', 'prepared/s', 'array MB', 'memory added MB')
        print_row(f'{images:,}', f'{rate:,.0f}', f'{size:,.0f}', f'{added:,.0f}')


if __name__ == '__main__': main()
