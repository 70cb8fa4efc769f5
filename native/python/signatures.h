// SPDX-License-Identifier: MIT
// Types of arguments in the signatures that the stub edgellm/_native.pyi is generated from: NumPy arrays, and
// buffers such as array.array and memoryview, which need no NumPy.
#pragma once

#define EDGELLM_ARRAY(dtype) "typing_extensions.Buffer | numpy.typing.NDArray[numpy." dtype "]"
#define EDGELLM_BYTES EDGELLM_ARRAY("uint8")
#define EDGELLM_INT32 EDGELLM_ARRAY("int32")
#define EDGELLM_UINT32 EDGELLM_ARRAY("uint32")
#define EDGELLM_FLOAT32 EDGELLM_ARRAY("float32")
