#!/bin/bash
# Shows peapod at work, in a folder of its own, and leaves nothing behind: no Pod, mount, network device or file.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
	echo "the demo runs containers and so needs root: sudo make demo" >&2
	exit 1
fi

export PATH=$PWD/bin:$PATH
dir=$(mktemp -d /var/tmp/peapod-demo.XXXXXX)
daemon=
export KUBECONFIG=$dir/data/kubeconfig

# Container storage of the demo's own, so that the machine's images stay as they are.
export CONTAINERS_STORAGE_CONF=$dir/storage.conf
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$dir/storage" "$dir/storage-run" >"$CONTAINERS_STORAGE_CONF"

# Any kubectl will do; without one, the one that is built in.
command -v kubectl >/dev/null || kubectl() { peapod kubectl "$@"; }

say() { printf '\n\033[1m%s\033[0m\n' "== $*"; }
show() { # prints a command as one would type it, and runs it
	printf '\033[2m$ %s\033[0m\n' "$*"
	"$@"
}

# Takes everything down; on failure shows the end of the daemon's log first.
finish() {
	code=$?
	trap - EXIT
	if [ "$code" -ne 0 ]; then
		say "the demo failed; the last lines of peapod's log:"
		tail -n 20 "$dir/log" 2>/dev/null || true
	fi
	if [ -n "$daemon" ]; then
		kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true
		peapod down --data-dir "$dir/data" >/dev/null || code=1
	fi
	if awk '{ print $5 }' /proc/self/mountinfo | grep "^$dir/"; then
		echo "the mounts above were left behind; look at $dir" >&2
		exit 1
	fi
	rm -rf "$dir"
	[ "$code" -ne 0 ] || say "all of it is down again: no Pod, mount, network device or file of the demo is left"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "two images, made from Debian packages, into container storage"
show peapod image load .images/*.tar

say "peapod up"
mkfifo "$dir/ready"
printf '\033[2m$ peapod up --node-name node-1 … &\033[0m\n'
peapod up --data-dir "$dir/data" --run-dir "$dir/run" --listen 127.0.0.1:16443 \
	--pod-cidr 10.231.0.0/16 --node-name node-1 >"$dir/ready" 2>"$dir/log" &
daemon=$!
exec 3<"$dir/ready"
IFS= read -r -t 60 line <&3 || exit 1
echo "$line"
show kubectl get nodes
kubectl wait --timeout=30s --for=create serviceaccount/default >/dev/null

say "the examples, one manifest a feature"
show kubectl apply -f examples/
for condition in \
	"jsonpath={.status.phase}=Succeeded pod/volumes pod/environment pod/service-account-token pod/phase-succeeded" \
	"jsonpath={.status.phase}=Failed pod/phase-failed pod/limits" \
	"condition=Ready pod/nodename pod/hostaliases-pod pod/share-process-namespace pod/host-namespaces pod/hostport pod/lifecycle-demo pod/probes pod/init-containers pod/shell"; do
	# shellcheck disable=SC2086 # a list of words
	kubectl wait --timeout=60s --for=$condition >/dev/null
done
show kubectl get pods -o wide

say "hostAliases: the Pod's /etc/hosts"
show kubectl exec hostaliases-pod -- cat /etc/hosts

say "lifecycle: what the postStart hook wrote"
show kubectl exec lifecycle-demo -- cat /usr/share/message

say "shareProcessNamespace: the shell container sees nginx"
show kubectl exec share-process-namespace -c shell -- ps

say "nodeSelector: a Pod that no node fits is Pending, and says why"
show kubectl get events --field-selector involvedObject.name=nodeselector -o custom-columns=REASON:.reason,MESSAGE:.message
show kubectl label node node-1 disktype=ssd
kubectl wait --timeout=60s --for=condition=Ready pod/nodeselector >/dev/null
show kubectl get pod nodeselector

say "what happened to the lifecycle demo"
show kubectl get events --field-selector involvedObject.name=lifecycle-demo -o custom-columns=REASON:.reason,MESSAGE:.message

say "peapod down"
show peapod status --data-dir "$dir/data"
