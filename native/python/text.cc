// SPDX-License-Identifier: MIT
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <cstring>
#include <stdexcept>
#include <string_view>

#include "python/bindings.h"
#include "python/signatures.h"
#include "text/strings.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
int64_t first_outside(const uint8_t* bytes, size_t n, double low, double high) {
    for (size_t i = 0; i < n; ++i) {
        T value;  // it may lie at any byte of a file
        std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
        const auto x = static_cast<double>(value);
        if (!(x >= low && x <= high)) return static_cast<int64_t>(i);
    }
    return -1;
}

int64_t first_outside_any(const Numbers& numbers, double low, double high) {
    const auto* bytes = static_cast<const uint8_t*>(numbers.data());
    const size_t n = numbers.size();
    const nb::dlpack::dtype type = numbers.dtype();
    if (type == nb::dtype<float>()) return first_outside<float>(bytes, n, low, high);
    if (type == nb::dtype<double>()) return first_outside<double>(bytes, n, low, high);
    if (type == nb::dtype<int8_t>()) return first_outside<int8_t>(bytes, n, low, high);
    if (type == nb::dtype<uint8_t>()) return first_outside<uint8_t>(bytes, n, low, high);
    if (type == nb::dtype<int16_t>()) return first_outside<int16_t>(bytes, n, low, high);
    if (type == nb::dtype<uint16_t>()) return first_outside<uint16_t>(bytes, n, low, high);
    if (type == nb::dtype<int32_t>()) return first_outside<int32_t>(bytes, n, low, high);
    if (type == nb::dtype<uint32_t>()) return first_outside<uint32_t>(bytes, n, low, high);
    if (type == nb::dtype<int64_t>()) return first_outside<int64_t>(bytes, n, low, high);
    if (type == nb::dtype<uint64_t>()) return first_outside<uint64_t>(bytes, n, low, high);
    throw std::invalid_argument("numbers of this type are not supported");
}

void check_position(const Bytes& data, size_t position) {
    if (position > data.size()) throw std::invalid_argument("the strings start behind the end of the data");
}

void bind_table(nb::module_& m) {
    nb::class_<StringTable>(m, "StringTable", "GGUF strings in place, hashed for look-ups.")
        .def(
            "__init__",
            [](StringTable* table, const Bytes& data, size_t position, size_t count) {
                check_position(data, position);
                nb::gil_scoped_release unlocked;
                new (table) StringTable(data.data(), data.size(), position, count);
            },
            nb::arg("data"), nb::arg("position"), nb::arg("count"),
            nb::sig("def __init__(self, data: " EDGELLM_BYTES ", position: int, count: int) -> None"))
        .def("__len__", &StringTable::size)
        .def_prop_ro("longest", &StringTable::longest, "Bytes of the longest string.")
        .def("repeated", &StringTable::repeated,
             "Indices of the first string (not the empty one) that occurs again, and of its second "
             "occurrence.")
        .def(
            "raw",
            [](const StringTable& table, size_t index) {
                if (index >= table.size()) throw nb::index_error("there is no such string");
                const std::string_view text = table.at(index);
                return nb::bytes(text.data(), text.size());
            },
            nb::arg("index"))
        .def(
            "find",
            [](const StringTable& table, const nb::bytes& text) {
                return table.find({text.c_str(), text.size()});
            },
            nb::arg("text"), "The lowest index of a string, -1 if it is not there.");
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
        nb::sig("def skip_strings(data: " EDGELLM_BYTES ", position: int, count: int) -> "
                "tuple[int, int]"),
        "Walks over `count` GGUF strings from `position` on: the number of whole ones, and where the last "
        "ends.");

    m.def(
        "read_strings",
        [](const Bytes& data, size_t position, size_t count) {
            check_position(data, position);
            nb::typed<nb::list, nb::bytes> strings;
            for (size_t i = 0; i < count; ++i) {
                const StringWalk walk = skip_strings(data.data(), data.size(), position, 1);
                if (walk.n == 0) throw std::invalid_argument("a string leaves the data");
                const size_t begin = position + kStringLengthBytes;
                strings.append(nb::bytes(data.data() + begin, walk.position - begin));
                position = walk.position;
            }
            return strings;
        },
        nb::arg("data"), nb::arg("position"), nb::arg("count"),
        nb::sig("def read_strings(data: " EDGELLM_BYTES ", position: int, count: int) -> list[bytes]"),
        "The bytes of GGUF strings.");

    m.def("first_outside", &first_outside_any, nb::arg("numbers"), nb::arg("low"), nb::arg("high"),
          nb::sig("def first_outside(numbers: typing_extensions.Buffer, low: float, high: float) -> int"),
          "The index of the first number outside [low, high], or NaN; -1 if there is none.");

    bind_table(m);
}
