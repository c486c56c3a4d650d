"""Run notebooks in several processes on this machine that train one model together.

    python -m workbook workers COUNT [NAME=value ...] [notebook number ...]

Each process is `python -m workbook run` with DEVICES=workers and a TF_CONFIG that tells it where
the others are; the first writes to RUNS, the others to RUNS/worker-1 and so on. Where there are
GPUs, each process gets one of its own. On several machines
start `python -m workbook run` on each instead, with a TF_CONFIG of your own.
"""

import json
import os
import socket
import subprocess
import sys

from workbook import ROOT
from workbook.support.tensorflow_start import GPUS


def free_ports(count):
    """Ports of this machine on which nobody listens, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def environment(index, ports, runs):
    """The variables with which worker `index` finds the others, and its GPU if there are any."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(len(GPUS))))
    own = {"CUDA_VISIBLE_DEVICES": seen.split(",")[index]} if GPUS else {}
    return (
        os.environ
        | own
        | {
            "TF_CONFIG": json.dumps(task),
            "SIAMESE_DEVICES": "workers",
            "SIAMESE_RUNS": str(runs / f"worker-{index}" if index else runs),
        }
    )


def start_workers(count, words):
    """Start them and wait; the exit code of the worst. ValueError for fewer than two, or GPUs."""
    if count < 2:
        raise ValueError(f"{count} processes are not several: 2 or more")
    if GPUS and count > len(GPUS):
        raise ValueError(
            f"{count} processes for {len(GPUS)} GPU: each takes one of its own. Start fewer, or "
            "all without: set the variable CUDA_VISIBLE_DEVICES=-1"
        )
    others = [word for word in words if not word.startswith("RUNS=")]
    (*_, runs) = ["RUNS=runs", *(word for word in words if word.startswith("RUNS="))]
    runs = (ROOT / runs.removeprefix("RUNS=")).expanduser().resolve()
    command = [sys.executable, "-m", "workbook", "run", *others]
    ports = free_ports(count)
    workers = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(i, ports, runs),
            stdout=subprocess.DEVNULL if i else None,  # the first speaks for all
        )
        for i in range(count)
    ]
    return max((worker.wait() for worker in workers), key=abs)
