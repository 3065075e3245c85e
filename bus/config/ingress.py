"""`[ingress]` and `[curve]`: how clients reach this host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from bus.config.section import Positive, Problem, Seconds, Section, parse_address, parse_size, unless


class IngressConfig(Section, frozen=True):
    """`[ingress]`: how clients reach this host.

    Attributes:
        http: address and port of the HTTP API.
        processes: how many ingress processes share the port.
        zmq: "ipc" (a socket in the run directory), or `tcp://HOST:PORT`, which needs `curve`.
        max_body: largest request body.
        max_streams: open requests per process; above it 429.
        resume_grace_s: how long a finished or abandoned stream can be resumed.
        response_ttl_s: how long a stored response is kept after its end, while there is room.
        max_n: choices of a prompt; more are refused.
        max_best_of: samples of a prompt, of which the best are chosen.
        max_beam_width: beams of a prompt.
        stored_responses: most of a project at one process; a key may have half of them. The oldest go first.
        stored_memory: of their calls and answers, in the same way.
    """

    http: str = "127.0.0.1:8080"
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    zmq: str = "ipc"
    max_body: str = "8MiB"
    max_streams: Positive = 1024
    resume_grace_s: Seconds = 60.0
    response_ttl_s: Seconds = 3600.0
    max_n: Annotated[int, Meta(ge=1, le=128)] = 16
    max_best_of: Annotated[int, Meta(ge=1, le=128)] = 16
    max_beam_width: Annotated[int, Meta(ge=1, le=128)] = 8
    stored_responses: Annotated[int, Meta(ge=2, le=4096)] = 1024
    stored_memory: str = "64MiB"


class CurveConfig(Section, frozen=True):
    """`[curve]`: keys for `tcp://` sockets. Without it nothing listens on tcp.

    Attributes:
        secret: file of this host's key pair, made by `headrace curve-keygen`.
        clients: directory of public key files of those who may connect.
    """

    secret: str
    clients: str


def problems(ingress: IngressConfig, curve: CurveConfig | None) -> Iterator[Problem]:
    """What types cannot say."""
    yield from unless(parse_address, ingress.http, ("ingress", "http"))
    yield from unless(parse_size, ingress.max_body, ("ingress", "max_body"))
    yield from unless(parse_size, ingress.stored_memory, ("ingress", "stored_memory"))
    if ingress.zmq != "ipc":
        if not ingress.zmq.startswith("tcp://"):
            yield ("ingress", "zmq"), 'expected "ipc" or tcp://HOST:PORT'
        elif curve is None:
            yield ("ingress", "zmq"), "tcp needs keys: add a [curve] section (see headrace curve-keygen)"
