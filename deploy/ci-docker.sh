#!/bin/sh
# A Docker daemon for tests, in a network namespace of its own: it touches neither this machine's links nor its
# firewall. Debian only; root.
#   ci-docker.sh start CACHE   installs docker.io if it is missing, starts dockerd, prints the DOCKER_HOST to export
#   ci-docker.sh stop CACHE    ends it with its containers
# CACHE is a short path (a Unix socket's has 108 bytes at most) outside the repository. A daemon that already answers
# at DOCKER_HOST is used as it is, and not stopped.
set -eu

action=${1:?start or stop}
cache=${2:?a folder}
own="unix://$cache/docker.sock"

answers() { DOCKER_HOST=$1 docker version >/dev/null 2>&1; }

start() {
  mkdir -p "$cache"
  if [ -n "${DOCKER_HOST:-}" ] && command -v docker >/dev/null && answers "$DOCKER_HOST"; then
    echo "$DOCKER_HOST"
    return
  fi
  if command -v docker >/dev/null && answers "$own"; then
    echo "$own"
    return
  fi
  if ! command -v dockerd >/dev/null; then
    apt-get -q -o DPkg::Lock::Timeout=300 update >&2
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends docker.io >&2
  fi
  rm -f "$cache/docker.pid"
  setsid unshare --net dockerd -H "$own" --pidfile "$cache/docker.pid" \
    --data-root "$cache/docker-data" --exec-root "$cache/docker-exec" \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
    --exec-opt native.cgroupdriver=cgroupfs --default-ulimit nofile=1024:1024 --log-level=warn \
    </dev/null >"$cache/dockerd.log" 2>&1 &
  tries=0
  until answers "$own"; do
    tries=$((tries + 1))
    if [ "$tries" -ge 300 ]; then
      echo "dockerd did not start; the end of $cache/dockerd.log:" >&2
      tail -20 "$cache/dockerd.log" >&2
      exit 1
    fi
    sleep 0.1
  done
  echo "$own"
}

stop() {
  [ -f "$cache/docker.pid" ] || return 0
  DOCKER_HOST=$own docker ps -aq --filter label=microclaw | DOCKER_HOST=$own xargs -r docker rm -f >/dev/null
  pid=$(cat "$cache/docker.pid")
  kill "$pid" 2>/dev/null || true
  tries=0
  while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
  done
  # The daemon leaves this mount behind, and the folder could not be removed.
  umount "$cache/docker-exec/netns/default" 2>/dev/null || true
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "ci-docker.sh: start or stop, not $action" >&2; exit 2 ;;
esac
