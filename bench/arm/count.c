// SPDX-License-Identifier: MIT
// Plugin of QEMU: counts the instructions that run between two addresses and the bytes that they read and write.
// Arguments: begin=ADDRESS,end=ADDRESS[,trace=FILE]; the trace is each instruction's address in 32 bits.
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static uint64_t begin_at, end_at, instructions, bytes_read, bytes_written;
static bool counts;
static FILE *trace;

static void on_instruction(unsigned int cpu, void *data) {
    const uint64_t address = (uint64_t)(uintptr_t)data;
    if (address == begin_at || address == end_at) {
        counts = address == begin_at;
        return;
    }
    if (!counts) return;
    ++instructions;
    if (trace) {
        const uint32_t low = (uint32_t)address;
        fwrite(&low, sizeof low, 1, trace);
    }
}

static void on_memory(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    if (!counts) return;
    const uint64_t n_bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
    *(qemu_plugin_mem_is_store(info) ? &bytes_written : &bytes_read) += n_bytes;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    const size_t n = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < n; ++i) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        void *address = (void *)(uintptr_t)qemu_plugin_insn_vaddr(instruction);
        qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_instruction, QEMU_PLUGIN_CB_NO_REGS, address);
        qemu_plugin_register_vcpu_mem_cb(instruction, on_memory, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
    }
}

static void at_end(qemu_plugin_id_t id, void *data) {
    char text[200];
    snprintf(text, sizeof text, "instructions %" PRIu64 " read %" PRIu64 " written %" PRIu64 "\n", instructions,
             bytes_read, bytes_written);
    qemu_plugin_outs(text);
    if (trace) fclose(trace);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int n, char **arguments) {
    for (int i = 0; i < n; ++i) {
        if (strncmp(arguments[i], "begin=", 6) == 0) begin_at = strtoull(arguments[i] + 6, NULL, 0);
        if (strncmp(arguments[i], "end=", 4) == 0) end_at = strtoull(arguments[i] + 4, NULL, 0);
        if (strncmp(arguments[i], "trace=", 6) == 0) trace = fopen(arguments[i] + 6, "wb");
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, at_end, NULL);
    return 0;
}
