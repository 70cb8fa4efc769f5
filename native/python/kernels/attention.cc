// SPDX-License-Identifier: MIT
// Attention of one layer over a paged cache of its own.
#include "kernels/attention/attention.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "python/kernels/arrays.h"
#include "python/kernels/bindings.h"
#include "python/usable_isa.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

AttentionShape make_shape(uint32_t n_heads, uint32_t n_kv_heads, uint32_t key_dim, uint32_t value_dim,
                          float scale, float softcap, uint32_t window, const std::string& kv_type) {
    require(n_kv_heads > 0 && n_heads > 0 && n_heads % n_kv_heads == 0, "n_kv_heads must divide n_heads");
    AttentionShape s{};
    s.n_heads = n_heads;
    s.n_kv_heads = n_kv_heads;
    s.key_dim = key_dim;
    s.value_dim = value_dim;
    s.scale = scale;
    s.softcap = softcap;
    s.window = window;
    require(kv_type_from_name(kv_type, &s.kv_type), ("unknown cache type " + kv_type).c_str());
    return s;
}

// A layer with the cache of one sequence. Its memory starts as NaN: reads of unwritten keys and values show.
class AttentionLayer {
  public:
    AttentionLayer(const std::string& isa, const AttentionShape& shape, size_t n_ctx,
                   std::optional<std::vector<float>> sinks, std::optional<std::vector<float>> slopes)
        : kernels_(attention_kernels(usable_isa(isa))), shape_(shape) {
        if (sinks) sinks_ = *std::move(sinks);
        require(sinks_.empty() || sinks_.size() == shape.n_heads, "sinks has one value per head");
        if (!sinks_.empty()) shape_.sinks = sinks_.data();
        const size_t n_blocks = (n_ctx + kKvBlockTokens - 1) / kKvBlockTokens;
        if (slopes) lay_out_biases(*slopes, n_blocks * kKvBlockTokens);
        const size_t bytes = n_blocks * kv_block_bytes(shape_);
        memory_ = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t{64}));
        std::memset(memory_, 0xff, bytes);
        for (size_t i = 0; i < n_blocks; ++i) blocks_.push_back(memory_ + i * kv_block_bytes(shape_));
        scratch_.resize(attend_scratch_floats(shape_) + 16);
    }
    AttentionLayer(const AttentionLayer&) = delete;
    ~AttentionLayer() { ::operator delete(memory_, std::align_val_t{64}); }

    void write(uint32_t position, ArrayIn k, ArrayIn v) {
        require(k.ndim() == 2 && v.ndim() == 2 && k.shape(0) == v.shape(0), "k and v are (n_tokens, width)");
        require(k.shape(1) == shape_.n_kv_heads * shape_.key_dim &&
                    v.shape(1) == shape_.n_kv_heads * shape_.value_dim,
                "k and v hold every KV head");
        require(position + k.shape(0) <= blocks_.size() * kKvBlockTokens, "the tokens must fit the cache");
        for (size_t i = 0; i < k.shape(0); ++i) {
            const size_t at = position + i;
            uint8_t* block = blocks_[at / kKvBlockTokens];
            require(block != nullptr, "the block was dropped");
            kernels_.write(shape_, block, static_cast<uint32_t>(at % kKvBlockTokens),
                           k.data() + i * k.shape(1), v.data() + i * v.shape(1));
        }
    }

    // Drops whole blocks before `position`: a read of one crashes.
    void drop_before(uint32_t position) {
        for (size_t i = 0; i < position / kKvBlockTokens && i < blocks_.size(); ++i) blocks_[i] = nullptr;
    }

    ArrayOut attend(ArrayIn q, uint32_t position, uint32_t n_keys, uint32_t tile) {
        ArrayOut out = check_and_make(q, position, n_keys);
        require(tile > 0, "tile must be positive");
        const size_t n = q.shape(0);
        for (uint32_t first = 0; first < n; first += tile) {
            const uint32_t count = n - first < tile ? static_cast<uint32_t>(n - first) : tile;
            for (uint32_t h = 0; h < shape_.n_kv_heads; ++h)
                kernels_.attend(shape_, make_task(q, out, position, n_keys, first, count, h), scratch());
        }
        return out;
    }

    ArrayOut attend_chunks(ArrayIn q, uint32_t position, uint32_t n_keys) {
        ArrayOut out = check_and_make(q, position, n_keys);
        const size_t chunk_stride = shape_.n_heads / shape_.n_kv_heads * partial_floats(shape_);
        for (uint32_t i = 0; i < q.shape(0); ++i) {
            uint32_t first, last;
            visible_chunks(shape_, position + i, n_keys, &first, &last);
            std::vector<float> partials((last - first) * chunk_stride);
            for (uint32_t h = 0; h < shape_.n_kv_heads; ++h) {
                const AttentionTask task = make_task(q, out, position, n_keys, i, 1, h);
                for (uint32_t c = last; c-- > first;)
                    kernels_.attend_chunk(shape_, task, c, partials.data() + (c - first) * chunk_stride,
                                          scratch());
                kernels_.merge(shape_, task, first, last, partials.data(), chunk_stride);
            }
        }
        return out;
    }

  private:
    ArrayOut check_and_make(const ArrayIn& q, uint32_t position, uint32_t n_keys) {
        require(q.ndim() == 2 && q.shape(1) == shape_.n_heads * shape_.key_dim,
                "q is (n_queries, n_heads * key_dim)");
        const size_t n = n_keys > 0 ? n_keys : position + q.shape(0);
        require(n <= blocks_.size() * kKvBlockTokens, "the keys must be in the cache");
        return make_array({q.shape(0), size_t{shape_.n_heads} * shape_.value_dim});
    }
    AttentionTask make_task(const ArrayIn& q, ArrayOut& out, uint32_t position, uint32_t n_keys,
                            uint32_t first, uint32_t count, uint32_t kv_head) {
        const size_t out_stride = size_t{shape_.n_heads} * shape_.value_dim;
        return {blocks_.data(), kv_head,
                count,          position + first,
                n_keys,         q.data() + first * q.shape(1),
                q.shape(1),     out.data() + first * out_stride,
                out_stride};
    }
    float* scratch() {
        return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch_.data()) + 63) / 64 * 64);
    }

    // A bias for each head and distance up to `reach` on each side: a logit falls by its head's slope.
    void lay_out_biases(const std::vector<float>& slopes, size_t reach) {
        require(slopes.size() == shape_.n_heads, "slopes has one value per head");
        shape_.bias_stride = 2 * reach;
        biases_.resize(slopes.size() * shape_.bias_stride);
        for (size_t i = 0; i < biases_.size(); ++i) {
            const size_t column = i % shape_.bias_stride;
            const size_t distance = column < reach ? reach - column : column - reach;
            biases_[i] = -slopes[i / shape_.bias_stride] * static_cast<float>(distance) * 1.44269504f;
        }
        shape_.bias = biases_.data() + reach;
    }

    const AttentionKernels& kernels_;
    AttentionShape shape_;
    std::vector<float> sinks_, biases_, scratch_;
    uint8_t* memory_;
    std::vector<uint8_t*> blocks_;
};

}  // namespace

