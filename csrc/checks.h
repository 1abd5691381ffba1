// What a binding asks of its tensors' shapes and types; errors name the argument and its value.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <initializer_list>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "shared/bins.h"
#include "shared/warping.h"

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
    for (auto size = shape.begin(); fits && size != shape.end(); ++size, ++dim)
        fits = *size == any_size || *size == tensor.size(dim);
    if (!fits) {
        std::ostringstream wanted;
        for (auto size = shape.begin(); size != shape.end(); ++size) {
            wanted << (size == shape.begin() ? "[" : ", ");
            if (*size == any_size) wanted << "any";
            else wanted << *size;
        }
        STD_TORCH_CHECK(false, name, " must be ", wanted.str(), "], got ", shape_of(tensor));
    }
    STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be of type ", torch::headeronly::toString(type),
                    ", got ", torch::headeronly::toString(tensor.scalar_type()));
    STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

inline void check_features(const std::vector<Tensor>& features) {
    STD_TORCH_CHECK(!features.empty(), "features must be one level at least, got none");
    const Tensor& first = features[0];
    for (const Tensor& feature : features) {
        STD_TORCH_CHECK(feature.dim() == 4 && feature.size(0) == first.size(0) && feature.size(3) == first.size(3) &&
                            feature.size(1) > 0 && feature.size(2) > 0,
                        "features must be [B, H, W, C] with the same B and C and at least one cell, got ",
                        shape_of(feature));
        STD_TORCH_CHECK(feature.scalar_type() == first.scalar_type(), "features must share one type");
        STD_TORCH_CHECK(feature.is_contiguous(), "features must be contiguous as [B, H, W, C]");
    }
}

inline Bins check_bins(const std::vector<int64_t>& output_size, int64_t sampling_ratio) {
    STD_TORCH_CHECK(output_size.size() == 2, "output_size must be two numbers, got ", output_size.size());
    for (int64_t size : output_size) STD_TORCH_CHECK(size > 0, "output_size must be positive, got ", size);
    STD_TORCH_CHECK(sampling_ratio >= 0, "sampling_ratio must not be negative, got ", sampling_ratio);
    return {output_size[0], output_size[1]};
}

// Windows are of 32 bits.
inline void check_canvas(int64_t height, int64_t width) {
    constexpr int64_t limit = std::numeric_limits<int32_t>::max();
    STD_TORCH_CHECK(height >= 0 && width >= 0 && height <= limit && width <= limit, "a canvas cannot be ", height,
                    " x ", width, " pixels");
}

inline void check_image(const Tensor& image) {
    STD_TORCH_CHECK(image.dim() == 3 && image.size(1) > 0 && image.size(2) > 0,
                    "image must be [C, H, W] with a pixel at least, got ", shape_of(image));
    STD_TORCH_CHECK(image.is_contiguous(), "image must be contiguous");
    check_canvas(image.size(1), image.size(2));
}

inline void check_samples(int64_t samples) {
    STD_TORCH_CHECK(samples >= 1 && samples <= 64, "samples must be in 1..64, got ", samples);
}

inline Border border_of(int64_t number) {
    STD_TORCH_CHECK(number >= 0 && number <= 2, "border must be in 0..2, got ", number);
    return static_cast<Border>(number);
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
        default:
            STD_TORCH_CHECK(false, "features must be float32, float64, bfloat16 or float16, got ",
                            torch::headeronly::toString(type));
    }
}

template <class Body>
void dispatch_image(ScalarType type, const Body& body) {
    switch (type) {
        case ScalarType::Byte: return body(uint8_t(0));
        case ScalarType::Float: return body(float(0));
        default: STD_TORCH_CHECK(false, "image must be uint8 or float32, got ", torch::headeronly::toString(type));
    }
}

}  // namespace smallobjects
