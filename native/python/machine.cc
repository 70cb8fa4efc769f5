// SPDX-License-Identifier: MIT
// The machine: its instruction sets, CPUs, and limits.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "base/arch.h"
#include "base/mapped_files.h"
#include "base/os/os.h"
#include "kernels/attention/attention.h"
#include "kernels/limits/limits.h"
#include "python/bindings.h"
#include "python/signatures.h"
#include "python/usable_isa.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (Isa isa : built_isas()) names.emplace_back(isa_name(isa));
    return names;
}

std::vector<std::string> usable_isas() {
    const CpuFeatures cpu = detect_cpu();
    std::vector<std::string> names;
    for (Isa isa : built_isas()) {
        if (isa_usable(isa, cpu)) names.emplace_back(isa_name(isa));
    }
    return names;
}

const char* faster_kv_type_name(const std::string& name) {
    Isa isa = Isa::kScalar;
    isa_from_name(name, &isa);
    return kv_type_name(faster_kv_type(isa));
}

std::vector<std::string> kv_type_names() {
    std::vector<std::string> names;
    for (KvType type : kv_types()) names.emplace_back(kv_type_name(type));
    return names;
}

nb::typed<nb::dict, nb::str, nb::float_> limits_of(size_t threads, const std::string& isa, double seconds,
                                                   size_t n_bytes) {
    if (threads == 0 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
    const Isa chosen = usable_isa(isa);
    Limits limits;
    {
        nb::gil_scoped_release unlocked;
        limits = measure_limits(chosen, threads, seconds, n_bytes == 0 ? beyond_caches() : n_bytes);
    }
    nb::typed<nb::dict, nb::str, nb::float_> out;
    out["read_bytes_per_s"] = limits.read_bytes_per_s;
    out["int8_macs_per_s"] = limits.int8_macs_per_s;
    out["float_macs_per_s"] = limits.float_macs_per_s;
    return out;
}

}  // namespace

void bind_machine(nb::module_& m) {
    using namespace nb::literals;
    m.def("isas", &isas, "Names of the kernel sets that were built, weakest first.");
    m.def("usable_isas", &usable_isas, "Names of the kernel sets that this CPU can run, weakest first.");
    m.def(
        "best_isa", [] { return isa_name(fastest_isa()); },
        "Name of the fastest kernel set that this CPU can run. On Arm, sets are timed once if need be.");
    m.def("kv_types", &kv_type_names, "Names of the types in which a cache stores keys and values.");
    m.def("faster_kv_type", &faster_kv_type_name, "isa"_a,
          "The faster 16-bit cache type of a kernel set; of an unknown one: that of \"scalar\".");
    m.def("memory_bytes", &os::memory_bytes, "Memory of the machine in bytes; 0 if unknown.");
    m.def("allowed_cpus", &os::usable_cpus, "CPUs in this process's affinity mask.");
    m.def("trim_heap", &os::trim_heap, "Gives freed memory of the heap back to the system.");
    m.def(
        "guard_mapping", [](const Bytes& data) { return guard_mapping(data.data(), data.size()); }, "data"_a,
        nb::sig("def guard_mapping(data: " EDGELLM_BYTES ") -> int"),
        "Pages of a file mapping that its file loses read as zeros until unguard_mapping of the number\n"
        "returned.");
    m.def("unguard_mapping", &unguard_mapping, "number"_a);
    m.def("mapping_torn", &mapping_torn, "number"_a, "True if a page was missing when it was read.");
    m.def("measure_limits", &limits_of, "threads"_a, "isa"_a, "seconds"_a = 0.25, "n_bytes"_a = 0,
          "Peak bytes read and multiply-adds per second, on all threads at once. n_bytes: size of the buffer "
          "that\n"
          "is read; 0: far larger than the caches.");
}
