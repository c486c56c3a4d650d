"""A server on this machine that answers as it is told: whole files, cut lines, error pages."""

import contextlib
import http.server
import socket
import struct
import threading

CHUNKED = ("Transfer-Encoding", "chunked")


class Server(http.server.ThreadingHTTPServer):
    """Answers one request after the other as `plan` says, the last step from then on."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.asked, self.release = [], 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/archive"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        step = self.server.plan[min(self.server.asked, len(self.server.plan) - 1)]
        self.server.asked += 1
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client went away
            step(self)

    def log_message(self, *args):
        pass


def whole(body, status=200, kind="application/zip", reason=None):
    def step(handler):
        handler.send_response(status, reason)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", len(body))
        handler.end_headers()
        handler.wfile.write(body)

    return step


def page(status=200):
    return whole(b"\n<!DOCTYPE html><html>Sign in</html>", status, "text/html")


def half(body, then=lambda handler: None, header=None):
    """The first half of the body; then what? The header that promises it all, or another."""

    def step(handler):
        handler.send_response(200)
        handler.send_header(*(header or ("Content-Length", len(body))))
        handler.end_headers()
        part = body[: len(body) // 2]
        if header == CHUNKED:
            part = b"%x\r\n%s\r\n" % (len(part), part)
        handler.wfile.write(part)
        handler.wfile.flush()
        then(handler)

    return step


def reset(handler):
    """Close so that the other side sees "connection reset"."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def stall(handler):
    handler.server.release.wait(60)


def nonsense(handler):
    handler.wfile.write(b"\x16\x03\x01 no http\r\n\r\n")
