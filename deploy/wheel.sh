#!/bin/sh
# deploy/wheel.sh OUT [VERSION]: the wheel of headrace, with the CPU kernels for all processors and the locks with hashes.
# Made in a copy, so that nothing an earlier build left behind gets in. $PYTHON has setuptools and wheel.
set -eu
cd "$(dirname "$0")/.."
out=$1 version=${2:-}
python=${PYTHON:-.venv/bin/python}
case $python in /*) ;; */*) python=$PWD/$python ;; esac
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# The same sources make the same wheel, byte by byte, and so the same release.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH
mkdir -p "$out"
out=$(readlink -f "$out")
tar -c --exclude=__pycache__ --exclude='*.so' pyproject.toml README.md LICENSE bus ingress scheduler workers kv metrics \
    accounts batch admin_tui cli headrace_client deploy | tar -x -C "$copy"
# Their names are digests of sources and flags: what an earlier build has compiled is as good.
mkdir -p "$copy/workers/kernels/lib"
PYTHONPATH=. "$python" -m workers.kernels.build build/kernels | xargs cp --target-directory "$copy/workers/kernels/lib"
cd "$copy"
[ -z "$version" ] || sed -i "s/^version = .*/version = \"$version\"/" pyproject.toml
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --no-index \
    --config-settings=--build-option=--plat-name=linux_x86_64 --wheel-dir "$out" .
