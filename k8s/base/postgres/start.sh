#!/usr/bin/env bash
# PostgreSQL for MLflow. Every start sets the role mlflow, its rights and the current password of the Secret before it
# accepts connections. The superuser, named like the user that runs this script, has no password and cannot connect
# through the network.
set -euo pipefail
: "${MLFLOW_PASSWORD:?is empty: it is the key password of the Secret mlflow-database}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    rm -rf "$PGDATA.new" # renamed when complete
    initdb --pgdata="$PGDATA.new" --encoding=UTF8 --locale=C.UTF-8 --auth=reject
    mv -T "$PGDATA.new" "$PGDATA"
fi
chmod 0700 "$PGDATA" # fsGroup widens it, which PostgreSQL refuses

# Only this script can connect. Failed statements are not logged, because one of them contains the password.
alone="-c listen_addresses='' -c unix_socket_directories='$TMPDIR' -c unix_socket_permissions=0700"
alone+=" -c hba_file='$here/pg_hba.conf' -c log_min_error_statement=panic"
trap 'exit 130' INT # without a trap, bash as PID 1 ignores the signal
trap 'exit 143' TERM
trap 'pg_ctl --mode=fast stop' EXIT
pg_ctl --wait --timeout=240 --options="$alone" start
psql --no-psqlrc --quiet --host="$TMPDIR" --dbname=postgres --file="$here/roles.sql" || {
    echo "start.sh: roles.sql failed; if a role does not exist, see 'An older database' in k8s/README.md" >&2
    exit 1
}
pg_ctl --mode=fast stop
trap - EXIT INT TERM

unset MLFLOW_PASSWORD
exec postgres -c hba_file="$here/pg_hba.conf" "$@"
