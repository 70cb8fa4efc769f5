// SPDX-License-Identifier: MIT
#include "api/edgellm.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "api/model.h"
#include "base/error.h"
#include "base/float_mode.h"

using namespace edgellm;

struct edgellm_model {
    ApiModel model;
};

namespace {

thread_local std::string last_error;

edgellm_status fail(edgellm_status status, const std::string& what) noexcept {
    try {
        last_error = what;
    } catch (...) {
        last_error.clear();
    }
    return status;
}

// Runs a call in the engine's floating-point mode, and turns exceptions into a status and a sentence.
template <class Call>
edgellm_status guarded(const Call& call) noexcept {
    try {
        const FloatMode mode;
        last_error.clear();
        call();
        return EDGELLM_OK;
    } catch (const CallError& error) {
        return fail(error.status, error.what());
    } catch (const ModelError& error) {
        return fail(EDGELLM_MODEL, error.what());
    } catch (const std::system_error& error) {
        return fail(EDGELLM_FILE, error.code().message());
    } catch (const std::bad_alloc&) {
        return fail(EDGELLM_NO_MEMORY, "the system has not enough memory for this");
    } catch (const std::invalid_argument& error) {
        return fail(EDGELLM_MODEL, error.what());
    } catch (const std::exception& error) {
        return fail(EDGELLM_INTERNAL, error.what());
    } catch (...) {
        return fail(EDGELLM_INTERNAL, "an unknown error");
    }
}

void need(bool given, const char* what) {
    if (!given) throw CallError(EDGELLM_BAD_ARGUMENT, std::string(what) + " must not be NULL");
}

// Fills a caller's array, or says how large it has to be.
template <class T>
void fill(std::span<const T> from, T* to, size_t capacity, size_t* n) {
    need(n != nullptr, "n");
    *n = from.size();
    if (from.size() > capacity) {
        throw CallError(EDGELLM_TOO_SMALL, "the result has " + std::to_string(from.size()) +
                                               " elements, the array " + std::to_string(capacity));
    }
    need(to != nullptr || from.empty(), "the array");
    std::copy(from.begin(), from.end(), to);
}

edgellm_options with_defaults(const edgellm_options* options) {
    return options == nullptr ? edgellm_options{} : *options;
}

edgellm_sampling sampling_of(const edgellm_sampling* sampling) {
    return sampling == nullptr ? edgellm_sampling{} : *sampling;
}

edgellm_status open_model(const char* shown, const os::FileMapping& mapping, const edgellm_options* options,
                          edgellm_model** model) noexcept {
    const edgellm_status status =
        guarded([&] { *model = new edgellm_model{ApiModel(mapping, with_defaults(options))}; });
    if (status == EDGELLM_OK) return status;
    return fail(status, std::string(shown) + ": " + last_error);
}

}  // namespace

extern "C" {

const char* edgellm_version(void) {
    return EDGELLM_VERSION;
}

const char* edgellm_error(void) {
    return last_error.c_str();
}

edgellm_status edgellm_open(const char* path, const edgellm_options* options, edgellm_model** model) {
    os::FileMapping mapping;
    const edgellm_status status = guarded([&] {
        need(path != nullptr, "path");
        need(model != nullptr, "model");
        *model = nullptr;
        try {
            mapping = os::map_file(path);
        } catch (const std::system_error& error) {
            throw CallError(EDGELLM_FILE, std::string(path) + ": " + error.code().message());
        }
    });
    return status == EDGELLM_OK ? open_model(path, mapping, options, model) : status;
}

edgellm_status edgellm_open_descriptor(int descriptor, uint64_t offset, uint64_t n_bytes,
                                       const edgellm_options* options, edgellm_model** model) {
    os::FileMapping mapping;
    const edgellm_status status = guarded([&] {
        need(model != nullptr, "model");
        *model = nullptr;
        if (offset % 32 != 0) throw CallError(EDGELLM_BAD_ARGUMENT, "offset must be a multiple of 32");
        mapping = os::map_descriptor(descriptor, offset, n_bytes);
    });
    return status == EDGELLM_OK ? open_model("the descriptor's file", mapping, options, model) : status;
}

void edgellm_close(edgellm_model* model) {
    delete model;
}

size_t edgellm_n_vocab(const edgellm_model* model) {
    return model == nullptr ? 0 : model->model.n_vocab();
}

size_t edgellm_n_context(const edgellm_model* model) {
    return model == nullptr ? 0 : model->model.n_context();
}

int edgellm_is_end(const edgellm_model* model, int32_t token) {
    return model != nullptr && model->model.is_end(token) ? 1 : 0;
}

edgellm_status edgellm_tokenize(edgellm_model* model, const char* text, size_t n_bytes, int add_special,
                                int parse_special, int32_t* tokens, size_t capacity, size_t* n) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(text != nullptr || n_bytes == 0, "text");
        const std::string_view given = n_bytes == 0 ? std::string_view() : std::string_view(text, n_bytes);
        const std::vector<int32_t> ids =
            model->model.tokenizer().encode({{given, parse_special != 0}}, add_special != 0, true);
        fill<int32_t>(ids, tokens, capacity, n);
    });
}

