#!/bin/bash
# Runs peapod as a whole on another machine: a user-mode-linux kernel with pure cgroup v2, which is then rebooted and has
# its power cut. This machine's files are its root, read-only; what it writes is in an ext4 image.
#
#   sudo test/uml/run.sh [PEAPOD]     after make build images; needs kubectl and Debian's user-mode-linux, kmod, e2fsprogs
set -euo pipefail
peapod=$(realpath "${1:-$(dirname "$0")/../../bin/peapod}")
cd "$(dirname "$0")/../.."

for program in linux.uml modprobe mkfs.ext4 kubectl; do
	command -v "$program" >/dev/null || { echo "skipped: there is no $program here"; exit 0; }
done
[ "$(id -u)" -eq 0 ] || { echo "skipped: needs root"; exit 0; }
[ -x "$peapod" ] && [ -f .images/busybox.tar ] || { echo "run 'make build images' first" >&2; exit 1; }

dir=$(mktemp -d /var/tmp/peapod-uml.XXXXXX)
machine=
finish() {
	[ -z "$machine" ] || cut
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM
truncate -s 2G "$dir/disk"
mkfs.ext4 -q "$dir/disk"

# boot STAGE starts the machine and waits until it prints "done STAGE"; it then halts, or waits for its power to be cut.
boot() {
	echo "== $1"
	: >"$dir/$1"
	# A session of its own: its kernel is several processes, and they go together.
	setsid linux.uml mem=2G root=/dev/root rootfstype=hostfs rootflags=/ ro ubd0="$dir/disk" con=null con0=fd:0,fd:1 quiet \
		init="$PWD/test/uml/init.sh" stage="$1" peapod="$peapod" </dev/null >"$dir/$1" 2>&1 &
	machine=$!
	for ((i = 0; i < 3000; i++)); do
		if grep -q "^done $1" "$dir/$1" || ! kill -0 "$machine" 2>/dev/null; then break; fi
		sleep 0.1
	done
	grep "^ok " "$dir/$1" || true
	grep -q "^done $1" "$dir/$1" || { echo "FAILED; the machine's console:" >&2; cat "$dir/$1" >&2; exit 1; }
}

# cut ends the machine as a power cut does: what it has not written to its disk is lost.
cut() {
	kill -9 -- -"$machine" 2>/dev/null || true
	wait "$machine" 2>/dev/null || true
	machine=
}

boot pods
wait "$machine"
boot reboot
cut
boot powercut
wait "$machine"
machine=
echo PASS
