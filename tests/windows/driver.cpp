// Loads the native core into a Windows process with PyTorch's own DLLs, calls each operation of a case file through the
// dispatcher and compares the answers. write_cases.py describes and writes that file.
//
//     driver.exe library cases

#include <windows.h>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
namespace boxed = torch::stable::detail;

size_t size_of(ScalarType type) {
    switch (type) {
        case ScalarType::Byte:
        case ScalarType::Bool: return 1;
        case ScalarType::Half:
        case ScalarType::BFloat16: return 2;
        case ScalarType::Int:
        case ScalarType::Float: return 4;
        case ScalarType::Long:
        case ScalarType::Double: return 8;
        default: throw std::runtime_error("case file: unknown element type");
    }
}

class Reader {
public:
    explicit Reader(const char* path) : file_(path, std::ios::binary) {}

    bool at_end() { return file_.peek() == std::ifstream::traits_type::eof(); }

    void bytes(void* to, size_t count) {
        file_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
        if (!file_) throw std::runtime_error("case file: ends too early");
    }
    template <class T>
    T number() {
        T value;
        bytes(&value, sizeof value);
        return value;
    }
    std::string text() {
        std::string value(number<uint32_t>(), ' ');
        bytes(value.data(), value.size());
        return value;
    }
    Tensor tensor() {
        const auto type = static_cast<ScalarType>(number<uint8_t>());
        std::vector<int64_t> sizes(number<uint8_t>());
        bytes(sizes.data(), sizes.size() * sizeof(int64_t));
        std::vector<int64_t> strides(sizes.size());
        int64_t count = 1;
        for (size_t dim = sizes.size(); dim-- > 0; count *= sizes[dim]) strides[dim] = count;
        // Tensors borrow their memory. `double` aligns it for every type.
        memory_.emplace_back((count * size_of(type) + 7) / 8);
        bytes(memory_.back().data(), count * size_of(type));
        return torch::stable::from_blob(memory_.back().data(), sizes, strides,
                                        torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
    }
    std::vector<Tensor> tensors() {
        std::vector<Tensor> all;
        for (uint32_t count = number<uint32_t>(); count > 0; count--) all.push_back(tensor());
        return all;
    }
    std::vector<double> numbers() {
        std::vector<double> all(number<uint32_t>());
        bytes(all.data(), all.size() * sizeof(double));
        return all;
    }
    std::vector<int64_t> whole_numbers() {
        std::vector<int64_t> all(number<uint32_t>());
        bytes(all.data(), all.size() * sizeof(int64_t));
        return all;
    }
    void forget() { memory_.clear(); }

private:
    std::ifstream file_;
    std::deque<std::vector<double>> memory_;
};

double value_at(const Tensor& tensor, int64_t i) {
    const void* data = tensor.const_data_ptr();
    switch (tensor.scalar_type()) {
        case ScalarType::Float: return static_cast<const float*>(data)[i];
        case ScalarType::Double: return static_cast<const double*>(data)[i];
        case ScalarType::Half: return static_cast<const torch::headeronly::Half*>(data)[i];
        case ScalarType::BFloat16: return static_cast<const torch::headeronly::BFloat16*>(data)[i];
        default: throw std::runtime_error("case file: a tolerance for whole numbers");
    }
}

// Zero tolerance: to the last bit.
bool equal(const Tensor& found, const Tensor& wanted, double tolerance) {
    if (found.scalar_type() != wanted.scalar_type() || found.dim() != wanted.dim() || !found.is_contiguous())
        return false;
    for (int64_t dim = 0; dim < wanted.dim(); dim++) {
        if (found.size(dim) != wanted.size(dim)) return false;
    }
    if (tolerance == 0) {
        const size_t bytes = wanted.numel() * size_of(wanted.scalar_type());
        return bytes == 0 || std::memcmp(found.const_data_ptr(), wanted.const_data_ptr(), bytes) == 0;
    }
    for (int64_t i = 0; i < wanted.numel(); i++) {
        const double expected = value_at(wanted, i);
        if (!(std::abs(value_at(found, i) - expected) <= tolerance * (1 + std::abs(expected)))) return false;
    }
    return true;
}

void call(const std::string& name, std::vector<StableIValue>& stack) {
    if (torch_call_dispatcher(name.c_str(), "", stack.data(), TORCH_ABI_VERSION) != 0)
        throw std::runtime_error(name + ": refused its arguments");
}

std::vector<StableIValue> read_arguments(Reader& file) {
    std::vector<StableIValue> stack;
    for (uint32_t count = file.number<uint32_t>(); count > 0; count--) {
        switch (file.number<char>()) {
            case 't': stack.push_back(boxed::from(file.tensor())); break;
            case 'l': stack.push_back(boxed::from(file.tensors())); break;
            case 'n': stack.push_back(boxed::from(file.numbers())); break;
            case 'i': stack.push_back(boxed::from(file.number<int64_t>())); break;
            case 'w': stack.push_back(boxed::from(file.whole_numbers())); break;
            case 'f': stack.push_back(boxed::from(file.number<double>())); break;
            case 'b': stack.push_back(boxed::from(file.number<uint8_t>() != 0)); break;
            default: throw std::runtime_error("case file: unknown kind of argument");
        }
    }
    return stack;
}

// Whether the answer on the stack is that in the file, which is read to its end in any case.
bool compare_results(Reader& file, const std::vector<StableIValue>& stack, uint32_t count, double tolerance) {
    bool same = true;
    for (uint32_t i = 0; i < count; i++) {
        switch (file.number<char>()) {
            case 't': same &= equal(boxed::to<Tensor>(stack[i]), file.tensor(), tolerance); break;
            case 'i': same &= boxed::to<int64_t>(stack[i]) == file.number<int64_t>(); break;
            case 'l': {
                const auto found = boxed::to<std::vector<Tensor>>(stack[i]), wanted = file.tensors();
                same &= found.size() == wanted.size();
                for (size_t j = 0; j < wanted.size() && same; j++) same &= equal(found[j], wanted[j], tolerance);
                break;
            }
            default: throw std::runtime_error("case file: unknown kind of result");
        }
    }
    return same;
}

// Returns how many operations differ.
int run(const char* path) {
    Reader file(path);
    int differing = 0;
    while (!file.at_end()) {
        const std::string name = file.text();
        const uint32_t cases = file.number<uint32_t>();
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < cases; i++) {
            const double tolerance = file.number<double>();
            std::vector<StableIValue> stack = read_arguments(file);
            const uint32_t results = file.number<uint32_t>();
            if (stack.size() < results) stack.resize(results);
            call("maskrcnn::" + name, stack);
            wrong += !compare_results(file, stack, results, tolerance);
            file.forget();
        }
        std::printf("%-24s %u of %u cases as on Linux\n", name.c_str(), cases - wrong, cases);
        std::fflush(stdout);
        differing += wrong > 0;
    }
    return differing;
}

}  // namespace

int main(int, char** arguments) {
    try {
        if (!LoadLibraryA(arguments[1]))
            throw std::runtime_error("the library does not load, Windows error " + std::to_string(GetLastError()));
        std::vector<StableIValue> text(1);
        call("maskrcnn::built_with", text);
        std::printf("%s; %u threads\n", boxed::to<std::string>(text[0]).c_str(), torch::stable::get_num_threads());
        return run(arguments[2]) > 0;
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        return 2;
    }
}
