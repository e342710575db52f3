#!/usr/bin/env bash
# Resolves requirements*.in for Python 3.11 to 3.13. Without UV_FIND_LINKS: a local torch build would be
# written down under a version that nobody else can install.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset UV_FIND_LINKS
uv=$(command -v uv || echo "${CATALOGUE_HOME:-.catalogue}/uv/bin/uv")
for name in requirements requirements-dev; do
    "$uv" pip compile -q --universal --python-version 3.11 --no-header --no-annotate --upgrade \
        "$name.in" -o "$name.txt"
done
