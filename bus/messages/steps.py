"""scheduler <-> worker: plans go down, results come up. One message per step, per rank and direction.

A worker keeps a row of state per *slot*: the token ids of the request in it, its sampling parameters and
its block table. A plan says what is new in full (`SlotOpen`) and everything else as differences. Plans are
executed in the order of `step`; two may be in flight, so the token drawn in step n is on the worker when
step n+1 needs it, and the plan does not carry it.

Every rank of a replica gets the same plans. Rank 0 draws the tokens and shares them with the other ranks.
"""

from __future__ import annotations

import msgspec

from bus.messages.adapters import AdapterState, KeepAdapters
from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome
from bus.messages.requests import Sampling, TokenLogprobs


class KvShape(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The shape of a page of one cache group, for all ranks together: `[layer][K,V][kv head][token][dim]`.

    Attributes:
        dtype: "float32", "bfloat16", "float16", or "int8": then `[layer][K,V][kv head]`, and for each of these
            `[token][dim]` numbers and behind them `[token]` scales, float32.
    """

    layers: int
    kv_heads: int
    page_tokens: int
    head_dim: int
    dtype: str

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        head = self.head_dim + 4 if self.dtype == "int8" else self.head_dim * (4 if self.dtype == "float32" else 2)
        return self.layers * 2 * self.kv_heads * self.page_tokens * head


class Registered(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """worker -> scheduler, after `Welcome`, when weights are loaded and the arena is mapped: ready for plans.

    Ranks of a replica must agree on everything but `rank`.

    Attributes:
        group: incarnation of the rank group; a rank that restarts takes the whole group into a new one.
        weights_digest: sha256 of the weight files' manifest.
        stop_ids: end-of-sequence ids that the model file declares, packed u32.
        slots: rows of state, the limit of requests running at once.
        step_tokens: most tokens in one step.
        threads: cores that it computes with; 1 for a GPU.
        kind: "generate", or of an encoder, which keeps no KV, "embed" or "rerank"; `kv` then has no layers, and a page
            as long as the context.
        dimensions: of what an encoder answers each row with; 0 of a decoder.
        drafts: most draft tokens of a row that it can propose and verify in one step; 0 where it proposes none.
        device_pages: that its slots can hold at once, where KV is computed in device memory; 0 where that is the arena.
        window: most tokens that a layer with a window sees, where pages behind it can be done without; 0 where not.
        fold: blocks of which a page holds what layers without a window have of them; 0 where every layer has one.
    """

    model: str
    replica: int
    rank: int
    ranks: int
    group: int
    weights_digest: bytes
    kv: KvShape
    context_tokens: int
    vocabulary: int
    stop_ids: bytes
    slots: int
    step_tokens: int
    device: str
    dtype: str
    threads: int = 1
    kind: str = "generate"
    dimensions: int = 0
    drafts: int = 0
    device_pages: int = 0
    window: int = 0
    fold: int = 0


class SlotOpen(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request enters a slot.

    Attributes:
        tokens: prompt and everything emitted before, packed u32.
        prompt_tokens: how many of `tokens` are prompt (penalties count the two apart).
        computed: leading tokens whose KV is already in `pages`.
        pages: the block table so far, packed u32; `generations` likewise.
        segment: for an encoder, how many of `tokens` belong to the first text; the others are of the second.
        adapter: number of the adapter that it is computed with, which is there (`KeepAdapters`); 0 is none.
    """

    slot: int
    request: int
    tokens: bytes
    prompt_tokens: int
    computed: int
    pages: bytes
    generations: bytes
    sampling: Sampling
    prompt_logprobs: int = -1
    segment: int = 0
    adapter: int = 0


class StepPlan(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=20):
    """One step. Order of application: closes, opens, page differences, then the forward pass.

    A row is one slot's share of the step. Row r computes tokens `starts[r] .. starts[r]+counts[r]-1` of its slot;
    token ids the slot does not have yet are the ones drawn by earlier steps.

    Where there are `drafts`, a row of one token that draws begins at its slot's last token, wherever that is: how many
    tokens a step in flight brings is known at the worker alone, and `starts` is the least it can be. The worker may
    append draft tokens to such a row. It draws after each of the row's tokens in turn, for as long as what was drawn is
    what was drafted.

    Attributes:
        step: 1, 2, ... per scheduler incarnation and replica.
        closes: slots that are free from now on, packed u32.
        slots, starts, counts: packed u32, one per row. Prefill chunks come first.
        samples: one byte per row; 1 where the row's last logits are drawn from. 0 in all rows of an encoder, each of
            which is a whole sequence.
        page_slots, pages, page_generations: packed u32; pages appended to block tables, in order.
        drafts: one byte per row, the most draft tokens that it may have; empty where no row may have any, nor could in
            a step in flight.
        forgets: packed u32, after the closes: pages that left block tables without a name, and may be given to others
            under the same generation. For workers that keep copies of pages.
        fold_slots, folds, fold_generations: packed u32, before the forward pass: pages into which what layers without a
            window have of the next `Registered.fold` blocks of each slot is copied. From then on it is read there.
    """

    step: int
    closes: bytes
    opens: tuple[SlotOpen, ...]
    slots: bytes
    starts: bytes
    counts: bytes
    samples: bytes
    page_slots: bytes
    pages: bytes
    page_generations: bytes
    drafts: bytes = b""
    forgets: bytes = b""
    fold_slots: bytes = b""
    folds: bytes = b""
    fold_generations: bytes = b""


class StepResult(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """rank 0 -> scheduler: what a step drew. Other ranks send it too, with empty arrays, so their progress is seen.

    Attributes:
        slots: packed u32, rows that were sampled, in plan order.
        tokens: packed u32, what was drawn, row after row.
        logprobs: (index into `tokens`, value) for slots that asked.
        prompt_logprobs: (slot, first prompt position, values) for prefill rows that asked.
        waited_ns: idle between the end of the last step and the arrival of this plan.
        ran_ns: from the start of the forward pass until tokens were on the host.
        vectors: an encoder's, packed f32, `Registered.dimensions` of each row, in plan order.
        failed: (slot, why) of rows that cannot go on, and are nobody else's trouble; what was drawn for them means
            nothing.
        drawn: one byte per sampled row, how many of `tokens` are its; empty where each has one.
        drafted: one byte per sampled row, draft tokens that it had. `drawn` less one of them were right.
        drafting_ns: of `ran_ns`, to propose drafts; `behind_ns` of it to follow tokens that were not drafted.
    """

    step: int
    slots: bytes
    tokens: bytes
    waited_ns: int
    ran_ns: int
    logprobs: tuple[tuple[int, TokenLogprobs], ...] = ()
    prompt_logprobs: tuple[tuple[int, int, tuple[TokenLogprobs, ...]], ...] = ()
    vectors: bytes = b""
    failed: tuple[tuple[int, str], ...] = ()
    drawn: bytes = b""
    drafted: bytes = b""
    drafting_ns: int = 0
    behind_ns: int = 0


class StepFailed(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=12):
    """worker -> scheduler: the step raised; nothing of it may be used, and the worker's slots are all closed.

    Attributes:
        slots: the rows that are known to be the cause, empty where unknown (packed u32).
        out_of_memory: a smaller step may do.
    """

    step: int
    error: str
    slots: bytes = b""
    out_of_memory: bool = False


class Leaving(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=13):
    """worker -> scheduler: I am about to end. Plan nothing more for this replica, and take its requests back when the
    plans under way are done; a `Reset` then tells me that I may go."""


class Reset(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=21):
    """scheduler -> worker: close all slots, forget plans; the next plan is step `next_step`. A new scheduler
    incarnation sends it first."""

    next_step: int


ToWorker = Welcome | Heartbeat | Nack | Bye | StepPlan | Reset | KeepAdapters
ToSchedulerFromWorker = Hello | Heartbeat | Nack | Bye | Registered | StepResult | StepFailed | Leaving | AdapterState
