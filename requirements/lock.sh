#!/bin/sh
# Makes the lock files anew from pyproject.toml (needs uv). Run it after a change of dependencies.
#   requirements.lock        what every installation gets
#   requirements/EXTRA.lock  the same plus one connector's extra; requirements/dev.lock for tests,
#                            requirements/bench.lock for the peers of bench/bus.py
#   requirements/build.lock  what installs our own package from the checkout
set -eu
cd "$(dirname "$0")/.."
compile() { uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url pyproject.toml --extra agent "$@"; }
compile -o requirements.lock
for extra in telegram discord email imessage device prove; do
    compile --extra "$extra" -c requirements.lock -o "requirements/$extra.lock"
done
compile --extra telegram --extra discord --extra email --extra imessage --group dev -c requirements.lock -o requirements/dev.lock
compile --group bench -c requirements.lock -o requirements/bench.lock
echo 'hatchling>=1.27' | uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url -c requirements/dev.lock -o requirements/build.lock -
