"""Run notebooks in several processes on this machine that train one model together.

    python -m workbook workers COUNT [NAME=value ...] [notebook number ...]

Each process is `python -m workbook run` with DEVICES=workers and a TF_CONFIG that tells it where
the others are. The first one writes to RUNS, the others to RUNS/worker-1 and so on. Where there are
GPUs, each process gets one of its own. On several machines, start `python -m workbook run` on each
with a TF_CONFIG of your own instead.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from workbook import ROOT
from workbook.commands.run import parse_words
from workbook.settings import PREFIX, environment_of, read_config
from workbook.support.tensorflow_start import GPUS


def start_workers(count: int, words: Iterable[str]) -> int:
    """Start `count` processes, wait for them and return the worst exit code.

    `words` are those of `run`: settings and numbers of notebooks.

    Raises
    ------
    ValueError
        For fewer than two processes, more processes than GPUs, or a wrong word.
    """
    if count < 2:
        raise ValueError(f"{count} processes are not several: choose 2 or more")
    if GPUS and count > len(GPUS):
        raise ValueError(
            f"{count} processes for {len(GPUS)} GPU: each process needs one of its own. Start "
            "fewer, or all of them without GPUs: set the variable CUDA_VISIBLE_DEVICES=-1"
        )
    settings, numbers = parse_words(words)
    config = read_config(**settings)
    resolved = {n.removeprefix(PREFIX): text for n, text in environment_of(config).items()}
    shared = [f"{n}={text}" for n, text in resolved.items() if n not in ("RUNS", "DEVICES")]
    command = [sys.executable, "-m", "workbook", "run", *shared, *map(str, numbers)]
    ports = find_free_ports(count)
    workers = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=worker_environment(index, ports, config.runs),
            stdout=subprocess.DEVNULL if index else None,  # the first one reports for all
        )
        for index in range(count)
    ]
    return max((worker.wait() for worker in workers), key=abs)


def find_free_ports(count: int) -> list[int]:
    """Return different ports of this machine that no program listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def worker_environment(index: int, ports: list[int], runs: Path) -> dict[str, str]:
    """Return the variables with which worker `index` finds the others, and its GPU if any."""
    task = {
        "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
        "task": {"type": "worker", "index": index},
    }
    variables = os.environ | {
        "TF_CONFIG": json.dumps(task),
        "SIAMESE_DEVICES": "workers",
        "SIAMESE_RUNS": str(runs / f"worker-{index}" if index else runs),
    }
    if GPUS:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(len(GPUS))))
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index]
    return variables
