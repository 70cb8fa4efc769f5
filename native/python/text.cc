// SPDX-License-Identifier: MIT
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <stdexcept>
#include <string_view>

#include "python/bindings.h"
#include "text/strings.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_position(const Bytes& data, size_t position) {
    if (position > data.size()) throw std::invalid_argument("the strings start behind the end of the data");
}

}  // namespace

void bind_text(nb::module_& m) {
    m.def(
        "skip_strings",
        [](const Bytes& data, size_t position, size_t count) {
            check_position(data, position);
            const StringWalk walk = skip_strings(data.data(), data.size(), position, count);
            return std::pair(walk.n, walk.position);
        },
        nb::arg("data"), nb::arg("position"), nb::arg("count"),
        "Walks over GGUF strings: how many were whole, and where the last of those ends.");

    m.def(
        "read_strings",
        [](const Bytes& data, size_t position, size_t count) {
            check_position(data, position);
            nb::list strings;
            for (size_t i = 0; i < count; ++i) {
                const StringWalk walk = skip_strings(data.data(), data.size(), position, 1);
                if (walk.n == 0) throw std::invalid_argument("a string leaves the data");
                const size_t begin = position + kStringLengthBytes;
                strings.append(nb::bytes(data.data() + begin, walk.position - begin));
                position = walk.position;
            }
            return strings;
        },
        nb::arg("data"), nb::arg("position"), nb::arg("count"), "The bytes of GGUF strings.");

    nb::class_<StringTable>(m, "StringTable")
        .def(
            "__init__",
            [](StringTable* table, const Bytes& data, size_t position, size_t count) {
                check_position(data, position);
                nb::gil_scoped_release unlocked;
                new (table) StringTable(data.data(), data.size(), position, count);
            },
            nb::arg("data"), nb::arg("position"), nb::arg("count"))
        .def("__len__", &StringTable::size)
        .def_prop_ro("longest", &StringTable::longest)
        .def("repeated", &StringTable::repeated)
        .def("raw",
             [](const StringTable& table, size_t index) {
                 if (index >= table.size()) throw nb::index_error("there is no such string");
                 const std::string_view text = table.at(index);
                 return nb::bytes(text.data(), text.size());
             })
        .def("find", [](const StringTable& table, const nb::bytes& text) {
            return table.find({text.c_str(), text.size()});
        });
}
