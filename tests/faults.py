"""What can happen to a process, at a moment that is counted and not timed: killed, interrupted, out of disk space.

A process of its own is a fork that does some work (`in_child`), or another interpreter that runs a command (`command`).
"""
import ctypes
import inspect
import itertools
import multiprocessing
import os
import resource
import signal
import struct
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tqdm  # noqa: F401 (here, for children without rights)

from coulomb_gan.locks import locked

FORK = multiprocessing.get_context('fork')      # children start with everything imported


def at_call(owner, name, number, act, after=False):
    """From now on, or inside a `with` block, `act` is done at the call of that number of `owner.name`, before or after
    the call is carried out; an `act` that has parameters gets the arguments of the call."""
    kept, calls = getattr(owner, name), itertools.count(1)
    told = act if inspect.signature(act).parameters else lambda *args, **options: act()
    def counted(*args, **options):
        reached = next(calls) == number
        if reached and not after: told(*args, **options)
        result = kept(*args, **options)
        if reached and after: told(*args, **options)
        return result
    setattr(owner, name, counted)
    back = ExitStack()
    back.callback(setattr, owner, name, kept)
    return back


def send(number): os.kill(os.getpid(), number)

def die(): send(signal.SIGKILL)

def fill_the_disk(size):
    "No file of this process may grow beyond that many bytes"
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def in_child(work):
    "The exit code of `work` in a process of its own; minus the signal that killed it"
    child = FORK.Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def without_privileges(work):
    "Runs `work` in a child that may do no more than the permissions say, even as root; raises what it raised"
    def child():
        try:
            if os.geteuid() == 0:
                head, nothing = struct.pack('Ii', 0x20080522, 0), bytes(24)      # no capability of any kind
                assert ctypes.CDLL(None, use_errno=True).capset(head, nothing) == 0, os.strerror(ctypes.get_errno())
            sender.send((work(), None))
        except BaseException as e: sender.send((None, e))
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=child)
    process.start()
    result, error = receiver.recv()
    process.join()
    if error: raise error
    return result


@contextmanager
def held(folder):
    "In the block, another process writes the folder"
    def hold():
        with locked(folder):
            ready.set()
            done.wait()
    ready, done = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold)
    process.start()
    assert ready.wait(600)
    try: yield process
    finally:
        done.set()
        process.join()


def command(*line, before=''):
    "`coulomb-gan` in an interpreter where `before` runs first, statements that may use the names of this module"
    script = f'from faults import *\n{before}\nfrom coulomb_gan.reporting.cli import main\nmain()\n'
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.run([sys.executable, '-c', script, *map(str, line)], env={**os.environ, 'PYTHONPATH': path},
                          capture_output=True, text=True)
