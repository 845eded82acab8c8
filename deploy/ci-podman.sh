#!/bin/sh
# Podman's service for tests, with storage of its own. Debian only; root; podman, runc and catatonit are installed.
#   ci-podman.sh start CACHE   starts the service, prints the CONTAINER_HOST to export
#   ci-podman.sh stop CACHE    ends it with its containers
# CACHE is a short path (a Unix socket's has 108 bytes at most) outside the repository.
set -eu

action=${1:?start or stop}
cache=${2:?a folder}
own="$cache/podman.sock"

start() {
  mkdir -p "$cache"
  # crun refuses hybrid control groups; without the right to raise limits the default ones can't be set.
  cat >"$cache/containers.conf" <<'CONF'
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
init_path = "/usr/bin/catatonit"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
CONF
  rm -f "$own"
  CONTAINERS_CONF="$cache/containers.conf" setsid podman --root "$cache/podman-data" --runroot "$cache/podman-run" \
    system service --time=0 "unix://$own" </dev/null >"$cache/podman.log" 2>&1 &
  echo $! >"$cache/podman.pid"
  tries=0
  until podman --remote --url "unix://$own" version >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -ge 300 ]; then
      echo "podman did not start; the end of $cache/podman.log:" >&2
      tail -20 "$cache/podman.log" >&2
      exit 1
    fi
    sleep 0.1
  done
  echo "unix://$own"
}

stop() {
  [ -f "$cache/podman.pid" ] || return 0
  podman --remote --url "unix://$own" rm --force --time 0 --filter label=microclaw >/dev/null 2>&1 || true
  kill "$(cat "$cache/podman.pid")" 2>/dev/null || true
  rm -f "$cache/podman.pid"
  # Podman leaves this mount behind, and the folder could not be removed.
  umount "$cache/podman-data/overlay" 2>/dev/null || true
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "ci-podman.sh: start or stop, not $action" >&2; exit 2 ;;
esac
