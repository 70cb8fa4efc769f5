// SPDX-License-Identifier: MIT
// Every format on every instruction set of this CPU against decoded weights in double, for many odd sizes;
// the same bits for any batch; no byte that a row should not have is read or written. On Arm all sets give
// the same bits. Prints what failed and exits 1. Arguments: sets to test, by default all that this CPU has.
#include "kernels/linear/linear.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "base/half.h"
#include "base/memory.h"
#include "formats/list.h"

namespace edgellm {
namespace {

int failures = 0;

void check(bool ok, const char* what, const FormatInfo& format, Isa isa, size_t n_out, size_t n_in,
           size_t n_tokens) {
    if (ok) return;
    ++failures;
    std::printf("%s: %s %s n_out=%zu n_in=%zu n_tokens=%zu\n", what, format.name, isa_name(isa), n_out, n_in,
                n_tokens);
}

// Random rows whose decoded values are finite: blocks are drawn until they are, then scaled down by chance
// alone.
std::vector<uint8_t> random_rows(const FormatInfo& format, size_t n_blocks, std::mt19937& random) {
    std::vector<uint8_t> rows(n_blocks * format.block_bytes);
    std::vector<float> values(format.block_size);
    for (size_t b = 0; b < n_blocks; ++b) {
        uint8_t* block = rows.data() + b * format.block_bytes;
        for (;;) {
            for (size_t i = 0; i < format.block_bytes; ++i) block[i] = static_cast<uint8_t>(random());
            format.decode(block, 1, values.data());
            bool fine = true;
            for (float v : values) fine &= std::isfinite(v) && std::fabs(v) < 1e6f;
            if (fine) break;
        }
    }
    return rows;
}

struct Rows {
    Region memory;
    QuantRows rows;

    Rows(const LinearKernels& kernels, const std::vector<float>& x, size_t n_tokens, size_t n_in)
        : memory(quant_row_bytes(n_in) * n_tokens, false),
          rows(quant_rows_in(memory.data(), n_in, n_tokens, n_tokens)) {
        for (size_t t = 0; t < n_tokens; ++t) kernels.quantize_row(x.data() + t * n_in, rows, t);
    }

