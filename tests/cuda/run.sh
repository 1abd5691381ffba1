#!/usr/bin/env bash
# The CUDA kernels where there is no GPU: their tests on the emulator under ThreadSanitizer, which finds a barrier that is
# missing, and the library compiled by nvcc. `python` on PATH has PyTorch and pytest, and the native core is built.
#
#     tests/cuda/run.sh [race|compile]     one of the two
#
# Without g++, or without nvcc of PyTorch's CUDA, it says that it skips that part.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d "${TMPDIR:-/tmp}/smallobjects-cuda.XXXXXX")
trap 'rm -rf "$work"' EXIT

race() {
    type -P g++ >/dev/null || { echo "Race check of the CUDA kernels skipped: no g++"; return; }
    local flags=(-std=c++20 -O1 -g -Itests/cuda)
    g++ "${flags[@]}" -c tests/cuda/emulator.cpp -o "$work/emulator.o"
    g++ "${flags[@]}" -fsanitize=thread tests/cuda/selftest.cpp "$work/emulator.o" -o "$work/selftest"
    "$work/selftest"
    if "$work/selftest" race >"$work/log" 2>&1; then
        echo "error: ThreadSanitizer does not find a barrier that was left out"
        return 1
    fi
    echo "CUDA kernels on the emulator under ThreadSanitizer:"
    if ! SMALLOBJECTS_SANITIZE=thread LD_PRELOAD=$(g++ -print-file-name=libtsan.so) OMP_NUM_THREADS=1 \
        TSAN_OPTIONS="log_path=$work/races" python -m pytest -q -p no:cacheprovider tests/test_ops_cuda.py; then
        cat "$work"/races* 2>/dev/null | head -n 200
        return 1
    fi
}

compile() {
    type -P nvcc >/dev/null || { echo "Compiling the CUDA library skipped: no nvcc"; return; }
    local theirs ours
    theirs=$(python -c "import torch; print((torch.version.cuda or 'none').split('.')[0])")
    ours=$(nvcc --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    [[ $theirs == "$ours" ]] || { echo "Compiling the CUDA library skipped: nvcc $ours, PyTorch for CUDA $theirs"; return; }
    [[ -n ${CUDA_HOME:-} || ! -d /usr/local/cuda ]] || export CUDA_HOME=/usr/local/cuda
    cp -r csrc maskrcnn datasets setup.py pyproject.toml README.md LICENSE "$work"
    rm -f "$work"/maskrcnn/ops/*.so "$work"/datasets/synthetic/*.so
    (cd "$work" && FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0+PTX" MAX_JOBS=1 SMALLOBJECTS_REQUIRE_CORE=1 \
        python setup.py -q build_ext >"$work/log" 2>&1) || { cat "$work/log"; return 1; }
    echo "CUDA library compiled by nvcc $ours: $(wc -c <"$work/maskrcnn/ops/_cuda.so") bytes"
}

case ${1:-all} in
    all) race; compile ;;
    race | compile) "$1" ;;
    *) echo "error: $1 is neither race nor compile"; exit 2 ;;
esac
