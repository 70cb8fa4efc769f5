// SPDX-License-Identifier: MIT
#include "runtime/cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace edgellm {
namespace {

size_t blocks_for(size_t n_tokens) {
    return (n_tokens + kKvBlockTokens - 1) / kKvBlockTokens;
}

}  // namespace

SequenceStore::SequenceStore(const ExecutionPlan& plan, size_t cache_tokens, size_t context)
    : plan_(plan), context_(context) {
    cache_offset_.resize(plan.cache_shapes.size());
    for (size_t c = 0; c < plan.cache_shapes.size(); ++c) {
        const AttentionShape& shape = plan.cache_shapes[c];
        auto it = std::find_if(groups_.begin(), groups_.end(),
                               [&](const WindowGroup& g) { return g.window == shape.window; });
        if (it == groups_.end()) {
            groups_.emplace_back();
            it = groups_.end() - 1;
            it->window = shape.window;
        }
        cache_offset_[c] = it->block_bytes;
        it->block_bytes += kv_block_bytes(shape);
        it->caches.push_back(static_cast<int>(c));
    }
    const size_t n_blocks = blocks_for(cache_tokens);
    for (WindowGroup& g : groups_) {
        // Pages come one by one as blocks are first used: an empty cache costs nothing.
        g.region = Region(g.block_bytes * n_blocks, false);
        g.refs.assign(n_blocks, 0);
        g.free_ids.resize(n_blocks);
        for (size_t i = 0; i < n_blocks; ++i) g.free_ids[i] = static_cast<int>(n_blocks - 1 - i);
    }
}

size_t SequenceStore::bytes_per_token(const ExecutionPlan& plan) {
    size_t bytes = 0;
    for (const AttentionShape& s : plan.cache_shapes) bytes += kv_block_bytes(s) / kKvBlockTokens;
    return bytes;
}

size_t SequenceStore::free_tokens() const {
    size_t blocks = SIZE_MAX;
    for (const WindowGroup& g : groups_) blocks = std::min(blocks, g.free_ids.size());
    return groups_.empty() ? context_ : blocks * kKvBlockTokens;
}

int SequenceStore::open(std::vector<float> scales) {
    size_t i = 0;
    while (i < sequences_.size() && sequences_[i].open) ++i;
    if (i == sequences_.size()) sequences_.emplace_back();
    Sequence& s = sequences_[i];
    s = Sequence{};
    s.open = true;
    s.scales = std::move(scales);
    s.ids.resize(groups_.size());
    s.first_kept.assign(groups_.size(), 0);
    s.blocks.resize(plan_.cache_shapes.size());
    s.state.assign(plan_.state_floats, 0.0f);
    return static_cast<int>(i);
}

void SequenceStore::release(WindowGroup* group, int id) {
    if (id < 0) return;
    if (--group->refs[static_cast<size_t>(id)] == 0) group->free_ids.push_back(id);
}

int SequenceStore::take(WindowGroup* group) {
    if (group->free_ids.empty()) return -1;
    const int id = group->free_ids.back();
    group->free_ids.pop_back();
    group->refs[static_cast<size_t>(id)] = 1;
    return id;
}

void SequenceStore::set_block(Sequence* s, size_t group, size_t index, int id) {
    WindowGroup& g = groups_[group];
    auto& ids = s->ids[group];
    if (index == ids.size()) ids.push_back(-1);
    ids[index] = id;
    uint8_t* base = id < 0 ? nullptr : g.region.data() + static_cast<size_t>(id) * g.block_bytes;
    for (int c : g.caches) {
        auto& blocks = s->blocks[static_cast<size_t>(c)];
        if (index == blocks.size()) blocks.push_back(nullptr);
        blocks[index] = base == nullptr ? nullptr : base + cache_offset_[static_cast<size_t>(c)];
    }
}

void SequenceStore::drop_after(Sequence* s, size_t n_blocks) {
    for (size_t g = 0; g < groups_.size(); ++g) {
        while (s->ids[g].size() > n_blocks) {
            release(&groups_[g], s->ids[g].back());
            s->ids[g].pop_back();
            for (int c : groups_[g].caches) s->blocks[static_cast<size_t>(c)].pop_back();
        }
    }
}

bool SequenceStore::close(int id) {
    if (!valid(id)) return false;
    drop_after(&at(id), 0);
    at(id) = Sequence{};
    return true;
}

