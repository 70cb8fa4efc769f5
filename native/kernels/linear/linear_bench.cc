// SPDX-License-Identifier: MIT
// One product of a 64 x 1024 matrix, marked so that a tracer finds it: bench/arm_work.py counts its
// instructions under emulation. Argument: SET:FORMAT:TOKENS, such as dotprod:Q4_K:96. Prints the
// multiply-adds and the bytes of the packed weights; exits 2 if the processor or the build has no such set or
// format.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/count_region.h"
#include "base/memory.h"
#include "kernels/linear/linear.h"

namespace edgellm {
namespace {

const FormatInfo* format_named(const std::string& name) {
    for (uint32_t type = 0; type < 64; ++type) {
        const FormatInfo* format = find_format(type);
        if (format != nullptr && name == format->name) return format;
    }
    return nullptr;
}

int run(Isa isa, const FormatInfo& format, size_t n_tokens) {
    constexpr size_t n_in = 1024, n_out = 64;
    const LinearKernels& kernels = linear_kernels(isa);
    PackedMatrix m{};
    if (!kernels.describe(format.type, n_out, n_in, &m)) return 2;
    std::mt19937 random(1);
    // Few bits of each byte: scales stay finite.
    std::vector<uint8_t> rows(n_out * n_in / format.block_size * format.block_bytes);
    for (uint8_t& v : rows) v = static_cast<uint8_t>(random() & 0x3b);
    Region data(m.n_panels * m.panel_stride, false);
    if (!kernels.pack(m, rows.data(), 0, m.n_panels, data.data())) return 2;
    m.data = data.data();
    std::vector<float> x(n_tokens * n_in), y(n_tokens * n_out);
    for (float& v : x) v = static_cast<float>(random() % 2001) * 0.001f - 1.0f;
    Region memory(quant_row_bytes(n_in) * n_tokens, false);
    const QuantRows quantized = quant_rows_in(memory.data(), n_in, n_tokens, n_tokens);
    for (size_t t = 0; t < n_tokens; ++t) kernels.quantize_row(x.data() + t * n_in, quantized, t);
    const MatmulTask task{m, 0, m.n_panels, &quantized, x.data(), n_in, 0, n_tokens, y.data(), n_out};
    kernels.matmul(task);
    edgellm_region_begin();
    kernels.matmul(task);
    edgellm_region_end();
    std::printf("macs %zu bytes %zu\n", n_in * n_out * n_tokens, matrix_bytes(m));
    return 0;
}

}  // namespace
}  // namespace edgellm

int main(int n_arguments, char** arguments) {
    using namespace edgellm;
    const std::string what = n_arguments == 2 ? arguments[1] : "";
    const size_t first = what.find(':'), second = what.rfind(':');
    Isa isa{};
    if (first == std::string::npos || second == first || !isa_from_name(what.substr(0, first), &isa)) {
        std::fprintf(stderr, "usage: linear_bench SET:FORMAT:TOKENS\n");
        return 1;
    }
    const FormatInfo* format = format_named(what.substr(first + 1, second - first - 1));
    const int n_tokens = std::atoi(what.c_str() + second + 1);
    if (format == nullptr || n_tokens < 1 || !isa_usable(isa, detect_cpu())) return 2;
    return run(isa, *format, static_cast<size_t>(n_tokens));
}
