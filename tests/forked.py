"""Python processes and kernels that begin with TensorFlow loaded, which else takes each 7 seconds.

    done = forked.start(["-m", "workbook", "audit", "images"], folder).finish()

`offer` starts a server, which loads TensorFlow when it is asked for the first process, uses nothing
of it, and forks for each. Kernels of notebooks are its forks, too. Where forks are not safe (other
systems than Linux, a GPU), ordinary processes are started.
"""

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "TEST_FORKS"  # the variable that says where the server listens
INLINE = "module://matplotlib_inline.backend_inline"  # how a notebook shows figures
NO_TIME = 0.05  # seconds between two looks at a process


def offer():
    """Start a server for this process and those that it starts; False where there is none."""
    if ADDRESS in os.environ:
        return True
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return False
    place = tempfile.mkdtemp(prefix="forks-")
    kernel = Path(place, "kernels/python3/kernel.json")
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, __file__, "kernel", "{connection_file}"]
    kernel.write_text(
        json.dumps({"argv": command, "display_name": "Python 3", "language": "python"})
    )
    os.environ[ADDRESS] = str(Path(place, "server"))
    os.environ["JUPYTER_PATH"] = place  # its kernel of this name comes before all others
    server = subprocess.Popen(
        [sys.executable, __file__, "serve"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    server.stdout.readline()
    atexit.register(shutil.rmtree, place, True)
    atexit.register(lambda: (server.terminate(), server.wait()))  # `time` then counts it
    return True


def ask(words, files, cwd=None, env=None):
    """Have the server run `words`, as behind `python`; the socket on which the end is told."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[ADDRESS])
    socket.send_fds(connection, [b"x"], files)
    job = [list(map(str, words)), str(cwd or os.getcwd()), dict(env or os.environ)]
    connection.sendall(json.dumps(job).encode() + b"\n")
    return connection


class start:
    """A Python process that runs `words`, as behind `python`, in the folder `cwd`."""

    def __init__(self, words, cwd=None, env=None):
        self.out, self.err = (
            tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            for _ in range(2)
        )
        self.process = None
        if ADDRESS in os.environ:
            with open(os.devnull) as nothing:
                files = [file.fileno() for file in (nothing, self.out, self.err)]
                self.connection = ask(words, files, cwd, env)
        else:
            command = [sys.executable, *map(str, words)]
            self.process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=-3, stdout=self.out, stderr=self.err
            )

    def finish(self):
        """Wait for the end: returncode, stdout and stderr."""
        code = self.process.wait() if self.process else wait(self.connection)
        for file in (self.out, self.err):
            file.seek(0)
        return subprocess.CompletedProcess([], code, self.out.read(), self.err.read())


def wait(connection):
    with connection:
        return int(connection.recv(20))


# ------------------------------------------------------------------------ in the server's process


def serve():
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    del sys.path[0]  # this folder, which is no other program's
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.environ[ADDRESS])
    server.listen()
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, bury)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends it then
    print("ready", flush=True)
    while os.getppid() == parent:  # a killed pytest leaves no server behind
        if not select.select([server], [], [], 5)[0]:
            continue
        connection, _ = server.accept()
        if "tensorflow" not in sys.modules:
            load_tensorflow()
            gc.freeze()  # forks leave alone what is loaded, so that its memory stays shared
        if not os.fork():
            server.close()
            watch(connection)
        connection.close()


def bury(*_):
    """Take note of the processes that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def load_tensorflow():
    """Load it as the workbook does; of the workbook itself nothing stays loaded."""
    sys.path.insert(0, str(ROOT))
    import workbook.support.tensorflow_start  # noqa: F401

    del sys.path[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "workbook"]:
        del sys.modules[name]


def watch(connection):
    """Fork once more, and tell how that process ended. If nobody listens any more, end it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        words, cwd, env = json.loads(lines.readline())
    child = os.fork()
    if not child:
        connection.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in enumerate(files):
            os.dup2(file, number)
        run(words, cwd, env)
    for file in files:
        os.close(file)
    ended = status = 0
    while not ended:
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended and select.select([connection], [], [], NO_TIME)[0]:
            os.kill(child, signal.SIGKILL)  # only an end can be read from there
    with contextlib.suppress(BrokenPipeError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def run(words, cwd, env):
    """Do what `python` does with these words, and end."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "JPY_PARENT_PID" in os.environ:  # a kernel ends when its parent does
        os.environ["JPY_PARENT_PID"] = str(os.getppid())
    if "ipykernel_launcher" in words:  # it sets this variable, but matplotlib has read it before
        os.environ["MPLBACKEND"] = INLINE
    if "MPLBACKEND" in os.environ and "matplotlib" in sys.modules:
        sys.modules["matplotlib"].rcParams["backend"] = os.environ["MPLBACKEND"]
    random.seed()  # Keras draws its seeds from it
    code = execute(words)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)  # Python would first take down all of TensorFlow, for more than a second


def execute(words):
    kind = words.pop(0) if words[0] in ("-m", "-c") else ""
    sys.argv = words
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path.insert(0, os.getcwd() if kind else str(Path(words[0]).parent))
    try:
        if kind == "-m":
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            program, sys.argv[0] = words[0], "-c"
            exec(program, {"__name__": "__main__"})
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a manager sends it before it ends a kernel
    code = wait(ask(["-m", "ipykernel_launcher", "-f", sys.argv[2]], [0, 1, 2]))
    sys.exit(code if code >= 0 else 1)
