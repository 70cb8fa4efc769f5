// SPDX-License-Identifier: MIT
#include "matrix/panel.h"

namespace edgellm {
extern const MatrixKernels kMatrixScalar;
const MatrixKernels kMatrixScalar = kMatrixTable;
}  // namespace edgellm
