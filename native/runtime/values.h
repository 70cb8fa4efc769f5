// SPDX-License-Identifier: MIT
// Handles that an execution plan gives to values, vectors and matrices.
#pragma once

#include <cstddef>

namespace edgellm {

// Rows of a value: in shared memory (row stride ld floats), or in the thread's own while it runs a prologue
// privately.
struct ValueRef {
    int buffer = -1;    // index into ExecutionPlan::buffers; -1: none; kLogitsBuffer: the caller's array
    size_t column = 0;  // first column in the buffer's rows
    size_t width = 0;
    size_t offset = 0;              // floats from the arena's start to row 0; set when placed
    size_t ld = 0;                  // floats from row to row; set when placed
    ptrdiff_t private_offset = -1;  // floats into the thread's private memory, row 0; -1: always shared
};
constexpr int kLogitsBuffer = -2;

// A weight decoded to float32 at load: index into ExecutionPlan::vectors; -1: none.
using VectorId = int;
// A packed weight matrix: index into ExecutionPlan::matrices; -1: none.
using MatrixId = int;

}  // namespace edgellm
