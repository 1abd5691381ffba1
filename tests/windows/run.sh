#!/usr/bin/env bash
# The native core in the Windows PyTorch, from Linux: cross-compiles the CPU library with MinGW, links it against
# torch_cpu.dll of PyTorch's own Windows wheel, and under Wine calls every operation on arguments whose answers the plain
# PyTorch definitions give here. The generator's kernels are compiled only. `python` on PATH has PyTorch. Works in a
# temporary folder, which it removes.
#
#     tests/windows/run.sh [VERSION]     PyTorch's version on Windows, else the oldest that the library is built for
#
# Without MinGW, Wine or the wheel it says that it skips. Where CI=true, root installs the first two from Debian.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
version=${1:-2.11}  # 2.15 asks for a runtime DLL newer than those of Wine 8
packages=(g++-mingw-w64-x86-64-posix wine64)
compiler=x86_64-w64-mingw32-g++-posix
flags=(-std=c++20 -O2 -static -ffp-contract=off -Wall -Wextra -DTORCH_TARGET_VERSION=0x020b000000000000)

skip() { echo "Windows check skipped: $*"; exit 0; }

find_wine() { PATH=$PATH:/usr/lib/wine type -P wine64 || type -P wine; }

if ! type -P $compiler >/dev/null || ! find_wine >/dev/null; then
    [[ ${CI:-} == true && $(id -u) == 0 ]] || skip "needs the Debian packages ${packages[*]}"
    { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } >/dev/null 2>&1 ||
        skip "the Debian packages ${packages[*]} cannot be had"
fi
wine=$(find_wine)
server=$(PATH=$(dirname "$wine"):$PATH type -P wineserver)

work=$(mktemp -d "${TMPDIR:-/tmp}/smallobjects-windows.XXXXXX")
export HOME=$work TMPDIR=$work WINEPREFIX=$work/prefix WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml,winemenubuilder.exe="
trap '"$server" -k || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

python -m pip download -q --no-deps --only-binary=:all: --platform win_amd64 --python-version 3.11 -d "$work" \
    "torch==$version" 2>"$work/pip.log" || skip "PyTorch $version for Windows cannot be had: $(tail -n 1 "$work/pip.log")"
python - "$work" <<'END'
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.startswith("torch/lib/") and name.endswith(".dll"):
            (work / pathlib.PurePosixPath(name).name).write_bytes(archive.read(name))
wheel.unlink()
END

headers=$(python -c "import torch; print(torch.__path__[0] + '/include')")
cd "$root"
$compiler "${flags[@]}" -shared -isystem "$headers" csrc/bind_cpu.cpp "$work/torch_cpu.dll" -o "$work/_cpu.pyd"
$compiler "${flags[@]}" -shared csrc/bind_scenes.cpp -o "$work/_scenes.pyd"
$compiler "${flags[@]}" -isystem "$headers" tests/windows/driver.cpp "$work/torch_cpu.dll" -o "$work/driver.exe"
PYTHONPATH=$root:$root/tests PYTHONWARNINGS=ignore python tests/windows/write_cases.py "$work/cases"

# Two threads, which Wine cannot pin to cores.
echo "PyTorch $version for Windows under $("$wine" --version):"
cd "$work"
OMP_NUM_THREADS=2 KMP_AFFINITY=disabled timeout 300 "$wine" driver.exe _cpu.pyd cases 2>"$work/wine.log" || {
    status=$?
    tail -n 20 "$work/wine.log"
    echo "error: the native core differs on Windows or does not run there (exit $status)"
    exit 1
}
