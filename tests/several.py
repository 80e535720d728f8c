"""Runs of several processes: forks of this one, or a script for torchrun: `torchrun several.py FUNCTION ARGUMENTS`."""
import ctypes
import faulthandler
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

os.environ['OMP_NUM_THREADS'] = '1'
os.environ['RES_OPTIONS'] = 'timeout:1'      # torch asks for the name of each address it connects to
sys.path.append(str(Path(__file__).parent / 'training'))      # for `steps`

import torch
from torch.distributed import TCPStore

from coulomb_gan.training.algorithm import train_step
from coulomb_gan.training.launched import joined
from coulomb_gan.training.state import TrainState
from faults import FORK, in_child
from tiny_runs import flat

torch.set_num_threads(1)


# --- forks --------------------------------------------------------------------------------------------------------

class Ended(NamedTuple):
    codes: list  # exit codes by rank; minus the signal that killed one
    said: list  # lines of all processes on stderr


def together(n, work, folder, wait=120, frozen=(), address='127.0.0.1', started=None):
    """`work(rank)` in n forks of this process, started as torchrun starts them; what they say goes to files in a folder.

    The thread that serves the store starts after them: a fork made while it looks a name up would find the resolver locked."""
    listening = socket.create_server((address, 0))
    _, port = listening.getsockname()
    shared = dict(WORLD_SIZE=n, MASTER_ADDR=address, MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE=True)
    def child(rank):
        sys.stderr = open(folder / f'stderr-{rank}', 'w', buffering=1)
        os.dup2(sys.stderr.fileno(), 2)
        faulthandler.register(signal.SIGUSR1, sys.stderr)
        warnings.simplefilter('default')
        os.environ.update({name: str(value) for name, value in {**shared, 'RANK': rank, 'LOCAL_RANK': rank}.items()})
        work(rank)
    children = [FORK.Process(target=child, args=(rank,)) for rank in range(n)]
    for process in children: process.start()
    store = TCPStore(address, port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=wait),
                     master_listen_fd=listening.detach())
    for rank, process in enumerate(children):
        if started: started(rank, process.pid)
    for rank, process in enumerate(children):
        if rank not in frozen: process.join(wait)
    for rank in frozen: children[rank].kill()
    for rank in frozen: children[rank].join()
    del store  # it has served
    hanging = [rank for rank, process in enumerate(children) if process.is_alive()]
    for rank in hanging: os.kill(children[rank].pid, signal.SIGUSR1)
    for rank in hanging: children[rank].join(1)
    for rank in hanging: children[rank].kill()
    texts = [(folder / f'stderr-{rank}').read_text() for rank in range(n)]
    assert not hanging, '\n'.join([f'of {n} processes these hang, and where: {hanging}', *texts])
    said = [line for text in texts for line in re.split('[\\r\\n]+', text)]
    return Ended([process.exitcode for process in children], said)


# --- machines of their own ----------------------------------------------------------------------------------------

def own_network():
    "Gives this process a network with nothing in it"
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000): raise OSError(ctypes.get_errno(), 'no network of its own')

def ip(line): subprocess.run(['ip', *line.split()], check=True)

def bridge():
    """A switch in the network of this process, where it has the address 10.0.0.1. Its hardware address is given, or it
    would change to the least of its cables' with each that comes or goes, and those who know the old one reach nobody."""
    ip('link set lo up')
    ip('link add switch address 02:00:00:00:00:01 type bridge')
    ip('addr add 10.0.0.1/24 dev switch')
    ip('link set switch up')

def why_no_networks():
    "Why networks cannot be made here; nothing if they can"
    def attempt():
        own_network()
        bridge()
    if not shutil.which('ip'): return 'there is no ip command to make networks with'
    if in_child(attempt): return 'this process may not make networks'


def on_machines(n, work, folder, wait=120):
    "`work(rank)` in n processes, each in a network of its own with one cable to a switch; all go with this call"
    alone, linked = [FORK.Event() for _ in range(n)], [FORK.Event() for _ in range(n)]
    def machine(rank):
        own_network()
        alone[rank].set()
        assert linked[rank].wait(wait)
        for line in ('link set lo up', f'addr add 10.0.0.{rank + 2}/24 dev cable', 'link set cable up'): ip(line)
        os.environ['GLOO_SOCKET_IFNAME'] = 'cable'
        work(rank)
    def plug_in(rank, pid):
        assert alone[rank].wait(wait)
        ip(f'link add port{rank} type veth peer name cable netns {pid}')
        ip(f'link set port{rank} master switch up')
        linked[rank].set()
    def room():
        own_network()
        bridge()
        try: sender.send(together(n, machine, folder, wait, address='10.0.0.1', started=plug_in))
        except AssertionError as error: sender.send(error)
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=room)
    process.start()
    ended = receiver.recv()
    process.join()
    if isinstance(ended, AssertionError): raise ended
    return ended


# --- scripts for torchrun -----------------------------------------------------------------------------------------

def steps(out, n):
    "The ends of all cases after n steps, a file for each process"
    from test_distributed import CASES, drawn, experiment_of
    torch.set_default_dtype(torch.float64)
    with joined() as world:
        ends = {}
        for name, (options, shape) in CASES.items():
            t = TrainState(experiment_of(options), shape, world)
            losses = [torch.stack(train_step(t, y)) for y in drawn(t, shape, int(n))]
            ends[name] = flat(t.state_dict()) | {'losses': torch.stack(losses), 'samples': t.sample(30, seed=1)}
        torch.save(ends, f'{out}/{world.rank}.pt')


def command(before, *line):
    "`coulomb-gan` after some statements"
    exec(before, globals())
    from coulomb_gan.reporting.cli import main
    main(list(line))


if __name__ == '__main__': globals()[sys.argv[1]](*sys.argv[2:])
