"""Real ingress processes with a tiny model, before a scheduler that plays a written part. For tests of the fronts.

The part: an answer is `TEXT`, begun at character `seed % 8`, one byte a token, `priority` milliseconds each; then the
end-of-sequence token. What is asked for beyond `max_tokens` is cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import httpx
import msgspec
from tiny_tokenizer import END, VOCABULARY, tiny_metadata

from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.control import Drain, FromProcess, Ok, Undrain
from bus.messages.requests import (
    Abort,
    Accepted,
    Deltas,
    Finished,
    ModelFacts,
    PromptLogprobs,
    Refused,
    Submit,
    TokenLogprobs,
    ToScheduler,
)
from bus.names import CONTROL_DOOR, REQUESTS_DOOR
from bus.packed import pack_f32, pack_u32, pack_u64, unpack_u32
from bus.server import Server
from cli.control import running_names

_INGRESS = """
import sys
from pathlib import Path
from bus.config import load_config
from ingress.main import main
sys.exit(main(sys.argv[1], load_config(Path(sys.argv[2])), Path(sys.argv[2])))
"""

TEXT = "Hello, wörld 😀! " * 40
CONTEXT = 2048


def answer_bytes(seed: int) -> bytes:
    """What the scheduler answers to a seed."""
    return TEXT[seed % 8 :].encode()


def answer(seed: int, tokens: int) -> str:
    """... and the text of so many tokens of it."""
    return answer_bytes(seed)[:tokens].decode("utf-8", "replace")


class Player:
    """The scheduler of the model `m`, on a thread of its own."""

    def __init__(self, run: Path, text: str = "") -> None:
        self._text = text  # in place of TEXT
        self.submits: list[Submit] = []
        self.aborts: list[int] = []
        self.finished: list[int] = []
        self.refused: list[int] = []
        self.refusal: Refused | None = None
        self.replicas_ready = 1
        self._loop = PollLoop()
        host = Visitor("scheduler", self._loop, run)
        host.name = "scheduler@m"
        self._gone: set[int] = set()
        self._failing: set[int] = set()
        self._latest: dict[int, Submit] = {}  # of each request: only that one is answered
        self._stopping = False
        self._server: Server[Any] = Server(
            host, REQUESTS_DOOR, "requests", ToScheduler, roles={"ingress"},
            on_message=self._hear, on_join=self._greet,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._server.close()

    def announce(self, replicas_ready: int) -> None:
        """From the test's thread: what the next quarter of a second tells every ingress."""
        self.replicas_ready = replicas_ready

    def fail(self, request: int) -> None:
        """From the test's thread: the next token of that answer does not come, but an error."""
        self._failing.add(request)

    def _run(self) -> None:
        told = self.replicas_ready
        while not self._stopping:
            self._loop.turn(0.05)
            if told != self.replicas_ready:
                told = self.replicas_ready
                for peer in tuple(self._server.peers.values()):
                    self._greet(peer)

    def _greet(self, peer: Any) -> None:
        self._server.send(peer, ModelFacts("m", bytes(16), 4, CONTEXT, VOCABULARY, self.replicas_ready, 1))

    def _hear(self, peer: Any, message: Submit | Abort) -> None:
        if isinstance(message, Abort):
            if message.adopted >= self._latest[message.request].adopted:
                self.aborts.append(message.request)
                self._gone.add(message.request)
            return
        self.submits.append(message)
        self._gone.discard(message.request)
        self._latest[message.request] = message
        if self.refusal is not None:
            self.refused.append(message.request)
            self._server.send(peer, msgspec.structs.replace(self.refusal, request=message.request))
            return
        self._server.send(peer, Accepted(message.request, 0))
        self._prompt_logprobs(peer, message)
        said = self._text.encode() if self._text else answer_bytes(message.sampling.seed)
        tokens = [*said, END][: message.max_tokens]
        self._play(peer, message, tokens, len(message.emitted) // 4)

    def _prompt_logprobs(self, peer: Any, submit: Submit) -> None:
        if submit.prompt_logprobs >= 0:
            ids = unpack_u32(submit.prompt)[1:].tolist()
            values = tuple(self._logprobs(token, submit.prompt_logprobs) for token in ids)
            self._server.send(peer, PromptLogprobs(submit.request, 1, values))

    @staticmethod
    def _logprobs(token: int, count: int) -> TokenLogprobs:
        """The drawn token is the second best."""
        top = [(token + 1) % 256, token, *range(300, 320)][:count]
        return TokenLogprobs(-1.5, pack_u32([t % VOCABULARY for t in top]), pack_f32([-0.5 - i for i in range(count)]))

    def _play(self, peer: Any, submit: Submit, tokens: list[int], at: int) -> None:
        if submit.request in self._gone or self._latest[submit.request] is not submit:
            return
        if submit.request in self._failing:
            error = Finished(submit.request, "error", at, 0, 0, error="The worker failed.")
            packed = pack_u64([submit.request]), pack_u32([at]), pack_u32([0]), b""
            self._server.send(peer, Deltas(1, *packed, (), (error,)))
            return
        pace = max(0, submit.priority) / 1000
        step = tokens[at : at + 1] if pace else tokens[at:]
        last = at + len(step) >= len(tokens)
        logprobs = ()
        if submit.sampling.logprobs >= 0:
            logprobs = tuple((i, self._logprobs(t, submit.sampling.logprobs)) for i, t in enumerate(step))
        finished: tuple[Finished, ...] = ()
        if last:
            reason = "stop" if tokens and tokens[-1] == END else "length"
            # An answer that is taken up in the middle finds all of its prompt in the cache.
            cached = 1 if submit.emitted else 0
            finished = (Finished(submit.request, reason, len(tokens), cached, 0),)
            self.finished.append(submit.request)
        packed = pack_u64([submit.request]), pack_u32([at]), pack_u32([len(step)]), pack_u32(step)
        self._server.send(peer, Deltas(1, *packed, logprobs, finished))
        if not last:
            self._loop.after(pace, lambda: self._play(peer, submit, tokens, at + 1))


class Stage:
    """Ingress processes of one run directory.

    Attributes:
        url: where they listen together.
        player: their scheduler.
        visits: HTTP to them, each request on a connection of its own, so that each may go to another process.
    """

    def __init__(
        self,
        ingresses: int = 1,
        *,
        port: int = 0,
        settings: str = "",
        prelude: str = "",
        tables: str = "",
        text: str = "",
    ) -> None:
        self.prelude = prelude  # Python that an ingress runs first
        self.run = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        write_tiny_gguf(self.run / "tiny.gguf")
        self.config = self.run / "headrace.toml"
        self.config.write_text(
            f'[ingress]\nhttp = "127.0.0.1:{self.port}"\nprocesses = {ingresses}\n{settings}\n'
            f'[[model]]\nname = "m"\nsource = "{self.run}/tiny.gguf"\n{tables}'
        )
        self.visits = httpx.Client(base_url=self.url, headers={"connection": "close"}, timeout=60, trust_env=False)
        self.player = Player(self.run, text)
        self.processes = [self.start(index) for index in range(ingresses)]

    def start(self, index: int) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HEADRACE_RUN": str(self.run),
            "HEADRACE_STATE": str(self.run / "s"),
        }
        command = [sys.executable, "-c", self.prelude + _INGRESS, f"ingress@{index}", str(self.config)]
        with (self.run / f"ingress{index}.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stderr=log, stdout=log)

    def beside(self, name: str) -> subprocess.Popen[bytes]:
        """Another process of the host; returns when it listens."""
        environment = {
            **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HEADRACE_RUN": str(self.run),
            "HEADRACE_STATE": str(self.run / "s"), "HEADRACE_CONFIG": str(self.config),
        }  # fmt: skip
        with (self.run / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "cli.main", "run", name]
            process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        until(lambda: name in running_names(self.run), lambda: (self.run / f"{name}.log").read_text())
        return process

    def tell(self, index: int, message: Drain | Undrain) -> None:
        """Order, and have it acknowledged."""
        loop = PollLoop()
        answers: list[Any] = []
        link: Link[Any] = Link(
            Visitor("cli", loop, self.run), f"ingress@{index}", CONTROL_DOOR, "control", FromProcess,
            on_message=answers.append, on_up=lambda: link.send(message),
        )  # fmt: skip
        while not answers:
            loop.turn(0.05)
        assert isinstance(answers[0], Ok)
        link.close()
        loop.close()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.run.glob("ingress*.log")))

    def wait(self) -> None:
        """Until every process is listening and the model is ready everywhere."""
        until(lambda: len(list(self.run.glob("ingress@*.clients.sock"))) >= len(self.processes), self.logs)
        until(lambda: self._ready(), self.logs)

    def _ready(self) -> bool:
        try:
            return all(self.visits.get("/ready").status_code == 200 for _ in range(8))
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self.visits.close()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.player.close()
        shutil.rmtree(self.run, ignore_errors=True)


@contextlib.contextmanager
def staged(
    ingresses: int = 1, *, settings: str = "", prelude: str = "", tables: str = "", text: str = ""
) -> Iterator[Stage]:
    """A stage that is ready; afterwards nothing of it is left."""
    stage = Stage(ingresses, settings=settings, prelude=prelude, tables=tables, text=text)
    try:
        stage.wait()
        yield stage
    finally:
        stage.close()


def free_port() -> int:
    """A TCP port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], tell: Callable[[], str] = str, seconds: float = 30.0) -> None:
    """Wait for something; a generous limit, so that a slow machine decides nothing."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, tell()
        time.sleep(0.01)


def write_tiny_gguf(path: Path) -> None:
    """The tiny tokeniser as a model file without tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in tiny_metadata().items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
