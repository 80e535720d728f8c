"""Preparations that are fed with rubbish, killed, stopped, repeated, refused, and named."""
import io
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from coulomb_gan.data.catalogue import prepared
from coulomb_gan.data.image_sources import Source
from coulomb_gan.data.catalogue import download
from coulomb_gan.data.prepare_images import CHUNK, decode
from coulomb_gan.files import RunError
from coulomb_gan.locks import locked
from faults import FORK, at_call, command, die, held, in_child, without_privileges
from made_files import GEN, contents, encoded, fill, fill_cifar, noise, quietly, visible


# --- rubbish ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'PPM', 'TGA', 'ICO'])
def test_rubbish_gives_words_and_never_an_exception(form):
    whole = encoded(noise(24, 24), form)
    broken = [whole[:n] for n in range(0, len(whole), max(1, len(whole) // 40))]
    broken += [whole[:at] + GEN.bytes(4) + whole[at + 4:] for at in GEN.integers(0, len(whole), 60)]
    broken += [whole[:at] + bytes(4) + whole[at + 4:] for at in range(0, min(120, len(whole)), 2)]
    source = Source({}, lambda i: Image.open(io.BytesIO(broken[i])))
    got = [decode(source, i, 16) for i in range(len(broken))]
    assert all(g if isinstance(g, str) else g.shape == (3, 16, 16) for g in got)
    assert got[0] == 'not an image' and all(isinstance(g, str) for g in got[:20])


@pytest.mark.parametrize('error', [MemoryError(), OSError(5, 'Input/output error'), PermissionError(13, 'denied')],
                         ids=lambda e: type(e).__name__)
def test_failure_of_the_system_is_not_the_fault_of_the_image(error):
    def fail(name): raise error
    with pytest.raises(RunError, match="cannot read 'a': .*; the same command goes on"): decode(Source({}, fail), 'a', 16)


def test_nested_folders_with_bad_files(run, tmp_path):
    for i in range(30):
        (tmp_path / f'tree/{i % 3}/{i % 2}').mkdir(parents=True, exist_ok=True)
        noise(70 + i, 90).save(tmp_path / f'tree/{i % 3}/{i % 2}/{i}.jpg')
    noise(63, 90).save(tmp_path / 'tree/small.png')
    (tmp_path / 'tree/text.jpg').write_text('not an image')
    (tmp_path / 'tree/empty.png').touch()
    (tmp_path / 'tree/torn.jpg').write_bytes((tmp_path / 'tree/0/0/0.jpg').read_bytes()[:-2000])
    (tmp_path / 'tree/.DS_Store').write_text('hidden')
    code, _, err = run('prepare folder tree')
    assert code == 2 and len(err) == 1 and 'more than 10% of all 34' in err[0]
    assert visible('data/folder') == []
    said = run('prepare folder tree --max-bad .2')[1]
    assert said.startswith('30 images of 64 pixels, 3 of them held out, 4 files skipped, such as ')
    skipped = json.loads((tmp_path / 'data/folder/manifest.json').read_text())['skipped']
    assert skipped.keys() == {'small.png', 'text.jpg', 'empty.png', 'torn.jpg'}
    assert skipped['text.jpg'] == skipped['empty.png'] == 'not an image'
    assert 'truncated' in skipped['torn.jpg'] and '63 pixels' in skipped['small.png']
    assert not any(str(tmp_path) in reason for reason in skipped.values())
    assert run('prepare folder tree --upscale --out up')[1].startswith('31 images')


@pytest.mark.parametrize('n,options,want', [
    (0, {}, 'tree holds no files; expected images'), (1, {}, '1 images are left, 1 to hold out: too few'),
    (12, dict(size=64, max_bad=0.), 'more than 0% of all 12; such as'), (12, dict(size=0), 'got a size of 0'),
    (12, dict(max_bad=1.5), r'got max_bad 1.5, expected a share in \[0, 1\]'), (12, dict(out='tree/out'), 'tree/out lies inside of tree'),
    (12, dict(held_out_folder='tests'), '0 of 12 images lie under tests, expected some but not all')], ids=str)
def test_what_cannot_be_prepared_is_refused_and_leaves_nothing(n, options, want, place):
    fill('tree', n)
    with pytest.raises(ValueError, match=want): quietly('tree', **dict(out='out') | options)
    assert not Path('tree/out').exists() and visible('out') == []


# --- killed, stopped, repeated ------------------------------------------------------------------------------------

def same(a, b):
    "Two finished folders agree, but for the name of the data set"
    a, b = contents(a), contents(b)
    for files in (a, b): files['manifest.json'] = json.loads(files['manifest.json']) | dict(dataset='')
    return a == b


def test_command_killed_goes_on_where_it_was(tree, tmp_path):
    "The real thing: another interpreter, SIGKILL after the first record, the same command again"
    line = ('prepare', 'folder', tree, '--out', tmp_path / 'out', '--size', 8, '--workers', 1)
    dies = "from coulomb_gan.data import growing_arrays\nat_call(growing_arrays, 'write_json', 1, die, after=True)"
    assert command(*line, before=dies).returncode == -signal.SIGKILL
    assert not (tmp_path / 'out/images.npy').exists()
    done = json.loads((tmp_path / 'out/.progress.json').read_text())['done']
    again = command(*line)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith('1124 images of 8 pixels, 113 of them held out, 3 files skipped, such as ')
    assert f'{done}/1127' in again.stderr      # the bar starts there
    assert same(tmp_path / 'out', tree.parent / 'whole')


def test_failing_disk_stops_the_work_and_loses_nothing(tree, tmp_path, monkeypatch):
    "What is done is kept, and nothing is listed as bad"
    old, calls = Image.open, iter(range(10_000))
    def failing(file):
        if next(calls) > CHUNK + 100: raise OSError(5, 'Input/output error', str(file))
        return old(file)
    monkeypatch.setattr('PIL.Image.open', failing)
    with pytest.raises(RunError, match='Input/output error'): quietly(tree, tmp_path / 'out', workers=0)
    monkeypatch.undo()
    assert json.loads((tmp_path / 'out/.progress.json').read_text())['done'] == CHUNK
    quietly(tree, tmp_path / 'out')
    assert contents(tmp_path / 'out') == contents(tree.parent / 'whole')


def test_odd_names_survive_a_stop(place, monkeypatch):
    Path('tree').mkdir()
    for i in range(CHUNK + 30): Path('tree', os.fsdecode(b'\xff%d.png' % i)).write_bytes(encoded(noise(8, 8), 'BMP'))
    old, calls = Image.open, iter(range(10_000))
    def failing(file):
        if next(calls) > CHUNK: raise OSError(5, 'Input/output error')
        return old(file)
    monkeypatch.setattr('PIL.Image.open', failing)
    with pytest.raises(RunError, match=r"cannot read '\\udcff\d+.png'"): quietly('tree', 'out', workers=0)
    monkeypatch.setattr('PIL.Image.open', old)
    assert quietly('tree', 'out')['digest'] == quietly('tree', 'whole')['digest']


def begun(tree, out, **options):
    "A preparation that is killed behind its first record"
    def work():
        at_call(os, 'replace', 2, die, after=True)      # the first is the lock's
        quietly(tree, out, **options)
    assert in_child(work) == -signal.SIGKILL


@pytest.mark.filterwarnings('ignore:.*it is taken over')
def test_other_settings_and_other_sources_are_noticed(tree, tmp_path):
    shutil.copytree(tree.parent / 'whole', tmp_path / 'out')
    before = contents(tmp_path / 'out')
    begun(tree, tmp_path / 'part')
    shutil.copytree(tree, tmp_path / 'tree')      # the same files elsewhere are the same source
    quietly(tmp_path / 'tree', tmp_path / 'out')
    (tmp_path / 'tree/7.bmp').write_bytes(encoded(noise(8, 9), 'BMP'))
    for out in ('out', 'part'):
        for change in (dict(crop=8), dict(upscale=True), dict(size=4)):
            with pytest.raises(ValueError, match=f'{[*change][0]} was .* and is now .*. Remove it or choose another'):
                quietly(tree, tmp_path / out, **change)
        with pytest.raises(ValueError, match='source_digest was'): quietly(tmp_path / 'tree', tmp_path / out)
    assert contents(tmp_path / 'out') == before


def test_named_folder_is_held_out(said, refused, tmp_path):
    for i in range(12):
        (tmp_path / f'tree/{"test" if i < 4 else "train"}').mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / f'tree/{"test" if i < 4 else "train"}/{i}.png')
    assert said('prepare folder tree --size 8 --held-out-folder test').startswith('12 images of 8 pixels, 4 of them')
    got = prepared('data/folder')
    assert sorted(got.test[:, 0, 0, 0].tolist()) == [0, 1, 2, 3] and len(got.train) == 8
    assert 'tests' in refused('prepare folder tree --size 8 --held-out-folder tests --out b')


# --- the name of the data set -------------------------------------------------------------------------------------

def recorded(out): return json.loads(Path(out, 'manifest.json').read_text())['dataset']


@pytest.mark.parametrize('first,then', [('', 'celeba'), ('celeba', ''), ('celeba', 'lsun'), ('celeba', 'celeba')])
def test_finished_folder_keeps_the_name_it_has(first, then, place):
    fill('tree', 12)
    manifest = quietly('tree', 'out', dataset=first)
    before = contents('out')
    assert quietly('tree', 'out', dataset=then) == manifest and contents('out') == before
    assert recorded('out') == first


def test_older_manifest_without_a_name_stays_valid(place):
    fill('tree', 12)
    manifest = quietly('tree', 'out')
    del manifest['dataset']
    Path('out/manifest.json').write_text(json.dumps(manifest))
    before = contents('out')
    for dataset in ('', 'celeba'): assert quietly('tree', 'out', dataset=dataset) == manifest
    assert contents('out') == before and len(prepared('out').train) == 10


@pytest.mark.filterwarnings('ignore:.*it is taken over')
@pytest.mark.parametrize('first,then,want', [('', 'celeba', 'celeba'), ('celeba', '', 'celeba'), ('celeba', 'lsun', 'lsun')])
def test_continued_preparation_takes_the_name_that_is_given(first, then, want, tree, tmp_path):
    begun(tree, tmp_path / 'out', dataset=first)
    quietly(tree, tmp_path / 'out', dataset=then)
    assert recorded(tmp_path / 'out') == want and same(tmp_path / 'out', tree.parent / 'whole')


# --- in use, read-only, in the way --------------------------------------------------------------------------------

def test_second_preparation_into_one_folder_is_refused(place, run):
    fill('tree', 12)
    line = 'prepare folder tree --size 8 --out out'
    with held('out') as other: code, _, err = run(line)
    assert (code, len(err)) == (1, 1) and f'out is in use by process {other.pid} on ' in err[0]
    assert run(line)[0] == 0      # and goes on when the other is gone
    assert visible('out') == ['images.npy', 'manifest.json']


def test_two_at_once_make_one_array(place):
    fill('tree', 60)
    def work():
        try: quietly('tree', 'out')
        except RunError as e: assert 'is in use by' in str(e)      # just begun, it does not say by whom
    both = [FORK.Process(target=work) for _ in range(2)]
    for p in both: p.start()
    for p in both: p.join()
    assert [p.exitcode for p in both] == [0, 0] and visible('out') == ['images.npy', 'manifest.json']
    assert quietly('tree', 'out')['digest'] == quietly('tree', 'again')['digest']


def test_finished_folder_answers_where_nothing_may_be_written(place):
    fill('tree', 12)
    manifest = quietly('tree', 'out')
    for p in Path('out').iterdir(): p.chmod(0o444)
    os.chmod('out', 0o555)
    assert without_privileges(lambda: quietly('tree', 'out')) == manifest
    with locked('elsewhere'): assert quietly('tree', 'out') == manifest


@pytest.mark.parametrize('out', ['closed', 'closed/out', 'closed/a/b'])
def test_place_that_may_not_be_written_is_refused_before_anything_is_decoded(out, place, monkeypatch):
    fill('tree', 12)
    Path('closed').mkdir(mode=0o555)
    opened = []
    monkeypatch.setattr('PIL.Image.open', opened.append)
    def refused():
        with pytest.raises(RunError, match=f'cannot write {out}'): quietly('tree', out)
        return opened
    assert without_privileges(refused) == []


def test_no_tar_is_unpacked_for_a_place_that_cannot_be_written(place, refused, monkeypatch):
    opened = []
    monkeypatch.setattr('coulomb_gan.data.prepare_images.open_source', opened.append)
    Path('file').touch()
    assert 'cannot write file/out' in refused('prepare folder a.tar.xz --out file/out') and not opened


def test_array_does_not_lie_in_a_folder_that_is_read_through_a_link(place, refused):
    fill('store', 12)
    Path('tree').mkdir()
    os.symlink(place / 'store', 'tree/all')
    assert 'store/out lies inside of tree/all' in refused('prepare folder tree --size 8 --out store/out')


# --- fetching -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name,fetcher,folder', [
    ('cifar10', 'CIFAR10', 'cifar-10-batches-py'), ('celeba', 'CelebA', 'celeba/img_align_celeba')])
