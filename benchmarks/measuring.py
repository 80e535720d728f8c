"""What several benchmarks measure with: fresh processes, memory, the processor's time; tables printed row by row."""
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch


def in_child(script, *args):
    "The numbers a script prints when run with `args` in a fresh process, whose memory peak is its own."
    command = [sys.executable, script, *map(str, args)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in child.stdout.split()]


def _own_status(field):
    "A number that the system keeps about this process, MB (Linux)."
    status = Path('/proc/self/status').read_text()
    kilobytes = re.search(rf'{field}:\s+(\d+)', status)[1]
    return int(kilobytes) / 1024


def peak():
    "Highest resident memory of this process so far, MB."
    return _own_status('VmHWM')


def added_memory(call):
    "The most memory, other than mapped files, that a call adds, MB; read every 2 ms."
    seen = [_own_status('RssAnon')]
    done = threading.Event()

    def watch():
        "Reads until the call has ended."
        while not done.wait(.002): seen.append(_own_status('RssAnon'))

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return max(seen) - seen[0]


def processor_seconds(call, *args):
    "What a call gives, and the seconds of all threads together: other work on the machine does not count."
    start = time.process_time()
    found = call(*args)
    return found, time.process_time() - start


def wait(device):
    "Until a GPU has done what it was given."
    if device == 'cuda': torch.cuda.synchronize()


def timed(call, device, repeats=1):
    "Seconds of one call."
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats): call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def print_row(*cells):
    "A row of a Markdown table, at once."
    print(f'| {" | ".join(map(str, cells))} |', flush=True)


def print_head(*titles):
    "The first two lines of a Markdown table."
    print_row(*titles)
    print_row(*['---' for _ in titles])
