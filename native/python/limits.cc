// SPDX-License-Identifier: MIT
// What this machine can do at most.
#include "kernels/limits/limits.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "python/bindings.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

nb::dict limits_of(size_t threads, const std::string& isa, double seconds, size_t n_bytes) {
    if (threads == 0 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
    const Isa chosen = usable_isa(isa);
    Limits limits;
    {
        nb::gil_scoped_release unlocked;
        limits = measure_limits(chosen, threads, seconds, n_bytes == 0 ? beyond_caches() : n_bytes);
    }
    nb::dict out;
    out["read_bytes_per_s"] = limits.read_bytes_per_s;
    out["int8_macs_per_s"] = limits.int8_macs_per_s;
    out["float_macs_per_s"] = limits.float_macs_per_s;
    return out;
}

}  // namespace

void bind_limits(nb::module_& m) {
    using namespace nb::literals;
    m.def("measure_limits", &limits_of, "threads"_a, "isa"_a, "seconds"_a = 0.25, "n_bytes"_a = 0,
          "Bytes read and multiply-adds done per second at most, on all threads at once; n_bytes is the size "
          "of the\n"
          "buffer read (0: far larger than the caches).");
}
