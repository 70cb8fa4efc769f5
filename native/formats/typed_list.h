// SPDX-License-Identifier: MIT
// A list of types that have a number of a weight format each, as `kType`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/formats.h"

namespace edgellm {

template <class... Types>
struct TypedList {
    static constexpr size_t kSize = sizeof...(Types);

    // Calls f.template operator()<Type>() for each.
    template <class F>
    static constexpr void for_each(F&& f) {
        (f.template operator()<Types>(), ...);
    }

    // The same for the one of that number; false if there is none.
    template <class F>
    static constexpr bool visit(GGMLType type, F&& f) {
        return ((type == Types::kType && (f.template operator()<Types>(), true)) || ...);
    }

    static constexpr uint32_t largest_type() {
        uint32_t largest = 0;
        for (const GGMLType type : {Types::kType...}) {
            if (static_cast<uint32_t>(type) > largest) largest = static_cast<uint32_t>(type);
        }
        return largest;
    }
};

}  // namespace edgellm
