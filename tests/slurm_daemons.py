"""A SLURM of one node on the loopback interface: daemons of this user in one folder, started and stopped by their process numbers."""
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

NEEDED = 'munged', 'mungekey', 'slurmctld', 'slurmd', 'srun', 'sbatch', 'squeue', 'scontrol'
INSTALL = 'apt-get install slurm-wlm munge'
PATH = os.pathsep.join([os.environ['PATH'], '/usr/sbin', '/sbin'])

CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
MinJobAge=60
OverTimeLimit=0
JobRequeue=1
EnforcePartLimits=ALL
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=usual Nodes={host} Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes={host} PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def missing():
    "Programs of SLURM that are not installed"
    return [name for name in NEEDED if not shutil.which(name, path=PATH)]


def _free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets: s.bind(('127.0.0.1', 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets: s.close()


def _run(*words, **options): return subprocess.run(words, capture_output=True, text=True, timeout=60, **options)


def wait(condition, what, place, seconds=300):
    "Returns what a condition gives once it is true; raises with the logs of a folder if that takes minutes"
    for _ in range(5 * seconds):
        if found := condition(): return found
        time.sleep(.2)
    files = [p for pattern in ('*.log', 'log.txt') for p in Path(place).rglob(pattern)]
    logs = '\n'.join(f'--- {p.name}\n{p.read_text()[-2000:]}' for p in files)
    raise RuntimeError(f'{what} within {seconds} seconds\n{logs}')


def _munge(place):
    "The daemon that signs messages; its process"
    own = place / 'munge'
    own.mkdir(mode=0o700)
    _run('mungekey', '--create', '--keyfile', str(own / 'key'), check=True)
    names = dict(key='key', log='munged.log', pid='pid', seed='seed')
    files = [f'--{kind}-file={own / name}' for kind, name in names.items()]
    _run('munged', '--force', f'--socket={own / "socket"}', *files, check=True)


def _stop(place):
    "Ends the daemons by their process numbers, the last started first"
    for file in ('slurmd.pid', 'slurmctld.pid', 'munge/pid'):
        path = place / file
        if not path.exists(): continue
        pid = int(path.read_text())
        os.kill(pid, 15)
        for _ in range(100):
            try: os.kill(pid, 0)
            except ProcessLookupError: break
            time.sleep(.1)
        else: os.kill(pid, 9)


@contextmanager
def slurm(place):
    "The daemons inside the block, where the commands of SLURM find them"
    place = Path(place)
    host = socket.gethostname().split('.')[0]
    user = _run('id', '-un').stdout.strip()
    for part in ('state', 'spool'): (place / part).mkdir(parents=True)
    conf = place / 'slurm.conf'
    conf.write_text(CONF.format(host=host, user=user, place=place, ports=_free_ports(2)))
    before = dict(os.environ)
    os.environ.update(SLURM_CONF=str(conf), PATH=PATH)
    try:
        _munge(place)
        _run('slurmctld', '-f', str(conf), check=True)
        _run('slurmd', '-f', str(conf), check=True)
        wait(lambda: 'idle' in _run('sinfo', '-h', '-o', '%T').stdout.split(), 'no idle node', place)
        yield
    finally:
        _stop(place)
        os.environ.clear()
        os.environ.update(before)
