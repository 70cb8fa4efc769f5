// SPDX-License-Identifier: MIT
#include "base/by_isa.h"
#include "kernels/rows/rows.h"

namespace edgellm {

EDGELLM_ROWS_SETS(EDGELLM_DECLARE, RowKernels, kRow)

const RowKernels& row_kernels(Isa isa) {
    static constexpr ByIsa<RowKernels> table = {EDGELLM_ROWS_SETS(EDGELLM_ENTRY, kRow)};
    return table[isa];
}

}  // namespace edgellm
