// SPDX-License-Identifier: MIT
// A prompt and greedy tokens after it on one thread, marked so that a tracer finds them: bench/arm_tokens.py
// counts their instructions under emulation. Arguments: the model's program as text, its GGUF file, a table
// with name, type, first byte and bytes of each weight, the instruction set, the number of greedy tokens, the
// prompt's ids. Prints the tokens; exits 2 if the processor or the build has no such set.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/engine.h"

// A tracer's marks. Calls to them stay, because they may do anything.
extern "C" {
[[gnu::noinline, gnu::used]] void edgellm_region_begin() {
    __asm__ volatile("" ::: "memory");
}
[[gnu::noinline, gnu::used]] void edgellm_region_end() {
    __asm__ volatile("nop" ::: "memory");
}
}

namespace edgellm {
namespace {

std::string read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

int run(const char* const* arguments, size_t n_arguments, Isa isa) {
    const std::string model = read_file(arguments[1]);
    std::ifstream table(arguments[2]);
    std::vector<TensorType> types;
    std::vector<TensorSource> sources;
    std::string name;
    uint32_t type;
    size_t first, n_bytes;
    while (table >> name >> type >> first >> n_bytes) {
        types.push_back({name, type});
        sources.push_back({name, type, reinterpret_cast<const uint8_t*>(model.data()) + first, n_bytes});
    }
    EngineOptions options;
    options.context = options.cache_tokens = 256;
    options.batch = 256;
    options.kv_type = faster_kv_type(isa);
    options.isa = isa;
    Engine engine(read_file(arguments[0]), types, options);
    engine.load(sources, false);
    std::vector<int32_t> ids;
    for (size_t i = 5; i < n_arguments; ++i) ids.push_back(std::atoi(arguments[i]));
    std::vector<int32_t> owners(ids.size(), engine.sequences().open({}));
    std::vector<uint8_t> outputs(ids.size(), 0);
    outputs.back() = 1;
    std::vector<float> logits(static_cast<size_t>(engine.program().n_vocab));
    for (int left = std::atoi(arguments[4]); left >= 0; --left) {
        edgellm_region_begin();
        const StepStatus status =
            engine.step(ids.data(), owners.data(), outputs.data(), ids.size(), 1, logits.data());
        edgellm_region_end();
        if (status != StepStatus::kOk) return 1;
        ids.assign(1, static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
        outputs.assign(1, 1);
        std::printf("%d ", ids[0]);
    }
    std::printf("\n");
    return 0;
}

}  // namespace
}  // namespace edgellm

int main(int argc, char** argv) {
    edgellm::Isa isa;
    if (argc < 7 || !edgellm::isa_from_name(argv[4], &isa) ||
        !edgellm::isa_usable(isa, edgellm::detect_cpu())) {
        std::printf("usage: token_bench PROGRAM MODEL TABLE SET TOKENS ID...\n");
        return 2;
    }
    return edgellm::run(argv + 1, static_cast<size_t>(argc) - 1, isa);
}