bool SequenceStore::past_held(const Sequence& s, size_t n_tokens) const {
    if (n_tokens > s.n_tokens) return false;
    if (plan_.state_floats > 0 && n_tokens != s.n_tokens && n_tokens != 0) return false;
    for (size_t g = 0; g < groups_.size(); ++g) {
        const size_t window = groups_[g].window;
        const size_t first_seen = window == 0 || n_tokens < window ? 0 : n_tokens + 1 - window;
        if (n_tokens > 0 && first_seen < s.first_kept[g]) return false;
    }
    return true;
}

int SequenceStore::fork(int id, size_t n_tokens) {
    if (!valid(id) || !past_held(at(id), n_tokens)) return -1;
    const int copy_id = open(at(id).scales);
    Sequence& copy = at(copy_id);
    const Sequence& s = at(id);
    const size_t full = n_tokens / kKvBlockTokens;
    const size_t rest = n_tokens % kKvBlockTokens;
    copy.first_kept = n_tokens == 0 ? copy.first_kept : s.first_kept;
    for (size_t g = 0; g < groups_.size(); ++g) {
        for (size_t i = 0; i < full; ++i) {
            const int block = s.ids[g][i];
            if (block >= 0) ++groups_[g].refs[static_cast<size_t>(block)];
            set_block(&copy, g, i, block);
        }
        if (rest == 0) continue;
        const int block = take(&groups_[g]);
        if (block < 0) {
            close(copy_id);
            return -1;
        }
        set_block(&copy, g, full, block);
        const size_t bytes = groups_[g].block_bytes;
        std::memcpy(groups_[g].region.data() + static_cast<size_t>(block) * bytes,
                    groups_[g].region.data() + static_cast<size_t>(s.ids[g][full]) * bytes, bytes);
    }
    if (n_tokens > 0) copy.state = s.state;
    copy.n_tokens = n_tokens;
    return copy_id;
}

bool SequenceStore::truncate(int id, size_t n_tokens) {
    if (!valid(id)) return false;
    Sequence& s = at(id);
    if (!past_held(s, n_tokens)) return false;
    // A last block that is cut and shared is copied, or both owners would write to it. Forks copy partly
    // filled blocks: it was full when it was shared. All copies are taken before anything is dropped.
    const size_t last = n_tokens / kKvBlockTokens;
    std::vector<int> copies(groups_.size(), -1);
    for (size_t g = 0; g < groups_.size() && n_tokens % kKvBlockTokens != 0; ++g) {
        const int old = s.ids[g][last];
        if (groups_[g].refs[static_cast<size_t>(old)] == 1) continue;
        copies[g] = take(&groups_[g]);
        if (copies[g] < 0) {
            for (size_t taken = 0; taken < g; ++taken) release(&groups_[taken], copies[taken]);
            return false;
        }
        const size_t bytes = groups_[g].block_bytes;
        std::memcpy(groups_[g].region.data() + static_cast<size_t>(copies[g]) * bytes,
                    groups_[g].region.data() + static_cast<size_t>(old) * bytes, bytes);
    }
    if (n_tokens == 0) {
        std::fill(s.state.begin(), s.state.end(), 0.0f);
        std::fill(s.first_kept.begin(), s.first_kept.end(), 0);
    }
    drop_after(&s, blocks_for(n_tokens));
    for (size_t g = 0; g < groups_.size(); ++g) {
        if (copies[g] < 0) continue;
        release(&groups_[g], s.ids[g][last]);
        set_block(&s, g, last, copies[g]);
    }
    s.n_tokens = n_tokens;
    return true;
}

bool SequenceStore::reserve(int id, size_t n_new) {
    Sequence& s = at(id);
    if (s.n_tokens + n_new > context_) return false;
    const size_t need = blocks_for(s.n_tokens + n_new);
    for (size_t g = 0; g < groups_.size(); ++g) {
        const size_t have = s.ids[g].size();
        if (need > have && need - have > groups_[g].free_ids.size()) return false;
    }
    for (size_t g = 0; g < groups_.size(); ++g) {
        while (s.ids[g].size() < need) set_block(&s, g, s.ids[g].size(), take(&groups_[g]));
    }
    return true;
}

void SequenceStore::unreserve(int id) {
    drop_after(&at(id), blocks_for(at(id).n_tokens));
}

void SequenceStore::advance(int id, size_t n_new) {
    Sequence& s = at(id);
    s.n_tokens += n_new;
    for (size_t g = 0; g < groups_.size(); ++g) {
        const size_t keep = groups_[g].window + kWindowSlack;
        if (groups_[g].window == 0 || s.n_tokens <= keep) continue;
        const size_t first = (s.n_tokens - keep) / kKvBlockTokens;
        for (size_t i = s.first_kept[g] / kKvBlockTokens; i < first; ++i) {
            release(&groups_[g], s.ids[g][i]);
            set_block(&s, g, i, -1);
        }
        s.first_kept[g] = std::max(s.first_kept[g], first * kKvBlockTokens);
    }
}

