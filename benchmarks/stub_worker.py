"""A worker that answers each plan at once, with the tokens of a text and without a model: for `benchmarks.control`.

    python -m benchmarks.stub_worker NAME CONFIG BOARD

To everybody else it is a worker: it has the name, the connection to its scheduler and a session with the page server.
BOARD is a file that whoever measures maps too: `Board`.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

from bus.config import load_config
from bus.messages.control import Ok, Rejected, ToProcess
from bus.messages.steps import KvShape, Registered, StepPlan, StepResult
from bus.names import parse_process, parse_worker, scheduler_name
from bus.packed import U32, unpack_u32
from bus.process import Description, Life, run_process
from ingress.models import load
from kv.client import PageClient
from workers.conversation import Conversation
from workers.group import Alone
from workers.step.interface import OneAtATime

TEXT: Final = Path(__file__).parent / "data" / "prose.txt"
SHAPE: Final = KvShape(layers=1, kv_heads=1, page_tokens=16, head_dim=8, dtype="float32")  # pages cost next to nothing
_BOARD: Final = struct.Struct("<dQ")


class Board:
    """What is said between a stub and whoever measures: how long a step takes at least, and how much was drawn."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _BOARD.size)

    @staticmethod
    def make(path: Path) -> Board:
        """A new one."""
        path.write_bytes(bytes(_BOARD.size))
        return Board(path)

    @property
    def step_s(self) -> float:
        """Seconds; may change at any time."""
        return float(_BOARD.unpack_from(self._memory)[0])

    @step_s.setter
    def step_s(self, seconds: float) -> None:
        self._memory[:8] = struct.pack("<d", seconds)

    @property
    def drawn(self) -> int:
        """Tokens, so far."""
        return int(_BOARD.unpack_from(self._memory)[1])

    @drawn.setter
    def drawn(self, tokens: int) -> None:
        self._memory[8:] = struct.pack("<Q", tokens)


class AtOnce(OneAtATime):
    """Draws the next token of a text for each row that is sampled. Slots and pages are nothing to it."""

    def __init__(self, ids: list[int], board: Board) -> None:
        super().__init__()
        self._ids = np.array(ids, U32)
        self._board = board
        self._steps = 0
        self._due_s = 0.0

    def run(self, plan: StepPlan, waited_ns: int = 0) -> StepResult:
        slots = unpack_u32(plan.slots)[np.frombuffer(plan.samples, np.uint8) != 0]
        # Neighbours draw neighbouring tokens, and each request makes its way through the text.
        tokens = self._ids[np.arange(self._steps, self._steps + len(slots)) % len(self._ids)]
        self._steps += 1
        self._board.drawn += len(slots)
        if step_s := self._board.step_s:
            time.sleep(max(0.0, self._due_s - time.monotonic()))
            self._due_s = max(self._due_s + step_s, time.monotonic())
        return StepResult(plan.step, slots.tobytes(), tokens.tobytes(), waited_ns, 1_000_000)


class StubService:
    """A `bus.process.Service`: one rank, ready as soon as the page server is there."""

    def __init__(self, life: Life, board: Board) -> None:
        self._life, self._board = life, board
        self._conversation: Conversation | None = None

    def start(self) -> None:
        named = parse_worker(self._life.instance)
        model = self._life.config.model_named(named.model)
        served = load(model)
        self._executor = AtOnce(served.tokenizer.encode(TEXT.read_text()), self._board)
        self._registered = Registered(
            model.name, named.replica, named.rank, 1, self._life.epoch, bytes(32), SHAPE, served.context_tokens,
            served.vocabulary, b"", model.slots, model.step_tokens, "cpu", "nothing",
        )  # fmt: skip
        self._pages = PageClient(self._life, "worker", owner=scheduler_name(model.name), on_up=self._on_pages_up)

    def _on_pages_up(self) -> None:
        if self._conversation is None:
            self._conversation = Conversation(self._life, self._registered, self._executor, Alone(), self._pages)
            self._life.ready()
        else:
            self._conversation.say_fenced()

    def describe(self) -> Description:
        return Description(detail="draws the tokens of a text")

    def drain(self) -> None:
        """Nothing to do."""

    def undrain(self) -> None:
        """Nothing to do."""

    def drained(self) -> bool:
        return True

    def hand_over(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
        self._pages.close()

    def control(self, message: ToProcess) -> Ok | Rejected | None:
        del message
        return None


def main() -> int:
    name, config, board = sys.argv[1:]
    assert parse_process(name).role == "worker"
    return run_process(
        name, load_config(Path(config)), Path(config), lambda life: StubService(life, Board(Path(board))), loop="poll"
    )


if __name__ == "__main__":
    sys.exit(main())
