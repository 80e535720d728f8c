"""What is written is complete or absent, what is read is what was written, and what is damaged is named."""
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from coulomb_gan.files import RunError, caching, changed, check_writable, open_array, read_json, read_lines, write_json, write_whole

DAMAGES = {'empty': lambda b: b'', 'cut': lambda b: b[:len(b) // 2], 'zeros': lambda b: b'\0' * len(b),
           'cut in the first word': lambda b: b[:5], 'cut in the header': lambda b: b[:100], 'one byte short': lambda b: b[:-1]}


@pytest.mark.parametrize('damage', ['empty', 'cut', 'zeros'])
def test_damaged_json_is_named_with_what_to_do(damage, tmp_path):
    write_json(tmp_path / 'manifest.json', dict(digest='12', count=3))
    path = tmp_path / 'manifest.json'
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(RunError, match='manifest.json is damaged .*; prepare the data again'):
        read_json(path, 'prepare the data again')


@pytest.mark.parametrize('contents', ['[1]', '3', 'null', '"text"'])
def test_json_that_is_not_an_object_is_damaged(contents, tmp_path):
    (tmp_path / 'config.json').write_text(contents)
    with pytest.raises(RunError, match='config.json is damaged'): read_json(tmp_path / 'config.json')


@pytest.mark.parametrize('damage', DAMAGES)
def test_an_array_shorter_than_it_claims_is_refused_before_it_is_touched(damage, tmp_path):
    "Touching a page behind the end would kill the process"
    path = tmp_path / 'images.npy'
    np.save(path, np.ones((5000, 3), np.uint8))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(RunError, match='images.npy is damaged'): open_array(path)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / 'labels.npy', np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(RunError, match='labels.npy is damaged'): open_array(tmp_path / 'labels.npy')


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\n'), min_size=1)))
def test_lines_come_back_whatever_they_hold(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp('lines') / 'lines.txt'
    write_whole(path, ''.join(f'{line}\n' for line in lines).encode())
    assert read_lines(path) == lines


def test_lines_do_not_depend_on_the_locale(tmp_path):
    write_whole(tmp_path / 'lines.txt', 'é\u2028中\n'.encode())
    code = "from coulomb_gan.files import read_lines; print(ascii(read_lines('lines.txt')))"
    done = subprocess.run([sys.executable, '-X', 'utf8=0', '-c', code], cwd=tmp_path, text=True, capture_output=True,
                          env=os.environ | dict(LC_ALL='C', PYTHONCOERCECLOCALE='0'))
    assert done.stdout == "['\\xe9\\u2028\\u4e2d']\n", done.stderr


def test_a_torn_character_at_the_end_is_replaced(tmp_path):
    (tmp_path / 'metrics.jsonl').write_bytes('{"step": 1}\n{"text": "é'.encode()[:-1])
    assert read_lines(tmp_path / 'metrics.jsonl') == ['{"step": 1}', '{"text": "\ufffd']


def test_a_cache_that_cannot_be_written_costs_a_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.warns(UserWarning, match='x.npz cannot be written, so it is computed again next time'):
        with caching(tmp_path / 'file/x.npz'): write_whole(tmp_path / 'file/x.npz', b'')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with caching(tmp_path / 'y.npz'): write_whole(tmp_path / 'y.npz', b'')


def test_other_errors_are_not_taken_for_a_cache():
    with pytest.raises(ValueError), caching('x'): raise ValueError('bug')


@pytest.mark.parametrize('place', ['', 'new', 'new/deeper'])
def test_a_place_that_can_be_written_is_left_as_it_was(place, tmp_path):
    check_writable(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('place', ['.', 'new/deeper'])
def test_a_read_only_place_is_found_before_the_work(place, tmp_path, unprivileged):
    (tmp_path / 'closed').mkdir()
    (tmp_path / 'closed').chmod(0o555)
    code = f"from coulomb_gan.files import check_writable; check_writable('{place}')"
    done = subprocess.run([*unprivileged, sys.executable, '-c', code], cwd=tmp_path / 'closed', text=True, capture_output=True)
    assert done.returncode == 1 and f'RunError: cannot write {place}' in done.stderr


def test_a_file_where_a_folder_should_be_is_found_before_the_work(tmp_path):
    (tmp_path / 'file').write_text('')
    for place in ('file', 'file/below'):
        with pytest.raises(RunError, match='cannot write .*file'): check_writable(tmp_path / place)


@pytest.mark.parametrize('number', [float('nan'), float('inf')])
def test_json_of_numbers_that_are_not_finite_is_refused_and_the_old_file_stays(number, tmp_path):
    write_json(tmp_path / 'result.json', dict(energy=1.))
    with pytest.raises(ValueError): write_json(tmp_path / 'result.json', dict(energy=number))
    assert read_json(tmp_path / 'result.json') == dict(energy=1.)


@pytest.mark.parametrize('rows, fits', [(None, True), (5, True), (4, False), (6, False), (0, False)])
def test_an_array_has_the_rows_of_its_manifest(rows, fits, tmp_path):
    np.save(tmp_path / 'labels.npy', np.arange(5))
    if fits: assert open_array(tmp_path / 'labels.npy', rows).tolist() == [0, 1, 2, 3, 4]
    else:
        with pytest.raises(RunError, match=f'expected {rows} rows'): open_array(tmp_path / 'labels.npy', rows)


@pytest.mark.parametrize('place', ['folder', 'file/below'])
def test_a_write_that_cannot_be_is_one_line_and_leaves_no_fragment(place, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match=f'cannot write .*{place}: .*; what was saved before is intact'):
        write_whole(tmp_path / place, b'')
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['file', 'folder']


def test_equal_records_have_no_differences(): assert changed(dict(a=1), dict(a=1)) == '' == changed({}, {})


def test_what_changed_is_said_by_name_whether_added_removed_or_other():
    assert changed(dict(a=1, b=2), dict(b=3, c=4)) == 'a was 1 and is now None, b was 2 and is now 3, c was None and is now 4'
