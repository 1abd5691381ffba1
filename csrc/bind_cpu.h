// What the CPU bindings share: threads and new tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "checks.h"
#include "checks_values.h"
#include "cpu/parallel.h"

namespace smallobjects {
namespace {

void threads(int64_t count, int64_t grain, const Range& range) { torch::stable::parallel_for(0, count, grain, range); }

Tensor cpu(std::initializer_list<int64_t> shape, ScalarType type) {
    return torch::stable::empty(std::vector<int64_t>(shape), type, std::nullopt,
                                torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

}  // namespace
}  // namespace smallobjects
