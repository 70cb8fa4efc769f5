// SPDX-License-Identifier: MIT
#include "runtime/run_top_logits.h"

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <utility>

#include "kernels/linear/pack.h"

namespace edgellm {
namespace {

// Most logits of a run, all rows together, that are bounded.
constexpr size_t kMostLogits = 64;
// Single panels are read at half the speed of a stream: bounds pay while fewer than one panel in
// kPanelsPerExact is computed exactly.
constexpr size_t kPanelsPerExact = 8;
constexpr size_t kRunsUntilRetry = 256;

// The k panels with the largest values.
class BestPanels {
  public:
    explicit BestPanels(size_t k) : k_(k) {}

    void offer(float value, size_t panel) {
        if (n_ == k_ && !(value > heap_[0].first)) return;
        if (n_ == k_) std::pop_heap(heap_.begin(), end(), std::greater<>{});
        n_ = std::min(n_ + 1, k_);
        heap_[n_ - 1] = {value, panel};
        std::push_heap(heap_.begin(), end(), std::greater<>{});
    }
    size_t size() const { return n_; }
    size_t panel(size_t i) const { return heap_[i].second; }

  private:
    using Entry = std::pair<float, size_t>;
    Entry* end() { return heap_.data() + n_; }

    size_t k_, n_ = 0;
    std::array<Entry, kMostLogits> heap_;
};

const LinearStage* split_head(const RunContext& context) {
    const auto* last = std::get_if<LinearStage>(&context.plan.stages.back());
    if (last == nullptr || last->tasks.size() != 1) return nullptr;
    return context.plan.matrix(last->tasks[0].matrix).packed.split ? last : nullptr;
}

}  // namespace

TopLogits::TopLogits(const RunContext& context, const AdapterRunner& adapters)
    : context_(context),
      adapters_(adapters),
      head_(split_head(context)),
      most_(kMostLogits),
      thresholds_(kMostLogits * context.max_threads()) {}

void TopLogits::start(size_t n) {
    n_ = n;
    n_exact_ = 0;
}

void TopLogits::find(const LinearStage& stage, const Thread& thread) {
    const LinearTask& task = stage.tasks[0];
    const QuantRows quant = context_.quant_rows(stage.quants[static_cast<size_t>(task.quant)], thread);
    const size_t n_threads = context_.n_threads();
    for (size_t row = 0; row < context_.n_rows; ++row)
        thresholds_[row * n_threads + thread.index] = bound(task, quant, row, thread.index);
    context_.barrier();
    size_t n_exact = 0;
    for (size_t row = 0; row < context_.n_rows; ++row)
        n_exact += compute_reaching(task, quant, row, thread.index);
    n_exact_.fetch_add(n_exact, std::memory_order_relaxed);
}

float TopLogits::bound(const LinearTask& task, const QuantRows& quant, size_t row, size_t thread) {
    const PackedMatrix& m = context_.weights.matrix(task.matrix);
    const auto [first, last] = context_.share(m.n_panels, thread);
    float* logits = context_.at(task.out, row);
    const float* errors = row_errors(m);
    const float norm = row_norm(quant, row);
    BestPanels best(n_);
    for (size_t p = first; p < last; ++p) {
        const size_t begin = p * kPanelRows, n = std::min(kPanelRows, m.n_out - begin);
        float least = -std::numeric_limits<float>::infinity();
        for (size_t i = begin; i < begin + n; ++i) {
            const float error = errors[i] * norm;
            least = std::max(least, logits[i] - error);
            logits[i] += error;
        }
        best.offer(least, p);
    }
    std::array<float, kMostLogits * kPanelRows> exact;
    size_t n_exact = 0;
    for (size_t i = 0; i < best.size(); ++i) {
        const size_t p = best.panel(i), n = std::min(kPanelRows, m.n_out - p * kPanelRows);
        float* out = logits + p * kPanelRows;
        context_.kernels.linear.matmul({m, p, p + 1, &quant, nullptr, 0, row, 1, out, task.out.ld});
        std::copy_n(out, n, exact.begin() + n_exact);
        n_exact += n;
    }
    if (n_exact < n_) return -std::numeric_limits<float>::infinity();
    std::nth_element(exact.begin(), exact.begin() + (n_ - 1), exact.begin() + n_exact, std::greater<>{});
    return exact[n_ - 1];
}

size_t TopLogits::compute_reaching(const LinearTask& task, const QuantRows& quant, size_t row,
                                   size_t thread) {
    const PackedMatrix& m = context_.weights.matrix(task.matrix);
    const auto [first, last] = context_.share(m.n_panels, thread);
    const size_t n_threads = context_.n_threads();
    const float* own = thresholds_.data() + row * n_threads;
    const float threshold = *std::max_element(own, own + n_threads);
    float* logits = context_.at(task.out, row);
    size_t n_exact = 0;
    for (size_t p = first; p < last; ++p) {
        float* begin = logits + p * kPanelRows;
        const float* end = logits + std::min<size_t>(m.n_out, (p + 1) * kPanelRows);
        bool reaches = false;
        for (const float* upper = begin; upper < end; ++upper) reaches |= *upper >= threshold;
        if (!reaches) continue;
        context_.kernels.linear.matmul({m, p, p + 1, &quant, nullptr, 0, row, 1, begin, task.out.ld});
        ++n_exact;
    }
    return n_exact;
}

void TopLogits::update_top_n_policy() {
    if (head_ == nullptr || !applies(*head_)) {
        if (runs_until_retry_ > 0 && --runs_until_retry_ == 0) most_ = kMostLogits;
        return;
    }
    const PackedMatrix& m = context_.weights.matrix(head_->tasks[0].matrix);
    const size_t n_exact = n_exact_.load(std::memory_order_relaxed);
    unread_bytes_ += (m.n_panels - std::min(m.n_panels, n_exact)) * lower_panel_bytes(m);
    if (n_exact > m.n_panels / kPanelsPerExact) {
        most_ = context_.n_rows * n_ - 1;
        runs_until_retry_ = kRunsUntilRetry;
    }
}

}  // namespace edgellm
