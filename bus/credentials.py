"""Who is at the other end of a Unix socket, as the kernel says, and what they may do there.

Three kinds of people come to a door that is open to visitors. The process's own user and root, and members of the
admin group, may act; members of the viewer group may look; nobody else gets in. Groups are those of the connection and
those that the user database gives the user; a client says nothing about itself that counts.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path
from typing import Final, Literal, NamedTuple

import zmq

from bus.config import AdminConfig
from bus.messages.common import Hello
from bus.names import VISITORS

Access = Literal["admin", "viewer", "nobody"]
ROOT: Final = 0


class Credentials(NamedTuple):
    """SO_PEERCRED of a connection: the process that connected."""

    uid: int
    gid: int
    pid: int

    @property
    def user(self) -> str:
        """The user's name; `uid 1234` where the user database has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"

    def groups(self) -> frozenset[int]:
        """Ids of all groups of the user."""
        try:
            return frozenset({self.gid, *os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)})
        except KeyError:
            return frozenset({self.gid})


def read_credentials(frame: zmq.Frame) -> Credentials | None:
    """Of the connection that a frame came by; None where it carries none.

    libzmq gives them as `Peer-Address`: `localhost:uid:gid:pid`.
    """
    try:
        _, uid, gid, pid = str(frame.get("Peer-Address")).rsplit(":", 3)
        return Credentials(int(uid), int(gid), int(pid))
    except (zmq.ZMQError, ValueError):
        return None


def own_user_only(who: Credentials, _: Hello | None = None) -> str:
    """Why somebody does not get in at a door for processes; empty for root and this process's own user."""
    return "" if who.uid in (ROOT, os.geteuid()) else f"user {who.uid} may not speak here"


class Doorkeeper:
    """Decides at doors that are open to visitors.

    Args:
        config: who is what.
    """

    def __init__(self, config: AdminConfig) -> None:
        self._config = config

    def access(self, who: Credentials) -> Access:
        """What somebody may do here. The user database is asked each time: who is put out of a group is out."""
        if who.uid in (ROOT, os.geteuid()):
            return "admin"
        groups = who.groups()
        if group_id(self._config.group) in groups:
            return "admin"
        return "viewer" if group_id(self._config.viewers) in groups else "nobody"

    def admit(self, who: Credentials, hello: Hello) -> str:
        """Why somebody does not get in; empty where they do. Strangers' programs are visitors, whatever they say."""
        if not own_user_only(who):
            return ""
        if hello.role not in VISITORS:
            return f"user {who.uid} runs no processes of this stack"
        if self.access(who) == "nobody":
            return f"{who.user} may not look here; {self.who_may_look()}"
        return ""

    def who_may_look(self) -> str:
        """For those who may not."""
        return f"members of {_named(self._config.viewers)} and {_named(self._config.group)} may"

    def who_may_act(self) -> str:
        """For those who may not."""
        try:
            own = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            own = f"uid {os.geteuid()}"
        return " and ".join(["root", *([own] if own != "root" else []), f"members of {_named(self._config.group)}"])


def lend(path: Path, group: str) -> None:
    """Let a group use a socket file that has no doorkeeper, where it is that group's or may be given to it."""
    if (number := group_id(group)) >= 0:
        with contextlib.suppress(OSError):
            if path.stat().st_gid != number:  # else the service manager has given it away
                if os.geteuid() != ROOT and number not in os.getgroups():
                    return  # it would be refused, and a hardened service that asks is killed
                os.chown(path, -1, number)
            path.chmod(0o660)


def group_id(group: str) -> int:
    """A group's id by name or number; -1 where there is no such group, or none is meant."""
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid if group else -1
    except KeyError:
        return -1


def _named(group: str) -> str:
    return f"group {group}" if group else "no group"
