// SPDX-License-Identifier: MIT
// A prompt and greedy tokens by llama.cpp, marked as those of native/runtime/token_bench.cc are, for
// bench/arm_tokens.py. Arguments: the GGUF file, the number of greedy tokens, the prompt's ids. With
// llama.cpp built for aarch64 in BUILD (static libraries, no OpenMP):
//
//     aarch64-linux-gnu-g++ -O2 -static -Illama.cpp/include -Illama.cpp/ggml/include
//     bench/arm/llama_tokens.cpp
//         BUILD/src/libllama.a BUILD/ggml/src/libggml.a BUILD/ggml/src/libggml-cpu.a
//         BUILD/ggml/src/libggml-base.a -Wl,-Map=llama_tokens.map -o llama_tokens
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

extern "C" {
[[gnu::noinline, gnu::used]] void edgellm_region_begin() {
    __asm__ volatile("" ::: "memory");
}
[[gnu::noinline, gnu::used]] void edgellm_region_end() {
    __asm__ volatile("nop" ::: "memory");
}
}

int main(int argc, char** argv) {
    if (argc < 4) {
        std::printf("usage: llama_tokens MODEL TOKENS ID...\n");
        return 2;
    }
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) return 1;
    llama_context_params options = llama_context_default_params();
    options.n_ctx = 256;
    options.n_batch = options.n_ubatch = 256;
    options.n_threads = options.n_threads_batch = 1;
    llama_context* context = llama_init_from_model(model, options);
    if (context == nullptr) return 1;
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::vector<llama_token> ids;
    for (int i = 3; i < argc; ++i) ids.push_back(std::atoi(argv[i]));
    for (int left = std::atoi(argv[2]); left >= 0; --left) {
        const llama_batch batch = llama_batch_get_one(ids.data(), static_cast<int32_t>(ids.size()));
        edgellm_region_begin();
        const int failed = llama_decode(context, batch);
        edgellm_region_end();
        if (failed != 0) return 1;
        const float* logits = llama_get_logits_ith(context, -1);
        ids.assign(1, static_cast<llama_token>(std::max_element(logits, logits + n_vocab) - logits));
        std::printf("%d ", ids[0]);
    }
    std::printf("\n");
    return 0;
}
