// SPDX-License-Identifier: MIT
// edgellm._native.kernels: single kernels of one instruction set on NumPy arrays, for tests and benchmarks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/arch.h"
#include "kernels/attention/attention.h"
#include "kernels/rows/rows.h"
#include "kernels/state/state.h"
#include "python/bindings.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using In = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Angles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<nb::numpy, float>;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// The position of `name` in `names`.
template <class T>
T choice(const std::string& name, std::initializer_list<const char*> names) {
    int i = 0;
    for (const char* candidate : names) {
        if (name == candidate) return static_cast<T>(i);
        ++i;
    }
    throw std::invalid_argument("unknown name " + name);
}
NormKind norm_kind(const std::string& name) {
    return choice<NormKind>(name, {"rms", "layer", "l2"});
}
RopeKind rope_kind(const std::string& name) {
    return choice<RopeKind>(name, {"neox", "interleaved"});
}
Activation activation_kind(const std::string& name) {
    return choice<Activation>(name, {"silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "sigmoid",
                                     "tanh", "softplus", "exp", "swiglu_oai"});
}

Out make_array(std::vector<size_t> shape) {
    size_t n = 1;
    for (size_t extent : shape) n *= extent;
    auto* data = new float[n]();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return Out(data, shape.size(), shape.data(), owner);
}
Out copy_of(const In& x) {
    std::vector<size_t> shape;
    for (size_t i = 0; i < x.ndim(); ++i) shape.push_back(x.shape(i));
    Out out = make_array(shape);
    std::memcpy(out.data(), x.data(), x.size() * sizeof(float));
    return out;
}
const float* data_or_null(const std::optional<In>& x) {
    return x ? x->data() : nullptr;
}

Out norm(const std::string& isa, const std::string& kind, In x, size_t groups, float eps,
         std::optional<In> weight, std::optional<In> bias) {
    require(groups > 0 && x.size() % groups == 0, "groups must divide the row");
    const size_t width = x.size() / groups;
    size_t n = 0;
    for (const auto* w : {&weight, &bias}) {
        if (!*w) continue;
        require((*w)->size() == x.size() || (*w)->size() == width,
                "weight and bias are as wide as the row or a group");
        require(n == 0 || n == (*w)->size(), "weight and bias have one width");
        n = (*w)->size();
    }
    Out y = copy_of(x);
    row_kernels(usable_isa(isa))
        .norm(norm_kind(kind), x.data(), x.size(), groups, eps, data_or_null(weight), data_or_null(bias),
              n == x.size(), y.data());
    return y;
}

std::pair<Out, Out> rope_angles(const std::string& isa, Angles inv_freq, float mscale, uint32_t position) {
    Out cos = make_array({inv_freq.size()}), sin = make_array({inv_freq.size()});
    row_kernels(usable_isa(isa))
        .rope_angles(inv_freq.data(), inv_freq.size(), mscale, position, cos.data(), sin.data());
    return {cos, sin};
}

Out rope(const std::string& isa, const std::string& kind, In x, size_t groups, In cos, In sin) {
    require(groups > 0 && x.size() % groups == 0, "groups must divide the row");
    const size_t head_dim = x.size() / groups;
    require(cos.size() == sin.size() && 2 * cos.size() <= head_dim, "2 n_pairs must fit a head");
    Out y = copy_of(x);
    row_kernels(usable_isa(isa))
        .rope(rope_kind(kind), y.data(), groups, head_dim, cos.data(), sin.data(), cos.size());
    return y;
}

Out glu(const std::string& isa, const std::string& fn, In gate, In up, float limit, float alpha) {
    require(gate.size() == up.size(), "gate and up have one size");
    Out y = copy_of(gate);
    row_kernels(usable_isa(isa))
        .glu(activation_kind(fn), gate.data(), up.data(), gate.size(), limit, alpha, y.data());
    return y;
}

