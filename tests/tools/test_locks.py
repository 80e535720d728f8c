"""A folder has one writer, however the one before it ended."""
import os
import socket
import subprocess
import sys
import threading
import warnings

import pytest

from coulomb_gan import locks
from coulomb_gan.files import RunError, write_json
from coulomb_gan.locks import BEAT, STALE, locked, read_holder

HOLD = """
import os, signal, sys
from coulomb_gan.locks import locked
with locked('.'):
    print('held', flush=True)
    {then}
"""


def holding(folder, then):
    "A process that holds the folder and then does something"
    process = subprocess.Popen([sys.executable, '-c', HOLD.format(then=then)], cwd=folder, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == 'held\n'
    return process


def elsewhere(folder, beat, since=0.): write_json(folder / 'lock.json', dict(host='other', pid=7, since=since, beat=beat))


def test_a_second_process_is_refused_and_learns_who_holds_it_since_when(tmp_path):
    process = holding(tmp_path, 'sys.stdin.read()')
    who = f'in use by process {process.pid} on {socket.gethostname()}, since 20'
    with pytest.raises(RunError, match=who), locked(tmp_path): pass
    process.communicate('')
    with locked(tmp_path): pass


@pytest.mark.parametrize('then', ['os.kill(os.getpid(), signal.SIGKILL)', 'os._exit(1)', 'sys.exit(1)'])
def test_however_the_holder_ends_the_folder_is_free(then, tmp_path):
    holding(tmp_path, then).communicate()
    left = (tmp_path / 'lock.json').exists()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        with locked(tmp_path): pass
    assert left == (then != 'sys.exit(1)')      # what ends in order leaves nothing behind
    assert [str(w.message)[-16:] for w in caught] == ['it is taken over'] * left
    assert [p.name for p in tmp_path.iterdir()] == ['.lock']


@pytest.mark.parametrize('age, free', [(0, False), (STALE - 1, False), (STALE, True), (1e6, True)])
def test_a_holder_on_another_machine_counts_as_gone_after_five_minutes(age, free, tmp_path):
    elsewhere(tmp_path, beat=1000.)
    def clock(): return 1000. + age
    if free:
        with pytest.warns(UserWarning, match='process 7 on other'), locked(tmp_path, clock=clock): pass
    else:
        with pytest.raises(RunError, match='in use by process 7 on other'), locked(tmp_path, clock=clock): pass
    assert (tmp_path / 'lock.json').exists() != free


def test_a_clock_that_runs_behind_does_not_free_a_folder(tmp_path):
    elsewhere(tmp_path, beat=1000.)
    with pytest.raises(RunError), locked(tmp_path, clock=lambda: 0.): pass


def test_the_holder_gives_signs_of_life(tmp_path, monkeypatch):
    "Whenever it is read the clock says one second more"
    times = iter(range(10**9))
    monkeypatch.setattr(locks, 'BEAT', .001)
    with locked(tmp_path, clock=lambda: float(next(times))):
        while read_holder(tmp_path).beat < 5: pass
        assert read_holder(tmp_path).pid == os.getpid() and read_holder(tmp_path).since == 0.
    assert BEAT * 3 < STALE


def test_who_lost_the_folder_notices_and_touches_nothing(tmp_path):
    with locked(tmp_path) as lock:
        lock.check()
        elsewhere(tmp_path, beat=0.)
        with pytest.raises(RunError, match='taken over by process 7 on other'): lock.check()
    assert read_holder(tmp_path).pid == 7


@pytest.mark.parametrize('contents', [b'', b'{', b'[]', b'{"host": "x"}', b'\xff'])
def test_an_unreadable_sign_of_life_is_none(contents, tmp_path):
    (tmp_path / 'lock.json').write_bytes(contents)
    with locked(tmp_path): assert read_holder(tmp_path).pid == os.getpid()


def test_an_error_inside_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path): raise KeyError
    with locked(tmp_path): pass


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(RunError, match='cannot write'), locked(tmp_path / 'file'): pass


def test_a_short_wait_bridges_another_writer(tmp_path):
    process = holding(tmp_path, 'sys.stdin.readline()')
    other = threading.Thread(target=process.communicate, args=('\n',))
    other.start()
    with locked(tmp_path, wait=60.): assert read_holder(tmp_path).pid == os.getpid()
    other.join()
