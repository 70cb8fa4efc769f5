// SPDX-License-Identifier: MIT
#include "gguf/file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"
#include "formats/formats.h"
#include "text/strings.h"

namespace edgellm {
namespace {

enum ValueType : uint32_t {
    kUint8,
    kInt8,
    kUint16,
    kInt16,
    kUint32,
    kInt32,
    kFloat32,
    kBool,
    kString,
    kArray,
    kUint64,
    kInt64,
    kFloat64
};

constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr size_t kMostKeyBytes = 65'535, kMostNameBytes = 64, kMostDimensions = 4, kMostEntries = 1 << 16;
constexpr size_t kMostElements = 1 << 22, kMostNested = 4;
constexpr size_t kMostAlignment = 1 << 21;

[[noreturn]] void refuse(const std::string& what) {
    throw ModelError(what + ": the file is damaged or incomplete, fetch it again");
}

template <class T>
T load(const uint8_t* data) {
    T value;
    std::memcpy(&value, data, sizeof(value));
    return value;
}

std::string shown(std::string_view text) {
    return "'" + std::string(text.substr(0, 80)) + "'";
}

}  // namespace

// A position that only moves over bytes that are there.
class GgufFile::Cursor {
  public:
    Cursor(const uint8_t* data, size_t n_bytes) : data_(data), n_bytes_(n_bytes) {}

    size_t position() const { return position_; }

    size_t skip(uint64_t n, const std::string& field) {
        if (n > n_bytes_ - position_) refuse(field + " goes past the end of the file");
        const size_t begin = position_;
        position_ += static_cast<size_t>(n);
        return begin;
    }
    template <class T>
    T number(const std::string& field) {
        return load<T>(data_ + skip(sizeof(T), field));
    }
    std::string_view text(const std::string& field) {
        const auto n = number<uint64_t>(field);
        return {reinterpret_cast<const char*>(data_ + skip(n, field)), static_cast<size_t>(n)};
    }
    std::string_view name(const std::string& field, size_t most) {
        const std::string_view name = text(field);
        if (name.empty() || name.size() > most)
            refuse(field + " has " + std::to_string(name.size()) + " bytes, expected 1 to " +
                   std::to_string(most));
        return name;
    }

    Value value(uint32_t type, const std::string& field) {
        if (type > kFloat64) refuse(field + " has the type " + std::to_string(type) + ", expected 0 to 12");
        if (type == kArray) return array(field, 0);
        if (type == kString) {
            const size_t begin = position_;
            text(field);
            return {type, false, begin, 1};
        }
        return {type, false, skip(kSizes[type], field), 1};
    }

  private:
    Value array(const std::string& field, size_t depth) {
        const auto type = number<uint32_t>(field);
        const auto count = number<uint64_t>(field);
        if (type > kFloat64 || depth >= kMostNested)
            refuse(field + " is an array of a kind that does not exist");
        if (count > kMostElements || count > n_bytes_)
            refuse(field + " has " + std::to_string(count) + " elements, more than fit");
        const size_t begin = position_;
        const auto n = static_cast<size_t>(count);
        if (type == kArray) {
            for (size_t i = 0; i < n; ++i) array(field, depth + 1);
        } else if (type == kString) {
            const StringWalk walk = skip_strings(data_, n_bytes_, position_, n);
            if (walk.n < n) refuse(field + " goes past the end of the file");
            position_ = walk.position;
        } else {
            skip(count * kSizes[type], field);
        }
        return {type, true, begin, n};
    }

