"""What stands before every call: whose key it is, what that may do, and what the call reserves. Without keys, nothing.

The id of a reservation is the request's. It is settled when the request ends (`ingress.accounts`), and released here
where the request was never taken.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from ingress.accounts import Ledger, Whose
from ingress.api.jobs import Caller, Plan
from ingress.encoding import EncodeJob
from ingress.engine import Job, ServedModel
from ingress.errors import ApiError
from ingress.gate import refusals
from ingress.gate.gate import Gate, Part
from ingress.gate.roster import Grantee
from ingress.upstreams.refusals import UpstreamError

_TOLD: Final = frozenset({403, 429, 503})  # statuses of attempts that the ledger has a row of


class Served(Protocol):
    """A model, here or elsewhere."""

    @property
    def name(self) -> str: ...
    @property
    def context_tokens(self) -> int: ...


class Admission:
    """The gate, as the pipeline uses it.

    Args:
        gate: None where keys are not asked for.
        ledger: is told of calls that are turned away.
    """

    def __init__(self, gate: Gate | None, ledger: Ledger) -> None:
        self._gate, self._ledger = gate, ledger

    async def identify(self, caller: Caller, authorization: str, address: str | None) -> Caller:
        """The caller, with the tenant that its key belongs to.

        Raises:
            ApiError: see `Gate.identify`.
        """
        if self._gate is None:
            return caller
        return _granted(caller, await self._gate.identify(authorization, address))

    async def on_behalf(self, caller: Caller, key: str) -> Caller:
        """The same for a call that another process makes for whoever has a key; see `Gate.on_behalf`.

        Raises:
            ApiError: see there.
        """
        return caller if self._gate is None else _granted(caller, await self._gate.on_behalf(key))

    def may_see(self, caller: Caller, model: str) -> bool:
        """Whether a model is there for this caller."""
        return caller.grantee is None or caller.grantee.may_use(model)

    def check_model(self, caller: Caller, model: str) -> None:
        """Whether the caller may use it.

        Raises:
            ApiError: 403.
        """
        if not self.may_see(caller, model):
            self._ledger.rejected(caller.request, Whose(model, caller.tenant, caller.key, True), caller.received_ns)
            raise refusals.not_this_model(model)

    async def reserve(self, plan: Plan, model: Served, caller: Caller) -> Sequence[Job]:
        """The jobs of a call, which may be opened now.

        Raises:
            ApiError: 403, the key is for reading only; else see `Gate.reserve`.
        """
        if self._gate is None or caller.grantee is None:
            return plan.jobs
        jobs = [replace(job, request=job.request or secrets.randbits(63) or 1) for job in plan.jobs]
        parts = [_part(job, model, first=index == 0) for index, job in enumerate(jobs)]
        await self._reserve(self._gate, caller.grantee, model, parts, caller)
        return jobs

    async def reserve_encoding(self, job: EncodeJob, model: ServedModel, caller: Caller) -> EncodeJob:
        """The same for a call to an encoder, which is one request whatever it has of sequences.

        Raises:
            ApiError: see `reserve`.
        """
        if self._gate is None or caller.grantee is None:
            return job
        job = replace(job, request=job.request or secrets.randbits(63) or 1)
        part = Part(job.request, sum(len(each.ids) for each in job.sequences), 0, 1)
        await self._reserve(self._gate, caller.grantee, model, [part], caller)
        return job

    async def _reserve(
        self, gate: Gate, grantee: Grantee, model: Served, parts: Sequence[Part], caller: Caller
    ) -> None:
        if grantee.key.role == "reader":
            raise refusals.forbidden("This API key may read and not generate.", code="role_not_allowed")
        try:
            await gate.reserve(grantee, model.name, parts)
        except ApiError:
            self._ledger.rejected(
                caller.request, Whose(model.name, caller.tenant, caller.key, True), caller.received_ns
            )
            raise
        finally:
            if caller.headers is not None:
                caller.headers.extend(gate.headers(grantee, model.name))

    def not_opened(self, jobs: Sequence[Job | EncodeJob], caller: Caller, model: str, error: BaseException) -> None:
        """Nobody took them."""
        if self._gate is not None:
            for job in jobs:
                self._gate.release(job.request)
        recorded = isinstance(error, UpstreamError) and error.recorded
        if isinstance(error, ApiError) and error.status in _TOLD and not recorded:
            # Of several choices some may have been opened, and have a row of that number.
            number = caller.request if len(jobs) == 1 else 0
            self._ledger.rejected(number, Whose(model, caller.tenant, caller.key, True), caller.received_ns)


def _granted(caller: Caller, grantee: Grantee) -> Caller:
    return caller._replace(
        tenant=grantee.tenant,
        key=grantee.key.id,
        partition=grantee.partition,
        grantee=grantee,
        weight=grantee.weight,
    )


def _part(job: Job, model: Served, *, first: bool) -> Part:
    """One choice, as it counts."""
    room = max(1, model.context_tokens - job.prompt_tokens)
    most = room if job.max_tokens is None else min(room, job.max_tokens)
    beams = job.beams.width if job.beams is not None else 1
    most *= beams
    if job.pool is not None:
        most = min(most, job.pool.size)
    return Part(job.request, job.prompt_tokens if job.counts_prompt else 0, most, int(first), beams)
