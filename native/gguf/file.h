// SPDX-License-Identifier: MIT
// Header of a GGUF file: metadata and the places of tensors, checked against the file's size.
// Source: the GGUF specification (ggml repository, docs/gguf.md), versions 2 and 3, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgellm {

class GgufFile {
  public:
    struct Tensor {
        std::string name;
        uint32_t type;
        const uint8_t* data;
        size_t bytes;  // 0 of a format that is none for weights
    };
    // Strings of an array, in place: from `position` on in the data of the file.
    struct Strings {
        size_t position, count;
    };

    // The data must outlive the file. Throws ModelError, which says the field, for what is malformed or
    // leaves the data.
    GgufFile(const uint8_t* data, size_t n_bytes);

    const std::vector<Tensor>& tensors() const { return tensors_; }
    bool has(std::string_view key) const { return values_.find(key) != values_.end(); }

    // The value of a key, or nullopt if there is none. Throws ModelError if it is of another kind.
    std::optional<std::string_view> text(std::string_view key) const;
    std::optional<int64_t> integer(std::string_view key) const;
    std::optional<bool> flag(std::string_view key) const;
    std::optional<Strings> strings(std::string_view key) const;
    std::vector<std::string> texts(std::string_view key) const;  // empty if there is none
    std::vector<int32_t> integers(std::string_view key) const;   // the same
    std::vector<float> floats(std::string_view key) const;       // the same

  private:
    // A scalar, a string or an array: `count` elements of `type` from `position` on.
    struct Value {
        uint32_t type;
        bool is_array;
        size_t position, count;
    };
    class Cursor;

    void read_tensors(Cursor* cursor, size_t count);
    const Value* find(std::string_view key) const;
    const Value* array(std::string_view key, bool of_strings) const;
    double number(const Value& value, size_t index) const;

    const uint8_t* data_;
    size_t n_bytes_;
    std::map<std::string, Value, std::less<>> values_;
    std::vector<Tensor> tensors_;
};

}  // namespace edgellm