Out activation(const std::string& isa, const std::string& fn, In x) {
    Out y = copy_of(x);
    row_kernels(usable_isa(isa)).activation(activation_kind(fn), x.data(), x.size(), y.data());
    return y;
}

Out softcap(const std::string& isa, In x, float cap) {
    Out y = copy_of(x);
    row_kernels(usable_isa(isa)).softcap(x.data(), x.size(), cap, y.data());
    return y;
}

Out add(const std::string& isa, In a, In b) {
    require(a.size() == b.size(), "a and b have one size");
    Out y = copy_of(a);
    row_kernels(usable_isa(isa)).add(a.data(), b.data(), a.size(), y.data());
    return y;
}

Out mul(const std::string& isa, In a, In b) {
    require(a.size() == b.size(), "a and b have one size");
    Out y = copy_of(a);
    row_kernels(usable_isa(isa)).mul(a.data(), b.data(), a.size(), y.data());
    return y;
}

Out affine(const std::string& isa, In x, float factor, std::optional<In> weight, std::optional<In> bias) {
    for (const auto* w : {&weight, &bias})
        require(!*w || (*w)->size() == 1 || (*w)->size() == x.size(),
                "weight and bias have 1 value or the row's");
    Out y = copy_of(x);
    row_kernels(usable_isa(isa))
        .affine(x.data(), x.size(), factor, data_or_null(weight), weight && weight->size() == 1,
                data_or_null(bias), bias && bias->size() == 1, y.data());
    return y;
}

Out softmax(const std::string& isa, In x) {
    Out y = copy_of(x);
    row_kernels(usable_isa(isa)).softmax(y.data(), y.size());
    return y;
}