    double value(size_t token, size_t k) const {
        const size_t i = rows.index(token, k / 32);
        return static_cast<double>(rows.unit[token]) * static_cast<double>(rows.terms[i].factor) *
               rows.q[32 * i + k % 32];
    }
};

void test_format(const FormatInfo& format, Isa isa, size_t n_out, size_t n_in, bool split,
                 std::mt19937& random) {
    constexpr size_t kTokens = 109;  // more than a group of rows
    constexpr float kUntouched = 12345.0f;
    const LinearKernels& kernels = linear_kernels(isa);
    PackedMatrix m{};
    if (!kernels.describe(format.type, n_out, n_in, &m))
        return check(false, "describe", format, isa, n_out, n_in, 0);
    if (split && !split_matrix(&m)) return;
    const std::vector<uint8_t> source = random_rows(format, n_out * n_in / format.block_size, random);
    std::vector<float> weights(n_out * n_in);
    format.decode(source.data(), n_out * n_in / format.block_size, weights.data());
    Region data(matrix_bytes(m), false);
    // In two parts, as threads do.
    bool packed = kernels.pack(m, source.data(), m.n_panels / 2, m.n_panels, data.data());
    packed &= kernels.pack(m, source.data(), 0, m.n_panels / 2, data.data());
    check(packed, "pack", format, isa, n_out, n_in, 0);
    m.data = data.data();

    std::normal_distribution<float> normal;
    std::vector<float> x(kTokens * n_in);
    for (float& v : x) v = normal(random);
    std::vector<double> seen(x.begin(), x.end());
    Rows rows(kernels, x, n_in % 32 == 0 ? kTokens : 0, n_in);
    if (m.input == InputKind::kInt8) {
        for (size_t i = 0; i < x.size(); ++i) seen[i] = rows.value(i / n_in, i % n_in);
    }

    const size_t ldy = n_out + 3;
    std::vector<float> whole;
    for (size_t n = kTokens; n >= 1; n = n > 37 ? n - 24 : n > 9 ? n - 7 : n - 1) {
        std::vector<float> y(n * ldy, kUntouched);
        kernels.matmul({m, 0, m.n_panels, &rows.rows, x.data(), n_in, 0, n, y.data(), ldy});
        if (whole.empty()) whole = y;
        bool close = true, inside = true, same = true;
        for (size_t t = 0; t < n; ++t) {
            for (size_t r = 0; r < ldy; ++r) {
                const float found = y[t * ldy + r];
                same &= std::memcmp(&found, &whole[t * ldy + r], 4) == 0;
                if (r >= n_out) {
                    inside &= found == kUntouched;
                    continue;
                }
                if (n != kTokens) continue;
                double expected = 0, size = 0, largest = 0;
                for (size_t k = 0; k < n_in; ++k) {
                    const double w = weights[r * n_in + k];
                    expected += w * seen[t * n_in + k];
                    size += std::fabs(seen[t * n_in + k]);
                    largest = std::fmax(largest, std::fabs(w));
                }
                // Sums of offsets and products are rounded once or twice a block, in single precision;
                // subnormal scales may count as zero.
                close &=
                    std::fabs(found - expected) <= size * largest * (8 + std::sqrt(n_in)) * 0x1p-24 + 1e-36;
            }
        }
        check(close, "wrong", format, isa, n_out, n_in, n);
        check(inside, "written past the row", format, isa, n_out, n_in, n);
        check(same, "depends on the batch", format, isa, n_out, n_in, n);
    }
}

// True if a format's zero point is a power of two, or 0.
[[maybe_unused]] bool has_binary_offset(GGMLType type) {
    bool binary = true;
    AllFormats::for_each([&]<class F>() {
        if constexpr (F::kBlockSize > 1) {
            if (F::kType == type) binary = (F::kOffset & (F::kOffset - 1)) == 0;
        }
    });
    return binary;
}

// On Arm dots are integers, and sets add them in one order. Scalar code subtracts a zero point that is no
// power of two from sums, Arm's sets from codes: rounded otherwise.
[[maybe_unused]] void test_sets_agree(const FormatInfo& format, const std::vector<Isa>& isas,
                                      std::mt19937& random) {
    const size_t n_in = 1280 / format.block_size * format.block_size, n_out = 50;
    const size_t n_rows = n_out * n_in / format.block_size;
    const std::vector<uint8_t> source = random_rows(format, n_rows, random);
    std::normal_distribution<float> normal;
    for (size_t n_tokens : {size_t{1}, size_t{11}}) {
        std::vector<float> x(n_tokens * n_in), first;
        for (float& v : x) v = normal(random);
        for (Isa isa : isas) {
            const LinearKernels& kernels = linear_kernels(isa);
            PackedMatrix m{};
            kernels.describe(format.type, n_out, n_in, &m);
            Region data(m.n_panels * m.panel_stride, false);
            kernels.pack(m, source.data(), 0, m.n_panels, data.data());
            m.data = data.data();
            const Rows rows(kernels, x, n_tokens, n_in);
            std::vector<float> y(n_tokens * n_out);
            kernels.matmul({m, 0, m.n_panels, &rows.rows, x.data(), n_in, 0, n_tokens, y.data(), n_out});
            if (first.empty()) first = y;
            const bool same = std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0;
            check(same, "other bits than the first set's", format, isa, n_out, n_in, n_tokens);
        }
    }
}

}  // namespace
}  // namespace edgellm

int main(int n_arguments, char** arguments) {
    using namespace edgellm;
    std::mt19937 random(1);
    std::vector<Isa> isas;
    for (Isa isa : built_isas()) {
        bool wanted = n_arguments < 2;
        for (int i = 1; i < n_arguments; ++i) wanted |= std::strcmp(arguments[i], isa_name(isa)) == 0;
        if (wanted && isa_usable(isa, detect_cpu())) isas.push_back(isa);
    }
    if (isas.empty()) return std::printf("this CPU has none of the sets\n"), 1;
    for (uint32_t type = 0; type < 64; ++type) {
        const FormatInfo* format = find_format(type);
        if (format == nullptr) continue;
        const size_t step = format->block_size;
        const size_t widths[] = {step == 1 ? 1 : step, step == 1 ? 77 : 3 * step, 1280 / step * step};
        for (Isa isa : isas) {
            for (size_t n_in : widths) {
                for (size_t n_out : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{50}}) {
                    for (bool split : {false, true}) test_format(*format, isa, n_out, n_in, split, random);
                }
            }
        }
#if defined(__aarch64__)
        std::vector<Isa> alike = isas;
        if (!has_binary_offset(format->type)) std::erase(alike, Isa::kScalar);
        test_sets_agree(*format, alike, random);
#endif
    }
    if (failures == 0) std::printf("linear kernels: all formats and sets agree\n");
    return failures != 0;
}
