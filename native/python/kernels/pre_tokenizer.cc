// SPDX-License-Identifier: MIT
#include "text/pre_tokenizer.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "python/kernels/bindings.h"

namespace nb = nanobind;
using namespace edgellm;

void bind_pre_tokenizer(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<PreTokenizer>(m, "PreTokenizer")
        .def(
            "__init__",
            [](PreTokenizer* self, const std::vector<std::pair<std::string, std::string>>& rules) {
                std::vector<PreTokenizerRule> given;
                for (const auto& [expression, category] : rules) given.push_back({expression, category});
                new (self) PreTokenizer(given);
            },
            "rules"_a, "rules: (expression, category or \"\") of each cut.")
        .def("split", &PreTokenizer::split, "text"_a, "The pieces of a text, in order.");
}
