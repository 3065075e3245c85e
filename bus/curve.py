"""CURVE for `tcp://` sockets: keys on disk, and putting them on a socket. Nothing speaks tcp without.

A key pair file has two lines, `public = "…"` and `secret = "…"` (Z85, 40 characters), mode 0600; a public key file
has the first only. See http://curvezmq.org and RFC 26/CURVEZMQ.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator

_LINE = re.compile(r'^\s*(public|secret)\s*=\s*"([^"\s]{40})"\s*$', re.MULTILINE)


class BadKeyFile(ValueError):
    """A key file that cannot be used; the message names it."""


class KeyPair(NamedTuple):
    """Z85 keys. `secret` is empty for a public key file."""

    public: bytes
    secret: bytes


def generate() -> KeyPair:
    """A new pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public, secret)


def write_pair(directory: Path, name: str, pair: KeyPair) -> tuple[Path, Path]:
    """Write `<name>.secret` (mode 0600) and `<name>.public`; existing files are never overwritten.

    Raises:
        FileExistsError: one of them is there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    secret, public = directory / f"{name}.secret", directory / f"{name}.public"
    public_line = f'public = "{pair.public.decode()}"\n'
    for path, mode, text in (
        (secret, 0o600, public_line + f'secret = "{pair.secret.decode()}"\n'),
        (public, 0o644, public_line),
    ):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
    return secret, public


def read_keys(path: Path, *, secret: bool) -> KeyPair:
    """Read a key file.

    Raises:
        BadKeyFile: unreadable, not a key file, without the secret where one is needed, or readable by others.
    """
    try:
        text, mode = path.read_text(encoding="ascii"), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeyFile(f"{path}: cannot be read: {error}") from None
    found = dict(_LINE.findall(text))
    if "public" not in found or (secret and "secret" not in found):
        raise BadKeyFile(f"{path}: not a {'key pair' if secret else 'public key'} file; see headrace curve-keygen")
    if secret and mode & 0o077:
        raise BadKeyFile(f"{path}: others may read it; chmod 600 {path}")
    return KeyPair(found["public"].encode(), found.get("secret", "").encode())


class CurveServer:
    """This host's pair and the public keys that may connect. One per `zmq.Context`.

    Args:
        secret: key pair file.
        clients: directory of `*.public` files.

    Raises:
        BadKeyFile: a key file is bad, or no client key is there (nobody could connect).
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], secret: Path, clients: Path) -> None:
        self._pair = read_keys(secret, secret=True)
        self._clients = clients
        self._allowed = _AllowList(_read_clients(clients))
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="headrace", credentials_provider=self._allowed)

    @property
    def keys(self) -> int:
        """How many may connect."""
        return len(self._allowed.keys)

    def reload(self) -> None:
        """Read the directory of clients again. Whoever is connected stays so.

        Raises:
            BadKeyFile: as at the start; those who could connect before still can.
        """
        self._allowed.keys = _AllowList(_read_clients(self._clients)).keys

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Before bind: only holders of an allowed key get through."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair.public)
        socket.setsockopt(zmq.ZAP_DOMAIN, b"headrace")
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it a dead handler lets everyone in

    def close(self) -> None:
        """End the handler's thread."""
        self._authenticator.stop()


def credential(name: str, otherwise: Path) -> Path:
    """A secret's file: the service manager's copy (LoadCredential=), which only this process can read, where there is
    one; else where the configuration says."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    given = Path(directory) / name if directory else None
    return given if given is not None and given.is_file() else otherwise


def _read_clients(clients: Path) -> list[bytes]:
    allowed = [read_keys(path, secret=False).public for path in sorted(clients.glob("*.public"))]
    if not allowed:
        raise BadKeyFile(f"{clients}: no *.public file, so nobody could connect; see headrace curve-keygen")
    return allowed


class _AllowList:
    """Read by the authenticator's thread, replaced as a whole by another."""

    def __init__(self, allowed: list[bytes]) -> None:
        self.keys = frozenset(zmq.utils.z85.decode(key) for key in allowed)

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002  (pyzmq's interface)
        return zmq.utils.z85.decode(key) in self.keys


class CurveClient:
    """Our pair and the server's public key.

    Raises:
        BadKeyFile: a key file is bad.
    """

    def __init__(self, secret: Path, server: Path) -> None:
        self._pair = read_keys(secret, secret=True)
        self._server = read_keys(server, secret=False).public

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Before connect: talk to the holder of that key and nobody else."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret)
