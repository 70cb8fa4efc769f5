// SPDX-License-Identifier: MIT
#include "matrix/panel.h"

namespace edgellm {
extern const MatrixKernels kMatrixAvx2;
const MatrixKernels kMatrixAvx2 = kMatrixTable;
}  // namespace edgellm
