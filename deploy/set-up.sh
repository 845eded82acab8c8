# Sourced by ./microclaw and ./test with $root set: makes .venv right, quickly if it is.
#   set_up LOCK
set_up() {
  # What the environment was made from; another place of the checkout counts too, because a venv can't be moved.
  stamp="$root $(cat "$root/requirements.lock" "$root/requirements/build.lock" "$root/$1" "$root/pyproject.toml" | cksum)"
  name=${1##*/}
  if [ "$(cat "$root/.venv/stamp-${name%.lock}" 2>/dev/null)" != "$stamp" ] || [ -e "$root/.venv/unfinished" ]; then
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
      if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$python" "$root/deploy/set_up.py" "$stamp" "$1" || exit $?
        return
      fi
    done
    echo "microclaw: Python 3.11 or newer is needed (Debian: sudo apt install python3 python3-venv; macOS: brew install python)" >&2
    exit 1
  fi
}
