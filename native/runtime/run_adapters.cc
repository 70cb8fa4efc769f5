// SPDX-License-Identifier: MIT
// What adapters add to linear stages: runtime/adapters.h has the arithmetic.
#include <algorithm>

#include "runtime/executor.h"

namespace edgellm {
namespace {

// Calls fn(first, n) for each run of rows in [begin, end) whose scales are not zero.
template <class Fn>
void for_each_run(const float* scales, size_t begin, size_t end, const Fn& fn) {
    for (size_t row = begin; row < end;) {
        size_t last = row;
        while (last < end && scales[last] != 0.0f) ++last;
        if (last > row) fn(row, last - row);
        row = last + 1;
    }
}

constexpr size_t kUnitRows = 96;

}  // namespace

void Executor::prepare_scales() {
    adapted_ = std::any_of(batch.segments.begin(), batch.segments.end(),
                           [](const Segment& s) { return !s.sequence->scales.empty(); });
    if (!adapted_) return;
    for (size_t a = 0; a < adapters_.size(); ++a) {
        for (const Segment& s : batch.segments) {
            std::fill_n(row_scales(a) + s.first_row, s.n_rows,
                        s.sequence->scales.empty() ? 0.0f : s.sequence->scales[a]);
        }
    }
}

void Executor::select_scales() {
    for (size_t a = 0; a < adapters_.size(); ++a) {
        float* scales = row_scales(a);
        for (size_t r = 0; r < batch.output_rows.size(); ++r) scales[r] = scales[batch.output_rows[r]];
    }
}

// All threads together; ends before a barrier.
void Executor::make_low_values(size_t s, uint8_t* memory) {
    const size_t rows = n_rows_, n_tiles = (rows + kUnitRows - 1) / kUnitRows;
    const size_t ld = adapters_.low_floats();
    const std::vector<LowProduct>& products = adapters_.products(s);
    size_t n_units = 0;
    for (const LowProduct& p : products) n_units += p.a.packed.n_panels * n_tiles;
    auto& counter = counters_[s * kPhases + 1].next;
    for (size_t i; (i = counter.fetch_add(1, std::memory_order_relaxed)) < n_units;) {
        size_t left = i;
        auto p = products.begin();
        for (; left >= p->a.packed.n_panels * n_tiles; ++p) left -= p->a.packed.n_panels * n_tiles;
        const size_t panel = left / n_tiles, begin = left % n_tiles * kUnitRows;
        const size_t n = std::min(kPanelRows, p->a.packed.n_out - panel * kPanelRows);
        const float* scales = row_scales(p->adapter);
        for_each_run(scales, begin, std::min(rows, begin + kUnitRows), [&](size_t first, size_t count) {
            float* low = low_ + first * ld + p->column + panel * kPanelRows;
            const QuantRows unused{};
            linear_.matmul(p->a.packed, panel, panel + 1, &unused, at(p->in, 0, memory), p->in.ld, first,
                           count, low, ld);
            for (size_t r = 0; r < count; ++r) {
                rows_.affine({.factor = p->scale * scales[first + r]}, low + r * ld, n, low + r * ld);
            }
        });
    }
}

void Executor::add_updates(int matrix, size_t first_panel, size_t last_panel, size_t row, size_t count,
                           float* values, size_t ld, float* scratch) {
    for (const Update& u : adapters_.updates(matrix)) {
        const PackedMatrix& b = u.b.packed;
        const size_t column = first_panel * kPanelRows;
        const size_t n = std::min(size_t{b.n_out}, last_panel * kPanelRows) - column;
        const size_t scratch_ld = (last_panel - first_panel) * kPanelRows;
        for_each_run(row_scales(u.adapter), row, row + count, [&](size_t first, size_t n_rows) {
            const QuantRows unused{};
            linear_.matmul(b, first_panel, last_panel, &unused, low_ + u.column, adapters_.low_floats(),
                           first, n_rows, scratch, scratch_ld);
            for (size_t r = 0; r < n_rows; ++r) {
                float* to = values + (first - row + r) * ld;
                rows_.add(to, scratch + r * scratch_ld, n, to);
            }
        });
    }
}

}  // namespace edgellm
