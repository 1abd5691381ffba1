// What the CUDA bindings share: where they work, launches, PyTorch's own sort and scan, grids of boxes.
//
// The same source runs on a CPU: tests/cuda compiles it with g++ against an emulator, under another namespace.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cuda/boxes.cuh"

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // PyTorch 2.11 has only the one without the error's message
#include <torch/headeronly/util/shim_utils.h>
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#define NAMESPACE maskrcnn
#define DEVICE_KEY CUDA
#define LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...)        \
    do {                                                                  \
        (kernel)<<<blocks, threads, shared_bytes, stream>>>(__VA_ARGS__); \
        STD_CUDA_KERNEL_LAUNCH_CHECK();                                   \
    } while (0)
#else
#define NAMESPACE maskrcnn_emulated
#define DEVICE_KEY CPU
#endif

namespace smallobjects {

using Three = std::tuple<Tensor, Tensor, Tensor>;

#ifdef __CUDACC__
constexpr int64_t block_size = 256, most_blocks = 1 << 20;
#else
constexpr int64_t block_size = 64, most_blocks = 3;  // so that small inputs fill several blocks more than once
#endif

inline unsigned blocks_for(int64_t items, int64_t items_of_block = block_size) {
    const int64_t blocks = (items + items_of_block - 1) / items_of_block;
    return static_cast<unsigned>(blocks < 1 ? 1 : blocks > most_blocks ? most_blocks : blocks);
}

// A launch of a thread, or of a warp, for each item.
#define LAUNCH_EACH(kernel, items, stream, ...) LAUNCH(kernel, blocks_for(items), block_size, 0, stream, __VA_ARGS__)
#define LAUNCH_WARPS(kernel, items, stream, ...) \
    LAUNCH(kernel, blocks_for(items, block_size / lanes), block_size, 0, stream, __VA_ARGS__)

// The device of an operation's first tensor, made the current one, and its stream. The others must be there too: a kernel
// cannot read the host's memory.
class Place {
public:
#ifdef __CUDACC__
    Place(const Tensor& first, const char* name) : device_(first.get_device_index()), guard_(on_gpu(first, name)) {
        void* stream = nullptr;
        STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
        stream_ = static_cast<cudaStream_t>(stream);
    }
#else
    Place(const Tensor& first, const char*) : device_(first.get_device_index()) {}
#endif

    void check(const Tensor& tensor, const char* name, ScalarType type, std::initializer_list<int64_t> shape) const {
        check_here(tensor, name);
        smallobjects::check(tensor, name, type, shape);
    }
    void check_here(const Tensor& tensor, const char* name) const {
        STD_TORCH_CHECK(on_gpu(tensor, name) == device_, name, " must be on CUDA device ", device_,
                        " like the others, got ", tensor.get_device_index());
    }
    cudaStream_t stream() const { return stream_; }

private:
    static int32_t on_gpu(const Tensor& tensor, const char* name) {
#ifdef __CUDACC__
        STD_TORCH_CHECK(tensor.is_cuda(), name, " must be on a CUDA device like the others");
#endif
        static_cast<void>(name);
        return tensor.get_device_index();
    }

    int32_t device_;
    cudaStream_t stream_ = nullptr;
#ifdef __CUDACC__
    torch::stable::accelerator::DeviceGuard guard_;
#endif
};

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type) {
    const std::vector<int64_t> sizes(shape);
    return torch::stable::new_empty(like, sizes, type);
}

inline Tensor zeros(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type) {
    const std::vector<int64_t> sizes(shape);
    return torch::stable::new_zeros(like, sizes, type);
}

// Ascending values and where each was.
inline std::tuple<Tensor, Tensor> sorted(const Tensor& values) {
    using torch::stable::detail::from;
    std::array<StableIValue, 4> stack{from(values), from(std::optional<bool>(true)), from(int64_t{0}), from(false)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
    return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

inline Tensor cumulated(const Tensor& values) {
    using torch::stable::detail::from;
    std::array<StableIValue, 3> stack{from(values), from(int64_t{0}), from(std::optional<ScalarType>())};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
}

// int64 [H, 1]; waits for the GPU.
inline Tensor nonzero(const Tensor& values) {
    std::array<StableIValue, 1> stack{torch::stable::detail::from(values)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::nonzero", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
}

// In the host's memory; waits for the GPU.
inline Tensor on_host(const Tensor& tensor) {
    return torch::stable::to(tensor, torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

// The last of offsets, a size; waits for the GPU.
inline int64_t total_of(Tensor offsets) {
    return *data<int64_t>(on_host(torch::stable::narrow(offsets, 0, offsets.size(0) - 1, 1)));
}

// A grid of boxes [N, 4], optionally in groups [N], and its memory.
class BoxGrid {
public:
    BoxGrid(const Place& place, const Tensor& boxes, const int64_t* groups = nullptr)
        : longest_(zeros(boxes, {number_of_levels}, ScalarType::Int)),
          starts_(empty(boxes, {number_of_levels + 1}, ScalarType::Long)),
          keys_(empty(boxes, {boxes.size(0)}, ScalarType::Long)), order_(keys_), boxes_(boxes), groups_(groups) {
        const int64_t count = boxes.size(0);
        LAUNCH_EACH(grid_keys, count, place.stream(), data<float>(boxes), groups, count, out<int64_t>(keys_),
                    out<unsigned>(longest_));
        std::tie(keys_, order_) = sorted(keys_);
        LAUNCH_EACH(grid_starts, number_of_levels + 1, place.stream(), data<int64_t>(keys_), count,
                    out<int64_t>(starts_));
    }

    operator Grid() const {
        return {data<float>(boxes_),    groups_,
                data<int64_t>(keys_),   data<int64_t>(order_),
                data<int64_t>(starts_), data<unsigned>(longest_),
                boxes_.size(0)};
    }

private:
    Tensor longest_, starts_, keys_, order_, boxes_;
    const int64_t* groups_;
};

}  // namespace smallobjects
