#!/bin/sh
# The cluster of docker-compose.yml: cluster.sh up | down | compose WORDS...
#
# `up` builds, starts and waits until all is healthy; `compose` passes its words to the Compose that this machine has.
set -eu
cd "$(dirname "$0")/.."
WAIT_SECONDS=${VAE_SWEEP_WAIT_SECONDS:-600}

if ! command -v docker >/dev/null; then
  echo "A cluster on this machine needs Docker, but there is no \`docker\` command. Install Docker Engine with Compose." >&2
  exit 1
elif ! problem=$(docker info 2>&1 >/dev/null); then
  echo "Docker's engine must run and take commands from $(id -un), but: $(echo "$problem" | tail -1)" >&2
  exit 1
elif docker compose version >/dev/null 2>&1; then
  compose="docker compose"
elif command -v docker-compose >/dev/null; then
  compose=docker-compose
else
  echo "A cluster needs Compose, but neither \`docker compose\` nor \`docker-compose\` is there. Install one of them." >&2
  exit 1
fi

state_of() {
  docker inspect -f '{{.State.Status}}{{with .State.Health}} {{.Status}}{{end}}' "$1" 2>/dev/null || echo gone
}

wait_healthy() {
  waited=0
  while :; do
    waiting=
    for container in $($compose ps -q); do
      [ "$(state_of "$container")" = "running healthy" ] || waiting="$waiting $container"
    done
    [ -n "$waiting" ] || return 0
    if [ "$waited" -ge "$WAIT_SECONDS" ]; then break; fi
    sleep 2
    waited=$((waited + 2))
  done
  for container in $waiting; do
    echo "not healthy after $WAIT_SECONDS s: $(docker inspect -f '{{.Name}}' "$container") ($(state_of "$container")), its last lines:" >&2
    docker logs --tail 15 "$container" >&2 || true
  done
  return 1
}

case ${1:-} in
up)
  docker/make-secrets.sh
  $compose build ray-head # the image of all services but PostgreSQL
  $compose up -d
  wait_healthy
  secrets=$(cd "${VAE_SWEEP_SECRETS:-secrets}" && pwd)
  host=${VAE_SWEEP_BIND:-127.0.0.1}
  address=http://$host:${VAE_SWEEP_RAY_PORT:-8265}
  cat <<END

The cluster is up with $($compose ps -q ray-worker | wc -l | tr -d ' ') workers.
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$secrets/ray_token
  vae-sweep submit configs/quickstart.yaml --address $address --follow
  MLflow             http://$host:${VAE_SWEEP_MLFLOW_PORT:-5000}  user admin, password: cat $secrets/mlflow_admin_password
  Ray                $address  its token: cat $secrets/ray_token
  Optuna's searches  http://$host:${VAE_SWEEP_OPTUNA_PORT:-8080}
  more workers       $compose up -d --scale ray-worker=4
  the end            make cluster-down; what was stored stays until \`$compose down --volumes\`
END
  ;;
down)
  $compose down
  ;;
compose)
  shift
  exec $compose "$@"
  ;;
*)
  echo "usage: docker/cluster.sh up | down | compose WORDS..." >&2
  exit 2
  ;;
esac
