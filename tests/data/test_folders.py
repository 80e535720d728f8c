"""Folders with links, pipes and forbidden places in them: each is entered once, and whatever cannot be used is named."""
import json
import os
from pathlib import Path

import pytest

from coulomb_gan.data.image_sources import open_source
from coulomb_gan.files import RunError
from faults import without_privileges
from made_files import ODD, fill, quietly


def test_linked_folder_is_read_and_a_second_way_to_it_is_named(place, said):
    fill('store/cats', 20)
    fill('tree/own', 12)
    os.symlink(place / 'store/cats', 'tree/cats')
    assert said('prepare folder tree --size 8') == '32 images of 8 pixels, 4 of them held out, 0 files skipped'
    os.symlink(place / 'store', 'tree/dogs')
    assert said('prepare folder tree --size 8 --out b').endswith(
        "; 1 left out, such as 'dogs/cats': the same folder as 'cats'")
    assert json.loads(Path('b/manifest.json').read_text())['left_out'] == {'dogs/cats': "the same folder as 'cats'"}


@pytest.mark.parametrize('links,used,left_out', [
    (dict(up='.'), 3, {'up': '.'}),                                             # back to the top
    (dict(a='b', b='a'), 3, dict(a='symbolic links', b='symbolic links')),      # in a circle
    ({'own/up': '..', 'own/in': '../own'}, 3, {'own/in': 'own', 'own/up': '.'}),
    (dict(one='../other', two='../other'), 5, {'two': 'one'}),
    (dict(one='../other', around='..'), 5, {'one': 'around/other', 'around/tree': '.'}),
    (dict(all='../other', inner='../other/deep'), 5, {'inner': 'all/deep'}),
    ({'a.png': '../other/0.png', 'b.png': 'a.png'}, 5, {}),                     # files may be linked as often as one likes
    (dict(gone='nowhere'), 3, dict(gone='leads nowhere'))], ids=lambda v: '-'.join(v) if isinstance(v, dict) else None)
def test_each_folder_is_entered_once(links, used, left_out, place):
    fill('tree/own', 3)
    fill('other', 1)
    fill('other/deep', 1)
    for name, to in links.items(): os.symlink(to, Path('tree', name))
    with open_source(place / 'tree') as found:
        assert len(found.items) == used
        assert found.left_out.keys() == left_out.keys()
        assert all(words in found.left_out[name] for name, words in left_out.items())
        for name in found.items: assert found.open(name).size == (16, 16)


@pytest.mark.parametrize('make', ODD, ids=lambda f: f.__name__)
def test_whatever_a_folder_holds_besides_is_named(make, place):
    fill('tree', 12)
    make(Path('tree/odd'))
    manifest = without_privileges(lambda: quietly('tree', 'out'))
    if ODD[make] == 'Permission denied': os.chmod('tree/odd', 0o700)      # so that it can be removed
    assert (manifest['count'], manifest['left_out'], manifest['skipped']) == (12, {'odd': ODD[make]}, {})
    assert json.loads(Path('out/manifest.json').read_text()) == manifest


def test_folder_that_may_not_be_entered_is_refused(place):
    fill('tree', 3)
    os.chmod('tree', 0)
    try:
        with pytest.raises(RunError, match='cannot read tree: Permission denied'):
            without_privileges(lambda: quietly('tree', 'out'))
    finally: os.chmod('tree', 0o700)


def test_where_nothing_can_be_used_the_reason_is_told(place, refused):
    Path('tree').mkdir()
    os.symlink('nowhere', 'tree/images')
    assert "tree holds no file that can be used, such as 'images': a link that leads nowhere" in refused('prepare folder tree')


def test_tree_without_links_is_the_source_it_was(place):
    "Real folders go first: arrays that were prepared before links were followed are still recognised"
    fill('tree/z', 3)
    with open_source(place / 'tree') as found: before = found.digest
    os.symlink('z', 'tree/a')
    with open_source(place / 'tree') as found: assert (found.digest, [*found.left_out]) == (before, ['a'])


def test_odd_names_among_what_is_left_out(place, said):
    fill('tree', 12)
    os.symlink('nowhere', os.fsdecode(b'tree/\xff\n'))
    assert said('prepare folder tree --size 8').endswith(r"; 1 left out, such as '\udcff\n': a link that leads nowhere")
