"""The command line: `:fleet state=late`, `:drain worker@m.0.0 --deadline 120s --reason "new disk"`. Pure.

A command that acts becomes an order, and is asked about like one that a key gave.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple, get_args, get_type_hints

from admin_tui.actions import VERBS, Order, Verb
from admin_tui.world import World
from bus.logread.query import BadQuery, parse_request, parse_span
from bus.messages.control import LimitValues

ALIASES: Final = {
    "req": "requests", "sched": "scheduler", "gpu": "host", "log": "logs", "alarm": "alarms", "ack": "acknowledge",
}  # fmt: skip
_ON_PROCESSES: Final = ("drain", "undrain", "restart", "kill", "reload")
_OTHERS: Final = ("save", "view", "forget", "help", "quit", "pause")


class BadCommand(ValueError):
    """A line that is no command; the message says what would be one."""


class Show(NamedTuple):
    """A screen, and a filter where one was given."""

    view: str
    filter: str | None = None


class Save(NamedTuple):
    """Remember how this screen is looked at."""

    name: str


class Recall(NamedTuple):
    """Look at it so again."""

    name: str


class Forget(NamedTuple):
    """The opposite of `Save`."""

    name: str


class Key(NamedTuple):
    """What a key does, too: quit, help, pause."""

    action: str


Command = Show | Save | Recall | Forget | Key | Order


def parse_command(line: str, world: World, views: Collection[str], saved: Collection[str]) -> Command:
    """What a line asks for.

    Args:
        line: without the colon.
        views: ids of screens.
        saved: names of saved views.

    Raises:
        BadCommand: with what would be right.
    """
    text = line.strip().removeprefix(":").strip()
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadCommand(f"{text}: {error}") from None
    if not words:
        raise BadCommand(
            "a screen, or a verb: drain, undrain, restart, kill, cancel, limit, reload, ack, silence, save, view"
        )
    name, rest = _meant(words[0].lower(), views), words[1:]
    if name in views:
        return Show(name, text.split(None, 1)[1].strip() if rest else None)
    if name in VERBS:
        return _order(name, rest, world)
    if name in ("help", "quit", "pause"):
        return Key(name)
    if len(rest) != 1:
        raise BadCommand(f"{name} NAME" + (f": one of {', '.join(sorted(saved))}" if name != "save" and saved else ""))
    if name == "save":
        return Save(rest[0])
    if rest[0] not in saved:
        raise BadCommand(
            f"no saved view {rest[0]!r}" + (f": there are {', '.join(sorted(saved))}" if saved else ": save one first")
        )
    return Recall(rest[0]) if name == "view" else Forget(rest[0])


def _meant(word: str, views: Collection[str]) -> str:
    """The screen or verb that a word names or begins."""
    known = [*views, *VERBS, *_OTHERS]
    name = ALIASES.get(word, word)
    if name in known:
        return name
    begun = [each for each in known if each.startswith(word)]
    if len(begun) == 1 and begun[0] not in VERBS:  # what acts is written in full
        return begun[0]
    near = difflib.get_close_matches(word, known, 1)
    raise BadCommand(f"{word}: no such screen or verb" + (f"; {near[0]}?" if near else ""))


def _order(verb: Verb, rest: list[str], world: World) -> Order:
    words, options = _split(rest, verb)
    reason = options.get("reason", "")
    seconds = _span(options["deadline"]) if "deadline" in options else None
    match verb:
        case "cancel":
            return _cancel(words, reason, world)
        case "limit":
            return _limit(words, reason, world)
        case "acknowledge" | "silence":
            return _note(verb, words, options, world)
        case _:
            if len(words) != 1:
                raise BadCommand(f"{verb} PROCESS [--deadline 120s] [--reason TEXT]")
            return Order(verb, _known(words[0], world.names(), "process"), reason=reason, seconds=seconds)


def _split(rest: Iterable[str], verb: Verb) -> tuple[list[str], dict[str, str]]:
    allowed = {"reason", *(("for",) if verb == "silence" else ("deadline",) if verb in ("drain", "restart") else ())}
    words: list[str] = []
    options: dict[str, str] = {}
    waiting = iter(rest)
    for word in waiting:
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name not in allowed:
            raise BadCommand(f"--{name}: {verb} takes {', '.join(f'--{each}' for each in sorted(allowed))}")
        given = value if equals else next(waiting, None)
        if given is None:
            raise BadCommand(f"--{name} needs a value")
        options[name] = given
    return words, options


def _cancel(words: list[str], reason: str, world: World) -> Order:
    if len(words) != 1:
        raise BadCommand("cancel REQUEST [--reason TEXT]")
    try:
        wanted = parse_request(words[0])
    except BadQuery as bad:
        raise BadCommand(str(bad)) from None
    fits = [live for live in world.requests if f"{live.request:x}".endswith(wanted)] if wanted else []
    if len(fits) != 1:
        raise BadCommand(f"{words[0]}: {'several requests end so' if fits else 'no such request is in hand'}")
    return Order("cancel", fits[0].model, fits[0].request, reason)


def _limit(words: list[str], reason: str, world: World) -> Order:
    names = LimitValues.__struct_fields__
    if len(words) < 2:
        raise BadCommand(f"limit MODEL NAME=NUMBER ..., with NAME one of {', '.join(names)}")
    hints, values = get_type_hints(LimitValues), {}
    for word in words[1:]:
        name, equals, text = word.partition("=")
        if not equals or name not in names:
            raise BadCommand(f"{word}: write NAME=NUMBER, with NAME one of {', '.join(names)}")
        try:
            values[name] = (float if float in get_args(hints[name]) else int)(text)
        except ValueError:
            raise BadCommand(f"{word}: {text!r} is no such number") from None
    model = _known(words[0], [model.model for model in world.models], "model")
    return Order("limit", model, reason=reason, limits=LimitValues(**values))  # type: ignore[arg-type]


def _note(verb: Verb, words: list[str], options: dict[str, str], world: World) -> Order:
    if len(words) < 2:
        raise BadCommand(f"{verb} CODE SUBJECT [comment]" + (" [--for 1h]" if verb == "silence" else ""))
    code, subject, *comment = words
    there = [f"{finding.code} {finding.subject}" for finding in world.findings]
    if verb == "acknowledge" and f"{code} {subject}" not in there:
        raise BadCommand(f"{code} of {subject} is not there" + (f"; there is {', '.join(there[:4])}" if there else ""))
    seconds = _span(options["for"]) if "for" in options else None
    return Order(verb, subject, reason=options.get("reason", " ".join(comment)), seconds=seconds, code=code)


def _span(text: str) -> float:
    try:
        return parse_span(text)
    except BadQuery as bad:
        raise BadCommand(str(bad)) from None


def _known(name: str, names: Collection[str], what: str) -> str:
    if name in names or not names:
        return name
    near = difflib.get_close_matches(name, names, 3, 0.3)
    raise BadCommand(f"no {what} {name}" + (f"; {', '.join(near)}?" if near else ""))


def suggestions(world: World, views: Collection[str], saved: Collection[str]) -> list[str]:
    """Whole command lines that make sense now: for the palette, and for completion."""
    lines = [*views, *(f"view {name}" for name in sorted(saved)), "help", "pause", "quit"]
    for name in world.names():
        lines += [f"{verb} {name}" for verb in _ON_PROCESSES if verb != "reload" or name.startswith("ingress@")]
        lines.append(f"logs unit={name}")
    lines += [f"requests model={model.model}" for model in world.models]
    lines += [
        f"{verb} {finding.code} {finding.subject}" for finding in world.findings for verb in ("acknowledge", "silence")
    ]
    lines += [f"cancel {live.request:x}" for live in world.requests[:50]]
    return lines


def ranked(lines: Iterable[str], typed: str) -> list[str]:
    """Lines in which all typed words are found, those first that begin so."""
    words = typed.lower().split()
    fits = [line for line in lines if all(word in line.lower() for word in words)]
    return sorted(fits, key=lambda line: (not line.lower().startswith(typed.lower().strip()), not _begins(line, words)))


def _begins(line: str, words: list[str]) -> bool:
    parts = line.lower().split()
    return all(any(part.startswith(word) for part in parts) for word in words)
