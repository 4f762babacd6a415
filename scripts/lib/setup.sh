# shellcheck shell=bash
# Sourced by the scripts in the folder above: makes .venv hold what uv.lock says, from nothing but Python 3.11 or newer.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
STATE="$ROOT/.setup"             # everything that setting up leaves behind, apart from .venv itself
UV_VERSION=0.13.9                # installed when there is no uv
UV_OLDEST=0.8.0                  # an older one on PATH is passed over
declare -A PACKAGES=(             # what `uv sync` is asked for
  [serve]="--inexact --extra local --extra postgres --extra redis"        # inexact: leave a developer's tools in place
  [test]="--all-extras --group dev"
)

say() { printf 'scm_trio: %s\n' "$*" >&2; }

fail() {
  printf 'scm_trio: %s\n' "$@" >&2
  exit 1
}

# Somebody else's activated environment must not leak into ours; and without compiled modules each start of a process takes
# two seconds more.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH CONDA_PREFIX PYTHONDONTWRITEBYTECODE
mkdir -p "$STATE"
# Service accounts and CI have no home; uv, pip, npm and the browser all want one.
if [ ! -d "${HOME:-}" ] || [ ! -w "$HOME" ]; then
  export HOME="$STATE/home"
  mkdir -p "$HOME"
fi

# Every installer names the file of trusted roots differently, and pip and uv bring their own unless told.
trust_system_roots() {
  local roots=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  [ -r "$roots" ] || return 0
  export SSL_CERT_FILE=$roots PIP_CERT=${PIP_CERT:-$roots} NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-$roots}
}

# find_python: sets PYTHON. The interpreter under .venv comes first, so that a changed PATH does not rebuild .venv.
find_python() {
  local candidate
  for candidate in "$ROOT/.venv/bin/python" python3 python3.13 python3.12 python3.11; do
    PYTHON=$("$candidate" -c 'import sys; sys.version_info >= (3, 11) and print(sys._base_executable)' 2>/dev/null) || continue
    [ -n "$PYTHON" ] && return
  done
  fail "Python 3.11 or newer is needed; on Debian: apt-get install python3 python3-venv" \
    "需要 Python 3.11 或更高版本；Debian 上请运行：apt-get install python3 python3-venv"
}

# apt_install PACKAGE...: returns 1 when this user may not install packages.
apt_install() {
  local as_root=()
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || return 1
    as_root=(sudo -n)
  fi
  say "installing $* (log: .setup/apt.log) ..."
  # Descriptor 9 is our lock: a daemon started by a package would hold it for ever.
  "${as_root[@]}" bash "$ROOT/scripts/lib/apt-install" "$@" >>"$STATE/apt.log" 2>&1 </dev/null 9>&- ||
    fail "apt-get could not install $*; the end of .setup/apt.log:" "$(tail -n 8 "$STATE/apt.log")"
}

uv_is_recent() {
  local version
  version=$("$1" --version 2>/dev/null) || return 1
  version=${version#uv }
  [ "$(printf '%s\n' "$UV_OLDEST" "${version%% *}" | sort -V | head -n 1)" = "$UV_OLDEST" ]
}

# The package that lets Debian's Python make virtual environments.
venv_package() {
  "$PYTHON" -c 'import sys; print("python3-venv" if sys.executable == "/usr/bin/python3" else "python%d.%d-venv" % sys.version_info[:2])'
}

# A failed attempt leaves half an environment, which pip would then take for an installed package.
make_venv() {
  rm -rf "$STATE/uv"
  "$PYTHON" -m venv "$STATE/uv" || { rm -rf "$STATE/uv" && return 1; }
}

# install_uv: a private copy in .setup/uv. Debian's Python may have no way to make a virtual environment: then pip
# fills a plain folder, and where pip is missing too, the system's package has to come first.
install_uv() {
  local log="$STATE/uv.log" pip=("$STATE/uv/bin/python" -m pip) target=()
  if ! make_venv >"$log" 2>&1; then
    if "$PYTHON" -m pip --version >>"$log" 2>&1; then
      pip=("$PYTHON" -m pip) target=(--target "$STATE/uv")
    elif apt_install "$(venv_package)"; then
      make_venv >>"$log" 2>&1 || return
    else
      fail "this Python cannot make virtual environments. As root run: apt-get install -y $(venv_package)" \
        "此 Python 无法创建虚拟环境，请以 root 运行：apt-get install -y $(venv_package)"
    fi
  fi
  "${pip[@]}" install --quiet --no-input --disable-pip-version-check "${target[@]}" "uv==$UV_VERSION" \
    >>"$log" 2>&1 </dev/null
}

# find_uv: sets UV to one that is recent enough; needs PYTHON.
find_uv() {
  UV=$(command -v uv) && uv_is_recent "$UV" && return
  UV="$STATE/uv/bin/uv"
  uv_is_recent "$UV" && return
  say "installing uv $UV_VERSION ..."
  install_uv && uv_is_recent "$UV" && return
  fail "uv could not be installed; the end of .setup/uv.log:" "无法安装 uv；.setup/uv.log 的末尾：" "$(tail -n 5 "$STATE/uv.log")"
}

# fingerprint serve|test: everything that decides what .venv must hold; fails when there is no working .venv.
fingerprint() {
  local version
  version=$("$ROOT/.venv/bin/python" -V 2>/dev/null) || return
  { cat "$ROOT/uv.lock" "$ROOT/pyproject.toml" && echo "$version $ROOT ${PACKAGES[$1]}"; } | sha256sum
}

# is_installed serve|test: the stamp in .venv is that of today's files. What the tests need includes what serving needs.
is_installed() {
  if [ "$1" = serve ] && is_installed test; then return; fi
  local stamp="$ROOT/.venv/.installed-$1"
  [ -e "$stamp" ] && [ "$(fingerprint "$1")" = "$(cat "$stamp")" ]
}

sync_packages() {
  local packages
  read -ra packages <<<"${PACKAGES[$1]}"
  trust_system_roots
  find_python
  find_uv
  # A copied or moved checkout brings an environment whose programs still point to the old place.
  [ "$(cat "$ROOT/.venv/.installed-for" 2>/dev/null || echo "$ROOT")" = "$ROOT" ] || rm -rf "$ROOT/.venv"
  rm -f "$ROOT"/.venv/.installed-*         # from here on no stamp is true, also if this is interrupted
  say "installing Python packages ..."
  UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT="$ROOT/.venv" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-120}" \
    "$UV" sync --quiet --locked --project "$ROOT" --python "$PYTHON" "${packages[@]}" </dev/null ||
    fail "uv could not install the locked packages (above)." "uv 无法安装锁定的软件包（见上）。"
  echo "$ROOT" >"$ROOT/.venv/.installed-for"
  fingerprint "$1" >"$ROOT/.venv/.installed-$1"
}

# python_packages serve|test: returns at once when nothing has changed; two callers at a time take turns.
python_packages() {
  is_installed "$1" && return
  (
    flock 9
    is_installed "$1" || sync_packages "$1"
  ) 9>"$STATE/lock"
}
