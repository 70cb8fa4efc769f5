// SPDX-License-Identifier: MIT
#include "text/encoders.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string_view>
#include <utility>

#include "python/bindings.h"
#include "python/signatures.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

PlainTokens plain_tokens(const StringTable& tokens, const Bytes& hidden, const std::vector<int32_t>& byte_ids,
                         int32_t unknown) {
    if (hidden.size() != tokens.size() || byte_ids.size() != 256)
        throw std::invalid_argument("hidden has one byte for each token, byte_ids one id for each byte");
    PlainTokens plain{tokens, {hidden.data(), hidden.data() + hidden.size()}, {}, unknown};
    std::copy(byte_ids.begin(), byte_ids.end(), plain.byte_ids.begin());
    return plain;
}

template <class Encoder>
std::vector<int32_t> encode(Encoder& encoder, std::string_view text) {
    std::vector<int32_t> ids;
    encoder.encode(text, &ids);
    return ids;
}

}  // namespace

void bind_encoders(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<BpeEncoder>(m, "BpeEncoder", "Byte-pair encoding of plain text.")
        .def(
            "__init__",
            [](BpeEncoder* self, const StringTable& tokens, const StringTable& merges, const Bytes& hidden,
               const std::vector<int32_t>& byte_ids, int32_t unknown,
               const std::vector<std::pair<std::string, std::string>>& rules, bool ignore_merges,
               bool byte_level) {
                BpeOptions options{{}, ignore_merges, byte_level};
                for (const auto& [expression, category] : rules)
                    options.rules.push_back({expression, category});
                new (self) BpeEncoder(plain_tokens(tokens, hidden, byte_ids, unknown), merges, options);
            },
            "tokens"_a, "merges"_a, "hidden"_a, "byte_ids"_a, "unknown"_a, nb::kw_only(), "rules"_a,
            "ignore_merges"_a, "byte_level"_a, nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(),
            nb::sig("def __init__(self, tokens: StringTable, merges: StringTable, hidden: " EDGELLM_BYTES
                    ", byte_ids: collections.abc.Sequence[int], unknown: int, *, "
                    "rules: collections.abc.Sequence[tuple[str, str]], ignore_merges: bool, byte_level: "
                    "bool) -> None"),
            "hidden: one byte for each token, not 0 if text must not become it. byte_ids: byte token of each "
            "byte, "
            "or\n-1. unknown: id or -1. rules: (expression, category or \"\") of each cut.")
        .def("encode", &encode<BpeEncoder>, "text"_a,
             "The ids of a text without special tokens. ModelError: it has none.");
    nb::class_<SpmEncoder>(m, "SpmEncoder", "SentencePiece's byte-pair encoding of plain text.")
        .def(
            "__init__",
            [](SpmEncoder* self, const StringTable& tokens, const Floats& scores, const Bytes& hidden,
               const std::vector<int32_t>& byte_ids, int32_t unknown) {
                if (scores.size() != tokens.size())
                    throw std::invalid_argument("scores has one number for each token");
                new (self) SpmEncoder(plain_tokens(tokens, hidden, byte_ids, unknown),
                                      {scores.data(), scores.data() + scores.size()});
            },
            "tokens"_a, "scores"_a, "hidden"_a, "byte_ids"_a, "unknown"_a, nb::keep_alive<1, 2>(),
            nb::sig("def __init__(self, tokens: StringTable, scores: " EDGELLM_FLOAT32
                    ", hidden: " EDGELLM_BYTES
                    ", byte_ids: collections.abc.Sequence[int], unknown: int) -> None"))
        .def("encode", &encode<SpmEncoder>, "text"_a,
             "The ids of a text without special tokens. ModelError: it has none.");
}
