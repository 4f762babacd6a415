# shellcheck shell=bash
# Sourced after setup.sh: remembers for which state of the tree the coverage data in .coverage was taken.

COVERED="$STATE/covered-tree"

# By content and without git, so that an unpacked archive works as a clone does.
tree_fingerprint() (
  cd "$ROOT" || return
  {
    find pyproject.toml uv.lock scm_trio tests docs scripts benchmarks web -type f \
      -not -path '*/__pycache__/*' -not -path '*/node_modules/*' -print0 2>/dev/null || true   # a folder may be missing
  } | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
)

coverage_is_fresh() {
  [ -e "$ROOT/.coverage" ] && [ -e "$COVERED" ] && [ "$(cat "$COVERED")" = "$(tree_fingerprint)" ]
}
