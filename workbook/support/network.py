"""How long a download may wait for a server."""

import contextlib
import socket

TIMEOUT, ATTEMPTS = 30, 2  # seconds without a byte; how often a line may be cut


@contextlib.contextmanager
def time_limit():
    """Within this a server that has gone silent is an error; Keras would wait for it for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
