// SPDX-License-Identifier: MIT
// Panels of a matrix, split among threads: each panel once, whatever the sizes. Prints what failed and
// exits 1.
#include "runtime/run_linear.h"

#include <cstdio>

int main() {
    int n_failed = 0;
    for (const bool uneven : {false, true}) {
        for (const size_t threads : {1, 2, 3, 4, 8, 64}) {
            for (size_t n_panels = 1; n_panels < 700; n_panels = n_panels * 5 / 4 + 1) {
                for (const size_t bytes : {1 << 10, 9 << 10, 300 << 10}) {
                    const edgellm::PanelSplit s = edgellm::split_panels(n_panels, bytes, threads, uneven);
                    const size_t left = n_panels - s.shared;
                    const bool whole = s.shared <= n_panels && s.shared % threads == 0 && s.piece > 0 &&
                                       s.n_pieces * s.piece >= left &&
                                       (s.n_pieces == 0 ? left == 0 : (s.n_pieces - 1) * s.piece < left);
                    // A thread that came last would otherwise wait for one that has a share of its own.
                    const bool shared = uneven && threads > 1 && s.shared > 0;
                    if (whole && !shared) continue;
                    std::printf("%zu panels of %zu bytes for %zu threads: %zu shared, %zu pieces of %zu\n",
                                n_panels, bytes, threads, s.shared, s.n_pieces, s.piece);
                    ++n_failed;
                }
            }
        }
    }
    return n_failed == 0 ? 0 : 1;
}