std::vector<uint8_t> SequenceStore::save(int id) const {
    const Sequence& s = sequences_[static_cast<size_t>(id)];
    std::vector<uint8_t> out;
    const auto put = [&out](const void* data, size_t n) {
        const auto* first = static_cast<const uint8_t*>(data);
        out.insert(out.end(), first, first + n);
    };
    const uint64_t n_tokens = s.n_tokens;
    put(&n_tokens, sizeof(n_tokens));
    put(s.state.data(), s.state.size() * sizeof(float));
    for (size_t g = 0; g < groups_.size(); ++g) {
        const uint64_t first = s.first_kept[g];
        put(&first, sizeof(first));
        for (size_t i = first / kKvBlockTokens; i < blocks_for(s.n_tokens); ++i) {
            put(groups_[g].region.data() + static_cast<size_t>(s.ids[g][i]) * groups_[g].block_bytes,
                groups_[g].block_bytes);
        }
    }
    return out;
}

int SequenceStore::restore(const uint8_t* bytes, size_t n_bytes, std::vector<float> scales) {
    size_t at_byte = 0;
    const auto get = [&](void* to, size_t n) {
        if (n_bytes - at_byte < n) return false;
        // Not memcpy: a state of no floats has no address.
        std::copy_n(bytes + at_byte, n, static_cast<uint8_t*>(to));
        at_byte += n;
        return true;
    };
    uint64_t n_tokens = 0;
    if (!get(&n_tokens, sizeof(n_tokens)) || n_tokens > context_) return -1;
    const int id = open(std::move(scales));
    Sequence& s = at(id);
    bool ok = get(s.state.data(), s.state.size() * sizeof(float)) && reserve(id, n_tokens);
    for (size_t g = 0; ok && g < groups_.size(); ++g) {
        uint64_t first = 0;
        // Tokens in the window of the next one must be there.
        const uint64_t window = groups_[g].window;
        ok = get(&first, sizeof(first)) && first % kKvBlockTokens == 0 &&
             (first == 0 || (window > 0 && n_tokens + 1 >= window && first <= n_tokens + 1 - window));
        for (size_t i = 0; ok && i < blocks_for(n_tokens); ++i) {
            if (i < first / kKvBlockTokens) {
                release(&groups_[g], s.ids[g][i]);
                set_block(&s, g, i, -1);
            } else {
                ok = get(groups_[g].region.data() + static_cast<size_t>(s.ids[g][i]) * groups_[g].block_bytes,
                         groups_[g].block_bytes);
            }
        }
        s.first_kept[g] = first;
    }
    if (!ok || at_byte != n_bytes) {
        close(id);
        return -1;
    }
    s.n_tokens = n_tokens;
    return id;
}

bool SequenceStore::only_blocks() const {
    return groups_.size() == 1 && groups_[0].window == 0 && plan_.state_floats == 0;
}

std::vector<uint8_t> SequenceStore::save_blocks(int id, size_t first, size_t n_blocks) const {
    if (!only_blocks() || !valid(id)) return {};
    const Sequence& s = sequences_[static_cast<size_t>(id)];
    const size_t held = s.n_tokens / kKvBlockTokens;
    if (first > held || n_blocks > held - first) return {};
    const size_t bytes = groups_[0].block_bytes;
    std::vector<uint8_t> out(n_blocks * bytes);
    for (size_t i = 0; i < n_blocks; ++i) {
        std::memcpy(out.data() + i * bytes,
                    groups_[0].region.data() + static_cast<size_t>(s.ids[0][first + i]) * bytes, bytes);
    }
    return out;
}

bool SequenceStore::append_blocks(int id, const uint8_t* bytes, size_t n_bytes) {
    if (!only_blocks() || !valid(id) || at(id).n_tokens % kKvBlockTokens != 0) return false;
    const size_t block_bytes = groups_[0].block_bytes;
    if (n_bytes % block_bytes != 0) return false;
    const size_t n_blocks = n_bytes / block_bytes;
    const size_t first = at(id).n_tokens / kKvBlockTokens;
    if (!reserve(id, n_blocks * kKvBlockTokens)) return false;
    for (size_t i = 0; i < n_blocks; ++i) {
        std::memcpy(groups_[0].region.data() + static_cast<size_t>(at(id).ids[0][first + i]) * block_bytes,
                    bytes + i * block_bytes, block_bytes);
    }
    advance(id, n_blocks * kKvBlockTokens);
    return true;
}

}  // namespace edgellm
