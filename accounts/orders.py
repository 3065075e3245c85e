"""What operators change: each order as what is put and dropped in the register, and what to say of it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from accounts.core.directory import Record, Register, Unfit
from bus.messages.accounts import Key, Project
from bus.messages.control import AddKey, AddProject, ReplaceSecret, RevokeKey, SetAllowance
from bus.orders import allowance_in_words

Change = AddProject | AddKey | ReplaceSecret | RevokeKey | SetAllowance


class Plan(NamedTuple):
    """What an order comes to.

    Attributes:
        put, drop: records and numbers of allowances.
        detail, before, after: for whoever gave it, and the audit log.
    """

    put: tuple[Record, ...] = ()
    drop: tuple[int, ...] = ()
    detail: str = ""
    before: str = ""
    after: str = ""


def plan(order: Change, register: Register, now_s: int) -> Plan:
    """What is to be done. Nothing is changed yet.

    Raises:
        Unfit: it is not possible.
    """
    match order:
        case AddProject():
            return _project(order, register)
        case AddKey():
            key = replace(order.key, created_s=now_s, revoked_s=0, previous=b"", previous_until_s=0)
            register.check_key(key)
            if key.expires_s and key.expires_s <= now_s:
                raise Unfit("it would have expired already")
            return Plan((key,), detail=f"key {key.id} of {key.project}", after="good")
        case ReplaceSecret():
            return _rotated(order, register.key(order.key), now_s)
        case RevokeKey():
            key = register.key(order.key)
            return Plan(
                (replace(key, revoked_s=now_s),), detail=f"key {key.id} is revoked", before="good", after="revoked"
            )
        case SetAllowance():
            return _allowance(order, register)


def _project(order: AddProject, register: Register) -> Plan:
    project = Project(order.name, order.shares, order.weight)
    register.check_project(project)
    known = register.projects.get(order.name)
    detail = f"project {order.name} shares cached prompts with {_whom(order.shares)}, and weighs {order.weight:g}"
    return Plan(
        (project,),
        detail=detail,
        before="" if known is None else _project_in_words(known),
        after=_project_in_words(project),
    )


def _project_in_words(project: Project) -> str:
    return f"shares={project.shares} weight={project.weight:g}"


def _rotated(order: ReplaceSecret, key: Key, now_s: int) -> Plan:
    if len(order.digest) != 32:
        raise Unfit("a SHA-256 of 32 bytes is expected")
    if not 0 <= order.overlap_s <= 90 * 86400:
        raise Unfit("a secret that is replaced is good for at most 90 days longer")
    until_s = now_s + order.overlap_s if order.overlap_s else 0
    previous = key.digest if order.overlap_s else b""
    changed = replace(key, digest=order.digest, previous=previous, previous_until_s=until_s)
    old = (
        f"the old one is good for {order.overlap_s} s longer" if order.overlap_s else "the old one is no good any more"
    )
    return Plan((changed,), detail=f"key {key.id} has a new secret; {old}")


def _allowance(order: SetAllowance, register: Register) -> Plan:
    wanted = register.placed(order.allowance)
    known = register.allowances.get(wanted.number)
    before = "" if known is None else allowance_in_words(known)
    if wanted.amount < 0:
        return Plan((), (wanted.number,), f"{wanted.scope}: {before} is no more", before, "")
    after = allowance_in_words(wanted)
    return Plan((wanted,), detail=f"{wanted.scope}: {after}", before=before, after=after)


def _whom(shares: str) -> str:
    return {"project": "nobody else", "organisation": "its organisation", "everyone": "everyone"}[shares]
