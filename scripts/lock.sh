#!/usr/bin/env bash
# Writes requirements.txt anew: one lock for Python 3.10 to 3.13 on Linux, out of the ranges in pyproject.toml. uv is fetched for
# this alone and is no requirement of users.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
"${1:-$(bash scripts/find_python.sh 3.11 3.12 3.13 3.10)}" -m venv "$tool"
"$tool/bin/pip" install --quiet --disable-pip-version-check uv
"$tool/bin/uv" pip compile --quiet --universal --python-version 3.10 --no-python-downloads --extra dev --upgrade \
  --no-header --no-annotate pyproject.toml --output-file "$tool/lock" > /dev/null
{
  echo "# One lock for Python 3.10 to 3.13, written by \`make lock\` from pyproject.toml. Up to 3.11: TensorFlow 2.16, the last that"
  echo "# tensorflow-io works with; from 3.12: TensorFlow 2.21."
  # What holds for every environment that the lock is made for need not be said in each line.
  sed -E "s/( and | ; )(python_full_version < '3.14' and )?sys_platform == 'linux'$//; s/ and python_full_version < '3.14'//" "$tool/lock"
} > "$tool/requirements.txt"
mv "$tool/requirements.txt" requirements.txt
