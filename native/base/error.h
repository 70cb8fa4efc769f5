// SPDX-License-Identifier: MIT
// Errors while a model is read and planned. Nothing throws inside a step.
#pragma once

#include <stdexcept>
#include <string>

namespace edgellm {

// The model cannot be used; the message is one sentence for a person.
struct ModelError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace edgellm
