"""From another host: over tcp, with keys, and only with the right ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from api_stage import answer, free_port, staged

from bus.curve import CurveClient, generate, write_pair
from headrace_client import Client, ConnectionFailed

pytestmark = pytest.mark.system


def test_over_tcp_with_keys(tmp_path: Path) -> None:
    for name in ("host", "friend", "stranger"):
        write_pair(tmp_path / name, name, generate())
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "friend.public").write_bytes((tmp_path / "friend" / "friend.public").read_bytes())
    port = free_port()
    settings = (
        f'zmq = "tcp://127.0.0.1:{port}"\n[curve]\nsecret = "{tmp_path}/host/host.secret"\nclients = "{allowed}"\n'
    )
    with staged(settings=settings):

        def client(name: str) -> Client:
            keys = CurveClient(tmp_path / name / f"{name}.secret", tmp_path / "host" / "host.public")
            return Client(addresses=[f"tcp://127.0.0.1:{port}"], curve=keys, patience=1.0)

        with client("friend") as friend:
            stream = friend.chat("hi", stream=True, max_tokens=30, seed=0, priority=1)
            assert "".join(piece.text for piece in stream) == answer(0, 30)
        with client("stranger") as stranger, pytest.raises(ConnectionFailed):
            stranger.models()