// The layer's cache for one sequence. Memory starts as NaN, so that a read of an unwritten key or value
// shows.
class AttentionLayer {
  public:
    AttentionLayer(const std::string& isa, uint32_t n_heads, uint32_t n_kv_heads, uint32_t key_dim,
                   uint32_t value_dim, float scale, size_t n_ctx, float softcap, uint32_t window,
                   std::optional<std::vector<float>> sinks, const std::string& kv_type)
        : kernels_(attention_kernels(usable_isa(isa))) {
        require(n_kv_heads > 0 && n_heads > 0 && n_heads % n_kv_heads == 0, "n_kv_heads must divide n_heads");
        if (sinks) sinks_ = *std::move(sinks);
        require(sinks_.empty() || sinks_.size() == n_heads, "sinks has one value per head");
        shape_ = {n_heads,
                  n_kv_heads,
                  key_dim,
                  value_dim,
                  scale,
                  softcap,
                  window,
                  sinks_.empty() ? nullptr : sinks_.data(),
                  choice<KvType>(kv_type, {"f16", "q8_0", "f32", "i16"})};
        const size_t n_blocks = (n_ctx + kKvBlockTokens - 1) / kKvBlockTokens;
        const size_t bytes = n_blocks * kv_block_bytes(shape_);
        memory_ = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t{64}));
        std::memset(memory_, 0xff, bytes);
        for (size_t i = 0; i < n_blocks; ++i) blocks_.push_back(memory_ + i * kv_block_bytes(shape_));
        scratch_.resize(attend_scratch_floats(shape_) + 16);
    }
    AttentionLayer(const AttentionLayer&) = delete;
    ~AttentionLayer() { ::operator delete(memory_, std::align_val_t{64}); }

    void write(uint32_t position, In k, In v) {
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

    // Forgets whole blocks before `position`: to touch one crashes.
    void drop_before(uint32_t position) {
        for (size_t i = 0; i < position / kKvBlockTokens && i < blocks_.size(); ++i) blocks_[i] = nullptr;
    }

    Out attend(In q, uint32_t position, uint32_t n_keys, uint32_t tile) {
        Out out = check_and_make(q, position, n_keys);
        require(tile > 0, "tile must be positive");
        const size_t n = q.shape(0);
        for (uint32_t first = 0; first < n; first += tile) {
            const uint32_t count = n - first < tile ? static_cast<uint32_t>(n - first) : tile;
            for (uint32_t h = 0; h < shape_.n_kv_heads; ++h)
                kernels_.attend(shape_, make_task(q, out, position, n_keys, first, count, h), scratch());
        }
        return out;
    }

    Out attend_chunks(In q, uint32_t position, uint32_t n_keys) {
        Out out = check_and_make(q, position, n_keys);
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
    Out check_and_make(const In& q, uint32_t position, uint32_t n_keys) {
        require(q.ndim() == 2 && q.shape(1) == shape_.n_heads * shape_.key_dim,
                "q is (n_queries, n_heads * key_dim)");
        const size_t n = n_keys > 0 ? n_keys : position + q.shape(0);
        require(n <= blocks_.size() * kKvBlockTokens, "the keys must be in the cache");
        return make_array({q.shape(0), size_t{shape_.n_heads} * shape_.value_dim});
    }
    AttentionTask make_task(const In& q, Out& out, uint32_t position, uint32_t n_keys, uint32_t first,
                            uint32_t count, uint32_t kv_head) {
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

    const AttentionKernels& kernels_;
    AttentionShape shape_;
    std::vector<float> sinks_, scratch_;
    uint8_t* memory_;
    std::vector<uint8_t*> blocks_;
};

std::pair<Out, Out> short_conv(const std::string& isa, In x, In weight, std::optional<In> bias, bool silu,
                               In state, size_t first, size_t last) {
    require(x.ndim() == 2 && weight.ndim() == 2 && weight.shape(0) == x.shape(1),
            "x (n, width), weight (width, taps)");
    const size_t width = x.shape(1), taps = weight.shape(1);
    require(state.size() == (taps - 1) * width && first <= last && last <= width,
            "state is (taps - 1, width)");
    Out y = make_array({x.shape(0), width}), next = copy_of(state);
    state_kernels(usable_isa(isa))
        .short_conv(x.data(), width, y.data(), width, x.shape(0), width, taps, weight.data(),
                    data_or_null(bias), silu, first, last, next.data());
    return {y, next};
}

std::pair<Out, Out> gated_delta(const std::string& isa, In q, In k, In v, In decay, In beta, float scale,
                                bool tiled, In state, size_t first, size_t last) {
    require(state.ndim() == 3 && q.ndim() == 2 && v.ndim() == 2, "state is (n_heads, key_dim, value_dim)");
    const size_t n_heads = state.shape(0), key_dim = state.shape(1), value_dim = state.shape(2),
                 n = q.shape(0);
    require(q.shape(1) % key_dim == 0 && v.shape(1) == n_heads * value_dim && decay.shape(1) == n_heads,
            "widths");
    Out y = make_array({n, n_heads * value_dim}), next = copy_of(state);
    state_kernels(usable_isa(isa))
        .gated_delta(q.data(), q.shape(1), k.data(), k.shape(1), v.data(), v.shape(1), decay.data(), n_heads,
                     beta.data(), n_heads, n, n_heads, q.shape(1) / key_dim, key_dim, value_dim, scale, tiled,
                     first, last, y.data(), n_heads * value_dim, next.data());
    return {y, next};
}

std::pair<Out, Out> ssm(const std::string& isa, In x, In b, In c, In dt, In a, In d, In dt_bias,
                        size_t n_groups, In state, size_t first, size_t last) {
    require(state.ndim() == 3 && x.ndim() == 2, "state is (n_heads, head_dim, d_state)");
    const size_t n_heads = state.shape(0), head_dim = state.shape(1), d_state = state.shape(2),
                 n = x.shape(0);
    require(x.shape(1) == n_heads * head_dim && b.shape(1) == n_groups * d_state, "widths");
    Out y = make_array({n, n_heads * head_dim}), next = copy_of(state);
    state_kernels(usable_isa(isa))
        .ssm(x.data(), x.shape(1), b.data(), b.shape(1), c.data(), c.shape(1), dt.data(), n_heads, a.data(),
             d.data(), dt_bias.data(), n, n_heads, head_dim, n_groups, d_state, first, last, y.data(),
             x.shape(1), next.data());
    return {y, next};
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (Isa isa : all_isas())
        if (isa_usable(isa, detect_cpu())) names.emplace_back(isa_name(isa));
    return names;
}

}  // namespace

Isa usable_isa(const std::string& name) {
    Isa isa;
    require(isa_from_name(name, &isa), ("no kernel set is named " + name).c_str());
    require(isa_usable(isa, detect_cpu()), ("this CPU cannot run " + name).c_str());
    return isa;
}

void bind_kernels(nb::module_& m) {
    using namespace nb::literals;
    nb::module_ k = m.def_submodule("kernels", "Single kernels, for tests and benchmarks.");
    k.def("isas", &isas, "Names of the kernel sets that this CPU can run, weakest first.");
    k.def("norm", &norm, "isa"_a, "kind"_a, "x"_a, "groups"_a, "eps"_a, "weight"_a.none() = nb::none(),
          "bias"_a.none() = nb::none());
    k.def("rope_angles", &rope_angles, "isa"_a, "inv_freq"_a, "mscale"_a, "position"_a);
    k.def("rope", &rope, "isa"_a, "kind"_a, "x"_a, "groups"_a, "cos"_a, "sin"_a);
    k.def("glu", &glu, "isa"_a, "fn"_a, "gate"_a, "up"_a, "limit"_a = 0.0f, "alpha"_a = 1.0f);
    k.def("activation", &activation, "isa"_a, "fn"_a, "x"_a);
    k.def("softcap", &softcap, "isa"_a, "x"_a, "cap"_a);
    k.def("add", &add, "isa"_a, "a"_a, "b"_a);
    k.def("mul", &mul, "isa"_a, "a"_a, "b"_a);
    k.def("affine", &affine, "isa"_a, "x"_a, "factor"_a, "weight"_a.none() = nb::none(),
          "bias"_a.none() = nb::none());
    k.def("softmax", &softmax, "isa"_a, "x"_a);
    k.def("short_conv", &short_conv, "isa"_a, "x"_a, "weight"_a, "bias"_a.none(), "silu"_a, "state"_a,
          "first"_a, "last"_a);
    k.def("gated_delta", &gated_delta, "isa"_a, "q"_a, "k"_a, "v"_a, "decay"_a, "beta"_a, "scale"_a,
          "tiled"_a, "state"_a, "first"_a, "last"_a);
    k.def("ssm", &ssm, "isa"_a, "x"_a, "b"_a, "c"_a, "dt"_a, "a"_a, "d"_a, "dt_bias"_a, "n_groups"_a,
          "state"_a, "first"_a, "last"_a);
    nb::class_<AttentionLayer>(k, "AttentionLayer")
        .def(nb::init<const std::string&, uint32_t, uint32_t, uint32_t, uint32_t, float, size_t, float,
                      uint32_t, std::optional<std::vector<float>>, const std::string&>(),
             "isa"_a, "n_heads"_a, "n_kv_heads"_a, "key_dim"_a, "value_dim"_a, "scale"_a, "n_ctx"_a,
             "softcap"_a = 0.0f, "window"_a = 0, "sinks"_a.none() = nb::none(), "kv_type"_a = "f16")
        .def("write", &AttentionLayer::write, "position"_a, "k"_a, "v"_a)
        .def("drop_before", &AttentionLayer::drop_before, "position"_a)
        .def("attend", &AttentionLayer::attend, "q"_a, "position"_a, "n_keys"_a = 0, "tile"_a = 64)
        .def("attend_chunks", &AttentionLayer::attend_chunks, "q"_a, "position"_a, "n_keys"_a = 0);
    bind_linear(k);
}
