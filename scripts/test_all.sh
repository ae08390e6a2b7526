#!/usr/bin/env bash
# Runs the suite on every Python from 3.10 to 3.13 that this machine has, each in an environment of its own (.venv-3.10, ...), and
# says at the end what each came to. usage: test_all.sh [TARGET] (default: test)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
target=${1:-test}
summary="" status=0
for version in 3.10 3.11 3.12 3.13; do
  python=$(bash scripts/find_python.sh "$version") || {
    summary+="Python $version: not on this machine"$'\n'
    continue
  }
  start=$SECONDS
  if make "$target" "VENV=.venv-$version" "PYTHON=$python"; then result=passed; else result=FAILED status=1; fi
  summary+="Python $version: $result in $((SECONDS - start)) s ($python)"$'\n'
done
printf '\n%s' "$summary"
exit $status
