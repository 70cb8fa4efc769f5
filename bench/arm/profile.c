// SPDX-License-Identifier: MIT
// Plugin of QEMU: instructions by the address of their block, between each pair of calls of two functions, of a
// program with one thread. Arguments: begin=ADDRESS,end=ADDRESS. Prints, for each pair, `region N` and lines
// `ADDRESS INSTRUCTIONS`.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

// A block that QEMU has translated. Each translation has its own: one may end elsewhere than the last.
typedef struct Block Block;
struct Block {
    uint64_t address, instructions, before;
    Block *next;
};

static uint64_t begin_at, end_at;
static int n_regions;
static Block *blocks;

static void on_mark(unsigned int cpu, void *data) {
    const bool begins = (uint64_t)(uintptr_t)data == begin_at;
    char text[64];
    if (!begins) {
        snprintf(text, sizeof text, "region %d\n", n_regions++);
        qemu_plugin_outs(text);
    }
    for (Block *block = blocks; block != NULL; block = block->next) {
        const uint64_t n = block->instructions - block->before;
        block->before = block->instructions;
        if (begins || n == 0) continue;
        snprintf(text, sizeof text, "%" PRIx64 " %" PRIu64 "\n", block->address, n);
        qemu_plugin_outs(text);
    }
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    Block *block = calloc(1, sizeof *block);
    if (block == NULL) abort();
    block->address = qemu_plugin_tb_vaddr(tb);
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->instructions,
                                             qemu_plugin_tb_n_insns(tb));
    if (block->address == begin_at || block->address == end_at)
        qemu_plugin_register_vcpu_tb_exec_cb(tb, on_mark, QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)block->address);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int n, char **arguments) {
    for (int i = 0; i < n; ++i) {
        if (strncmp(arguments[i], "begin=", 6) == 0) begin_at = strtoull(arguments[i] + 6, NULL, 0);
        if (strncmp(arguments[i], "end=", 4) == 0) end_at = strtoull(arguments[i] + 4, NULL, 0);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
