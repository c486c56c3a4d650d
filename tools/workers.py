"""Run notebooks in several processes on this machine that train one model together.

    python tools/workers.py COUNT [NAME=value ...] [notebook number ...]

Each process runs tools/run.py with DEVICES=workers and a TF_CONFIG that tells it where the others
are; the first writes to RUNS, the others to RUNS/worker-1 and so on. On several machines start
tools/run.py on each instead, with a TF_CONFIG of your own.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free_ports(count):
    """Ports of this machine on which nobody listens, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def environment(index, ports, runs):
    """The variables with which worker `index` finds the others."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
    return os.environ | {
        "TF_CONFIG": json.dumps(task),
        "SIAMESE_DEVICES": "workers",
        "SIAMESE_RUNS": str(runs / f"worker-{index}" if index else runs),
    }


def main(arguments):
    if not arguments or not arguments[0].isdecimal() or int(arguments[0]) < 2:
        sys.exit(__doc__)
    words = [word for word in arguments[1:] if not word.startswith("RUNS=")]
    (*_, runs) = ["RUNS=runs", *(word for word in arguments if word.startswith("RUNS="))]
    runs = (ROOT / runs.removeprefix("RUNS=")).expanduser().resolve()
    command = [sys.executable, str(ROOT / "tools/run.py"), *words]
    ports = free_ports(int(arguments[0]))
    workers = [
        # the first speaks for all
        subprocess.Popen(
            command, env=environment(i, ports, runs), stdout=subprocess.DEVNULL if i else None
        )
        for i in range(len(ports))
    ]
    sys.exit(max((worker.wait() for worker in workers), key=abs))


if __name__ == "__main__":
    main(sys.argv[1:])
