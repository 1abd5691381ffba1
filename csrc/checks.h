// What a binding asks of its tensors; errors name the argument and its value.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <initializer_list>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace smallobjects {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t any_size = -1;

template <class T>
const T* data(const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* out(const Tensor& tensor) {
    return static_cast<T*>(tensor.mutable_data_ptr());
}

inline std::string shape_of(const Tensor& tensor) {
    std::ostringstream text;
    for (int64_t i = 0; i < tensor.dim(); i++) text << (i ? ", " : "[") << tensor.size(i);
    text << (tensor.dim() ? "]" : "[]");
    return text.str();
}

// The kernels read plain arrays: faces make tensors contiguous.
inline void check(const Tensor& tensor, const char* name, ScalarType type, std::initializer_list<int64_t> shape) {
    bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
    int64_t dim = 0;
    for (auto size = shape.begin(); fits && size != shape.end(); ++size, ++dim) fits = *size == any_size || *size == tensor.size(dim);
    if (!fits) {
        std::ostringstream wanted;
        for (auto size = shape.begin(); size != shape.end(); ++size) {
            wanted << (size == shape.begin() ? "[" : ", ");
            if (*size == any_size) wanted << "any";
            else wanted << *size;
        }
        STD_TORCH_CHECK(false, name, " must be ", wanted.str(), "], got ", shape_of(tensor));
    }
    STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be of type ", torch::headeronly::toString(type), ", got ",
                    torch::headeronly::toString(tensor.scalar_type()));
    STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

inline void check_features(const std::vector<Tensor>& features) {
    STD_TORCH_CHECK(!features.empty(), "features must be one level at least, got none");
    const Tensor& first = features[0];
    for (const Tensor& feature : features) {
        STD_TORCH_CHECK(feature.dim() == 4 && feature.size(0) == first.size(0) && feature.size(3) == first.size(3) && feature.size(1) > 0 &&
                            feature.size(2) > 0,
                        "features must be [B, H, W, C] with the same B and C and at least one cell, got ", shape_of(feature));
        STD_TORCH_CHECK(feature.scalar_type() == first.scalar_type(), "features must share one type");
        STD_TORCH_CHECK(feature.is_contiguous(), "features must be contiguous as [B, H, W, C]");
    }
}

inline void check_finite(const Tensor& boxes, const char* name) {
    const float* values = data<float>(boxes);
    for (int64_t i = 0; i < boxes.numel(); i++) {
        STD_TORCH_CHECK(std::isfinite(values[i]), name, " must be finite, got ", values[i], " in row ", i / 4);
    }
}

inline void check_range(const Tensor& index, const char* name, int64_t limit) {
    const int64_t* values = data<int64_t>(index);
    for (int64_t i = 0; i < index.numel(); i++) {
        STD_TORCH_CHECK(values[i] >= 0 && values[i] < limit, name, " must be in 0..", limit - 1, ", got ", values[i], " at ", i);
    }
}

inline void check_ascending(const Tensor& offsets, const char* name, int64_t total) {
    const int64_t *values = data<int64_t>(offsets), count = offsets.numel();
    STD_TORCH_CHECK(count > 0 && values[0] == 0 && values[count - 1] == total, name, " must go from 0 to ", total);
    for (int64_t i = 1; i < count; i++) STD_TORCH_CHECK(values[i] >= values[i - 1], name, " must not fall, but do at ", i);
}

inline void check_bins(int64_t output_size, int64_t sampling_ratio) {
    STD_TORCH_CHECK(output_size > 0, "output_size must be positive, got ", output_size);
    STD_TORCH_CHECK(sampling_ratio >= 0, "sampling_ratio must not be negative, got ", sampling_ratio);
}

// Offsets must be those that the windows' areas give.
inline void check_offsets(const Tensor& windows, const Tensor& offsets, const char* name) {
    check(offsets, name, ScalarType::Long, {windows.size(0) + 1});
    const int32_t* window = data<int32_t>(windows);
    const int64_t* at = data<int64_t>(offsets);
    STD_TORCH_CHECK(at[0] == 0, name, " must begin with 0, got ", at[0]);
    for (int64_t i = 0; i < windows.size(0); i++, window += 4) {
        const int64_t width = static_cast<int64_t>(window[2]) - window[0], height = static_cast<int64_t>(window[3]) - window[1];
        STD_TORCH_CHECK(width >= 0 && height >= 0 && at[i + 1] - at[i] == width * height, name, " must be the sums of the windows' areas, but are not at ", i,
                        ": ", width, " x ", height, " pixels in ", at[i + 1] - at[i]);
    }
}

inline void check_masks(const Tensor& windows, const Tensor& offsets, const Tensor& levels) {
    check(windows, "windows", ScalarType::Int, {any_size, 4});
    check_offsets(windows, offsets, "offsets");
    check(levels, "data", ScalarType::Byte, {data<int64_t>(offsets)[windows.size(0)]});
}

inline void check_inside(const Tensor& windows, int64_t height, int64_t width) {
    const int32_t* window = data<int32_t>(windows);
    for (int64_t i = 0; i < windows.size(0); i++, window += 4) {
        STD_TORCH_CHECK(window[0] >= 0 && window[1] >= 0 && window[2] <= width && window[3] <= height, "windows must lie inside the canvas of ", height, " x ",
                        width, " pixels; number ", i, " is ", window[0], " ", window[1], " ", window[2], " ", window[3]);
    }
}

template <class T>
using accumulator_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
constexpr ScalarType scalar_type_of() {
    return std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
}

// Calls `body` with a zero of the C++ type.
template <class Body>
void dispatch(ScalarType type, const Body& body) {
    switch (type) {
        case ScalarType::Float: return body(float(0));
        case ScalarType::Double: return body(double(0));
        case ScalarType::BFloat16: return body(torch::headeronly::BFloat16(0));
        case ScalarType::Half: return body(torch::headeronly::Half(0));
        default: STD_TORCH_CHECK(false, "features must be float32, float64, bfloat16 or float16, got ", torch::headeronly::toString(type));
    }
}

}  // namespace smallobjects
