// How many bins a RoI is pooled into.
#pragma once

#include <cstdint>

namespace smallobjects {

struct Bins {
    int64_t rows, columns;
};

}  // namespace smallobjects
