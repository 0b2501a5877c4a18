#!/bin/sh
# Installs the Debian packages that peapod and its tests run, those that are missing only.
#   install-deps.sh            what peapod needs
#   install-deps.sh --bench    also what it is measured against
set -eu

packages="busybox-static catatonit conmon crun iproute2 nftables"
if [ "${1:-}" = --bench ]; then
	packages="$packages podman runc iptables"
fi

missing=
for package in $packages; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
# images.sh needs the package lists, even where nothing is missing.
lists=
apt-cache show busybox-static >/dev/null 2>&1 || lists=missing
[ -n "$missing$lists" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "install-deps.sh: needs root to install:${missing:- the package lists}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
[ -n "$missing" ] || exit 0
echo "installing:$missing"
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
