"""The client without a server: what it imports, its protocol, and how it puts an answer together."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace_client
from bus.messages.clients import CallFailed, Chunk, ToClient, ToIngressFromClient
from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome
from bus.wire import ANY_PROTOCOL, PROTOCOLS, Codec
from headrace_client import AsyncClient, Client, ConnectionFailed, HeadraceError, Piece, StreamBroken
from headrace_client._answers import Progress
from headrace_client._errors import from_failure
from headrace_client._session import SILENT_S, Down, Refused, Session, Up


def test_it_imports_nothing_heavy_and_nothing_of_the_servers() -> None:
    code = (
        "import sys, headrace_client\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'uvicorn', 'uvloop', 'jinja2', 'psutil'} & set(sys.modules)\n"
        "ours = {'ingress', 'scheduler', 'workers', 'kv', 'metrics', 'cli'} & set(sys.modules)\n"
        "assert not heavy | ours, heavy | ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_exceptions_are_those_of_the_docstring() -> None:
    drawn = [line for line in (headrace_client.__doc__ or "").splitlines() if "─ " in line]
    names = {line.split("─ ")[1].split()[0] for line in drawn}
    kinds = {name for name in headrace_client.__all__ if is_error(name)} - {"HeadraceError"}
    assert names == kinds
    statuses = {name for name in names if issubclass(getattr(headrace_client, name), headrace_client.ApiStatusError)}
    assert {line.split("─ ")[1].split()[0] for line in drawn if line.startswith("     ")} == statuses - {
        "ApiStatusError"
    }


def is_error(name: str) -> bool:
    value = getattr(headrace_client, name)
    return isinstance(value, type) and issubclass(value, HeadraceError)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequest"), (413, "BadRequest"), (401, "Unauthorized"), (403, "Unauthorized"), (404, "NotFound"),
        (429, "Overloaded"), (503, "Unavailable"), (500, "ServerFault"), (502, "ServerFault"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"m","type":"t","param":"p","code":"c"}}', b"", b"[]", b'{"error":1}']
)
def test_failures_become_exceptions(status: int, name: str, body: bytes) -> None:
    error = from_failure(CallFailed(1, status, body, 2.5))
    assert type(error).__name__ == name
    assert (error.status, error.retry_after) == (status, 2.5)
    if b"param" in body:
        assert (error.message, error.type, error.param, error.code) == ("m", "t", "p", "c")


# --- the session ------------------------------------------------------------------------------------------------------


class Server:
    """The other side of a session, by hand."""

    def __init__(self, epoch: int = 5) -> None:
        self.codec: Codec[Any] = Codec("clients", ToIngressFromClient)
        self.epoch, self.seq = epoch, 0

    def says(self, body: msgspec.Struct, seq: int | None = None) -> list[bytes]:
        self.seq = self.seq + 1 if seq is None else seq
        protocol = ANY_PROTOCOL if isinstance(body, Welcome | Nack) else PROTOCOLS.newest
        return self.codec.encode(body, "ingress@0", self.epoch, self.seq, protocol)


def session() -> Session:
    return Session("client@1", 7, 1, 0.0)


def up(server: Server) -> Session:
    mine = session()
    assert mine.receive(server.says(Welcome("b", 42, "ready")), 0.0) == Up(42)
    return mine


def test_hello_then_welcome() -> None:
    header, hello = Server().codec.decode(session().hello())
    assert (header.source, header.epoch, header.seq) == ("client@1", 7, 1)
    assert isinstance(hello, Hello)
    assert hello.role == "client"
    assert up(Server()).up


def test_before_the_welcome_nothing_counts() -> None:
    server, mine = Server(), session()
    assert mine.receive(server.says(Chunk(1, 1, b"{}")), 0.0) is None
    assert mine.receive(server.says(Nack("hello_required", "")), 0.0) is None


def test_repeated_messages_and_those_of_another_incarnation_are_dropped() -> None:
    server = Server()
    mine = up(server)
    assert mine.receive(server.says(Chunk(1, 1, b"a")), 0.0) == Chunk(1, 1, b"a")
    assert mine.receive(server.says(Chunk(1, 1, b"a"), seq=server.seq), 0.0) is None
    assert mine.receive(Server(epoch=4).says(Chunk(1, 2, b"b"), seq=99), 0.0) is None


@pytest.mark.parametrize(
    ("body", "final"),
    [
        (Nack("hello_required", ""), False),
        (Nack("stale", "x"), True),
        (Bye("closed"), False),
    ],
)
def test_what_ends_a_session(body: msgspec.Struct, final: bool) -> None:
    server = Server()
    event = up(server).receive(server.says(body), 0.0)
    assert isinstance(event, Down)
    assert event.final is final


def test_a_server_that_came_back_ends_the_session() -> None:
    mine = up(Server())
    assert isinstance(mine.receive(Server(epoch=6).says(Welcome("b", 43, "ready")), 0.0), Down)


@pytest.mark.parametrize("reason", ["forbidden", "protocol"])
def test_a_server_that_will_not_have_us(reason: Any) -> None:
    event = session().receive(Server().says(Nack(reason, "no")), 0.0)
    assert isinstance(event, Down)
    assert event.final


def test_a_refused_message_is_told_by_its_number() -> None:
    server = Server()
    event = up(server).receive(server.says(Nack("malformed", "body", 3)), 0.0)
    assert event == Refused(3, "malformed: body")


def test_silence_counts_unless_the_server_said_that_it_is_busy() -> None:
    server = Server()
    mine = up(server)
    assert not mine.silent(SILENT_S - 1)
    assert mine.silent(SILENT_S + 1)
    mine.receive(server.says(Heartbeat(1, True, "ready")), SILENT_S)
    assert not mine.silent(SILENT_S * 9)
    mine.receive(server.says(Heartbeat(1, False, "ready")), SILENT_S * 9)
    assert mine.silent(SILENT_S * 10 + 1)


@given(frames=st.lists(st.binary(max_size=40), max_size=4))
def test_no_frames_end_in_an_exception(frames: list[bytes]) -> None:
    for mine in (session(), up(Server())):
        assert isinstance(mine.receive(frames, 0.0), Down | None)


def test_the_golden_path_decodes_on_both_sides() -> None:
    """Both ends agree on the union of messages."""
    assert Codec("clients", ToClient).decode(Server().says(Chunk(1, 1, b"{}")))[1] == Chunk(1, 1, b"{}")


# --- putting an answer together ---------------------------------------------------------------------------------------


def chunks_of(text: str, cuts: list[int], kind: str, response: str) -> list[bytes]:
    """A stream of one choice, one token a character, cut anyhow."""
    bounds = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    found = [body(response, kind, "", [])]
    for left, right in itertools.pairwise(bounds):
        found.append(body(response, kind, text[left:right], list(text[left:right])))
    found.append(body(response, kind, "", [], "stop"))
    found.append(json.dumps({"id": response, "choices": [], "usage": {"completion_tokens": len(text)}}).encode())
    return found


def body(response: str, kind: str, text: str, tokens: list[str], finish: str | None = None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "token_ids": [ord(token) for token in tokens]}
    if kind == "chat":
        choice["delta"] = {"content": text} if text else {}
        choice["logprobs"] = {"content": [{"token": token, "logprob": -1.0} for token in tokens]}
    else:
        columns = {"tokens": tokens, "token_logprobs": [-1.0] * len(tokens), "text_offset": [0] * len(tokens)}
        choice |= {"text": text, "logprobs": {**columns, "top_logprobs": None}}
    return json.dumps({"id": response, "choices": [choice]}).encode()


CUTS = st.lists(st.integers(0, 30), max_size=6)


@given(
    text=st.text(max_size=30),
    first=CUTS,
    second=CUTS,
    lost_after=st.integers(0, 12),
    kind=st.sampled_from(["chat", "text"]),
)
def test_an_answer_that_is_begun_again_comes_out_once(
    text: str, first: list[int], second: list[int], lost_after: int, kind: str
) -> None:
    """However two servers cut it, and wherever the first was lost: each character, token and entry once."""
    progress = Progress()
    pieces: list[Piece] = []
    for event, chunk in enumerate(chunks_of(text, first, kind, "one")[:lost_after], start=1):
        pieces += progress.chunk(event, chunk)
    progress.begin_again()
    for event, chunk in enumerate(chunks_of(text, second, kind, "two"), start=1):
        pieces += progress.chunk(event, chunk)
    assert "".join(piece.text for piece in pieces) == progress.text == text
    assert [chr(token) for piece in pieces for token in piece.token_ids] == list(text)
    assert [entry["token"] for piece in pieces for entry in piece.logprobs] == list(text)
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["stop"]
    assert progress.usage is not None
    assert progress.usage.completion_tokens == len(text)
    assert progress.id == "two"


def test_events_that_come_twice_are_given_once() -> None:
    progress = Progress()
    chunk = body("one", "chat", "x", ["x"])
    assert [piece.text for piece in progress.chunk(1, chunk)] == ["x"]
    assert list(progress.chunk(1, chunk)) == []


def test_an_answer_that_comes_out_different_is_not_passed_off_as_one() -> None:
    progress = Progress()
    list(progress.chunk(1, body("one", "chat", "hello", list("hello"))))
    progress.begin_again()
    with pytest.raises(StreamBroken):
        list(progress.chunk(1, body("two", "chat", "help", list("help"))))


# --- nobody there -----------------------------------------------------------------------------------------------------


def test_no_server_is_an_error_in_good_time(tmp_path: Path) -> None:
    with Client(run=tmp_path, patience=0.2) as client, pytest.raises(ConnectionFailed, match="no ingress was found"):
        client.models()


def test_a_socket_file_that_nobody_listens_at(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "ingress@0.clients.sock"))
    with Client(run=tmp_path, patience=0.2) as client, pytest.raises(ConnectionFailed, match="Connection refused"):
        client.models()


def test_a_closed_client_says_so(tmp_path: Path) -> None:
    client = Client(run=tmp_path)
    client.close()
    client.close()
    with pytest.raises(ConnectionFailed, match="closed"):
        client.models()


async def test_a_client_closed_while_it_looks_for_a_server(tmp_path: Path) -> None:
    client = AsyncClient(run=tmp_path, patience=30)
    call = asyncio.ensure_future(client.models())
    await asyncio.sleep(0.2)
    await client.close()
    with pytest.raises(ConnectionFailed):
        await call
