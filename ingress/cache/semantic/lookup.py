"""For one question: is there one that means the same, whose answer may be served, or has to be compared?

Most questions stop at the gate: a static vector and a look at the partition's matrix, without waiting. Only what passes
goes to the encoder, together with the kept questions that it came near to and that nobody has come near to before: so
what is never asked again costs the encoder nothing. It is asked over the engine with a deadline; without its answer in
time it is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bus.telemetry import Telemetry
from ingress.api.schema_chat import ChatRequest
from ingress.cache.database import Observation, Turn
from ingress.cache.keys import history_key
from ingress.cache.semantic import calibration as calibrating
from ingress.cache.semantic.agreement import agree, same_text
from ingress.cache.semantic.calibration import Calibrations
from ingress.cache.semantic.eligible import history, question
from ingress.cache.semantic.features import broken, features
from ingress.cache.semantic.index import Near, Partition, Partitions
from ingress.cache.semantic.static import StaticVectors, mean, nearest
from ingress.cache.semantic.verifier import LEAST_COSINE, Verifier, shipped
from ingress.cache.semantic.words import words
from ingress.cache.spaces import Space
from ingress.cache.store import Store, now_ms
from ingress.errors import ApiError
from ingress.job import Job
from ingress.models import ServedModel

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]  # [texts, dimensions]

GATE: Final = 0.55  # cosine of static vectors
CANDIDATES: Final = 4  # that the verifier looks at
EMBED_LATER_S: Final = 60.0  # for the encoder, while no client waits
MAX_TASKS: Final = 64  # questions that wait to be compared, or for their vector; more are left out
ROWS_AT_ONCE: Final = 16  # of a partition that are read before a lookup, and at a time beside it: 2 ms of a graph
READ_ON_S: Final = 0.005  # between two times
BLIND_S: Final = 1.0  # after an encoder that did not answer, nobody waits for it for so long

_words = lru_cache(maxsize=4096)(words)


class Embedder(Protocol):
    """Runs an encoder, elsewhere."""

    async def embed(self, model: str, text: str, deadline_s: float) -> Vector:
        """A vector of length 1.

        Raises:
            ApiError: not served, or not in time.
        """
        ...

    async def embed_all(self, model: str, texts: Sequence[str], deadline_s: float) -> Vectors:
        """The same for several at once; all of them or none."""
        ...


class Asked(NamedTuple):
    """A question that may be matched.

    Attributes:
        part: digest of everything else: history, manner, model, namespace, tenant.
        tokens, gate: static vectors, of each token and of the whole.
    """

    space: Space
    part: bytes
    text: str
    tokens: npt.NDArray[np.float32]
    gate: Vector


class Match(NamedTuple):
    """A question that means the same.

    Attributes:
        key: of its answer.
        similarity: cosine of the encoder's vectors.
        serve: its answer may be served; else it is to be compared, as `kind` says.
    """

    key: bytes
    known: str
    score: float
    similarity: float
    serve: bool
    kind: Literal["shadow", "audit"]


class Semantic:
    """The semantic half of one ingress's cache.

    Args:
        encoder: served name of the model that `embedder` runs.
        wait_s: for the encoder, while a client waits.
    """

    def __init__(
        self,
        store: Store,
        calibrations: Calibrations,
        static: StaticVectors,
        embedder: Embedder,
        encoder: str,
        telemetry: Telemetry,
        verifier: Verifier | None = None,
        wait_s: float = 0.1,
    ) -> None:
        self._wait_s = wait_s
        self._store, self.calibrations, self._static = store, calibrations, static
        self._embedder, self._encoder, self._telemetry = embedder, encoder, telemetry
        self._verifier = verifier or shipped()
        self._partitions = Partitions(static.dimensions)
        self._vectors: dict[tuple[bytes, str], Vector] = {}  # of questions under way
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: set[bytes] = set()  # partitions that are read on
        self._file: Path | None = None  # that the partitions were read from
        self._blind_until = 0.0

    @property
    def encoder_digest(self) -> str:
        """Of the encoder that the static vectors are of."""
        return self._static.about.encoder

    # --- looking up ------------------------------------------------------------------------------------------------

    def turn(self, request: ChatRequest, job: Job, model: ServedModel, space: Space) -> Asked | None:
        """The question of a call, where its namespace matches by meaning and the question may be matched."""
        if space.semantic == "off" or (text := question(request)) is None or (rest := history(request)) is None:
            return None
        tokens = self._static.tokens(text)
        # Vectors of another encoder are no vectors here.
        rest = b"\0".join((self._encoder.encode(), self._static.about.encoder.encode(), rest))
        return Asked(space, history_key(job, model, space, rest), text, tokens, mean(tokens))

    def near(self, asked: Asked) -> tuple[Partition, list[Near]]:
        """The gate: kept questions that may mean the same."""
        if self.read(asked.part) and asked.part not in self._reading:
            self._later(self._read_on(asked.part))
        partition = self._partitions.of(asked.part)
        found = partition.nearest(asked.gate, GATE, CANDIDATES)
        return partition, [one for one in found if not broken(_words(asked.text), _words(partition.texts[one.place]))]

    def read(self, part: bytes) -> bool:
        """Put some rows more of a partition into its index; whether there may be more of them."""
        if self._file != self._store.path:  # ids begin anew with a file
            self._file, self._partitions = self._store.path, Partitions(self._static.dimensions)
        partition = self._partitions.of(part)
        if partition.worn:
            self._partitions.renew(part)
            partition = self._partitions.of(part)
        rows = self._store.turns(part, partition.newest, ROWS_AT_ONCE)
        for number, turn in rows:
            gate = np.frombuffer(turn.gate, np.float16).astype(np.float32)
            if len(gate) == self._static.dimensions:
                partition.add(number, turn.key, turn.text, gate, turn.vector)
            partition.newest = number
        return len(rows) == ROWS_AT_ONCE

    async def _read_on(self, part: bytes) -> None:
        """A large partition, as after a start: beside the lookups, which find what is in by then."""
        self._reading.add(part)
        try:
            while self.read(part):
                await asyncio.sleep(READ_ON_S)
        finally:
            self._reading.discard(part)

    async def find(self, asked: Asked) -> Match | None:
        """The best match, if any is good enough."""
        partition, candidates = self.near(asked)
        if not candidates:
            return None
        vector = await self._embed(asked, partition, candidates)
        if vector is None:
            return None
        best: Match | None = None
        least = self._verifier.forest.threshold_5
        for one in candidates:
            match = self._judge(asked, vector, partition, one)
            if match is not None and match.score >= least and (best is None or match.score > best.score):
                best = match
        if best is None:
            return None
        known = self.calibrations.of(asked.space.name)
        serves = (
            asked.space.semantic == "on"
            and known is not None
            and not known.off
            and known.encoder == self._static.about.encoder
            and best.score >= known.threshold
        )
        if not serves:
            return best
        return best._replace(serve=random.random() >= asked.space.audit, kind="audit")

    def _judge(self, asked: Asked, vector: Vector, partition: Partition, near: Near) -> Match | None:
        known = partition.texts[near.place]
        other = np.frombuffer(partition.vectors[near.place], np.float16).astype(np.float32)
        if other.shape != vector.shape:
            return None
        similarity = float(vector @ other)
        if similarity < LEAST_COSINE:
            return None
        row = features(
            _words(asked.text),
            _words(known),
            similarity,
            near.cosine,
            nearest(asked.tokens, self._static.tokens(known)),
        )
        return Match(partition.keys[near.place], known, self._verifier.score(row), similarity, False, "shadow")

    def lost(self, asked: Asked, key: bytes) -> None:
        """The answer of a match is kept no longer."""
        self._partitions.of(asked.part).remove(key)

    def tick(self) -> None:
        """About once a second."""
        self.calibrations.look()
        self._partitions.bound()

    # --- afterwards ------------------------------------------------------------------------------------------------

    def remember(self, asked: Asked, key: bytes) -> None:
        """An answer is kept: have it found by what its question means. With the encoder's vector where there is one
        already; else that is made when a question first comes near."""
        vector = self._vectors.pop((asked.part, asked.text), None)
        packed = _packed(vector) if vector is not None else b""
        self._store.add_turn(Turn(asked.part, key, asked.text, _packed(asked.gate), packed))

    def compared(self, asked: Asked, match: Match, kept: str, fresh: str) -> None:
        """A match was not served: what it would have said, and what was generated."""
        self._later(self._compare(asked, match, kept, fresh))

    async def _compare(self, asked: Asked, match: Match, kept: str, fresh: str) -> None:
        same = same_text(kept, fresh)
        if not same:
            try:
                one = await self._embedder.embed(self._encoder, kept, EMBED_LATER_S)
                other = await self._embedder.embed(self._encoder, fresh, EMBED_LATER_S)
            except ApiError as error:
                log.debug("two answers could not be compared: %s", error)
                return
            same = agree(kept, fresh, float(one @ other))
        space = asked.space
        self._store.observe(
            Observation(space.name, now_ms(), match.kind, match.score, match.similarity, same, asked.text, match.known)
        )
        self._store.count(space.name, f"{match.kind}_same" if same else f"{match.kind}_other")
        if match.kind == "audit":
            self._judge_audits(space, same)

    def _judge_audits(self, space: Space, newest: bool) -> None:
        """Switch the namespace off where audits say that it serves too many wrong answers."""
        known = self.calibrations.of(space.name)
        if known is None or known.off:
            return
        seen = self._store.observations(space.name, 2000)
        audits = [one.agree for one in seen if one.kind == "audit" and one.at_ms >= known.at_s * 1000] + [newest]
        if calibrating.broken_by(audits, space.budget):
            wrong = sum(not one for one in audits)
            why = f"{wrong} of {len(audits)} compared answers differ; {space.budget:.1%} are tolerated"
            log.error("the semantic cache of namespace %s is switched off: %s", space.name, why)
            self._telemetry.counter(
                "headrace_cache_switched_off_total", "Semantic caches that broke their bound.", space=space.name
            ).add()
            try:
                off = calibrating.Calibration(
                    known.threshold, known.bound, known.observations, known.served, known.wrong, int(time.time()),
                    known.encoder, why,
                )  # fmt: skip
                self.calibrations.set(space.name, off)
            except OSError as error:
                log.error("that could not be written down: %s", error)

    async def _embed(self, asked: Asked, partition: Partition, candidates: Sequence[Near]) -> Vector | None:
        """The vector of a question, with a client that waits; those of the candidates are there too then."""
        vector = self._vectors.get((asked.part, asked.text))
        places = [one.place for one in candidates if not partition.vectors[one.place]]
        if vector is not None and not places:
            return vector
        if time.monotonic() < self._blind_until:
            return None
        texts = [asked.text, *(partition.texts[place] for place in places)]
        try:
            async with asyncio.timeout(self._wait_s):  # also where its scheduler is stuck
                found = await self._embedder.embed_all(self._encoder, texts, self._wait_s)
        except (ApiError, TimeoutError) as error:
            self._blind_until = time.monotonic() + BLIND_S
            self._unverified(error)
            if places:  # the next one shall wait for less
                self._later(self._embed_later(partition, places))
            return None
        self._keep(partition, places, found[1:])
        fresh: Vector = found[0]
        if len(self._vectors) < MAX_TASKS:
            self._vectors[asked.part, asked.text] = fresh
        return fresh

    async def _embed_later(self, partition: Partition, places: Sequence[int]) -> None:
        texts = [partition.texts[place] for place in places]
        try:
            async with asyncio.timeout(EMBED_LATER_S):
                found = await self._embedder.embed_all(self._encoder, texts, EMBED_LATER_S)
        except (ApiError, TimeoutError) as error:
            self._unverified(error)
        else:
            self._keep(partition, places, found)

    def _keep(self, partition: Partition, places: Sequence[int], vectors: Vectors) -> None:
        """Vectors of kept questions: here, and for the other ingresses that read them after this."""
        for place, vector in zip(places, vectors, strict=True):
            partition.vectors[place] = packed = _packed(vector)
            self._store.add_vector(partition.keys[place], packed)

    def _unverified(self, error: Exception) -> None:
        self._telemetry.counter(
            "headrace_cache_unverified_total", "Questions that the encoder did not answer in time."
        ).add()
        log.debug("a question could not be embedded: %r", error)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MAX_TASKS:
            work.close()
            return
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("after a question: %r", error)

    def close(self) -> None:
        """Leave what is not compared yet."""
        for task in tuple(self._tasks):
            task.cancel()


def _packed(vector: Vector) -> bytes:
    """As it is kept."""
    return vector.astype(np.float16).tobytes()
