// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

#include "base/arch.h"

namespace edgellm {

// The kernel set of that name. Throws std::invalid_argument if there is none or this CPU cannot run it.
inline Isa usable_isa(const std::string& name) {
    Isa isa;
    if (!isa_from_name(name, &isa)) throw std::invalid_argument("unknown instruction set '" + name + "'");
    if (!isa_usable(isa, detect_cpu())) throw std::invalid_argument("this CPU cannot run '" + name + "'");
    return isa;
}

}  // namespace edgellm
