// SPDX-License-Identifier: MIT
#include "runtime/engine.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <tuple>

#include "base/error.h"
#include "base/memory.h"
#include "python/bindings.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

struct ContextFull : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct CacheFull : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Flags = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// A memoryview, not NumPy's array: a start to the first token has no time to import NumPy.
using FloatMatrix = nb::ndarray<nb::memview, float, nb::ndim<2>, nb::c_contig>;

FloatMatrix new_matrix(size_t rows, size_t columns) {
    auto* data = new float[std::max<size_t>(1, rows * columns)];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return FloatMatrix(data, {rows, columns}, owner);
}

// The logits of one step after another in the same place. Allocated anew each time, and each time in another
// size, they would scatter over the allocator's memory until none of it can be given back. Only the pages of
// the rows that were ever wanted together are resident. Used with the GIL held.
class LogitsBuffer {
  public:
    LogitsBuffer(size_t most_rows, size_t columns)
        : columns_(columns), shared_(std::make_shared<Shared>(most_rows * columns)) {}

    // Rows whose values are not set; memory of their own while an earlier matrix is still held.
    FloatMatrix matrix(size_t rows) {
        const size_t n_bytes = rows * columns_ * sizeof(float);
        if (n_bytes == 0 || n_bytes > shared_->region.size() || shared_->lent)
            return new_matrix(rows, columns_);
        auto borrowed = std::make_unique<std::shared_ptr<Shared>>(shared_);
        nb::capsule owner(borrowed.get(), [](void* p) noexcept {
            const std::unique_ptr<std::shared_ptr<Shared>> ended(static_cast<std::shared_ptr<Shared>*>(p));
            (*ended)->lent = false;
        });
        borrowed.release();
        shared_->lent = true;
        return FloatMatrix(reinterpret_cast<float*>(shared_->region.data()), {rows, columns_}, owner);
    }

  private:
    struct Shared {
        explicit Shared(size_t n_floats) : region(n_floats * sizeof(float), false) {}
        Region region;
        bool lent = false;
    };

    size_t columns_;
    std::shared_ptr<Shared> shared_;  // with the matrices, which may outlive the engine
};

void check(StepStatus status) {
    switch (status) {
        case StepStatus::kOk:
            return;
        case StepStatus::kBadSequence:
            throw std::invalid_argument(
                "a sequence is not open, or its tokens are not consecutive in the batch");
        case StepStatus::kBadToken:
            throw std::invalid_argument("a token id is outside the vocabulary");
        case StepStatus::kTooManyTokens:
            throw std::invalid_argument("a step takes from 1 token to the engine's batch size");
        case StepStatus::kContextFull:
            throw ContextFull("a sequence would grow past the context");
        case StepStatus::kCacheFull:
            throw CacheFull("the key/value cache has no room for these tokens");
    }
}

// Owns the engine and the buffers whose bytes it reads.
struct PyEngine {
    Engine engine;
    std::vector<Bytes> buffers, adapter_buffers;
    LogitsBuffer logits_buffer;

    PyEngine(const std::string& program, const std::vector<std::pair<std::string, uint32_t>>& types,
             size_t threads, size_t context, size_t cache_tokens, size_t batch, const std::string& kv_type,
             const std::string& isa)
        : engine(program, types, options(threads, context, cache_tokens, batch, kv_type, isa)),
          logits_buffer(batch,
                        engine.program().logits < 0 ? 0 : static_cast<size_t>(engine.program().n_vocab)) {}

    static EngineOptions options(size_t threads, size_t context, size_t cache_tokens, size_t batch,
                                 const std::string& kv_type, const std::string& isa) {
        EngineOptions o;
        if (threads < 1 || context < 1 || cache_tokens < 1 || batch < 1) {
            throw std::invalid_argument("threads, context, cache_tokens and batch must be 1 or more");
        }
        if (kv_type == "f16") {
            o.kv_type = KvType::kF16;
        } else if (kv_type == "q8_0") {
            o.kv_type = KvType::kQ8_0;
        } else if (kv_type == "f32") {
            o.kv_type = KvType::kF32;
        } else if (kv_type == "i16") {
            o.kv_type = KvType::kI16;
        } else {
            throw std::invalid_argument("kv_type must be f32, f16, i16 or q8_0");
        }
        if (!isa_from_name(isa, &o.isa)) throw std::invalid_argument("unknown instruction set '" + isa + "'");
        if (!isa_usable(o.isa, detect_cpu()))
            throw std::invalid_argument("this CPU cannot run '" + isa + "'");
        o.threads = threads;
        o.context = context;
        o.cache_tokens = cache_tokens;
        o.batch = batch;
        return o;
    }

    Engine& loaded() {
        if (!engine.loaded()) throw std::runtime_error("the engine has no weights yet");
        return engine;
    }

