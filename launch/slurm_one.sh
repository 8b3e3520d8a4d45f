#!/usr/bin/env bash
#SBATCH --job-name=dist-condense
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:USR1@300
#
# Start one run on a part of one node of Slurm, which others may share, or one run for each index of a job array:
#
#   sbatch --gpus=2 --cpus-per-task=16 --mem=64G --time=8:00:00 launch/slurm_one.sh CONFIG [key=value ...]
#   sbatch --array=0-4 --gpus=1 --cpus-per-task=8 --mem=32G launch/slurm_one.sh CONFIG seed=%a output=outputs/mine_%a
#
# %a in an argument is the index in the array. 300 seconds before the time limit the run saves its state; the job is
# queued again and continues. `scancel --batch --signal=TERM JOB` saves and stops for good; a plain `scancel` does not
# save. Exit code: that of the run. For several nodes: launch/slurm.sh.
#
# PYTHON                 the Python of the package, or a script that starts it in a container (default .venv/bin/python)
# DIST_CONDENSE_OUTPUT   parent folder of outputs (default $PWD/outputs)
set -euo pipefail

fail() { echo "slurm_one.sh: $*" >&2; exit 1; }

if [[ $# == 0 || $1 == --help ]]; then
    sed -n '2,/^[^#]/{s/^#$//p; s/^# //p}' "${BASH_SOURCE[0]}"
    exit $(($# == 0 ? 2 : 0))
fi
[[ -n ${SLURM_JOB_ID:-} ]] || fail "this is not a Slurm job: sbatch launch/slurm_one.sh $*"

python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
[[ -x $python ]] || fail "no Python at $python: run make install, or set PYTHON"
export DIST_CONDENSE_OUTPUT="${DIST_CONDENSE_OUTPUT:-$PWD/outputs}" RAY_USAGE_STATS_ENABLED=0
export PYTHONSAFEPATH=1 # import nothing from the current folder
unset RAY_ADDRESS # the run starts a Ray of its own

given=("${@//%a/${SLURM_ARRAY_TASK_ID:-%a}}") gpus=${SLURM_GPUS_ON_NODE:-0}
if ((gpus > 0)) && [[ " $* " != *" cluster.workers="* ]]; then given+=("cluster.workers=$gpus"); fi

again=false
trap 'again=true; kill -TERM $run' USR1
trap 'again=false; kill -TERM $run' TERM
"$python" -m dist_condense.run "${given[@]}" &
run=$! code=0
while kill -0 $run 2>/dev/null; do wait $run && code=0 || code=$?; done # a signal ends the wait, not the run

if [[ $code == 143 && $again == true ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
