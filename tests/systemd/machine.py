"""A machine of its own for a test: the distribution's real systemd as PID 1 of fresh namespaces, in about a second.

    with Machine.boot("demo", binds={Path("/somewhere"): "/opt/x"}) as machine:
        machine.run("systemctl", "start", "x.service")
        machine.connect(8080)          # a socket in the machine's network, which has only a loopback interface

No virtual machine, image or container engine. The machine's root is an overlay over this host's, with the changes in
memory: it sees what is installed here and alters nothing of it. Of the units that a boot would start, only those on a
list are left, since some of the others reach through to the kernel that everybody shares.

What is real: processes, control groups as a tree, users, sockets, credentials, seccomp, device and address policies,
watchdogs, the descriptor store, journals. What may not be: limits of memory and CPU, which need controllers that the
host may keep to itself.

This file is also the program that becomes PID 1, before any package of a virtual environment is there: it imports the
standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NoReturn

SYSTEMD: Final = Path("/lib/systemd/systemd")
STATES: Final = Path("/run/headrace-machines")
BOOT_S: Final = 30.0
NAMESPACES: Final = ("--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--cgroup")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
QUIET: Final = {"SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0", "SYSTEMD_URLIFY": "0", "PATH": PATH, "LANG": "C.UTF-8"}
# Of what the targets of a boot want, this is started; the rest is masked.
WANTED: Final = frozenset(
    {
        "systemd-journald.service",
        "systemd-journald.socket",
        "systemd-journald-dev-log.socket",
        "dbus.socket",
        "dbus.service",
        "polkit.service",
    }
)
BOOT_TARGETS: Final = ("sysinit", "basic", "sockets", "timers", "paths", "local-fs", "multi-user")
MADE_AT_BOOT: Final = ("systemd-remount-fs.service", "getty.target")  # wanted by what generators write


class Failed(RuntimeError):
    """A command in the machine failed; the message holds what it said."""


def why_not() -> str:
    """Why no machine can be booted here; empty where one can."""
    if os.geteuid() != 0:
        return "booting systemd in namespaces needs root"
    if not SYSTEMD.exists():
        return "systemd is not installed (apt install systemd systemd-sysv dbus polkitd)"
    for tool in ("unshare", "nsenter", "setpriv"):
        if shutil.which(tool) is None:
            return f"{tool} is missing (apt install util-linux)"
    if (groups := _cgroup2()) is None:
        return "no cgroup2 file system is mounted"
    probe = groups / f"headrace-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"control groups cannot be made in {groups}: {error.strerror}"
    # In a user's namespaces or a container without CAP_SYS_ADMIN it ends here.
    script = (
        "mount --make-rprivate / && mount -t tmpfs x /mnt && mkdir /mnt/u /mnt/w /mnt/r && "
        "mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w x /mnt/r && mount -t proc x /mnt/r/proc"
    )
    tried = subprocess.run(["unshare", *NAMESPACES, "sh", "-ec", script], capture_output=True, text=True)
    return f"namespaces are not permitted here: {tried.stderr.strip()[:200]}" if tried.returncode else ""


_NUMBERS: Final = itertools.count(1)  # of machines of this process: some are up at the same time


class Machine:
    """A booted machine. Made by `boot`."""

    def __init__(self, name: str, state: Path, group: Path, outer: subprocess.Popen[bytes]) -> None:
        self.name, self.state = name, state
        self._group, self._outer = group, outer
        self._init = 0

    @classmethod
    @contextlib.contextmanager
    def boot(cls, name: str, *, binds: Mapping[Path, str] | None = None) -> Iterator[Machine]:
        """A running machine; it is powered off, and every trace of it removed, at the end.

        Args:
            binds: what of this host to show read-only, and where; needed for what is on a file system of its own, or
                in a directory that only root may enter.

        Raises:
            Failed: it does not come up.
        """
        groups = _cgroup2()
        assert groups is not None, why_not()
        _sweep(groups)
        mine = f"{name}.{next(_NUMBERS)}-{os.getpid()}"
        state, group = STATES / mine, groups / f"headrace-{mine}"
        state.mkdir(parents=True)
        group.mkdir()
        spec = json.dumps({"name": name, "state": str(state), "binds": [[str(k), v] for k, v in (binds or {}).items()]})
        with (state / "boot.log").open("wb") as log:
            # It ends with this process, however that does, and all of the machine with it.
            init = ["setpriv", "--pdeathsig=KILL", "unshare", *NAMESPACES, "--kill-child=SIGKILL"]
            init += [sys.executable, "-I", __file__, spec]
            outer = subprocess.Popen(
                # The group is entered before the namespace is made: so it is the root of what systemd sees.
                ["sh", "-c", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "sh", str(group), *init],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        machine = cls(name, state, group, outer)
        try:
            machine._wait_up()
            yield machine
        finally:
            machine._power_off()

    # --- in the machine --------------------------------------------------------------------------------------------

    def run(
        self, *command: str, check: bool = True, user: str = "", stdin: str = "", timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root or as `user`.

        Raises:
            Failed: with `check`, and it did not end with 0.
        """
        as_user = ["runuser", f"--user={user}", "--"] if user else []
        done = subprocess.run(
            [*self._enter("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"), *as_user, *command],
            env=QUIET, input=stdin, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What systemctl says."""
        return self.run("systemctl", *arguments, check=check).stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        said = self.systemctl("show", unit, f"--property={','.join(properties)}")
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def journal(self, *arguments: str) -> str:
        """What journalctl says."""
        return self.run("journalctl", "--no-pager", *arguments, check=False).stdout

    def path(self, inside: str) -> Path:
        """A file of the machine, as seen from here. Not for what a private mount of a service covers."""
        return Path(f"/proc/{self._init}/root{inside}")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file in the machine."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def connect(self, port: int, timeout: float = 60.0) -> socket.socket:
        """A TCP connection to 127.0.0.1 in the machine.

        Raises:
            OSError: nobody listens there.
        """
        made: list[socket.socket] = []

        def make() -> None:  # the network of a thread is its own; a socket stays in the one it was made in
            network = os.open(f"/proc/{self._init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _call("setns", network, 0)
                made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            finally:
                os.close(network)

        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        made[0].settimeout(timeout)
        try:
            made[0].connect(("127.0.0.1", port))
        except OSError:
            made[0].close()
            raise
        return made[0]

    # --- its life --------------------------------------------------------------------------------------------------

    def _enter(self, *namespaces: str) -> list[str]:
        return ["nsenter", f"--target={self._init}", *namespaces, "--"]

    def _wait_up(self) -> None:
        until, said = time.monotonic() + BOOT_S, "nothing"
        while time.monotonic() < until and self._outer.poll() is None:
            self._init = self._init or _child_of(self._outer.pid)
            if self._init:
                # Before the root is turned this asks the host's systemd, or nobody: the name tells which it was.
                asked = self.run("sh", "-c", "cat /etc/hostname; systemctl is-system-running", check=False)
                said = asked.stdout.strip()
                if said.splitlines() in ([self.name, "running"], [self.name, "degraded"]):
                    return
            time.sleep(0.05)
        raise Failed(f"the machine {self.name} did not come up ({said}):\n{(self.state / 'boot.log').read_text()}")

    def _power_off(self) -> None:
        if self._init and self._outer.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired, Failed):
                self.run("systemctl", "--force", "--force", "poweroff", check=False, timeout=10)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._outer.wait(5)
        if self._outer.poll() is None:
            if self._init:
                os.kill(self._init, signal.SIGKILL)  # PID 1 of a namespace takes all of it with it
            self._outer.kill()
        self._outer.wait()
        for _ in range(40):
            _remove_groups(self._group)
            if not self._group.exists():
                break
            time.sleep(0.05)
        shutil.rmtree(self.state, ignore_errors=True)


def _cgroup2() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


def _child_of(pid: int) -> int:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def _sweep(groups: Path) -> None:
    """What machines have left whose process was killed: they ended with it, and nobody tidied up."""
    for state in STATES.iterdir() if STATES.is_dir() else ():
        pid = state.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _remove_groups(groups / f"headrace-{state.name}")
            shutil.rmtree(state, ignore_errors=True)


def _remove_groups(group: Path) -> None:
    for below in sorted(group.rglob("*"), reverse=True) if group.exists() else ():
        if stat.S_ISDIR(below.lstat().st_mode):
            with contextlib.suppress(OSError):
                below.rmdir()
    with contextlib.suppress(OSError):
        group.rmdir()


# --- PID 1 of the machine ---------------------------------------------------------------------------------------------

_RDONLY, _NOSUID, _REMOUNT, _BIND, _REC, _PRIVATE, _SHARED = 1, 2, 32, 4096, 16384, 1 << 18, 1 << 20
_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def _mount(kind: str, where: Path, options: str = "", *, source: str = "headrace", flags: int = 0) -> None:
    where.mkdir(parents=True, exist_ok=True)
    _call("mount", source.encode(), str(where).encode(), kind.encode(), flags, options.encode())


def _bind(source: str, where: Path, *, writable: bool = False) -> None:
    if Path(source).is_dir():
        where.mkdir(parents=True, exist_ok=True)
    elif not where.exists():
        where.parent.mkdir(parents=True, exist_ok=True)
        where.touch()
    _call("mount", source.encode(), str(where).encode(), None, _BIND | _REC, None)
    if not writable:
        _call("mount", None, str(where).encode(), None, _BIND | _REMOUNT | _RDONLY, None)


def _build_root(root: Path, above: Path, binds: list[list[str]]) -> None:
    for part in ("changes", "work"):
        (above / part).mkdir()
    _mount("overlay", root, f"lowerdir=/,upperdir={above}/changes,workdir={above}/work")
    _mount("proc", root / "proc")
    _bind(str(root / "proc/sys"), root / "proc/sys")  # the kernel's settings are not the machine's
    _mount("sysfs", root / "sys")
    _call("mount", None, str(root / "sys").encode(), None, _BIND | _REMOUNT | _RDONLY, None)
    _mount("cgroup2", root / "sys/fs/cgroup")
    for volatile, mode in (("run", "755"), ("tmp", "1777"), ("dev", "755"), ("dev/shm", "1777")):
        _mount("tmpfs", root / volatile, f"mode={mode}")
    for node in ("null", "zero", "full", "random", "urandom", "tty"):
        _bind(f"/dev/{node}", root / "dev" / node, writable=True)
    _mount("devpts", root / "dev/pts", "newinstance,ptmxmode=0666,mode=620,gid=5")
    for link, target in (
        ("ptmx", "pts/ptmx"), ("console", "null"), ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"),
    ):  # fmt: skip
        (root / "dev" / link).symlink_to(target)
    for source, where in binds:
        _bind(source, root / where.lstrip("/"))


def _settle_in(root: Path, name: str) -> None:
    (root / "etc/hostname").write_text(name + "\n")
    (root / "etc/fstab").write_text("")
    units = root / "run/systemd/system"
    units.mkdir(parents=True)
    for target in BOOT_TARGETS:
        for place in ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system"):
            wants = root / place / f"{target}.target.wants"
            for unit in os.listdir(wants) if wants.is_dir() else ():
                if unit not in WANTED and not (units / unit).is_symlink():
                    (units / unit).symlink_to("/dev/null")
    for unit in MADE_AT_BOOT:
        if not (units / unit).is_symlink():
            (units / unit).symlink_to("/dev/null")
    (units / "machine.target").write_text(
        "[Unit]\nDescription=A machine for a test\nRequires=basic.target\nAfter=basic.target\nWants=dbus.socket\n"
    )
    (root / "etc/systemd/system.conf.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/systemd/system.conf.d/machine.conf").write_text("[Manager]\nDefaultTimeoutStopSec=20s\n")


def _become_init(spec: str) -> NoReturn:
    given = json.loads(spec)
    _call("mount", None, b"/", None, _REC | _PRIVATE, None)
    above = Path(given["state"]) / "mount"
    _mount("tmpfs", above, "mode=755")
    root = above / "root"
    _build_root(root, above, given["binds"])
    _settle_in(root, given["name"])
    socket.sethostname(given["name"])
    os.chdir(root)
    Path(".before").mkdir()
    subprocess.run(["pivot_root", ".", ".before"], check=True)
    os.chdir("/")
    _call("umount2", b"/.before", _DETACH)
    os.rmdir("/.before")
    # systemd does this itself only outside of containers; without it credentials do not arrive at services.
    _call("mount", None, b"/", None, _REC | _SHARED, None)
    os.execve(
        SYSTEMD,
        [str(SYSTEMD), "--system", "--unit=machine.target", "--show-status=0", "--log-target=journal"],
        {"container": "headrace-test", "TERM": "linux", "PATH": PATH},
    )


if __name__ == "__main__":
    _become_init(sys.argv[1])
