#!/bin/sh
# deploy/install.sh WHEEL|DIR: headrace on a host without dpkg, as root. DIR holds the wheel, and all others where there is no
# network. May be repeated at any time: it takes up an interrupted installation, and with a newer wheel it is an upgrade.
set -eu
[ $# -eq 1 ] && [ -e "$1" ] || { sed -n 2,3p "$0" >&2; exit 2; }
given=$(readlink -f "$1")
wheel=$given
[ ! -d "$given" ] || wheel=$(echo "$given"/headrace-*.whl)
[ -f "$wheel" ] || { echo "$given must hold exactly one wheel of headrace" >&2; exit 1; }

PYTHONPATH="$wheel" PYTHONDONTWRITEBYTECODE=1 "${PYTHON:-/usr/bin/python3}" -m cli.release "$given"
mkdir -p /usr/local/bin
ln -sfn /opt/headrace/current/bin/headrace /usr/local/bin/headrace
# The units of an installation are renewed with the switch; a new one gets its first.
[ -e /etc/systemd/system/headrace.target ] || /opt/headrace/current/bin/headrace systemd install
