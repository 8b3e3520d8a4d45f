#!/usr/bin/env bash
#
# Start a Ray cluster on rented machines by `ray up`, from the repository:
#
#   launch/up.sh aws|gcp [ray up's options]
#
# Fills launch/aws.yaml or launch/gcp.yaml from the environment; the comments at the top of these files list the
# variables. Writes the result to outputs/aws.yaml or outputs/gcp.yaml, and the files that the machines install, those
# that git tracks, to outputs/upload. Makes a token on first use (~/.ray/auth_token). Afterwards:
#
#   ray dashboard outputs/aws.yaml        open a tunnel to the job API, on http://127.0.0.1:8265
#   launch/submit.sh --installed CONFIG   start a run
#   ray down outputs/aws.yaml             END THE CLUSTER: machines cost money until then
#
# RAY: the ray command to use (default .venv/bin/ray).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "up.sh: $*" >&2; exit 2; }

case ${1:-} in
    aws | gcp) cloud=$1 && shift ;;
    --help) sed -n '2,/^[^#]/{s/^#$//p; s/^# //p}' launch/up.sh && exit ;;
    *) sed -n '2,/^[^#]/{s/^#$//p; s/^# //p}' launch/up.sh >&2 && exit 2 ;;
esac
ray=${RAY:-.venv/bin/ray}
command -v "$ray" >/dev/null || fail "no $ray: run make install, or set RAY"

filled=$(<"launch/$cloud.yaml") missing=()
for name in $(grep -o "[$]{[A-Z_]*}" "launch/$cloud.yaml" | tr -d "{}$" | sort -u); do
    [[ ${!name:-} =~ ^[A-Za-z0-9_./:@-]+$ ]] || missing+=("$name")
    filled=${filled//"\${$name}"/${!name:-}}
done
((${#missing[@]} == 0)) || fail "set ${missing[*]}; the comments at the top of launch/$cloud.yaml describe them"

umask 077 # new files are accessible to you only
rm -rf outputs/upload && mkdir -p outputs/upload
git ls-files -z LICENSE README.md configs constraints.txt dist_condense pyproject.toml \
    | tar --create --null --no-recursion --verbatim-files-from --files-from=- \
    | tar --extract --preserve-permissions --directory=outputs/upload \
    || fail "the files that git tracks could not be copied to outputs/upload: run this in a clone"
rm -f "outputs/$cloud.yaml" # an older file may be readable by others
echo "$filled" >"outputs/$cloud.yaml"
token=~/.ray/auth_token
[[ ! -e $token || -O $token ]] || fail "$token is another user's: remove it"
env -u RAY_AUTH_TOKEN -u RAY_AUTH_TOKEN_PATH "$ray" get-auth-token --generate >/dev/null
chmod go= "$token" # also an older token; it is copied to the machines with its mode
exec "$ray" up "outputs/$cloud.yaml" "$@"