    void load(const std::vector<std::tuple<std::string, uint32_t, Bytes>>& tensors, bool release) {
        std::vector<TensorSource> sources;
        for (const auto& [name, type, bytes] : tensors) {
            buffers.push_back(bytes);
            sources.push_back({name, type, bytes.data(), bytes.size()});
        }
        {
            nb::gil_scoped_release unlocked;
            engine.load(sources, release);
        }
        adapter_buffers.clear();
    }

    FloatMatrix step(const Ints& tokens, const Ints& sequences, const Flags& outputs, size_t n_largest) {
        if (sequences.size() != tokens.size() || outputs.size() != tokens.size()) {
            throw std::invalid_argument("tokens, sequences and outputs differ in length");
        }
        Engine& e = loaded();
        const auto n_outputs =
            std::count_if(outputs.data(), outputs.data() + outputs.size(), [](uint8_t f) { return f != 0; });
        if (n_outputs > 0 && e.program().logits < 0)
            throw std::invalid_argument("this model makes embeddings, not logits");
        FloatMatrix logits = logits_buffer.matrix(static_cast<size_t>(n_outputs));
        StepStatus status;
        {
            nb::gil_scoped_release unlocked;
            status = e.step(tokens.data(), sequences.data(), outputs.data(), tokens.size(), n_largest,
                            logits.data());
        }
        check(status);
        return logits;
    }

    // One float for each adapter, or none.
    std::vector<float> checked(const std::vector<float>& scales) {
        const bool finite =
            std::all_of(scales.begin(), scales.end(), [](float s) { return std::isfinite(s); });
        if (!finite || (!scales.empty() && scales.size() != loaded().n_adapters()))
            throw std::invalid_argument("scales must be one finite number for each adapter, or none");
        const bool used = std::any_of(scales.begin(), scales.end(), [](float s) { return s != 0.0f; });
        return used ? scales : std::vector<float>{};
    }

    void add_adapter(
        const std::vector<std::tuple<std::string, size_t, uint32_t, Bytes, uint32_t, Bytes, float>>&
            updates) {
        if (engine.loaded()) throw std::runtime_error("adapters are added before the weights are loaded");
        std::vector<UpdateSource> sources;
        for (const auto& [weight, rank, a_type, a, b_type, b, scale] : updates) {
            adapter_buffers.push_back(a);
            adapter_buffers.push_back(b);
            sources.push_back({weight, rank, a_type, b_type, a.data(), b.data(), a.size(), b.size(), scale});
        }
        engine.add_adapter(sources);
    }

    FloatMatrix hidden(const Ints& tokens, const std::vector<float>& scales) {
        Engine& e = loaded();
        FloatMatrix out = new_matrix(tokens.size(), static_cast<size_t>(e.program().width));
        const std::vector<float> used = checked(scales);
        StepStatus status;
        {
            nb::gil_scoped_release unlocked;
            status = e.hidden(tokens.data(), tokens.size(), used, out.data());
        }
        check(status);
        return out;
    }

    nb::dict memory() const {
        const MemoryUse use = engine.memory();
        nb::dict d;
        d["weights"] = use.weights;
        d["cache"] = use.cache;
        d["state_per_sequence"] = use.state_per_sequence;
        d["scratch"] = use.scratch;
        d["adapters"] = use.adapters;
        return d;
    }

    nb::dict profile() {
        const Profile& p = loaded().profile();
        nb::dict d;
        d["angles"] = p.angles;
        d["rows"] = p.rows;
        d["linear"] = p.linear;
        d["head"] = p.head;
        d["attend"] = p.attend;
        d["moe"] = p.moe;
        d["state"] = p.state;
        return d;
    }

    size_t length(int id) {
        if (!loaded().sequences().valid(id)) throw std::invalid_argument("the sequence is not open");
        return engine.sequences().at(id).n_tokens;
    }

    nb::bytes save(int id) {
        length(id);
        std::vector<uint8_t> bytes;
        {
            nb::gil_scoped_release unlocked;
            bytes = engine.sequences().save(id);
        }
        return nb::bytes(bytes.data(), bytes.size());
    }

    int restore(const nb::bytes& bytes, const std::vector<float>& scales) {
        Engine& e = loaded();
        const std::vector<float> used = checked(scales);
        const auto* data = static_cast<const uint8_t*>(bytes.data());
        const size_t n = bytes.size();
        nb::gil_scoped_release unlocked;
        return e.sequences().restore(data, n, used);
    }

    nb::bytes save_blocks(int id, size_t first, size_t n_blocks) {
        length(id);
        const std::vector<uint8_t> bytes = engine.sequences().save_blocks(id, first, n_blocks);
        return nb::bytes(bytes.data(), bytes.size());
    }

