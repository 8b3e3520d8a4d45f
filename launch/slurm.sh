#!/usr/bin/env bash
#SBATCH --job-name=dist-condense
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:USR1@300
#
# Start one run on the nodes of a Slurm job, from the repository on a file system that all nodes see:
#
#   sbatch --nodes=8 --gpus-per-node=8 --time=24:00:00 launch/slurm.sh CONFIG [key=value ...]
#
# 300 seconds before the time limit the run saves its state; the job is queued again and continues. After a node failure
# it is queued again as well. `scancel --batch --signal=TERM JOB` saves and stops for good; a plain `scancel` does not
# save. Exit code: that of the run; 1 if Ray did not start.
#
# --exclusive is needed because Ray, when it is done, ends every Ray of yours on a node.
#
# PYTHON                 the Python of the package (default .venv/bin/python)
# HEAD_IP                address of the first node (default its first address)
# DIST_CONDENSE_WORKERS  number of workers (default one per GPU)
# DIST_CONDENSE_OUTPUT   shared folder for outputs (default $PWD/outputs)
set -euo pipefail

fail() { echo "slurm.sh: $*" >&2; exit 1; }

if [[ $# == 0 || $1 == --help ]]; then
    sed -n '2,/^[^#]/{s/^#$//p; s/^# //p}' "${BASH_SOURCE[0]}"
    exit $(($# == 0 ? 2 : 0))
fi
[[ -n ${SLURM_JOB_ID:-} ]] || fail "this is not a Slurm job: sbatch --nodes=N launch/slurm.sh $*"

python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
[[ -x $python ]] || fail "no Python at $python: run make install, or set PYTHON"
export PATH="${python%/*}:$PATH" DIST_CONDENSE_OUTPUT="${DIST_CONDENSE_OUTPUT:-$PWD/outputs}"
gpus=${SLURM_GPUS_ON_NODE:-0}
((gpus == 0)) || export DIST_CONDENSE_WORKERS="${DIST_CONDENSE_WORKERS:-$((gpus * SLURM_JOB_NUM_NODES))}"

SLURM_STATE=$(mktemp -d) # on this node, which starts the run: new for each start, and for this user alone
trap 'rm -rf "$SLURM_STATE"' EXIT
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # srun --export=ALL passes it to the nodes
export PYTHONSAFEPATH=1 # import nothing from the current folder
export SLURM_STATE RAY_AUTH_MODE=token RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

again=false
trap 'again=true; ask' USR1
trap 'again=false; ask' TERM
# shellcheck disable=SC2329  # the traps call it
ask() { kill -TERM "$(cat "$SLURM_STATE/pid")" || echo "slurm.sh: there is no run to stop" >&2; }

# shellcheck disable=SC2016  # for the shell on the head node
on_head='python -m dist_condense.run "$@" & echo $! >"$SLURM_STATE/pid"; wait $!; echo $? >"$SLURM_STATE/exit"'
# Ray opens its folder to everyone, so it is inside one of ours.
# shellcheck disable=SC2016  # for the shell on each node
on_node='RAY_TMPDIR=$(mktemp -d "${RAY_TMPDIR:-/tmp}/dc_XXXXXX") && export RAY_TMPDIR &&
    exec ray symmetric-run --temp-dir="$RAY_TMPDIR/ray" "$@"'
srun --export=ALL --cpu-bind=none --wait=10 bash -c "$on_node" node --address "${HEAD_IP:-$(hostname -I | cut -d' ' -f1)}:6379" \
    --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="$gpus" \
    --disable-usage-stats -- bash -c "$on_head" run "$@" &
while kill -0 $! 2>/dev/null; do wait $! || true; done # a signal ends the wait, not the job

[[ -s $SLURM_STATE/exit ]] || fail "Ray did not start, or lost its head node: see above"
code=$(<"$SLURM_STATE/exit")
if [[ $code == 143 && $again == true ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
