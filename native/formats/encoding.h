// SPDX-License-Identifier: MIT
// How the encoders (native/quantize) fill a format's blocks: kEncoding of its description. A format without
// one is read, not written.
#pragma once

#include <cstdint>

namespace edgellm {

// One value to a block, rounded.
struct NumberEncoding {};
// 32 values as d * level. Fields d, qs and, for codes above 15, qh. Levels: the format's table, or all
// integers that its codes can be.
struct SymmetricEncoding {};
// 32 values as d * code + m. Fields d, m, qs and, for codes above 15, qh.
struct AffineEncoding {};
// 32 values as d * code, codes of 8 bits. Fields d and qs.
struct ByteEncoding {};
// 32 values as 2^(e - 128) * level. Fields e and qs. The upper half of the format's table repeats the lower
// one with a sign.
struct ExponentEncoding {};

// 256 values as d * scale * code - dmin * minimum, scale and minimum from 0 to largest_scale.
struct AffineSuperEncoding {
    int values_per_scale, largest_code, largest_scale;
    int tries;  // of ranges of codes on either side, `step` of the range apart
    float step;
    bool by_magnitude = false;  // without importances, large values count more
};
// 256 values as d * scale * level, integer scales and levels. No levels: the format's table.
struct ScaledSuperEncoding {
    int values_per_scale, lowest_scale, highest_scale;
    int tries;  // of scales above and below the one that fits the largest value, `step` of it apart
    float step;
    int lowest_level = 0, highest_level = 0;
};

// A block of 256 values as an encoder found it. The format's store(encoded, block) fills a block of zeros.
struct EncodedSuper {
    float d, dmin;
    int scale[16], minimum[16];  // of each run of values_per_scale values
    uint8_t codes[256];          // less the lowest level
};

}  // namespace edgellm