    bool append_blocks(int id, const nb::bytes& bytes) {
        length(id);
        return engine.sequences().append_blocks(id, static_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
};

}  // namespace

void bind_engine(nb::module_& m) {
    nb::exception<ModelError>(m, "ModelError", PyExc_ValueError);
    nb::exception<ContextFull>(m, "ContextFull", PyExc_RuntimeError);
    nb::exception<CacheFull>(m, "CacheFull", PyExc_RuntimeError);

    m.def("isas", [] {
        nb::list names;
        for (Isa i : all_isas()) names.append(isa_name(i));
        return names;
    });
    m.def("usable_isas", [] {
        nb::list names;
        const CpuFeatures cpu = detect_cpu();
        for (Isa i : all_isas()) {
            if (isa_usable(i, cpu)) names.append(isa_name(i));
        }
        return names;
    });
    m.def("best_isa", [] { return isa_name(best_isa(detect_cpu())); });
    // The choice on a CPU with just these features: a pure function, for tests of CPUs the host is not.
    m.def(
        "best_isa_for",
        [](bool avx2, bool fma, bool f16c, bool avx_vnni, bool avx512, bool avx512_vnni) {
            CpuFeatures f;
            f.avx2 = avx2;
            f.fma = fma;
            f.f16c = f16c;
            f.avx_vnni = avx_vnni;
            f.avx512f = f.avx512bw = f.avx512vl = f.avx512dq = avx512;
            f.avx512_vnni = avx512_vnni;
            return isa_name(best_isa(f));
        },
        nb::kw_only(), nb::arg("avx2") = false, nb::arg("fma") = false, nb::arg("f16c") = false,
        nb::arg("avx_vnni") = false, nb::arg("avx512") = false, nb::arg("avx512_vnni") = false);
    // Of an instruction set that there is not: that of the scalar one; the engine refuses it.
    m.def("faster_kv_type", [](const std::string& name) {
        Isa isa = Isa::kScalar;
        isa_from_name(name, &isa);
        return faster_kv_type(isa) == KvType::kI16 ? "i16" : "f16";
    });
    m.def("allowed_cpus", &allowed_cpus);
    m.attr("WINDOW_SLACK") = kWindowSlack;

    nb::class_<PyEngine>(m, "Engine")
        .def(nb::init<const std::string&, const std::vector<std::pair<std::string, uint32_t>>&, size_t,
                      size_t, size_t, size_t, const std::string&, const std::string&>(),
             nb::arg("program"), nb::arg("types"), nb::kw_only(), nb::arg("threads"), nb::arg("context"),
             nb::arg("cache_tokens"), nb::arg("batch"), nb::arg("kv_type"), nb::arg("isa"))
        .def("load", &PyEngine::load, nb::arg("tensors"), nb::arg("release") = false)
        .def("memory", &PyEngine::memory)
        .def("step", &PyEngine::step, nb::arg("tokens"), nb::arg("sequences"), nb::arg("outputs"),
             nb::arg("n_largest") = 0)
        .def_prop_ro("unread_bytes", [](PyEngine& e) { return e.loaded().unread_bytes(); })
        .def("hidden", &PyEngine::hidden, nb::arg("tokens"), nb::arg("scales") = std::vector<float>{})
        .def("add_adapter", &PyEngine::add_adapter, nb::arg("updates"),
             "Declares an adapter: (weight, rank, type and bytes of A, type and bytes of B, scale) each.")
        .def(
            "open_sequence",
            [](PyEngine& e, const std::vector<float>& scales) {
                return e.loaded().sequences().open(e.checked(scales));
            },
            nb::arg("scales") = std::vector<float>{})
        .def("close_sequence",
             [](PyEngine& e, int id) {
                 if (!e.loaded().sequences().close(id))
                     throw std::invalid_argument("the sequence is not open");
             })
        .def(
            "fork_sequence", [](PyEngine& e, int id, size_t n) { return e.loaded().sequences().fork(id, n); },
            "A new sequence that shares the first n tokens, or -1 if that past is no longer held or there is "
            "no room.")
        .def(
            "truncate_sequence",
            [](PyEngine& e, int id, size_t n) { return e.loaded().sequences().truncate(id, n); },
            "Forgets all but the first n tokens; False if that past is no longer held.")
        .def("sequence_length", &PyEngine::length)
        .def("save_sequence", &PyEngine::save)
        .def("restore_sequence", &PyEngine::restore, nb::arg("bytes"),
             nb::arg("scales") = std::vector<float>{})
        .def("save_blocks", &PyEngine::save_blocks,
             "Keys and values of whole blocks; empty if the sequence does not hold them or is more than "
             "blocks.")
        .def("append_blocks", &PyEngine::append_blocks, "False, and nothing changed, if they do not fit.")
        .def("set_profile", [](PyEngine& e, bool on) { e.loaded().profile() = Profile{on}; })
        .def("profile", &PyEngine::profile)
        .def_prop_ro("free_tokens", [](PyEngine& e) { return e.loaded().sequences().free_tokens(); })
        .def_prop_ro("block_tokens", [](const PyEngine&) { return kKvBlockTokens; });
}
