#!/usr/bin/env bash
# Makes the virtual environment that every make target runs in, or finds it ready: usage: setup.sh ENVIRONMENT [PYTHON]
# It is made anew where it was made by another Python, for another folder or from an older lock, and gone on with where an install was
# broken off.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
env=$1 wanted=${2:-}

fail() {
  echo "mmtfrs: $*" >&2
  exit 1
}

if [ -n "$wanted" ]; then
  "$wanted" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' > /dev/null 2>&1 ||
    fail "$wanted is no Python 3.10 to 3.13 with the modules venv and ensurepip; name another: make PYTHON=/path/to/python3.11"
else
  wanted=$(bash scripts/find_python.sh 3.11 3.12 3.13 3.10) ||
    fail "no Python found: looked for python3.11, python3.12, python3.13, python3.10 and a python3 that is one of them, each with the modules venv and ensurepip; install one, or name it: make PYTHON=/path/to/python3.11"
fi

# Two makes at once: the second waits here until the first has set up. The lock is on this folder, so that it leaves no file.
exec 9< . && { command -v flock > /dev/null && flock 9; }

base="$("$wanted" -c 'import os, sys; print(sys.version.split()[0], os.path.realpath(sys.executable))') $PWD $(cksum < requirements.txt)"
ready="$base $(cksum < pyproject.toml)"
alive() { [ -x "$env/bin/python" ] && "$env/bin/python" -m pip --version > /dev/null 2>&1; }
if [ "$(cat "$env/ready" 2> /dev/null)" = "$ready" ] && "$env/bin/python" -c '' 2> /dev/null; then
  exit 0
fi

if [ "$(cat "$env/made" 2> /dev/null)" != "$base" ] || ! alive; then
  rm -rf "$env" 2> /dev/null
  mkdir -p "$env" 2> /dev/null || fail "cannot write $env: give this folder write permission, or work on a copy of $PWD"
  echo "mmtfrs: making $env with $("$wanted" --version) ($wanted)" >&2
  "$wanted" -m venv "$env" > "$env/log" 2>&1 || fail "$wanted -m venv $env failed: $(tail -n 1 "$env/log")"
  echo "$base" > "$env/made"
fi
rm -f "$env/ready" 2> /dev/null

install() {
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check "$@" > "$env/log" 2>&1 ||
    fail "installing failed: $(grep -m 1 '^ERROR' "$env/log" || tail -n 1 "$env/log") (whole output in $env/log; the same command goes on from here)"
}
install -r requirements.txt
install --no-deps --no-build-isolation -e .
echo "$ready" > "$env/ready"
