// How a kernel gets its threads: the binding hands over PyTorch's, the self-test its own.
#pragma once

#include <cstdint>
#include <functional>

namespace smallobjects {

using Range = std::function<void(int64_t begin, int64_t end)>;

// Calls the range on pieces of 0..count, at least `grain` long, side by side. A kernel must give the same result however
// it is cut.
using Parallel = std::function<void(int64_t count, int64_t grain, const Range& range)>;

}  // namespace smallobjects
