#!/usr/bin/env bash
# Run a team's MLflow on one machine: PostgreSQL and `mlflow server` in one folder, until Ctrl-C. See docs/mlflow.md.
set -euo pipefail

usage() {
    cat <<'END'
usage: launch/mlflow.sh FOLDER [--host HOST] [--port PORT] [OPTION OF mlflow server ...]

Starts PostgreSQL with its data in FOLDER/postgres (made at the first start) and `mlflow server` with its artifacts in
FOLDER/artifacts. Prints the URI for tracking.uri once the server answers. Ctrl-C or SIGTERM ends both; the same command
continues with the same data. Only the user that runs PostgreSQL can reach it, through a socket in its own folder. No
other user may be able to write to FOLDER.

  --host HOST    address of the server (default 127.0.0.1)
  --port PORT    port of the server (default 5000)

environment:
  PYTHON         Python with the extra mlflow-server (default .venv/bin/python beside launch/, else python3)
  POSTGRES_BIN   folder of initdb and pg_ctl (default from PATH, else the newest in /usr/lib/postgresql)
  POSTGRES_USER  user of PostgreSQL when the script runs as root, which PostgreSQL refuses (default postgres)

For a team: --host 0.0.0.0 --allowed-hosts NAME:PORT. Anyone who reaches the port can change and delete runs; see
docs/mlflow.md.
END
}

fail() { echo "launch/mlflow.sh: $*" >&2; exit 2; }

host=127.0.0.1 port=5000 folder="" options=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --host) host=${2:?--host needs an address}; shift ;;
        --port) port=${2:?--port needs a number}; shift ;;
        -*) options=("$@"); break ;;
        *) [[ -z $folder ]] || fail "two folders given: '$folder' and '$1'"; folder=$1 ;;
    esac
    shift
done
[[ -n $folder ]] || { usage >&2; exit 2; }

umask 077 # new files are accessible to their owner only
if [[ ! -d $folder ]]; then
    mkdir -p "$folder"
    [[ $(id -u) != 0 ]] || chmod 711 "$folder" # PostgreSQL's user must be able to enter
fi
folder=$(cd "$folder" && pwd -P)
[[ -O $folder && -z $(find "$folder" -maxdepth 0 -perm /022) ]] \
    || fail "other users can put files into $folder: give another folder, or remove their write access (chmod go-w)"

export PYTHONSAFEPATH=1 # import nothing from the current folder
python=${PYTHON:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/python}
[[ -x $python ]] || python=python3
"$python" -c 'import mlflow, psycopg' || fail "$python lacks mlflow or psycopg: pip install -c constraints.txt '.[mlflow-server]'"
if [[ -z ${POSTGRES_BIN:-} ]]; then
    initdb=$(command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1)
    [[ -n $initdb ]] || fail "no initdb: apt-get install postgresql, or set POSTGRES_BIN"
    POSTGRES_BIN=$(dirname "$(readlink -f "$initdb")")
fi

mkdir -p "$folder/artifacts"
data=$folder/postgres
exec 9>"$folder/lock"
flock -n 9 || fail "$folder is in use; 'fuser -v $folder/lock' names the process"
! (: <>"/dev/tcp/$host/$port") 2>/dev/null || fail "port $port is in use: give another --port"

as_owner=()
if [[ $(id -u) == 0 ]]; then
    as_owner=(runuser -u "${POSTGRES_USER:-postgres}" --)
    "${as_owner[@]}" test -x "$folder" \
        || fail "user ${POSTGRES_USER:-postgres} may not enter $folder: give another folder"
fi
postgres() {
    (cd / && "${as_owner[@]}" "$POSTGRES_BIN/$1" "${@:2}") 9>&- >>"$folder/postgres.log" 2>&1 \
        || fail "$1 failed: $(tail -n 1 "$folder/postgres.log") ($folder/postgres.log)"
}

server=""
finish() {
    trap - EXIT
    [[ -z $server ]] || { kill -- "-$server" && wait "$server"; } 2>/dev/null || true
    [[ ! -e $data/postmaster.pid ]] || postgres pg_ctl -D "$data" -m fast -w stop
}

if [[ ! -d $data ]]; then
    new=$data.new # renamed when complete
    rm -rf "$new"
    mkdir "$new"
    [[ $(id -u) != 0 ]] || chown "${POSTGRES_USER:-postgres}" "$new"
    postgres initdb -D "$new" -U mlflow --auth=trust --encoding=UTF8 --locale=C.UTF-8
    mv "$new" "$data"
fi
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# restart also ends a server that a killed start left running
own="-c listen_addresses='' -c unix_socket_directories='$data' -c unix_socket_permissions=0700"
postgres pg_ctl -D "$data" -w -o "$own" restart
(postgres psql -h "$data" -U mlflow -d mlflow -c '') 2>/dev/null || postgres createdb -h "$data" -U mlflow mlflow

export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}
export MLFLOW_DISABLE_TELEMETRY=${MLFLOW_DISABLE_TELEMETRY:-true}
setsid "$python" -m mlflow server --host "$host" --port "$port" --artifacts-destination "$folder/artifacts" \
    --backend-store-uri "postgresql+psycopg://mlflow@/mlflow?host=$data" "${options[@]}" >>"$folder/server.log" 2>&1 &
server=$!
health="import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)"
until "$python" -c "$health" "http://$host:$port/health" 2>/dev/null; do
    kill -0 "$server" 2>/dev/null || fail "mlflow server ended: $(tail -n 1 "$folder/server.log") ($folder/server.log)"
    sleep 0.3
done
echo "tracking.uri=http://${host/0.0.0.0/$(hostname)}:$port"
echo "database     postgresql://mlflow@/mlflow?host=$data"
echo "logs         $folder/server.log, $folder/postgres.log"
wait "$server"
