// SPDX-License-Identifier: MIT
// Contract of an engine, the tiles of one instruction set that the driver (generic.h) runs in order.
#pragma once

#include <concepts>

#include "kernels/linear/simd.h"

namespace edgellm {

// Engines of matrices of numbers. Tiles: numbers of tokens that a tile may have (TileSizes).
template <class E>
concept FloatEngine = LinearSimd<typename E::Simd> && requires {
    { E::Tiles::kLargest } -> std::convertible_to<int>;
};

// Engines of integer codes. Source: weights that a tile reads block by block (PackedSource, ByteSource);
// Rows: activations (BlockRows).
template <class E, class Source, class Rows>
concept ByteEngine =
    FloatEngine<E> && requires(const Source& weights, size_t n_blocks, const Rows& rows, float* sums) {
        // Up to so many tokens panels are read as they are packed, in tiles of these sizes.
        { E::packed_limit() } -> std::convertible_to<size_t>;
        { E::PackedTiles::kLargest } -> std::convertible_to<int>;
        // Panels of a tile of expanded ones.
        { E::kTilePanels } -> std::convertible_to<size_t>;
        // Class of the formats with a largest code: they share expanded tiles. The largest code of them all.
        { E::code_class(15) } -> std::convertible_to<int>;
        // Adds n_blocks blocks of products to sums [panel][token][row].
        { E::template tile<1>(weights, n_blocks, rows, sums) } -> std::same_as<void>;
    };

// Engines that read codes of a format with integer scales for 16 columns (KernelKind::kWords) as they are
// packed, if the format's levels are not larger.
template <class E>
concept LevelEngine = requires {
    { E::kLargestLevel } -> std::convertible_to<int>;
};

// Engines that can read the panels of many tokens as packed, with scales from tables (ScaleBlock).
template <class E, class Source, class Scales, class Rows>
concept TabledEngine =
    ByteEngine<E, Source, Rows> &&
    requires(const Source& weights, const Scales* table, const Rows& rows, const float* unit, float* y) {
        // True if that is faster than expanding them.
        { E::Simd::tables_scales() } -> std::convertible_to<bool>;
        // y of one token, from y or from zero, times `unit` if that is not nullptr.
        { E::template tabled_tile<1>(weights, table, 1, rows, true, unit, y, 16) } -> std::same_as<void>;
    };

}  // namespace edgellm
