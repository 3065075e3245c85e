"""One request from submission to its end, outside of the arrays of a replica. No decisions.

While a request runs, its tokens stand in the replica's arrays; when it leaves the slot, they come back here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from bus.blocks import DIGEST_BYTES, chain, next_digest
from bus.messages.requests import Submit, TokenLogprobs
from scheduler.core.account import Book
from scheduler.core.events import Home
from scheduler.core.prefix import Entry
from scheduler.core.windows import NO_PAGE, Behind

AGE_NS_PER_PRIORITY: Final = 5_000_000_000  # one step of priority is worth five seconds of waiting
MAX_PRIORITY: Final = 1_000
BATCH_KEY: Final = 1 << 62  # after everything that is not batch, however old and important that is


class Phase(Enum):
    """Where a request is."""

    WAITING = "waiting"  # in the queue's order
    PARKED = "parked"  # waits for one thing of its own, out of the others' way
    RUNNING = "running"  # has a slot
    ENDED = "ended"


class Standing(Enum):
    """Whether it is suspected of taking its worker down (`suspects`)."""

    CLEAR = "clear"
    DETAINED = "detained"  # parked until it is tried
    ON_TRIAL = "on trial"  # waits or runs, in steps without any other


@dataclass(slots=True, eq=False)
class Request:
    """A request that was accepted.

    Attributes:
        output: generated tokens (packed u32) as of the last time it had no slot.
        chain: digests of its full blocks as far as they are known, 16 bytes each; empty without prefix reuse.
        table: its pages, one per block, while it runs; `NO_PAGE` where it has let go of it (`behind`).
        entries: index entries of its leading blocks, each held by one reference (none of those that it has let
            go of). Where the entry's page is not the table's, the table's page is the request's own (its content was
            sealed by somebody else first).
        claimed: digests of blocks that others may wait for it to compute.
        looked_up: kv was asked about its blocks up to this one since it last began to wait.
        on_disk_until, on_disk_us: kv could bring its blocks up to this one from disk, in about so long.
        strikes: failures of its replica in a row, without getting further in between than `struck_at` tokens computed.
        struck_ns: when that row began.
        client: its number among those that are served in turn (`fairness`).
        found: tokens whose KV was there when it got its slot.
        from_disk: tokens whose KV was read from disk for it since it last began to wait.
        book: where its time goes.
        spent_ns, prefill_ns: computing that it cost before it last left a slot, and what of it was prefill.
        drafted, accepted: draft tokens that it had until then, and what of them was right.
        alone: of these, those in which nobody else was in the step.
        alone_on: replica on which it failed alone; -1 for none.
        adapter: number of the adapter that it is computed with; 0 is none.
        logprobs, prompt_logprobs: kept for resubmission; only where asked for.
    """

    submit: Submit
    home: Home
    arrival_ns: int
    page_tokens: int
    reuse: bool
    phase: Phase = Phase.WAITING
    ticket: int = 0
    client: int = -1
    front: bool = False
    output: bytes = b""
    chain: bytearray = field(default_factory=bytearray)
    table: list[int] = field(default_factory=list)
    behind: Behind = field(default_factory=Behind)
    entries: list[Entry] = field(default_factory=list)
    claimed: list[bytes] = field(default_factory=list)
    looked_up: int = 0
    on_disk_until: int = 0
    on_disk_us: int = 0
    passed_over: int = 0
    from_disk: int = 0
    replica: int = -1
    slot: int = -1
    admitted_ns: int = 0
    last_token_ns: int = 0
    ttft_ns: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    spent_ns: int = 0
    prefill_ns: int = 0
    drafted: int = 0
    accepted: int = 0
    strikes: int = 0
    struck_at: int = -1
    struck_ns: int = 0
    found: int = 0
    alone: int = 0
    alone_on: int = -1
    adapter: int = 0
    standing: Standing = Standing.CLEAR
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    book: Book = field(init=False)

    def __post_init__(self) -> None:
        self.book = Book(self.arrival_ns)
        self.output = self.submit.emitted
        if self.reuse:
            self.chain = self._prompt_chain()
            self.append_blocks(self.tokens[len(self.chain) // DIGEST_BYTES * 4 * self.page_tokens :])

    @property
    def id(self) -> int:
        """The ingress's key for it."""
        return self.submit.request

    @property
    def key(self) -> int:
        """Order among those of a tenant that wait, and among all that run: linear ageing moves all alike, so the
        order of two never changes."""
        priority = max(-MAX_PRIORITY, min(MAX_PRIORITY, self.submit.priority))
        return self.arrival_ns + priority * AGE_NS_PER_PRIORITY + (BATCH_KEY if self.submit.batch else 0)

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.submit.prompt) // 4

    @property
    def submitted_len(self) -> int:
        """Generated tokens that came with the submission: `logprobs` begins after them."""
        return len(self.submit.emitted) // 4

    @property
    def generated(self) -> int:
        """Tokens in `output`."""
        return len(self.output) // 4

    @property
    def tokens(self) -> bytes:
        """Prompt and output, packed u32."""
        return self.submit.prompt + self.output

    @property
    def known(self) -> int:
        """Tokens of prompt and output."""
        return self.prompt_len + self.generated

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether every prompt position must be computed: asked for, and nothing generated yet."""
        return self.submit.prompt_logprobs >= 0 and not self.output

    @property
    def reusable_blocks(self) -> int:
        """Blocks that may be found instead of computed. The last token is always computed: it makes the logits."""
        if not self.reuse or self.wants_prompt_logprobs:
            return 0
        return min(len(self.chain) // DIGEST_BYTES, (self.known - 1) // self.page_tokens)

    @property
    def own_pages(self) -> list[int]:
        """Those that nobody else knows: of blocks without a name, or named by somebody else first, and folds."""
        entries = self.entries
        own = [
            page
            for block, page in enumerate(self.table)
            if page != NO_PAGE and (block >= len(entries) or entries[block].page != page)
        ]  # fmt: skip
        return own + self.behind.folds

    @property
    def pages(self) -> int:
        """Pages that it uses while it runs."""
        return len(self.table) - self.behind.blocks + len(self.behind.folds)

    def digest(self, block: int) -> bytes:
        """Digest of a full block."""
        end = (block + 1) * DIGEST_BYTES
        return bytes(self.chain[end - DIGEST_BYTES : end])

    def parent(self, block: int) -> bytes:
        """Digest of the block before, or the salted root."""
        return self.digest(block - 1) if block else self.submit.root

    def append_blocks(self, tokens: bytes) -> None:
        """Digest the full blocks of `tokens` (packed u32), which follow those that are digested already."""
        step = 4 * self.page_tokens
        parent = self.parent(len(self.chain) // DIGEST_BYTES)
        for start in range(0, len(tokens) - step + 1, step):
            parent = next_digest(parent, tokens[start : start + step])
            self.chain += parent

    def _prompt_chain(self) -> bytearray:
        blocks = self.prompt_len // self.page_tokens
        if len(self.submit.digests) == blocks * DIGEST_BYTES:
            return bytearray(self.submit.digests)
        # An ingress that knew another page size, or none: its digests are of no use, the tokens are.
        return bytearray(chain(self.submit.root, self.submit.prompt, self.page_tokens))
