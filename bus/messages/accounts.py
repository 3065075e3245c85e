"""ingress <-> accounts: who may do what, and how much of it an ingress may give out by itself.

The accounts process sends every ingress the directory of projects, keys and allowances, whole at first and then what
changes; so no request asks whether its key is good. Of each allowance an ingress takes *leases*: amounts ahead of what
it gives out. All amounts of a lease are totals since the ingress began (`granted`, `used`, `returned`) and only grow,
so a message that is late or repeated says nothing new. What an ingress holds is granted - used - returned.

Amounts are whole numbers: requests, tokens, answers under way, or money in billionths of the currency of `[cost]`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.messages.common import Bye, Heartbeat, Hello, Nack, Welcome

Dimension = Literal["requests", "input_tokens", "output_tokens", "total_tokens", "concurrency", "money"]
ScopeKind = Literal["organisation", "project", "key"]
KeyRole = Literal[
    "member",  # uses models
    "manager",  # ... and loads and unloads adapters
    "reader",  # lists models and counts tokens; nothing is generated
]
Sharing = Literal["project", "organisation", "everyone"]


class Project(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A tenant. Its name is `ORGANISATION/PROJECT`; whom it shares cached prompts with is `shares`.

    Attributes:
        weight: its part of a busy model, beside other tenants.
    """

    name: str
    shares: Sharing = "project"
    weight: float = 1.0


class Key(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One key, without its secret.

    Attributes:
        id: between `sk-` and the secret.
        digest: SHA-256 of the secret; `previous` is that of the one before, which is good until `previous_until_s`.
        models: that it may ask for; empty is all.
        networks: CIDRs that it may be used from; empty is everywhere.
        created_s, expires_s, revoked_s, previous_until_s: Unix time; 0 is never.
    """

    id: str
    name: str
    project: str
    digest: bytes
    role: KeyRole = "member"
    models: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    created_s: int = 0
    expires_s: int = 0
    revoked_s: int = 0
    previous: bytes = b""
    previous_until_s: int = 0


class Allowance(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A limit or a budget.

    Attributes:
        number: never given to another one.
        scope: name of an organisation or project, or a key's id.
        model: that it is for; empty is all together.
        amount: of `dimension` in a window.
        window_s: seconds in which a limit is filled again; 0 for concurrency and money.
        period: of money: "day", "week", "month" (calendar, UTC), "total", or seconds that roll, as "86400".
    """

    number: int
    kind: ScopeKind
    scope: str
    dimension: Dimension
    amount: int
    window_s: int = 0
    period: str = ""
    model: str = ""


class Follow(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=10):
    """Send me the directory, and what changes in it. Answered by `Directory`, now and from then on.

    Attributes:
        store: of which directory the sender has `revision`; empty where it has none.
    """

    store: str
    revision: int


class Directory(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """A part of the directory.

    Attributes:
        whole: what the receiver had is forgotten; else these take the place of those with the same name or number.
        more: another part follows, and `revision` holds after that.
        gone: numbers of allowances that are no more. Keys never go: they are revoked.
    """

    store: str
    revision: int
    whole: bool
    more: bool
    projects: tuple[Project, ...] = ()
    keys: tuple[Key, ...] = ()
    allowances: tuple[Allowance, ...] = ()
    gone: tuple[int, ...] = ()


class Line(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One lease, as its ingress knows it. All are totals.

    Attributes:
        needed, wanted: `granted` as it should be, at the least and at best.
    """

    allowance: int
    granted: int
    used: int
    returned: int
    needed: int
    wanted: int


class Ask(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=12):
    """This is what I have, and what I need. Answered by `Granted`, perhaps after others have given something back."""

    number: int
    lines: tuple[Line, ...]


class Grant(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One lease, as it is now.

    Attributes:
        granted: total.
        left: of the allowance, what nobody holds; negative where more was used than allowed.
        wait_ms: until what was needed may be there; 0 where it is, -1 where that is in the next period.
        others: what other ingresses hold.
    """

    allowance: int
    granted: int
    left: int
    wait_ms: int = 0
    others: int = 0


class Granted(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=13):
    """Answer to `Ask`, with its number."""

    number: int
    lines: tuple[Grant, ...]


class Recall(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=14):
    """Somebody needs these: give back what is not in use, and for a moment keep nothing ahead."""

    allowances: tuple[int, ...]


class Settlement(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one request has cost. Its id counts once, whoever tells it and how often."""

    request: int
    key: str
    model: str
    cost: int
    ended_ms: int


class Settle(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=15):
    """Charge these. Answered by `Settled` when they are written."""

    rid: int
    records: tuple[Settlement, ...]


class Settled(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=16):
    """They are charged."""

    rid: int


ToAccounts = Hello | Heartbeat | Nack | Bye | Follow | Ask | Settle
FromAccounts = Welcome | Heartbeat | Nack | Bye | Directory | Granted | Recall | Settled
