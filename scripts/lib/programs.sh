# shellcheck shell=bash
# Sourced after setup.sh: the programs that the tests start, as Debian packages them, and the npm packages of tests/e2e.

NODE_FOLDER="$ROOT/tests/e2e/node"

# Prints the Debian packages whose programs are not here.
missing_programs() {
  command -v chromium >/dev/null || echo chromium
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql
  command -v redis-server >/dev/null || echo redis-server
  command -v node >/dev/null || echo nodejs
  command -v npm >/dev/null || echo npm
}

test_programs() {
  local missing
  mapfile -t missing < <(missing_programs)
  [ ${#missing[@]} -gt 0 ] || return 0
  apt_install "${missing[@]}" || true
  [ -n "$(missing_programs)" ] || return 0
  fail "The tests need programs that are not here. As root run:" \
    "测试需要以下程序，请以 root 运行：" \
    "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
}

# Stamped like .venv: npm ci starts from scratch each time, so it only runs when the lock file or node has changed.
node_packages() {
  [ -e "$NODE_FOLDER/package-lock.json" ] || return 0
  local stamp="$NODE_FOLDER/node_modules/.installed" wanted
  wanted=$({ cat "$NODE_FOLDER/package-lock.json" && node --version; } | sha256sum)
  [ "$wanted" != "$(cat "$stamp" 2>/dev/null)" ] || return 0
  say "installing npm packages ..."
  (
    trust_system_roots
    cd "$NODE_FOLDER"
    npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >"$STATE/npm.log" 2>&1 </dev/null
  ) || fail "npm ci failed in tests/e2e/node; the end of .setup/npm.log:" "$(tail -n 8 "$STATE/npm.log")"
  echo "$wanted" >"$stamp"
}
