#!/usr/bin/env bash
# Makes the environments: .venv with everything in the lock files, and .venvs/<name> for each
# envs/<name>.txt, whose packages can't live beside Airflow. Does nothing where nothing has changed.
#
# uv installs in seconds what takes pip minutes; it is fetched when missing, and pip does the work
# where it can't be had. Bytecode is compiled now, since Great Expectations takes 17 s to import
# without it.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
home=${CATALOGUE_HOME:-.catalogue}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "$("$python" --version) is not certified: name a Python 3.11 to 3.13, PYTHON=python3.11 make …" >&2
    exit 1
}

# pip may be told where wheels lie, for one a CPU build of PyTorch; uv has to be told as well.
links=$("$python" -m pip config get global.find-links 2>/dev/null || true)
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$links}}
torch_index=()
[ -z "${TORCH_INDEX:-}" ] || torch_index=(--extra-index-url "$TORCH_INDEX")

find_uv() {
    command -v uv && return
    [ -x "$home/uv/bin/uv" ] && echo "$home/uv/bin/uv" && return
    echo "  · fetching uv" >&2
    "$python" -m venv "$home/uv" && "$home/uv/bin/pip" install -q uv >&2 && echo "$home/uv/bin/uv"
}

install() { # install <environment> <requirements…>
    local env=$1 stamp=$1/.installed sum
    shift
    sum=$(cat "$@" | cksum)-$("$python" --version)-${TORCH_INDEX:-}
    [ "$(cat "$stamp" 2>/dev/null)" != "$sum" ] || return 0
    echo "  · installing $env (once; a few minutes at most)"
    local files=()
    for file in "$@"; do files+=(-r "$file"); done
    local uv
    uv=$(find_uv) || uv=
    if [ -n "$uv" ]; then
        "$uv" venv -q --allow-existing --seed --python "$python" "$env"
        "$uv" pip install -q --python "$env/bin/python" --compile-bytecode \
            --index-strategy unsafe-best-match "${torch_index[@]}" "${files[@]}"
    else
        "$python" -m venv "$env"
        PYTHONDONTWRITEBYTECODE= "$env/bin/pip" install -q "${torch_index[@]}" "${files[@]}"
    fi
    echo "$sum" >"$stamp"
}

install .venv requirements.txt requirements-torch.in requirements-dev.txt
for file in envs/*.txt; do
    install ".venvs/$(basename "$file" .txt)" "$file"
done
