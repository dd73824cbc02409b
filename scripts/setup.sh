# Sourced by the other scripts: makes or reuses .venv in the repository root.
# usage: setup [EXTRA]     installs paretune with the extra, once per state of the two files below
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

setup() {
    local extra=${1:-} stamp
    stamp=.venv/installed-${extra:-core}-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
    [ -e "$stamp" ] && return
    echo "setting up .venv (once; about 7 GB and a few minutes)" >&2
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "paretune needs Python 3.11 or newer; python3 is $(python3 --version)" >&2
        exit 2
    }
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable ".${extra:+[$extra]}"
    touch "$stamp"
}