def test_download_goes_through_torchvision(name, fetcher, folder, place, said, monkeypatch):
    fetched = []
    def fetch(root, download):
        fetched.append((root, download))
        fill_cifar(Path(root, folder), 20)      # for CelebA as good as images
    monkeypatch.setattr(f'torchvision.datasets.{fetcher}', fetch)
    assert download(name, place / 'here') == place / 'here' / folder
    assert said(f'prepare {name} --download --size 32 --crop 32').startswith('120 images')
    assert fetched == [(place / 'here', True), (Path('data/downloads'), True)]


@pytest.mark.parametrize('line,want', [
    ('prepare cifar10', 'get cifar-10-python.tar.gz'), ('prepare celeba', 'get img_align_celeba.zip'),
    ('prepare lsun', 'get the folder bedroom_train_lmdb'), ('prepare folder', 'coulomb-gan prepare folder PATH'),
    ('prepare svhn', 'get train_32x32.mat and test_32x32.mat'),
    ('prepare svhn --download', 'the download failed (no route); get train_32x32.mat'),
    ('prepare lsun --download', 'no download for lsun; get the folder'),
    ('prepare cifar10 --download', 'the download failed (no route); get cifar-10-python.tar.gz'),
    ('prepare celeba --download', 'the download failed (no route); get img_align_celeba.zip')])
def test_without_a_source_the_message_says_what_to_get(line, want, refused, monkeypatch):
    def fail(root, download, **more): raise OSError('no route')
    for fetcher in ('CIFAR10', 'CelebA', 'SVHN'): monkeypatch.setattr(f'torchvision.datasets.{fetcher}', fail)
    assert want in refused(line)


def test_nothing_is_downloaded_for_a_place_that_cannot_be_written(place, refused, monkeypatch):
    fetched = []
    monkeypatch.setattr('coulomb_gan.reporting.cli_prepare.fetch', lambda *args: fetched.append(args))
    Path('file').touch()
    assert 'cannot write file/out' in refused('prepare cifar10 --download --out file/out') and not fetched
