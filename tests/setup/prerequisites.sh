#!/usr/bin/env bash
# Says at once which prerequisites are here, installs those Debian has, and stops with the list of those it could not get.
. "$(dirname "$0")/common.sh"

missing=()

if have cargo && have rustc; then
    say "Rust: $(rustc --version)"
else
    missing+=("Rust 1.95 with cargo (rust-lang.org/tools/install; Debian's is too old)")
fi

have cc || apt gcc libc6-dev || true
if have cc; then say "C compiler: $(cc --version | head -n 1)"; else missing+=("a C compiler (Debian: gcc libc6-dev)"); fi

have make || apt make || true
if have make; then say "make: $(make --version | head -n 1)"; else missing+=("make (Debian: make)"); fi

# A virtual environment needs ensurepip, which Debian keeps in a package of its own.
python_works() { have python3 && python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
python_works || apt python3 python3-venv || true
if python_works; then say "Python: $(python3 --version)"; else missing+=("Python 3.10 or newer with venv (Debian: python3 python3-venv)"); fi

have git || apt git || true
if have git; then say "git: $(git --version)"; else missing+=("git (Debian: git)"); fi

if [ ${#missing[@]} -gt 0 ]; then
    printf 'setup: could not get: %s\n' "${missing[@]}" >&2
    exit 1
fi
