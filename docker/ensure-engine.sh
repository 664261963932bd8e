#!/bin/sh
# For test machines: installs Docker and Compose through apt where they are missing, and starts the engine where it does
# not run. What cannot be done is said, and is no failure: the tests that need an engine say so, too.
set -eu
give_up() {
  echo "no container engine: $1" >&2
  exit 0
}

if ! command -v dockerd >/dev/null || ! { command -v docker-compose || docker compose version; } >/dev/null 2>&1; then
  if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then exit 0; fi
  [ "$(id -u)" = 0 ] || give_up "Docker or Compose is missing, and only root can install it"
  command -v apt-get >/dev/null || give_up "Docker or Compose is missing, and there is no apt-get"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    docker.io docker-compose iptables; } >/dev/null 2>&1 || give_up "apt-get could not install docker.io and docker-compose"
fi
if docker info >/dev/null 2>&1; then exit 0; fi
[ "$(id -u)" = 0 ] || give_up "the engine does not run, and only root can start it"
log=$(mktemp)
setsid nohup dockerd >"$log" 2>&1 </dev/null &
for _ in $(seq 60); do
  if docker info >/dev/null 2>&1; then exit 0; fi
  kill -0 $! 2>/dev/null || break
  sleep 1
done
give_up "dockerd did not start: $(tail -1 "$log")"
