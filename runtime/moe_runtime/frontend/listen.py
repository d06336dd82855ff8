"""The port, taken before the ranks start: if somebody else has it, nothing has been done in vain."""

import errno
import socket
from dataclasses import dataclass

from moe_runtime.errors import RuntimeFailure

BACKLOG = 2048
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # how to reach them, not to bind them


class AddressError(RuntimeFailure):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that listens, before anyone answers."""

    socket: socket.socket
    host: str
    port: int

    @property
    def url(self) -> str:
        """Base address of the API, as a client on this machine writes it."""
        return f"http://{WILDCARDS.get(self.host, self.host)}:{self.port}/v1"


def listen(host: str, port: int, setting: str = "--port") -> Listening:
    """Take the port, which a setting gave; 0 takes a free one. Raises AddressError."""
    try:
        listener = _listener(host, port)
    except OSError as error:
        raise AddressError(_why_not(host, port, setting, error)) from error
    return Listening(listener, host, listener.getsockname()[1])


def _listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # A port whose last connections still linger is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _why_not(host: str, port: int, setting: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what listens there, or choose another with {setting}"
    return f"cannot listen on port {port} of {host}: {error.strerror}"