    const uint8_t* data_;
    size_t n_bytes_, position_ = 0;
};

GgufFile::GgufFile(const uint8_t* data, size_t n_bytes) : data_(data), n_bytes_(n_bytes) {
    Cursor cursor(data, n_bytes);
    if (n_bytes < 24 || std::memcmp(data, "GGUF", 4) != 0) {
        throw ModelError("the file does not begin with GGUF, expected a GGUF model: give the path of one");
    }
    cursor.skip(4, "the magic number");
    const auto version = cursor.number<uint32_t>("the version");
    if (version != 2 && version != 3) {
        throw ModelError("the GGUF version is " + std::to_string(version) +
                         ", expected 2 or 3: convert the original model again");
    }
    const auto n_tensors = cursor.number<uint64_t>("the tensor count");
    const auto n_pairs = cursor.number<uint64_t>("the metadata count");
    if (std::max(n_tensors, n_pairs) > std::min<uint64_t>(kMostEntries, n_bytes))
        refuse("the header counts more entries than a model has");
    for (uint64_t i = 0; i < n_pairs; ++i) {
        const std::string key(cursor.name("the name of metadata key " + std::to_string(i), kMostKeyBytes));
        const std::string field = "metadata key " + shown(key);
        const auto type = cursor.number<uint32_t>(field);
        if (!values_.emplace(key, cursor.value(type, field)).second) refuse(field + " is there twice");
    }
    read_tensors(&cursor, static_cast<size_t>(n_tensors));
}

void GgufFile::read_tensors(Cursor* cursor, size_t count) {
    const int64_t alignment = integer("general.alignment").value_or(32);
    if (alignment < 8 || static_cast<uint64_t>(alignment) > kMostAlignment || alignment % 8 != 0)
        refuse("general.alignment is " + std::to_string(alignment) + ", expected a multiple of 8");
    struct Place {
        uint64_t offset, bytes;
    };
    std::vector<Place> places;
    std::set<std::string_view> names;
    for (size_t i = 0; i < count; ++i) {
        const std::string_view name = cursor->name("the name of tensor " + std::to_string(i), kMostNameBytes);
        const std::string field = "tensor " + shown(name);
        if (!names.insert(name).second) refuse(field + " is there twice");
        const auto n_dimensions = cursor->number<uint32_t>(field);
        if (n_dimensions < 1 || n_dimensions > kMostDimensions)
            refuse(field + " has " + std::to_string(n_dimensions) + " dimensions, expected 1 to 4");
        uint64_t columns = 0, rows = 1;
        for (uint32_t d = 0; d < n_dimensions; ++d) {
            const auto n = cursor->number<uint64_t>(field);
            // Both factors below 2^32 and so no product overflows.
            if (n == 0 || n > UINT32_MAX || rows > UINT32_MAX) refuse(field + " has an impossible size");
            if (d == 0)
                columns = n;
            else
                rows *= n;
        }
        const auto type = cursor->number<uint32_t>(field);
        const auto offset = cursor->number<uint64_t>(field);
        const FormatInfo* format = find_format(type);
        uint64_t bytes = 0;
        if (format != nullptr) {
            const uint64_t row = row_bytes(*format, static_cast<size_t>(columns));
            if (row == 0 || rows > n_bytes_ / row)
                refuse(field + " is larger than the file, or has broken rows");
            bytes = row * rows;
        }
        if (offset % static_cast<uint64_t>(alignment) != 0) refuse(field + " is not aligned");
        places.push_back({offset, bytes});
        tensors_.push_back({std::string(name), type, nullptr, static_cast<size_t>(bytes)});
    }
    const auto step = static_cast<size_t>(alignment);
    const size_t begin = (cursor->position() + step - 1) / step * step;
    for (size_t i = 0; i < count; ++i) {
        if (begin > n_bytes_ || places[i].offset > n_bytes_ - begin ||
            places[i].bytes > n_bytes_ - begin - places[i].offset)
            refuse("tensor " + shown(tensors_[i].name) + " goes past the end of the file");
        tensors_[i].data = data_ + begin + places[i].offset;
    }
}

const GgufFile::Value* GgufFile::find(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->type != kString || value->is_array) refuse(shown(key) + " is no string, as expected");
    const auto n = static_cast<size_t>(load<uint64_t>(data_ + value->position));
    return std::string_view(reinterpret_cast<const char*>(data_ + value->position + kStringLengthBytes), n);
}

double GgufFile::number(const Value& value, size_t index) const {
    const uint8_t* at = data_ + value.position + index * kSizes[value.type];
    switch (value.type) {
        case kUint8:
        case kBool:
            return load<uint8_t>(at);
        case kInt8:
            return load<int8_t>(at);
        case kUint16:
            return load<uint16_t>(at);
        case kInt16:
            return load<int16_t>(at);
        case kUint32:
            return load<uint32_t>(at);
        case kInt32:
            return load<int32_t>(at);
        case kFloat32:
            return static_cast<double>(load<float>(at));
        case kUint64:
            return static_cast<double>(load<uint64_t>(at));
        case kInt64:
            return static_cast<double>(load<int64_t>(at));
        default:
            return load<double>(at);
    }
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) return std::nullopt;
    const bool fits =
        !value->is_array && value->type != kString && value->type != kFloat32 && value->type != kFloat64;
    const double x = fits ? number(*value, 0) : NAN;
    if (!(std::abs(x) < 0x1p52)) refuse(shown(key) + " is no integer, as expected");
    return static_cast<int64_t>(x);
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
    const std::optional<int64_t> value = integer(key);
    if (!value) return std::nullopt;
    if (*value != 0 && *value != 1) refuse(shown(key) + " is neither true nor false");
    return *value == 1;
}

const GgufFile::Value* GgufFile::array(std::string_view key, bool of_strings) const {
    const Value* value = find(key);
    if (value == nullptr) return nullptr;
    if (!value->is_array || value->type == kArray || (value->type == kString) != of_strings)
        refuse(shown(key) + " is no array of " + (of_strings ? "strings" : "numbers") + ", as expected");
    return value;
}

std::optional<GgufFile::Strings> GgufFile::strings(std::string_view key) const {
    const Value* value = array(key, true);
    if (value == nullptr) return std::nullopt;
    return Strings{value->position, value->count};
}

std::vector<std::string> GgufFile::texts(std::string_view key) const {
    std::vector<std::string> result;
    const std::optional<Strings> found = strings(key);
    size_t position = found ? found->position : 0;
    for (size_t i = 0; found && i < found->count; ++i) {
        const auto n = static_cast<size_t>(load<uint64_t>(data_ + position));
        position += kStringLengthBytes;
        result.emplace_back(reinterpret_cast<const char*>(data_ + position), n);
        position += n;
    }
    return result;
}

std::vector<int32_t> GgufFile::integers(std::string_view key) const {
    std::vector<int32_t> result;
    const Value* value = array(key, false);
    for (size_t i = 0; value != nullptr && i < value->count; ++i) {
        const double x = number(*value, i);
        if (!(std::abs(x) <= INT32_MAX) || x != std::trunc(x))
            refuse(shown(key) + " holds what is no integer");
        result.push_back(static_cast<int32_t>(x));
    }
    return result;
}

std::vector<float> GgufFile::floats(std::string_view key) const {
    std::vector<float> result;
    const Value* value = array(key, false);
    for (size_t i = 0; value != nullptr && i < value->count; ++i) {
        const auto x = static_cast<float>(number(*value, i));
        if (!std::isfinite(x)) refuse(shown(key) + " holds what is no finite number");
        result.push_back(x);
    }
    return result;
}

}  // namespace edgellm
