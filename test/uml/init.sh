#!/bin/bash
# PID 1 of the machine that run.sh boots. The environment (the kernel's command line) has stage and peapod.
export PATH=$(dirname "$peapod"):/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/mnt/home TMPDIR=/mnt/tmp CONTAINERS_STORAGE_CONF=/mnt/storage.conf KUBECONFIG=/mnt/data/kubeconfig
trap 'sync; halt -f' EXIT

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t ext4 /dev/ubda /mnt
mkdir -p "$HOME" "$TMPDIR" /mnt/lib
ln -sfn /usr/lib/uml/modules /mnt/lib/modules # /lib/modules may not exist
for module in overlay veth bridge; do modprobe -d /mnt "$module"; done
ip link set lo up
hostname uml
printf '[storage]\ndriver = "overlay"\ngraphroot = "/mnt/storage"\nrunroot = "/run/containers"\n' >"$CONTAINERS_STORAGE_CONF"
cd "$(dirname "$0")" || exit

fail() {
	echo "not ok $*"
	kubectl get pods -o wide
	kubectl get events
	cat /mnt/log
	exit 1
}

# check NAME COMMAND… fails the stage unless the command succeeds.
check() {
	local name=$1 output
	shift
	output=$("$@" 2>&1) || fail "$name: $* printed: $output"
	echo "ok $stage: $name"
}

# same NAME WANT COMMAND… compares what the command prints.
same() {
	local name=$1 want=$2 got
	shift 2
	got=$("$@" 2>&1)
	[ "$got" = "$want" ] || fail "$name: want '$want', got '$got'"
	echo "ok $stage: $name"
}

# eventually NAME COMMAND… waits until the command succeeds.
eventually() {
	local name=$1 i
	shift
	for ((i = 0; i < 150; i++)); do
		"$@" >/dev/null 2>&1 && echo "ok $stage: $name" && return
		sleep 0.2
	done
	fail "$name"
}

up() {
	: >/mnt/log
	peapod up --data-dir /mnt/data --run-dir /run/peapod >>/mnt/log 2>&1 &
	daemon=$!
	eventually "the node is Ready" grep 'is Ready' /mnt/log
}

term() {
	kill "$daemon"
	wait "$daemon" || fail "SIGTERM: peapod ended with $?"
}

ready() { check "$* Ready" kubectl wait --for=condition=Ready --timeout=60s "$@"; }
ids() { kubectl get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID}{"\n"}{end}'; }
# restarted N tells whether all containers run, each restarted N times.
restarted() {
	[ "$(kubectl get pods limits shared -o 'jsonpath={.items[*].status.containerStatuses[*].ready} {.items[*].status.containerStatuses[*].restartCount}')" = "true true true $1 $1 $1" ]
}

# group FILE prints a file of the control group of the Pod "limits".
group() { cat /sys/fs/cgroup/peapod-*/pod"$(kubectl get pod limits -o 'jsonpath={.metadata.uid}')"/"$1"; }
traces() {
	awk '{ print $5 }' /proc/self/mountinfo
	ip -o link
	ip route
	find /sys/fs/cgroup -mindepth 1 -type d
	ps -eo args | grep -E '^([^ ]*/)?(conmon|catatonit) '
}

traces >/run/before

case $stage in
pods)
	check "load an image" peapod image load ../../.images/busybox.tar
	up
	check "create Pods" kubectl create -f pods.yaml
	ready pod/limits pod/shared pod/hostnetwork
	same "memory and CPU limits inside" $'67108864\n0\n1\n20000 100000' \
		kubectl exec limits -- sh -c 'cd /sys/fs/cgroup; cat memory.max memory.swap.max memory.oom.group cpu.max'
	same "a Pod's memory limit outside" 67108864 group memory.max
	same "a Pod's CPU limit outside" "20000 100000" group cpu.max
	check "out of memory" kubectl wait --for=jsonpath='{.status.phase}'=Failed --timeout=60s pod/oom
	same "out of memory: reason" "OOMKilled 137" \
		kubectl get pod oom -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}'
	same "one PID namespace" 2 kubectl exec shared -c a -- sh -c 'ps -o args | grep -c "[s]leep 100"'
	same "host network" "$(ip -o link | wc -l)" kubectl exec hostnetwork -- sh -c 'ls /sys/class/net | wc -l'
	same "logs" hello kubectl logs limits
	before=$(ids)
	kill -9 "$daemon"
	wait "$daemon" 2>/dev/null
	up
	same "the same containers after kill -9" "$before" ids
	term
	up
	same "the same containers after SIGTERM" "$before" ids
	check "delete" kubectl delete pod hostnetwork oom --timeout=60s
	;;
reboot)
	up
	eventually "each container is restarted once" restarted 1
	check "a Pod to cut the power under" kubectl run cut-1 --image=busybox --image-pull-policy=IfNotPresent -- sleep infinity
	check "no container has crashed" restarted 1
	check "and another" kubectl run cut-2 --image=busybox --image-pull-policy=IfNotPresent -- sleep infinity
	echo "done $stage"
	sleep infinity
	;;
powercut)
	up
	eventually "each container is restarted once more" restarted 2
	sleep 15 # longer than the first back-off
	check "no container has crashed" restarted 2
	ready pod/cut-1 pod/cut-2
	check "exec" kubectl exec cut-2 -- true
	same "this kernel is asked for noswap once" 1 sh -c "dmesg | grep -c noswap"
	check "a new Pod" kubectl run new --image=busybox --image-pull-policy=IfNotPresent -- sleep infinity
	ready pod/new
	check "load an image" peapod image load ../../.images/busybox.tar
	term
	check "down" peapod down --data-dir /mnt/data
	same "nothing is left" "$(</run/before)" traces
	;;
*) fail "there is no stage '$stage'" ;;
esac
echo "done $stage"
