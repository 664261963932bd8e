#!/bin/sh
# What a container of the cluster runs: vae-sweep-start head | worker | mlflow | optuna-dashboard | answers URL
#
# Passwords come from the files below /run/secrets. They get into the memory of the processes that need them, never
# into an argument, a database URL or the settings that `docker inspect` shows.
set -eu

secret() {
  if [ ! -f "/run/secrets/$1" ] || [ ! -r "/run/secrets/$1" ]; then
    echo "The secret $1 must be a file that this container's user can read. \`make secrets\` makes what is missing." >&2
    exit 1
  fi
  cat "/run/secrets/$1"
}

# Lets libpq log in as these roles, whose databases have the same names. The file lies in memory.
database_logins() {
  PGPASSFILE=/dev/shm/pgpass
  export PGPASSFILE
  rm -f "$PGPASSFILE"
  for role in "$@"; do
    password=$(secret "${role}_db_password")
    (umask 077 && printf 'postgres:5432:%s:%s:%s\n' "$role" "$role" "$password" >>"$PGPASSFILE")
  done
  unset password
}

# Waits for the head and prints the address by which it sees this container. Ray's own guess is 127.0.0.1 when the
# network is away at the start, and such a worker is alive for the head and of no use to anybody.
own_address() {
  python - <<'PYTHON'
import socket, sys, time

told = False
while True:
    try:
        with socket.create_connection(("ray-head", 6379), timeout=3) as connection:
            print(connection.getsockname()[0])
            break
    except OSError as error:
        if not told:
            print(f"waiting for ray-head:6379 ({error})", file=sys.stderr)
        told = True
        time.sleep(1)
PYTHON
}

case ${1:-} in
head)
  database_logins ledger optuna
  MLFLOW_TRACKING_PASSWORD=$(secret mlflow_sweeper_password)
  export MLFLOW_TRACKING_PASSWORD
  # No CPU: drivers run here, trials do not.
  exec ray start --head --block --num-cpus=0 --num-gpus=0 --port=6379 --dashboard-host=0.0.0.0 --dashboard-port=8265 \
    --object-store-memory="$VAE_SWEEP_OBJECT_STORE_BYTES"
  ;;
worker)
  address=$(own_address)
  exec ray start --block --address=ray-head:6379 --node-ip-address="$address" --num-cpus="$VAE_SWEEP_WORKER_CPUS" \
    --object-store-memory="$VAE_SWEEP_OBJECT_STORE_BYTES"
  ;;
mlflow)
  database_logins mlflow
  MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret mlflow_session_key)
  export MLFLOW_FLASK_SERVER_SECRET_KEY
  database=postgresql+psycopg://mlflow@postgres/mlflow
  # The tables of logins have a version table of their own and share MLflow's database. A password is slow to check
  # on purpose, and a sweep sends thousands of requests: a login that was right stays right for a minute.
  export MLFLOW_AUTH_CONFIG_PATH=/tmp/auth.ini
  cat >"$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
database_uri = $database
default_permission = NO_PERMISSIONS
admin_username = admin
auth_cache_ttl_seconds = 60
INI
  python /usr/local/lib/vae-sweep/mlflow_users.py "$database"
  exec mlflow server --host 0.0.0.0 --port 5000 --workers 1 --app-name basic-auth \
    --backend-store-uri "$database" --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION"
  ;;
optuna-dashboard)
  database_logins optuna
  # The dashboard shows what is there, and fails where no table is.
  python -c 'import os; from optuna.storages import RDBStorage; RDBStorage(os.environ["VAE_SWEEP_OPTUNA_URL"])'
  exec optuna-dashboard --quiet --host 0.0.0.0 --port 8080 "$VAE_SWEEP_OPTUNA_URL"
  ;;
answers)
  exec python -Ic 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$2"
  ;;
*)
  echo "usage: vae-sweep-start head | worker | mlflow | optuna-dashboard | answers URL" >&2
  exit 2
  ;;
esac
