#!/usr/bin/env bash
#
# Submit one run to a running Ray cluster, from the repository; follow its log and wait for its end.
#
#   launch/submit.sh [--address URL] [--installed] CONFIG [key=value ...]
#
# --address URL  the job API (default RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265, the end of a tunnel)
# --installed    upload nothing, because the package is installed on the cluster
#
# Uploads the package and its configs, as named in .rayignore (512 MiB at most). The job's folder is deleted at its end,
# so `output` must be an absolute path that all nodes see, or DIST_CONDENSE_OUTPUT must be set, here or on the cluster.
# DIST_CONDENSE_OUTPUT, DIST_CONDENSE_WORKERS, IMAGENET_ROOT and MLFLOW_TRACKING_URI are passed on to the job. Set an
# address with a user, a password or a query only on the cluster, because others can read a job's command line.
#
# Token: RAY_AUTH_TOKEN, or a file named by RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.
# Exit code: 0 only if the job SUCCEEDED; 1 if it failed, was stopped, refused or lost; 2 for wrong usage.
# Ctrl-C leaves the job running. RAY: the ray command to use (default .venv/bin/ray).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "submit.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^[^#]/{s/^#$//p; s/^# //p}' launch/submit.sh; }

ray=${RAY:-.venv/bin/ray} address=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265} upload=(--working-dir .)
while [[ ${1:-} == --* ]]; do
    case $1 in
        --help) usage; exit ;;
        --address) address=${2:?} && shift 2 ;;
        --installed) upload=() && shift ;;
        *) usage >&2; exit 2 ;;
    esac
done
[[ $# -gt 0 ]] || { usage >&2; exit 2; }
environment=()
for name in DIST_CONDENSE_OUTPUT DIST_CONDENSE_WORKERS IMAGENET_ROOT MLFLOW_TRACKING_URI; do
    [[ -z ${!name:-} ]] || environment+=("$name=${!name}")
done
for setting in "${environment[@]}" "$@"; do
    [[ $setting != *://*[@?]* ]] || fail "${setting%%[=:]*} may contain a password (a user or a query in an address)," \
        "and others can read a job's command line: set it on the cluster, in the environment of its nodes"
done
command -v "$ray" >/dev/null || fail "no $ray: run make install, or set RAY"
export RAY_API_SERVER_ADDRESS=$address RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
unset RAY_ADDRESS

job=dist-condense-$(date -u +%Y%m%d-%H%M%S)-$$

state() { # print the state of the job in one word
    local status
    status=$("$ray" job status "$job" 2>&1) || true
    case $status in
        *"Job '$job' succeeded"*) echo SUCCEEDED ;;
        *"Job '$job' failed"*) echo FAILED ;;
        *"Job '$job' was stopped"*) echo STOPPED ;;
        *"Status for job '$job'"*) echo RUNNING ;;
        *"$job does not exist"*) echo ABSENT ;;
        *AuthenticationError*) echo REFUSED ;;
        *) echo UNREACHABLE ;;
    esac
}

case $(state) in
    REFUSED) fail "$address refused the token: set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's" ;;
    UNREACHABLE) fail "no job API answers at $address: open the tunnel, or give --address" ;;
esac

"$ray" job submit --submission-id "$job" "${upload[@]}" -- \
    env "${environment[@]}" python -m dist_condense.run "$@" || true
while end=$(state) && [[ $end == RUNNING ]]; do # the tunnel was interrupted
    sleep 5
    "$ray" job logs --follow "$job" || true
done
[[ $end == SUCCEEDED ]] || fail "job $job: $end"
