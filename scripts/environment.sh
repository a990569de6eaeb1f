# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it: a virtual environment in .venv with Heddle installed from this
# checkout. It is made when absent and updated when pyproject.toml has changed since.
#
#   prepare_environment EXTRAS [torch]     sets $PYTHON
#
# $HEDDLE_PYTHON names the interpreter to start from (3.11 or newer); default: the first found.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
TORCH_VERSION=2.13.0

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${HEDDLE_PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Heddle needs Python 3.11 or newer, and none was found; install one or set HEDDLE_PYTHON"
}

# The CPU build of torch, which is small. Where only the default index can be reached, its build
# (with CUDA on Linux: gigabytes) is taken and this is said.
install_torch() {
  local pip=("$PYTHON" -m pip install --quiet --disable-pip-version-check)
  if "$PYTHON" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$TORCH_VERSION')" \
    2>/dev/null; then
    return
  fi
  say "installing torch $TORCH_VERSION (CPU build)"
  "${pip[@]}" "torch==$TORCH_VERSION+cpu" 2>/dev/null && return
  "${pip[@]}" --retries 1 --timeout 15 --index-url https://download.pytorch.org/whl/cpu \
    "torch==$TORCH_VERSION+cpu" 2>/dev/null && return
  say "no CPU build within reach; installing torch $TORCH_VERSION from the default index"
  "${pip[@]}" "torch==$TORCH_VERSION" && return
  fail "torch $TORCH_VERSION could not be installed; install it into .venv by hand and run again"
}

prepare_environment() {
  local extras="$1" torch="${2:-}" stamp wanted
  PYTHON="$ROOT/.venv/bin/python"
  if [ ! -x "$PYTHON" ]; then
    say "making a virtual environment in .venv"
    "$(find_python)" -m venv "$ROOT/.venv"
  fi
  wanted="$(cat "$ROOT/pyproject.toml" "${BASH_SOURCE[0]}" | sha256sum | cut -c1-16)"
  stamp="$ROOT/.venv/.heddle-$(printf '%s' "$extras$torch" | tr -c 'a-z' '-')"
  if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    [ -z "$torch" ] || install_torch
    say "installing heddle[$extras] into .venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable "$ROOT[$extras]"
    printf '%s\n' "$wanted" >"$stamp"
  fi
  export PYTHON
  cd "$ROOT"
}
