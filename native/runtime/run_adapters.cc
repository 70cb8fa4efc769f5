// SPDX-License-Identifier: MIT
#include "runtime/run_adapters.h"

#include <algorithm>

namespace edgellm {
namespace {

constexpr size_t kUnitRows = 96;  // rows of one unit of work of project_a

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

}  // namespace

AdapterRunner::AdapterRunner(RunContext* context, const Adapters& adapters, size_t tile_floats)
    : context_(*context),
      adapters_(adapters),
      lora_a_out_(context->plan.options.batch * adapters.lora_a_floats()),
      scales_(context->plan.options.batch * adapters.size()),
      scratch_(context->max_threads(), adapters.size() > 0 ? tile_floats * sizeof(float) : 0) {}

void AdapterRunner::read_scales() {
    const std::vector<Segment>& segments = context_.batch.segments;
    active_ = std::any_of(segments.begin(), segments.end(),
                          [](const Segment& s) { return !s.sequence->scales.empty(); });
    if (!active_) return;
    for (size_t a = 0; a < adapters_.size(); ++a) {
        for (const Segment& s : segments) {
            std::fill_n(scales(a) + s.first_row, s.n_rows,
                        s.sequence->scales.empty() ? 0.0f : s.sequence->scales[a]);
        }
    }
}

void AdapterRunner::select_scales() {
    if (!active_) return;
    const std::vector<uint32_t>& rows = context_.batch.output_rows;
    for (size_t a = 0; a < adapters_.size(); ++a) {
        float* of = scales(a);
        for (size_t r = 0; r < rows.size(); ++r) of[r] = of[rows[r]];
    }
}

void AdapterRunner::project_a(size_t stage, const Thread& thread) {
    const size_t n_tiles = (context_.n_rows + kUnitRows - 1) / kUnitRows;
    const std::vector<ProjectionA>& projections = adapters_.projections(stage);
    size_t n_units = 0;
    for (const ProjectionA& p : projections) n_units += p.a.packed.n_panels * n_tiles;
    for (size_t i; (i = context_.take(stage, 1)) < n_units;) {
        auto p = projections.begin();
        for (; i >= p->a.packed.n_panels * n_tiles; ++p) i -= p->a.packed.n_panels * n_tiles;
        project_panel(*p, i / n_tiles, i % n_tiles * kUnitRows, thread);
    }
}

// Results of one panel for kUnitRows rows from `row` on.
void AdapterRunner::project_panel(const ProjectionA& p, size_t panel, size_t row, const Thread& thread) {
    const size_t n = std::min(kPanelRows, p.a.packed.n_out - panel * kPanelRows);
    const size_t end = std::min(context_.n_rows, row + kUnitRows), ld = adapters_.lora_a_floats();
    const float* scale = scales(p.adapter);
    for_each_run(scale, row, end, [&](size_t first, size_t count) {
        float* out = lora_a_out_.data() + first * ld + p.column + panel * kPanelRows;
        const QuantRows unused{};
        context_.kernels.linear.matmul({p.a.packed, panel, panel + 1, &unused, context_.at(p.in, 0, thread),
                                        p.in.ld, first, count, out, ld});
        for (size_t r = 0; r < count; ++r) {
            context_.kernels.rows.affine({p.scale * scale[first + r]}, out + r * ld, n, out + r * ld);
        }
    });
}

void AdapterRunner::add_updates(MatrixId matrix, const OutputTile& tile, float* values, size_t ld,
                                const Thread& thread) {
    float* scratch = scratch_.floats(thread.index);
    for (const UpdateB& u : adapters_.updates(matrix)) {
        const PackedMatrix& b = u.b.packed;
        const size_t n = std::min(size_t{b.n_out}, tile.last * kPanelRows) - tile.column();
        for_each_run(scales(u.adapter), tile.row, tile.row + tile.n_rows, [&](size_t first, size_t n_rows) {
            const QuantRows unused{};
            context_.kernels.linear.matmul({b, tile.first, tile.last, &unused, lora_a_out_.data() + u.column,
                                            adapters_.lora_a_floats(), first, n_rows, scratch, tile.width()});
            for (size_t r = 0; r < n_rows; ++r) {
                float* to = values + (first - tile.row + r) * ld;
                context_.kernels.rows.add(to, scratch + r * tile.width(), n, to);
            }
        });
    }
}

}  // namespace edgellm
