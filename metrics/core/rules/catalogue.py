"""Every alarm: what it means, how long it must hold, and what to do next, with its key on the screen. Data only.

`docs/alarms.md` has a section on each. Keys are those of `headrace top`: a digit is a screen, a small letter looks, a
capital letter acts on the subject after a question.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SECOND: Final = 1_000_000_000


class Alarm(NamedTuple):
    """One kind of alarm.

    Attributes:
        means: in one sentence.
        advice: what to do.
        action, key: what to do next on the screen.
        raise_s: it is said when the condition has held for so long ...
        clear_s: ... and is over when that was away for so long.
    """

    code: str
    means: str
    advice: str
    action: str
    key: str
    raise_s: float = 1.0
    clear_s: float = 5.0

    @property
    def raise_ns(self) -> int:
        """In nanoseconds."""
        return int(self.raise_s * SECOND)

    @property
    def clear_ns(self) -> int:
        """In nanoseconds."""
        return int(self.clear_s * SECOND)


_ALL: Final = (
    # Processes
    Alarm(
        "failed", "A process has been given up.",
        "read its log for the reason, mend it, then restart it",
        "logs", "l",
    ),
    Alarm(
        "gone", "A process has said nothing for 15 s.",
        "it is restarted by itself; where it does not return, read its log",
        "logs", "l",
    ),
    Alarm(
        "late", "A process has said nothing for 2 s and more.",
        "see whether the machine is crowded; restart it if it stays silent",
        "restart", "R", 3.0,
    ),
    Alarm(
        "stalled", "A process has work and makes no progress.",
        "kill -USR1 has its log say where it stands; then restart it",
        "restart", "R",
    ),
    Alarm(
        "restart-loop", "A process came back three times in five minutes.",
        "read its log for the exit that it repeats",
        "logs", "l",
    ),
    Alarm(
        "crashed", "A process died by a signal or a bug, and a report was written.",
        "headrace report show with that file; it goes on by itself unless other findings say so",
        "logs", "l", 0.0,
    ),
    Alarm(
        "missing", "A process that the configuration asks for was never heard of.",
        "look at it in the fleet; headrace up starts it",
        "fleet", "2", 60.0,
    ),
    Alarm(
        "standby-missing", "No standby waits, so the next death of its worker takes a cold start.",
        "read the worker's log, where its standby writes",
        "logs", "l", 120.0,
    ),
    Alarm(
        "protocol", "Two processes have no protocol in common or refuse each other.",
        "restart the older one: headrace restart --all",
        "restart", "R", 5.0,
    ),
    Alarm(
        "metrics-behind", "What is shown is older than it looks.",
        "see what takes the CPU; other findings of this moment may be wrong",
        "host", "3",
    ),
    Alarm(
        "idle-burn", "A process uses CPU and has nothing to do.",
        "kill -USR1 has its log say where it stands; please report it",
        "logs", "l", 1.0, 90.0,
    ),
    # Models
    Alarm(
        "no-replica", "A model has no replica that takes requests: they wait or are refused.",
        "look at its workers, and bring one back",
        "fleet", "2", 15.0,
    ),
    Alarm(
        "replicas-missing", "Fewer replicas than configured.",
        "look at its workers",
        "fleet", "2", 30.0,
    ),
    Alarm(
        "standing-still", "Accepted work does not get on.",
        "look at what it waits for; /progress and headrace status say it",
        "scheduler", "5", 5.0,
    ),
    Alarm(
        "queue-growing", "Requests come faster than they leave.",
        "add a replica, or expect refusals when the queue is full",
        "scheduler", "5", 3.0,
    ),
    Alarm(
        "queue-slow", "A request has waited too long for a slot.",
        "headrace explain says what it waits for; add slots or a replica",
        "requests", "4",
    ),
    Alarm(
        "deadline-near", "A request that waits is about to miss its deadline.",
        "lower the load, or raise its priority",
        "requests", "4", 0.0, 3.0,
    ),
    Alarm(
        "refusing", "Requests are refused.",
        "add a replica, or raise queue_requests if the wait is acceptable",
        "scheduler", "5",
    ),
    Alarm(
        "ttft-high", "First tokens come late.",
        "headrace explain on a slow request; more replicas, or shorter prompts",
        "requests", "4", 20.0, 15.0,
    ),
    Alarm(
        "itl-high", "Tokens come slowly.",
        "fewer slots, a lower inter_token_target_ms, or another replica",
        "scheduler", "5", 20.0, 15.0,
    ),
    Alarm(
        "steps-slow", "Steps run longer than they did a moment ago with the same work.",
        "see who takes the processor, and whether it is throttled",
        "host", "3", 10.0, 15.0,
    ),
    Alarm(
        "prefix-hits-dropped", "Prompts no longer find what they usually find in the cache.",
        "see whether prompts still share a beginning, and whether pages are evicted early",
        "kv", "6", 5.0,
    ),
    # Pages
    Alarm(
        "pages-exhausted", "The arena has hardly a page left.",
        "raise [kv] arena, or lower slots of a model",
        "kv", "6",
    ),
    Alarm(
        "pages-quarantined", "Pages of a dead writer are kept out, since it is not known to be gone.",
        "look at the leases; end the process that still holds them",
        "kv", "6", 60.0,
    ),
    Alarm(
        "kv-audit", "The last audit found that pages and books do not agree.",
        "headrace audit; keep its output, restart kv@host",
        "restart", "R", 0.0,
    ),
    Alarm(
        "kv-disk-off", "The disk tier is not used, since the disk fails or is full.",
        "mend the disk or make room; it is tried again by itself",
        "kv", "6",
    ),
    Alarm(
        "kv-disk-damaged", "Pages came back from disk other than they were written.",
        "nothing is lost: they are computed again; look at the disk",
        "kv", "6", 0.0, 60.0,
    ),
    # Host
    Alarm(
        "memory-low", "The machine is short of memory.",
        "end what is not needed, or lower [kv] arena",
        "host", "3", 10.0, 15.0,
    ),
    Alarm(
        "disk-full", "A file system that headrace writes to is full.",
        "make room",
        "host", "3", 5.0,
    ),
    Alarm(
        "cpu-steal", "The hypervisor gives the processor to others.",
        "move to a host of its own, or ask its owner",
        "host", "3", 20.0, 15.0,
    ),
    Alarm(
        "cpu-crowded", "Other programs take the processor from headrace.",
        "end them, or pin them elsewhere",
        "host", "3", 20.0, 15.0,
    ),
    # Accounts
    Alarm(
        "streams-unprotected", "Streams would die with their ingress, since they cannot be written down.",
        "make room in the run directory",
        "fleet", "2", 0.0, 30.0,
    ),
    Alarm(
        "ledger-behind", "Records of usage wait for the ledger.",
        "see whether metrics@host runs and its disk has room",
        "fleet", "2", 60.0, 15.0,
    ),
    Alarm(
        "ledger-lost", "Records of usage were dropped.",
        "what was used then is known only from counters; mend the ledger",
        "fleet", "2", 0.0, 60.0,
    ),
    Alarm(
        "ledger-stuck", "The ledger of usage cannot be written.",
        "make room on the disk of the state directory",
        "fleet", "2",
    ),
    Alarm(
        "traces-off", "Spans are asked for and cannot be sent.",
        "install what is missing, or leave [traces] out",
        "fleet", "2",
    ),
)  # fmt: skip

ALARMS: Final[dict[str, Alarm]] = {alarm.code: alarm for alarm in _ALL}
_UNKNOWN: Final = Alarm("", "", "", "", "")


def alarm(code: str) -> Alarm:
    """What is said of an alarm; nothing of one that is not in the catalogue."""
    return ALARMS.get(code, _UNKNOWN)
