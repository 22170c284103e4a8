// The precision that torch allows to float32 products: asked of Python each time, because the stable ABI has no getter
// and the user may change the setting at any moment.

#pragma once

typedef struct _object PyObject;

namespace fastalign {

enum class Products { none, matrices, convolutions };

// Which products may round their operands to TF32.
struct Tf32 {
  bool of_matrices{}, of_convolutions{};
};

// Of an op that takes products in float32; one of convolutions may take some of matrices too.
Tf32 allowed_tf32(Products products);

// The answers come from a Python function of "matmul" or "conv", which is kept. Called with the interpreter's lock.
void ask_for_precision(PyObject* function);

}  // namespace fastalign
