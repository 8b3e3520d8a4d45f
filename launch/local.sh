#!/usr/bin/env bash
#
# One run on this machine, by several Ray workers:
#
#   launch/local.sh --workers 2 CONFIG [key=value ...]             Ray lives as long as the run
#   launch/local.sh --workers 2 --nodes 2 CONFIG [key=value ...]   on a cluster of several nodes, made for the run
#
# The nodes share the cores and GPUs out (compute.threads cores a worker must fit in one), and take connections with a
# token of this start alone. What is started here is ended here, and no other Ray.
# Exit code: that of the run. SIGTERM and Ctrl-C reach it. PYTHON: the package's (.venv/bin/python).
set -euo pipefail

fail() { echo "local.sh: $*" >&2; exit 1; }
usage() { sed -n 's/^#$//p; s/^# //p' "${BASH_SOURCE[0]}"; }

workers=1 nodes=0
while [[ ${1:-} == --* ]]; do
    case $1 in
        --help) usage; exit ;;
        --workers) workers=${2:?a number} && shift 2 ;;
        --nodes) nodes=${2:?a number} && shift 2 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[[ $# -gt 0 && $workers =~ ^[1-9][0-9]*$ && $nodes =~ ^[0-9]+$ ]] || { usage >&2; exit 2; }
python=${PYTHON:-$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python}
[[ -x $python ]] || fail "no Python at $python: run make install, or set PYTHON"
export RAY_USAGE_STATS_ENABLED=0
export PYTHONSAFEPATH=1 # nothing is imported from the folder that this is called in
set -m # what is started has a process group of its own: Ctrl-C reaches the run alone, through this script

started=()
node() { # OPTION...: a node, until this script ends
    "${python%/*}/ray" start --block --disable-usage-stats --node-ip-address=127.0.0.1 \
        --dashboard-agent-listen-port=0 --num-cpus=$((cores > 0 ? cores : 1)) --num-gpus="$gpus" "$@" \
        >"$folder/node-${#started[@]}.log" 2>&1 &
    started+=($!)
}
# shellcheck disable=SC2329  # the trap calls it
end() {
    ((${#started[@]} == 0)) || kill -TERM "${started[@]}" 2>/dev/null || true
    wait
    rm -rf "$folder"
}

if ((nodes > 0)); then
    cores=$(($(nproc) / nodes)) gpus=0
    if command -v nvidia-smi >/dev/null; then gpus=$(($(nvidia-smi --list-gpus | wc -l) / nodes)); fi
    folder=$(mktemp -d /tmp/ray_XXXXXX) # closed to other users; Ray opens its own folder, below it, to everyone
    trap end EXIT
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
    client=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    node --head --port=0 --include-dashboard=false --temp-dir="$folder/ray" --ray-client-server-port="$client"
    until [[ -s $folder/ray/ray_current_cluster ]]; do
        kill -0 "${started[0]}" 2>/dev/null || fail "Ray did not start: $(<"$folder/node-0.log")"
        sleep 0.5
    done
    RAY_ADDRESS=$(<"$folder/ray/ray_current_cluster")
    export RAY_ADDRESS
    for ((i = 1; i < nodes; i++)); do node --address="$RAY_ADDRESS"; done
fi

"$python" -m dist_condense.run "$@" cluster.workers="$workers" &
run=$! code=0
trap 'kill -TERM $run' TERM
trap 'kill -INT $run' INT
while kill -0 $run 2>/dev/null; do wait $run && code=0 || code=$?; done
exit $code
