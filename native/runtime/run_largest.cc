// SPDX-License-Identifier: MIT
// The largest logits without all bits of the head, which is most of what a small model reads for a token.
//
// The upper bits of a split matrix give approximations, and the norms of the lower ones say how far off those
// can be. The exact logits of the most promising rows are a bound from below on the ones wanted; whatever
// cannot reach that bound need not be known any better. So the largest logits are found, bit by bit as
// without this, and the others are written as bounds from above, which are less.
#include <algorithm>
#include <array>
#include <functional>
#include <limits>

#include "kernels/linear/layout.h"
#include "runtime/executor.h"

namespace edgellm {
namespace {

// Panels by themselves are read at half the speed of a stream, and whole: finding pays while fewer than one
// in so many may hold what is wanted.
constexpr size_t kWorthwhile = 8;
constexpr size_t kRunsUntilRetry = 256;

// The k panels that promise most, of those offered.
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
    std::array<Entry, kMostLargest> heap_;
};

}  // namespace

bool Executor::finds_largest(const Stage& stage) const {
    if (n_largest_ == 0 || n_rows_ * n_largest_ > most_found_ || stage.linears.size() != 1) return false;
    const int head = stage.linears[0].matrix;
    return plan_.matrices[static_cast<size_t>(head)].packed.split &&
           !(adapted_ && !adapters_.updates(head).empty());
}

void Executor::find_largest(const Stage& stage, size_t t, uint8_t* memory) {
    const LinearTask& task = stage.linears[0];
    const PackedMatrix m = matrix(task.matrix);
    const QuantRows quant = quant_rows(stage, task.quant, memory);
    const size_t threads = pool_->size();
    const auto [first, last] = share(m.n_panels, t);
    for (size_t row = 0; row < n_rows_; ++row) {
        thresholds_[row * threads + t] =
            wanted_threshold(task, quant, row, first, last, at(task.out, row, memory));
    }
    pool_->barrier();
    for (size_t row = 0; row < n_rows_; ++row) {
        float* logits = at(task.out, row, memory);
        const float* own = thresholds_.data() + row * threads;
        const float threshold = *std::max_element(own, own + threads);
        size_t n_exact = 0;
        for (size_t p = first; p < last; ++p) {
            float* begin = logits + p * kPanelRows;
            const float* end = logits + std::min<size_t>(m.n_out, (p + 1) * kPanelRows);
            bool reaches = false;
            for (const float* bound = begin; bound < end; ++bound) reaches |= *bound >= threshold;
            if (!reaches) continue;
            linear_.matmul(m, p, p + 1, &quant, nullptr, 0, row, 1, begin, task.out.ld);
            ++n_exact;
        }
        n_exact_.fetch_add(n_exact, std::memory_order_relaxed);
    }
}

float Executor::wanted_threshold(const LinearTask& task, const QuantRows& quant, size_t row, size_t first,
                                 size_t last, float* logits) {
    const PackedMatrix m = matrix(task.matrix);
    const float* errors = row_errors(m);
    const float norm = row_norm(quant, row);
    BestPanels best(n_largest_);
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
    std::array<float, kMostLargest * kPanelRows> exact;
    size_t n_exact = 0;
    for (size_t i = 0; i < best.size(); ++i) {
        const size_t begin = best.panel(i) * kPanelRows, n = std::min(kPanelRows, m.n_out - begin);
        linear_.matmul(m, best.panel(i), best.panel(i) + 1, &quant, nullptr, 0, row, 1, logits + begin,
                       task.out.ld);
        std::copy_n(logits + begin, n, exact.begin() + n_exact);
        n_exact += n;
    }
    if (n_exact < n_largest_) return -std::numeric_limits<float>::infinity();
    std::nth_element(exact.begin(), exact.begin() + (n_largest_ - 1), exact.begin() + n_exact,
                     std::greater<>{});
    return exact[n_largest_ - 1];
}

void Executor::judge_finding(const Stage& stage) {
    if (!finds_largest(stage)) {
        if (until_retry_ > 0 && --until_retry_ == 0) most_found_ = kMostLargest;
        return;
    }
    const PackedMatrix m = matrix(stage.linears[0].matrix);
    const size_t n_exact = n_exact_.load(std::memory_order_relaxed);
    unread_bytes += (m.n_panels - std::min(m.n_panels, n_exact)) * lower_panel_bytes(m);
    if (n_exact > m.n_panels / kWorthwhile) {
        most_found_ = n_rows_ * n_largest_ - 1;
        until_retry_ = kRunsUntilRetry;
    }
}

}  // namespace edgellm
