"""The commands. What each does is a few lines; what operators write is read in `amounts`."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import cyclopts
import msgspec
from cyclopts import Parameter

from cli.commands.base import Switch

keys = cyclopts.App(
    name="keys", help="Keys of the API, and what each may use. Changes hold within a second, without a restart."
)
projects = cyclopts.App(name="projects", help="Projects: the tenants that keys belong to, ORGANISATION/PROJECT.")


@keys.command(sort_key=1)
def create(
    name: str,
    *,
    project: str = "default/default",
    models: tuple[str, ...] = (),
    role: Literal["member", "manager", "reader"] = "member",
    expires: str = "",
    networks: Annotated[tuple[str, ...], Parameter("--from")] = (),
    reason: str = "",
    json: Switch = False,
) -> int:
    """Make a key, and show it: this once, since only a digest of it is kept.

    For example:

        headrace keys create laptop
        headrace keys create nightly --project acme/batch --models smollm2 --expires 90d
        headrace keys create office --from 10.0.0.0/8 --from 192.168.1.7/32

    Clients send it as `Authorization: Bearer sk-...` or as `x-api-key`.

    Args:
        name: For people.
        project: That it belongs to; made where it is not there yet.
        models: That it may ask for; all when not given.
        role: A reader lists models and counts tokens, and generates nothing; a manager loads and unloads adapters too.
        expires: After so long: 24h, 90d.
        networks: That it may be used from; everywhere when not given.
        reason: For the audit log.
        json: For programs: {"id": "...", "key": "sk-...", "project": "..."}.
    """
    from bus.messages.accounts import Key
    from bus.messages.control import AddKey, AddProject
    from cli.accounts import amounts, asking, secrets

    try:
        expires_s = int(time.time()) + amounts.span_s(expires) if expires else 0
        drawn, id = secrets.draw(), secrets.draw_id()
        key = Key(id, name, project, drawn.digest, role, models, networks, expires_s=expires_s)
        known = {each.name for each in asking.held("").projects}
        first = () if project in known else (AddProject(0, project, reason=reason),)
        asking.order(*first, AddKey(0, key, reason))
    except amounts.BadAmount as bad:
        return _usage(bad)
    except asking.Failed as failure:
        return asking.failed(failure)
    whole = secrets.whole(id, drawn.secret)
    if json:
        print(msgspec.json.encode({"id": id, "key": whole, "project": project}).decode())
    else:
        print(f"{whole}\n\nkey {id} of {project}; it is not shown again")
    return 0


@keys.command(name="list", sort_key=2)
def list_keys(scope: str = "", *, limit: int = 1000, json: Switch = False) -> int:
    """Every key, the newest first.

    Args:
        scope: Only of this organisation or project.
        limit: So many at the most.
        json: For programs: {"projects": [...], "keys": [...], "allowances": [...]}.
    """
    from cli.accounts import asking, show

    try:
        held = asking.held(scope, limit)
    except asking.Failed as failure:
        return asking.failed(failure)
    print(show.as_json(held)) if json else show.keys(held)
    return 0


@keys.command(name="show", sort_key=3)
def show_one(key: str, *, json: Switch = False) -> int:
    """One key, with what it may use and has used.

    Args:
        key: Its id, or the key itself.
        json: For programs.
    """
    from cli.accounts import amounts, asking, show

    try:
        id = amounts.key_id(key)
        held = asking.held(id)
        project = held.keys[0].project
        around = asking.held(project)
    except amounts.BadAmount as bad:
        return _usage(bad)
    except asking.Failed as failure:
        return asking.failed(failure)
    scopes = {project, project.partition("/")[0]}
    above = asking.held(project.partition("/")[0]).allowances
    wider = tuple(each for each in above if each.allowance.scope in scopes)
    held = msgspec.structs.replace(held, allowances=wider + held.allowances, projects=around.projects)
    if json:
        print(show.as_json(held))
    else:
        show.keys(held)
        print()
        show.allowances(held)
    return 0


@keys.command(sort_key=4)
def revoke(key: str, *, reason: str = "") -> int:
    """A key is no good any more, anywhere, within a second. Answers under way are finished.

    Args:
        key: Its id, or the key itself.
        reason: For the audit log.
    """
    from bus.messages.control import RevokeKey
    from cli.accounts import amounts

    try:
        return _order(RevokeKey(0, amounts.key_id(key), reason))
    except amounts.BadAmount as bad:
        return _usage(bad)


@keys.command(sort_key=5)
def rotate(key: str, *, overlap: str = "", reason: str = "", json: Switch = False) -> int:
    """Give a key another secret. Its id, limits and history stay.

    For example:

        headrace keys rotate k0123456789a --overlap 24h

    Args:
        key: Its id, or the key itself.
        overlap: For how long the old secret is good as well: 24h; not at all when not given.
        reason: For the audit log.
        json: For programs: {"id": "...", "key": "sk-..."}.
    """
    from bus.messages.control import ReplaceSecret
    from cli.accounts import amounts, asking, secrets

    try:
        id, drawn = amounts.key_id(key), secrets.draw()
        said = asking.order(ReplaceSecret(0, id, drawn.digest, amounts.span_s(overlap) if overlap else 0, reason))
    except amounts.BadAmount as bad:
        return _usage(bad)
    except asking.Failed as failure:
        return asking.failed(failure)
    whole = secrets.whole(id, drawn.secret)
    print(msgspec.json.encode({"id": id, "key": whole}).decode() if json else f"{whole}\n\n{said[0]}")
    return 0


@keys.command(sort_key=6)
def limits(
    scope: str = "", *changes: str, window: str = "60s", model: str = "", reason: str = "", json: Switch = False
) -> int:
    """How much a key, a project or an organisation may use at a time; other limits from now on.

    For example:

        headrace keys limits k0123456789a requests=60 total_tokens=100k
        headrace keys limits acme/batch output_tokens=2M --window 24h --model smollm2
        headrace keys limits acme concurrency=32
        headrace keys limits acme concurrency=none
        headrace keys limits acme                       # as they stand

    A limit is a bucket of that size, which fills evenly over the window. A request takes its prompt and a guess of its
    answer from all buckets that it counts for, and at its end what it really used. A choice of a request counts as an
    answer at once.

    Args:
        scope: A key's id, a project, or an organisation; all when not given.
        changes: NAME=NUMBER, of requests, input_tokens, output_tokens, total_tokens, concurrency; none takes one away.
        window: In which a bucket fills: 60s, 24h.
        model: Only of this model; of all together when not given.
        reason: For the audit log.
        json: For programs.
    """
    from bus.messages.accounts import Allowance
    from bus.messages.control import SetAllowance
    from cli.accounts import amounts, asking

    try:
        kind, window_s = amounts.kind_of(scope), amounts.span_s(window)
        wanted = [amounts.limit(word, window_s) for word in changes]
        asking.order(
            *(
                SetAllowance(0, Allowance(0, kind, scope, dimension, amount, seconds, "", model), reason)
                for dimension, amount, seconds in wanted
            )
        )
        return _allowances(scope, as_json=json)
    except amounts.BadAmount as bad:
        return _usage(bad)
    except asking.Failed as failure:
        return asking.failed(failure)


@keys.command(sort_key=7)
def budget(
    scope: str = "", amount: str = "", *, per: str = "month", model: str = "", reason: str = "", json: Switch = False
) -> int:
    """What a key, a project or an organisation may spend, in the currency of [cost], at the prices of [[price]].

    For example:

        headrace keys budget acme 250 --per month
        headrace keys budget k0123456789a 0.50 --per day
        headrace keys budget acme/batch 40 --per 30d        # of any 30 days
        headrace keys budget acme none --per month
        headrace keys budget acme                           # as they stand

    Args:
        scope: A key's id, a project, or an organisation; all when not given.
        amount: 25, 0.50; none takes the budget away.
        per: day, week or month (UTC), total, or a length of time that rolls, as 30d.
        model: Only of this model; of all together when not given.
        reason: For the audit log.
        json: For programs.
    """
    from bus.messages.accounts import Allowance
    from bus.messages.control import SetAllowance
    from cli.accounts import amounts, asking

    try:
        if amount:
            nano, period = amounts.money(amount), amounts.period(per)
            wanted = Allowance(0, amounts.kind_of(scope), scope, "money", nano, 0, period, model)
            asking.order(SetAllowance(0, wanted, reason))
        return _allowances(scope, as_json=json)
    except amounts.BadAmount as bad:
        return _usage(bad)
    except asking.Failed as failure:
        return asking.failed(failure)


@projects.command(name="create", sort_key=1)
def create_project(
    name: str,
    *,
    shares: Literal["project", "organisation", "everyone"] = "project",
    weight: float = 1.0,
    reason: str = "",
) -> int:
    """Make a project, or let it share cached prompts, and busy models, as said.

    For example:

        headrace projects create acme/web
        headrace projects create acme/docs --shares organisation
        headrace projects create acme/urgent --weight 3

    Cached prompts of a project answer nobody else, unless it shares them: how fast an answer begins tells whether
    somebody has sent that prompt before.

    Args:
        name: ORGANISATION/PROJECT.
        shares: Cached prompts, with whom: its own keys only, its organisation's other projects that do, everyone who
            does.
        weight: Its part of a busy model, beside projects of weight 1.
        reason: For the audit log.
    """
    from bus.messages.control import AddProject

    return _order(AddProject(0, name, shares, weight, reason))


@projects.command(name="list", sort_key=2)
def list_projects(scope: str = "", *, json: Switch = False) -> int:
    """Every project, with how many good keys it has.

    Args:
        scope: Only of this organisation.
        json: For programs.
    """
    from cli.accounts import asking, show

    try:
        held = asking.held(scope)
    except asking.Failed as failure:
        return asking.failed(failure)
    print(show.as_json(held)) if json else show.projects(held)
    return 0


def _order(change: object) -> int:
    from cli.accounts import asking

    try:
        print(*asking.order(change), sep="\n")  # type: ignore[arg-type]
    except asking.Failed as failure:
        return asking.failed(failure)
    return 0


def _allowances(scope: str, *, as_json: bool) -> int:
    from cli.accounts import asking, show

    held = asking.held(scope)
    if scope:
        own = tuple(each for each in held.allowances if each.allowance.scope == scope)
        held = msgspec.structs.replace(held, allowances=own)
    print(show.as_json(held)) if as_json else show.allowances(held)
    return 0


def _usage(bad: ValueError) -> int:
    import sys

    print(bad, file=sys.stderr)
    return 2
