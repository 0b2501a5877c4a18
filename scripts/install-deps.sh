#!/bin/sh
# Installs the Debian packages that peapod and its tests run, those that are missing only.
#   install-deps.sh            what peapod needs
#   install-deps.sh --bench    also what it is measured against
set -eu

packages="busybox-static catatonit conmon crun iproute2 nftables"
if [ "${1:-}" = --bench ]; then
	packages="$packages podman iptables"
fi

missing=
for package in $packages; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "install-deps.sh: needs root to install:$missing" >&2
	exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