edgellm_status edgellm_token_text(const edgellm_model* model, int32_t token, char* text, size_t capacity,
                                  size_t* n) {
    return guarded([&] {
        need(model != nullptr, "model");
        const std::string bytes = model->model.token_text(token);
        fill<char>(bytes, text, capacity, n);
    });
}

edgellm_status edgellm_chat(edgellm_model* model, const edgellm_message* messages, size_t n_messages,
                            int32_t* tokens, size_t capacity, size_t* n) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(messages != nullptr || n_messages == 0, "messages");
        std::vector<ChatFrames::Message> given;
        for (size_t i = 0; i < n_messages; ++i) {
            need(messages[i].role != nullptr, "role");
            need(messages[i].text != nullptr || messages[i].n_bytes == 0, "text");
            given.push_back({messages[i].role, {messages[i].text, messages[i].n_bytes}});
        }
        if (given.empty()) throw CallError(EDGELLM_BAD_ARGUMENT, "a conversation needs at least one message");
        const std::vector<int32_t> ids = model->model.chat(given);
        fill<int32_t>(ids, tokens, capacity, n);
    });
}

edgellm_status edgellm_open_sequence(edgellm_model* model, int32_t* sequence) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(sequence != nullptr, "sequence");
        *sequence = model->model.open_sequence();
    });
}

edgellm_status edgellm_close_sequence(edgellm_model* model, int32_t sequence) {
    return guarded([&] {
        need(model != nullptr, "model");
        model->model.close_sequence(sequence);
    });
}

edgellm_status edgellm_length(const edgellm_model* model, int32_t sequence, size_t* n) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(n != nullptr, "n");
        *n = model->model.length(sequence);
    });
}

edgellm_status edgellm_keep(edgellm_model* model, int32_t sequence, const int32_t* tokens, size_t n_tokens,
                            size_t* n_kept) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(tokens != nullptr || n_tokens == 0, "tokens");
        const size_t n = model->model.keep(sequence, {tokens, n_tokens});
        if (n_kept != nullptr) *n_kept = n;
    });
}

edgellm_status edgellm_step(edgellm_model* model, int32_t sequence, const int32_t* tokens, size_t n_tokens,
                            float* logits) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(tokens != nullptr, "tokens");
        model->model.step(sequence, {tokens, n_tokens}, logits);
    });
}

edgellm_status edgellm_sample(edgellm_model* model, const float* logits, const edgellm_sampling* sampling,
                              const int32_t* history, size_t n_history, uint64_t step, int32_t* token) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(logits != nullptr, "logits");
        need(token != nullptr, "token");
        need(history != nullptr || n_history == 0, "history");
        *token = model->model.sample(logits, sampling_of(sampling), {history, n_history}, step);
    });
}

edgellm_status edgellm_generate(edgellm_model* model, int32_t sequence, const int32_t* tokens,
                                size_t n_tokens, const edgellm_sampling* sampling, size_t max_tokens,
                                edgellm_on_text on_text, void* user, size_t* n) {
    return guarded([&] {
        need(model != nullptr, "model");
        need(tokens != nullptr, "tokens");
        ApiModel::OnText receive;
        if (on_text != nullptr)
            receive = [&](std::string_view piece) { return on_text(user, piece.data(), piece.size()) == 0; };
        const size_t made =
            model->model.generate(sequence, {tokens, n_tokens}, sampling_of(sampling), max_tokens, receive);
        if (n != nullptr) *n = made;
    });
}

}  // extern "C"
