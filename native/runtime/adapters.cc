// SPDX-License-Identifier: MIT
#include "runtime/adapters.h"

#include <algorithm>
#include <variant>

#include "base/error.h"

namespace edgellm {
namespace {

[[noreturn]] void refuse(const UpdateSource& source, const std::string& what) {
    throw ModelError("an adapter changes " + source.weight + ", " + what);
}

// Throws for a weight that an operation other than a linear uses.
void check_use(const Program& program, int weight, const UpdateSource& source) {
    for (const Op& op : program.ops) {
        for (const auto& [role, used] : op.weights) {
            if (used == weight && (op.kind != OpKind::kLinear || role != "weight"))
                refuse(source, "which is not the matrix of a linear layer alone");
        }
    }
}

}  // namespace

void Adapters::add(const std::vector<UpdateSource>& sources) {
    projections_.resize(plan_.stages.size());
    updates_.resize(plan_.matrices.size());
    for (const UpdateSource& source : sources) {
        const auto it = std::find_if(program_.weights.begin(), program_.weights.end(),
                                     [&](const WeightDecl& w) { return w.name == source.weight; });
        if (it == program_.weights.end()) refuse(source, "which the model does not have");
        const int weight = static_cast<int>(it - program_.weights.begin());
        check_use(program_, weight, source);
        const auto n_out = static_cast<size_t>(it->shape[0]), n_in = static_cast<size_t>(it->shape[1]);
        const auto check_bytes = [&](uint32_t type, size_t rows, size_t columns, size_t found) {
            const FormatInfo* format = find_format(type);
            if (format == nullptr || format->block_size != 1)
                refuse(source, "in a format that is not floats");
            if (source.rank == 0 || found != rows * row_bytes(*format, columns))
                refuse(source, "with matrices that do not fit it");
        };
        check_bytes(source.a_type, source.rank, n_in, source.a_bytes);
        check_bytes(source.b_type, n_out, source.rank, source.b_bytes);
        for (size_t s = 0; s < plan_.stages.size(); ++s) add_to_stage(s, weight, source);
    }
    ++n_adapters_;
}

void Adapters::add_to_stage(size_t stage, int weight, const UpdateSource& source) {
    std::vector<ProjectionA>& projections = projections_[stage];
    const size_t first = projections.size();
    // Matrices of one weight share a projection, unless they multiply different values.
    const auto column_of = [&](const ValueRef& in) {
        for (size_t i = first; i < projections.size(); ++i) {
            const ValueRef& known = projections[i].in;
            if (known.buffer == in.buffer && known.column == in.column) return projections[i].column;
        }
        size_t column = 0;
        if (!projections.empty()) {
            const ProjectionA& last = projections.back();
            column = last.column + align_up(last.a.packed.n_out, kPanelRows);
        }
        lora_a_floats_ = std::max(lora_a_floats_, column + align_up(source.rank, kPanelRows));
        projections.push_back({n_adapters_, in,
                               describe(source.a_type, source.rank, in.width, source.a, weight), column,
                               source.scale});
        return column;
    };
    const size_t b_row = row_bytes(*find_format(source.b_type), source.rank);
    const auto* linear = std::get_if<LinearStage>(&plan_.stages[stage]);
    if (linear == nullptr) return;
    for (const LinearTask& task : linear->tasks) {
        for (const MatrixId index : {task.matrix, task.up}) {
            if (index < 0) continue;
            const MatrixUse& use = plan_.matrix(index);
            if (use.weight != weight) continue;
            const size_t column = column_of(task.in);
            updates_[static_cast<size_t>(index)].push_back(
                {n_adapters_,
                 describe(source.b_type, use.packed.n_out, source.rank, source.b + use.row_first * b_row,
                          weight),
                 column});
        }
    }
}

AdapterMatrix Adapters::describe(uint32_t type, size_t n_out, size_t n_in, const uint8_t* rows, int weight) {
    AdapterMatrix m{{}, rows, n_bytes_, weight};
    linear_kernels(plan_.options.isa).describe(static_cast<GGMLType>(type), n_out, n_in, &m.packed);
    n_bytes_ += m.packed.panel_stride * m.packed.n_panels;
    return m;
}

void Adapters::pack() {
    if (n_adapters_ == 0) return;
    region_ = Region(n_bytes_, false);
    for (auto& projections : projections_) {
        for (ProjectionA& p : projections) pack(&p.a);
    }
    for (auto& updates : updates_) {
        for (UpdateB& u : updates) pack(&u.b);
    }
}

void Adapters::pack(AdapterMatrix* matrix) {
    uint8_t* data = region_.data() + matrix->offset;
    const LinearKernels& kernels = linear_kernels(plan_.options.isa);
    if (!kernels.pack(matrix->packed, matrix->source, 0, matrix->packed.n_panels, data)) {
        throw ModelError("an adapter holds a value that is not finite for " +
                         program_.weights[static_cast<size_t>(matrix->weight)].name);
    }
    matrix->packed.data = data;
}

}  // namespace edgellm
