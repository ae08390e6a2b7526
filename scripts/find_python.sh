#!/usr/bin/env bash
# Prints the first Python of the given versions that runs and can make environments; nothing, and exit code 1, where there is none.
# usage: find_python.sh 3.11 3.12 ...
# A name alone proves nothing: pyenv leaves names that do not run, Debian's Python may lack ensurepip.
for version in "$@"; do
  # pyenv's folder too: what it has installed is on no path until it is chosen.
  for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python python3; do
    code="import sys, ensurepip, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$version')"
    if "$python" -c "$code" > /dev/null 2>&1; then
      echo "$python"
      exit 0
    fi
  done
done
exit 1
