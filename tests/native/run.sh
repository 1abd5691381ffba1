#!/usr/bin/env bash
# Self-test of the CPU kernels under sanitizers: memory and undefined behaviour, then races between threads.
#
#     tests/native/run.sh [ROUNDS]     CXX names the compiler: g++ or clang++
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
compiler=${CXX:-c++}
type -P "$compiler" >/dev/null || { echo "Self-test of the kernels skipped: no C++ compiler"; exit 0; }
work=$(mktemp -d "${TMPDIR:-/tmp}/smallobjects-selftest.XXXXXX")
trap 'rm -rf "$work"' EXIT

# As the library is built: without contraction of multiply-adds, which the plain loops are compared with.
for sanitizers in address,undefined,float-cast-overflow thread; do
    echo "Kernels under -fsanitize=$sanitizers:"
    "$compiler" -std=c++20 -O1 -g -ffp-contract=off -Wall -Wextra -D_GLIBCXX_ASSERTIONS -pthread \
        "-fsanitize=$sanitizers" -fno-sanitize-recover=all -Icsrc tests/native/selftest.cpp -o "$work/selftest"
    "$work/selftest" "${1:-1000}"
done
