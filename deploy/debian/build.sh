#!/bin/sh
# deploy/debian/build.sh OUT [VERSION]: one Debian package in OUT, made with dpkg-deb alone.
# It carries the wheel, the configuration and the launcher; postinst makes the release, which makes the units.
set -eu
cd "$(dirname "$0")/../.."
out=$1
version=${2:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
umask 022
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH

deploy/wheel.sh "$tree/usr/share/headrace" "$version" > /dev/null
install -D -m 644 deploy/systemd/headrace.toml "$tree/etc/headrace/headrace.toml"
install -D -m 644 LICENSE "$tree/usr/share/doc/headrace/copyright"
install -D -m 644 CHANGELOG.md "$tree/usr/share/doc/headrace/changelog"
gzip -9n "$tree/usr/share/doc/headrace/changelog"
install -D -m 644 docs/install.md "$tree/usr/share/doc/headrace/install.md"
mkdir -p "$tree/usr/bin" "$tree/DEBIAN"
ln -s /opt/headrace/current/bin/headrace "$tree/usr/bin/headrace"

for script in preinst postinst prerm postrm; do
    [ ! -e "deploy/debian/$script" ] || install -m 755 "deploy/debian/$script" "$tree/DEBIAN/$script"
done
echo /etc/headrace/headrace.toml > "$tree/DEBIAN/conffiles"
size=$(du -sk --exclude=DEBIAN "$tree" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$size/" deploy/debian/control > "$tree/DEBIAN/control"
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum > DEBIAN/md5sums)
find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
dpkg-deb --root-owner-group --build "$tree" "$out/headrace_${version}_amd64.deb" > /dev/null
echo "$out/headrace_${version}_amd64.deb"
