"""From a configuration and a host to the files that systemd reads. Pure, but for reading the templates.

What is the same everywhere is in `deploy/systemd/units`. What a configuration adds is in drop-ins: which instances
there are (of `headrace.target`), and the threads, cores, GPU, group, paths and secrets of each.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from bus.config import Config, parse_address
from bus.names import ACCOUNTS, BATCH, KV, METRICS, parse_process, parse_worker, worker_of
from cli.supervisor.children import tuning
from cli.supervisor.plan import Unit, desired_units
from cli.systemd.placement import Host, Place, place, unit_model

UNITS: Final = "etc/systemd/system"
MARK: Final = "Made by `headrace systemd install`, which overwrites it."
OTHER: Final = {
    "sysusers.conf": "etc/sysusers.d/headrace.conf",
    "tmpfiles.conf": "etc/tmpfiles.d/headrace.conf",
    "journald.conf": "etc/systemd/journald@headrace.conf",
    "polkit.rules": "etc/polkit-1/rules.d/50-headrace.rules",
}
_UNIT: Final = re.compile(r"headrace-(?:(kv|metrics|accounts|batch)|(scheduler|worker|standby|ingress)@(.+))\.service")
_DEVICES: Final = ("/dev/nvidiactl", "/dev/nvidia-uvm")
_HIDDEN: Final = ("/home/", "/root/", "/run/user/")


class Layout(NamedTuple):
    """Where an installation is."""

    executable: str = "/opt/headrace/current/bin/headrace"
    config: str = "/etc/headrace/headrace.toml"
    models: str = "/var/lib/headrace/models"


class Unfit(ValueError):
    """The configuration cannot be served by these units. The message says what to change."""


def unit_of(process: str) -> str:
    """The service of a process name."""
    role, instance = parse_process(process)
    return f"headrace-{role}.service" if instance == "host" else f"headrace-{role}@{instance}.service"


def process_of(unit: str) -> str | None:
    """The process that a unit is started as; None where it is not one of ours that last."""
    match = _UNIT.fullmatch(unit)
    if match is None:
        return None
    of_host = {"kv": KV, "metrics": METRICS, "accounts": ACCOUNTS, "batch": BATCH}
    return of_host[match[1]] if match[1] else f"{match[2]}@{match[3]}"


def render(config: Config, host: Host, layout: Layout) -> dict[str, str]:
    """Every file, by its path below the root.

    Raises:
        Unfit: see there.
        TooFewGpus: see there.
    """
    _check(config)
    values = {**layout._asdict(), "http": _listen_address(config.ingress.http)}
    base = package_files("deploy") / "systemd"
    files = {
        f"{UNITS}/{path}": fill(text, values)
        for path, text in _texts(base / "units")
        if not path.startswith("headrace-gpu-") or _on_gpus(config)
    }
    files |= {there: fill((base / here).read_text(), values) for here, there in OTHER.items()}
    for unit, lines in _drop_ins(config, host).items():
        files[f"{UNITS}/{unit}.d/30-configuration.conf"] = "\n".join(lines) + "\n"
    return {path: _marked(path, text) for path, text in sorted(files.items())}


def example() -> str:
    """The configuration that is installed where there is none."""
    return (package_files("deploy") / "systemd" / "headrace.toml").read_text()


def fill(text: str, values: dict[str, str]) -> str:
    """Replace `@NAME@`. A name that is not known is a mistake in the template."""
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1].lower()], text)


def _marked(path: str, text: str) -> str:
    comment = "//" if path.endswith(".rules") else "#"
    return f"{comment} {MARK}\n{text}"


def _texts(directory: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _texts(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_text()


# --- what the configuration adds --------------------------------------------------------------------------------------


def _drop_ins(config: Config, host: Host) -> dict[str, list[str]]:
    units = desired_units(config)
    services = [unit_of(unit.name) for unit in units]
    listening = ("scheduler", "ingress", "accounts", "batch")
    sockets = [unit_of(u.name).replace(".service", ".socket") for u in units if u.role in listening]
    behind = [unit_of(unit.name) for unit in units if unit.role in ("scheduler", "worker")]
    gpus = ["headrace-gpu-setup.service"] if _on_gpus(config) else []
    groups: dict[str, list[str]] = {}
    for unit in units:
        if (group := _group(unit, config)) is not None:
            groups.setdefault(f"headrace-tp@{group}.target", []).append(unit_of(unit.name))
    found = {
        "headrace.target": ["[Unit]", *(f"Wants={unit}" for unit in (*sockets, *services, *gpus, *groups))],
        "headrace-drain.service": ["[Unit]", *(f"After={unit}" for unit in behind)],
    }
    for target, members in groups.items():
        found[target] = ["[Unit]", *(f"Wants={member}" for member in members)]
    places = place(config, host)
    for unit in units:
        if lines := _of_unit(unit, config, host, places):
            found[unit_of(unit.name)] = lines
    if config.ingress.zmq != "ipc":
        tcp_host, port = parse_address(config.ingress.zmq.removeprefix("tcp://").replace("*", "0.0.0.0"))
        for index in range(config.ingress.processes):
            address = _listen_address(f"{tcp_host if ':' not in tcp_host else f'[{tcp_host}]'}:{port + index}")
            found[f"headrace-ingress@{index}.socket"] = ["[Socket]", f"ListenStream={address}"]
    return found


def _of_unit(unit: Unit, config: Config, host: Host, places: dict[str, Place]) -> list[str]:
    service = [f"Environment={name}={value}" for name, value in tuning(unit, config, host.cores).items()]
    head: list[str] = []
    match unit.role:
        case "worker" | "standby":
            worker = worker_of(unit.name) if unit.role == "standby" else unit.name
            service += _placed(places[worker])
            model = config.model_named(unit_model(worker))
            service.append(f"WatchdogSec={max(10, round(2 * model.hang_s))}")
            if model.device == "cuda":
                head += ["Wants=headrace-gpu-setup.service", "After=headrace-gpu-setup.service"]
            if model.tensor_parallel > 1:
                head += [f"JoinsNamespaceOf={unit_of(other)}" for other in _same_replica(unit, config)]
                service += ["RestrictAddressFamilies=AF_INET AF_NETLINK", "IPAddressAllow=localhost"]
            if (group := _group(unit, config)) is not None:
                head += [f"PartOf=headrace-tp@{group}.target", f"OnFailure=headrace-tp-restart@{group}.service"]
                service.append("Restart=no")
        case "ingress":
            if config.curve is not None:
                service.append(f"LoadCredential=curve.secret:{config.curve.secret}")
            if config.upstream:  # the only connections that a process of headrace makes to others
                service += ["PrivateNetwork=no", "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK"]
                service.append("IPAddressAllow=any")
            service += [
                f"LoadCredential=upstream.{upstream.name}:{upstream.credential}"
                for upstream in config.upstream
                if upstream.credential
            ]
        case "kv" if config.kv.disk_path:
            service.append(f"ReadWritePaths={config.kv.disk_path}")
    return [*(["[Unit]", *head] if head else []), "[Service]", *service]


def _on_gpus(config: Config) -> bool:
    return any(model.device == "cuda" for model in config.model)


def _placed(place: Place) -> list[str]:
    lines = []
    if place.cpus:
        lines.append(f"CPUAffinity={' '.join(map(str, place.cpus))}")
    if place.node >= 0:
        # Not bound: where a model is larger than the memory of its node, slower is better than dead.
        lines += ["NUMAPolicy=preferred", f"NUMAMask={place.node}"]
    if place.gpu >= 0:
        devices = (f"/dev/nvidia{place.gpu}", *_DEVICES)
        # The other GPUs are not there at all; where its own is missing the unit fails (226/NAMESPACE).
        lines += [f"BindPaths={device}" for device in devices]
        lines += [f"DeviceAllow={device} rw" for device in devices]
    return lines


def _group(unit: Unit, config: Config) -> str | None:
    """MODEL.REPLICA of a rank that starts anew with the others; None for all other processes.

    Ranks with standbys start anew each by itself: the standbys are the group that goes on meanwhile.
    """
    if unit.role != "worker":
        return None
    worker = parse_worker(parse_process(unit.name).instance)
    model = config.model_named(worker.model)
    return f"{worker.model}.{worker.replica}" if model.tensor_parallel > 1 and not model.standby else None


def _same_replica(unit: Unit, config: Config) -> list[str]:
    """The other processes that may be ranks of its replica: they share a network of nobody else's."""
    mine = parse_worker(parse_process(unit.name).instance)
    names = [other.name for other in desired_units(config) if other.role in ("worker", "standby")]
    others = {name: parse_worker(parse_process(name).instance) for name in names if name != unit.name}
    return [name for name, other in others.items() if (other.model, other.replica) == (mine.model, mine.replica)]


def _listen_address(text: str) -> str:
    """As ListenStream= reads it.

    Raises:
        Unfit: not numeric.
    """
    host, port = parse_address(text)
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise Unfit(f"{text}: systemd listens on addresses, not on names; write the number") from None
    if port == 0:
        raise Unfit(f"{text}: a port is needed, not 0")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _check(config: Config) -> None:
    for model in config.model:
        for path in (source.removeprefix("path:") for source in model.sources.values()):
            if path.startswith(_HIDDEN):
                raise Unfit(
                    f"model {model.name!r}: {path} is hidden from the services (ProtectHome=); move it, for example to "
                    "/var/lib/headrace/models or /srv"
                )
