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
#include "base/float_mode.h"
#include "python/bindings.h"
#include "python/logits_buffer.h"
#include "python/signatures.h"
#include "python/usable_isa.h"

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
using Counts = nb::typed<nb::dict, nb::str, nb::int_>;

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
             const std::string& isa, const std::vector<std::pair<int, float>>& speeds)
        : engine(program, tensor_types(types),
                 with_speeds(options(threads, context, cache_tokens, batch, kv_type, isa), speeds)),
          logits_buffer(batch,
                        engine.program().logits < 0 ? 0 : static_cast<size_t>(engine.program().n_vocab)) {}

    static std::vector<TensorType> tensor_types(const std::vector<std::pair<std::string, uint32_t>>& types) {
        std::vector<TensorType> named;
        for (const auto& [name, type] : types) named.push_back({name, type});
        return named;
    }

    static EngineOptions options(size_t threads, size_t context, size_t cache_tokens, size_t batch,
                                 const std::string& kv_type, const std::string& isa) {
        EngineOptions o;
        if (threads < 1 || context < 1 || cache_tokens < 1 || batch < 1) {
            throw std::invalid_argument("threads, context, cache_tokens and batch must be 1 or more");
        }
        if (!kv_type_from_name(kv_type, &o.kv_type)) {
            std::string names;
            for (KvType type : kv_types())
                names += std::string(names.empty() ? "" : ", ") + kv_type_name(type);
            throw std::invalid_argument("kv_type is '" + kv_type + "'; the types are " + names);
        }
        o.isa = usable_isa(isa);
        o.threads = threads;
        o.context = context;
        o.cache_tokens = cache_tokens;
        o.batch = batch;
        return o;
    }

    static EngineOptions with_speeds(EngineOptions o, const std::vector<std::pair<int, float>>& speeds) {
        for (const auto& [cpu, speed] : speeds) o.speeds.push_back({cpu, speed});
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

    FloatMatrix hidden(const Ints& tokens, const std::vector<float>& scales,
                       const std::vector<uint32_t>& lengths) {
        Engine& e = loaded();
        const std::vector<uint32_t> texts =
            lengths.empty() ? std::vector{static_cast<uint32_t>(tokens.size())} : lengths;
        size_t n = 0;
        for (const uint32_t length : texts) n += length;
        if (n != tokens.size() || std::find(texts.begin(), texts.end(), 0u) != texts.end())
            throw std::invalid_argument("lengths do not add up to the tokens, or one is 0");
        FloatMatrix out = new_matrix(tokens.size(), e.hidden_width());
        const std::vector<float> used = checked(scales);
        StepStatus status;
        {
            nb::gil_scoped_release unlocked;
            status = e.hidden(tokens.data(), texts, used, out.data());
        }
        check(status);
        return out;
    }

    Counts memory() const {
        const MemoryUse use = engine.memory();
        Counts d;
        d["weights"] = use.weights;
        d["cache"] = use.cache;
        d["state_per_sequence"] = use.state_per_sequence;
        d["scratch"] = use.scratch;
        d["adapters"] = use.adapters;
        return d;
    }

    Counts profile() {
        const Profile& p = loaded().profile();
        Counts d;
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

void bind_steps(nb::class_<PyEngine>& engine) {
    using namespace nb::literals;
    engine
        .def(nb::init<const std::string&, const std::vector<std::pair<std::string, uint32_t>>&, size_t,
                      size_t, size_t, size_t, const std::string&, const std::string&,
                      const std::vector<std::pair<int, float>>&>(),
             nb::call_guard<FloatMode>(), "program"_a, "types"_a, nb::kw_only(), "threads"_a, "context"_a,
             "cache_tokens"_a, "batch"_a, "kv_type"_a, "isa"_a,
             "speeds"_a = std::vector<std::pair<int, float>>{},
             "types: (weight, GGML type number) of every weight of the program text. speeds: (CPU, speed) of "
             "the\nCPUs that the process may use; none: they are alike.")
        .def("add_adapter", &PyEngine::add_adapter, nb::call_guard<FloatMode>(), "updates"_a,
             nb::sig(
                 "def add_adapter(self, updates: collections.abc.Sequence[tuple[str, int, int, " EDGELLM_BYTES
                 ", int, " EDGELLM_BYTES ", float]]) -> None"),
             "Declares an adapter, before `load`: (weight, rank, type and bytes of A, type and bytes of B, "
             "scale)\nof each weight that it changes.")
        .def("load", &PyEngine::load, nb::call_guard<FloatMode>(), "tensors"_a, "release"_a = false,
             nb::sig("def load(self, tensors: collections.abc.Sequence[tuple[str, int, " EDGELLM_BYTES
                     "]], release: bool = False) -> None"),
             "Packs the weights: (name, GGML type number, bytes) each. release: lets the system drop the "
             "pages\n"
             "of the bytes; only for a file mapping.")
        .def("memory", &PyEngine::memory,
             "Bytes of weights, cache, scratch, adapters, and state_per_sequence; also before `load`.")
        .def("step", &PyEngine::step, nb::call_guard<FloatMode>(), "tokens"_a, "sequences"_a, "outputs"_a,
             "n_largest"_a = 0,
             nb::sig("def step(self, tokens: " EDGELLM_INT32 ", sequences: " EDGELLM_INT32
                     ", outputs: " EDGELLM_BYTES ", n_largest: int = 0) -> memoryview"),
             "Appends tokens[i] to sequences[i] (int32 each); a sequence's tokens are consecutive. Returns "
             "float32\nlogits (n, n_vocab) for the n bytes of `outputs` that are not 0. Only the n_largest "
             "largest logits of\neach row are exact; the others hold some smaller value. 0: all exact.")
        .def_prop_ro(
            "unread_bytes", [](PyEngine& e) { return e.loaded().unread_bytes(); },
            "Bytes of weights that all steps so far skipped thanks to n_largest.")
        .def_prop_ro(
            "multiplied_rows", [](PyEngine& e) { return e.loaded().multiplied_rows(); },
            "Rows that matrices have multiplied so far, each counted once for each matrix; experts aside.")
        .def("hidden", &PyEngine::hidden, nb::call_guard<FloatMode>(), "tokens"_a,
             "scales"_a = std::vector<float>{}, "lengths"_a = std::vector<uint32_t>{},
             nb::sig("def hidden(self, tokens: " EDGELLM_INT32
                     ", scales: collections.abc.Sequence[float] = (), "
                     "lengths: collections.abc.Sequence[int] = ()) -> memoryview"),
             "Hidden rows (n, width) of new sequences of int32 tokens, closed again. scales: one for each "
             "adapter, or none. lengths: tokens of each sequence, which fit in one batch (none: one "
             "sequence).")
        .def(
            "set_profile", [](PyEngine& e, bool on) { e.loaded().profile() = Profile{on}; }, "on"_a)
        .def("profile", &PyEngine::profile, "Nanoseconds by kind of stage, since set_profile.");
}

void bind_sequences(nb::class_<PyEngine>& engine) {
    using namespace nb::literals;
    engine
        .def(
            "open_sequence",
            [](PyEngine& e, const std::vector<float>& scales) {
                return e.loaded().sequences().open(e.checked(scales));
            },
            "scales"_a = std::vector<float>{}, "The number of a new sequence.")
        .def(
            "close_sequence",
            [](PyEngine& e, int id) {
                if (!e.loaded().sequences().close(id))
                    throw std::invalid_argument("the sequence is not open");
            },
            "sequence"_a)
        .def(
            "fork_sequence", [](PyEngine& e, int id, size_t n) { return e.loaded().sequences().fork(id, n); },
            "sequence"_a, "n_tokens"_a,
            "A new sequence that shares the first n_tokens; -1 if that past is no longer held or there is no "
            "room.")
        .def(
            "truncate_sequence",
            [](PyEngine& e, int id, size_t n) { return e.loaded().sequences().truncate(id, n); },
            "sequence"_a, "n_tokens"_a,
            "Drops all but the first n_tokens; False if that past is no longer held.")
        .def("sequence_length", &PyEngine::length, "sequence"_a)
        .def("save_sequence", &PyEngine::save, "sequence"_a)
        .def("restore_sequence", &PyEngine::restore, "saved"_a, "scales"_a = std::vector<float>{},
             "A new sequence from saved bytes; -1 if they do not fit this model or there is no room.")
        .def("save_blocks", &PyEngine::save_blocks, "sequence"_a, "first"_a, "n_blocks"_a,
             "Keys and values of whole blocks. Empty if the sequence does not hold them, or has windows or "
             "states.")
        .def("append_blocks", &PyEngine::append_blocks, "sequence"_a, "saved"_a,
             "False, and nothing changed, if they do not fit.")
        .def_prop_ro("free_tokens", [](PyEngine& e) { return e.loaded().sequences().free_tokens(); })
        .def_prop_ro("block_tokens", [](const PyEngine&) { return kKvBlockTokens; });
}

}  // namespace

void bind_engine(nb::module_& m) {
    nb::exception<ModelError>(m, "ModelError", PyExc_ValueError);
    nb::exception<ContextFull>(m, "ContextFull", PyExc_RuntimeError);
    nb::exception<CacheFull>(m, "CacheFull", PyExc_RuntimeError);
    m.attr("WINDOW_SLACK") = kWindowSlack;
    nb::class_<PyEngine> engine(m, "Engine", "A model's program, planned, and after `load` ready to run.");
    bind_steps(engine);
    bind_sequences(engine);
}
