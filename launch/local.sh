#!/usr/bin/env bash
#
# Start one run on this machine, on several Ray workers:
#
#   launch/local.sh --workers 2 CONFIG [key=value ...]             Ray ends with the run
#   launch/local.sh --workers 2 --nodes 2 CONFIG [key=value ...]   on a cluster of several nodes, made for the run
#
# The cores and GPUs of the machine are divided among the nodes; a worker needs compute.threads cores of one node. The
# nodes accept connections only with a token made for this start. At the end the script ends its own Ray and no other.
# Exit code: that of the run. SIGTERM and Ctrl-C are passed to the run.
# PYTHON: the Python of the package (default .venv/bin/python).
set -euo pipefail

fail() { echo "local.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^[^#]/{s/^#$//p; s/^# //p}' "${BASH_SOURCE[0]}"; }

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
export PYTHONSAFEPATH=1 # import nothing from the current folder
set -m # children get their own process groups, so that Ctrl-C reaches only the run, through this script

started=()
node() { # OPTION...: start a node, which runs until this script ends
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
    folder=$(mktemp -d /tmp/ray_XXXXXX) # closed to other users, because Ray opens its own folder in it to everyone
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