void bind_attention(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<AttentionShape>(m, "AttentionShape")
        .def(
            "__init__",
            [](AttentionShape* self, uint32_t n_heads, uint32_t n_kv_heads, uint32_t key_dim,
               uint32_t value_dim, float scale, float softcap, uint32_t window, const std::string& kv_type) {
                new (self) AttentionShape(
                    make_shape(n_heads, n_kv_heads, key_dim, value_dim, scale, softcap, window, kv_type));
            },
            "n_heads"_a, "n_kv_heads"_a, "key_dim"_a, "value_dim"_a, "scale"_a, "softcap"_a = 0.0f,
            "window"_a = 0, "kv_type"_a = "f16");
    nb::class_<AttentionLayer>(m, "AttentionLayer")
        .def(nb::init<const std::string&, const AttentionShape&, size_t, std::optional<std::vector<float>>,
                      std::optional<std::vector<float>>>(),
             "isa"_a, "shape"_a, "n_ctx"_a, "sinks"_a.none() = nb::none(), "slopes"_a.none() = nb::none())
        .def("write", &AttentionLayer::write, "position"_a, "k"_a, "v"_a)
        .def("drop_before", &AttentionLayer::drop_before, "position"_a)
        .def("attend", &AttentionLayer::attend, "q"_a, "position"_a, "n_keys"_a = 0, "tile"_a = 64)
        .def("attend_chunks", &AttentionLayer::attend_chunks, "q"_a, "position"_a, "n_keys"_a = 0);
}
