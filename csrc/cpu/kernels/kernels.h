// What a level offers: kernels over raw pointers and ranges, each level's in a table of its own.
//
// Nothing here is a function, and no header of torch or of the C++ library is read: these declarations are shared by
// all levels, and an inline function compiled for one of them could be linked into every other.

#pragma once

#include <stdint.h>

#include "common/activation.h"
#include "common/descent.h"
#include "common/dtype.h"
#include "common/epilogue.h"

namespace fastalign {

// A contiguous tensor to read, or to write. A null pointer: none.
struct Input {
  const void* data{};
  Dtype dtype{};
};

struct Output {
  void* data{};
  Dtype dtype{};
};

// Sums and functions are computed in float64 for float64 tensors, else in float32.
struct Epilogue {
  Finish finish{};
  Activation activation{};
  Dropout dropout{};
  double scale{};
  Input operand{};         // (rows, columns), as the result
  Input bias{};            // (columns)
  Output preactivation{};  // v + bias, (rows, columns)
  Output result{};
  int64_t columns{};
};

// v = signal · matrixᵀ, for as few classes as fit beside the accumulators; strides count elements.
struct Projection {
  const void* signal;  // (rows, classes), contiguous, float64 or float32
  Input matrix;        // (columns, classes), of the signal's dtype
  int64_t matrix_row_stride;
  int64_t matrix_column_stride;
  int64_t rows;
  int64_t classes;
};

// The tasks of a projection: blocks of rows × columns, all blocks of columns of one block of rows after each other.
constexpr int64_t projection_rows = 64;
constexpr int64_t projection_columns = 64;
constexpr int64_t projection_classes = 256;  // the most that a packed matrix or signal has room for

constexpr int64_t batch_columns = 24;            // of a task of a batch's projection, for all rows
constexpr int64_t tile_projection_columns = 32;  // of a task of the matrix unit's projection, for all rows
constexpr int64_t tile_samples = 80;             // of which it packs the terms at a time
constexpr int64_t tile_terms = 32;               // that a tile holds

// What takes an update: the tensor that it is written to; or, with settings, a parameter and its states, which step
// down it. All contiguous.
struct Sink {
  Output target{};
  void* states[2]{};  // of the target's dtype
  Descent descent{};
  const Settings* settings{};
};

// Σ post ⊗ pre for few samples, scaled, into a sink, and Σ post into another; the terms of one wide dtype. Strides
// count elements.
struct LinearUpdate {
  const void* post;  // (samples, rows)
  int64_t post_strides[2];
  const void* pre;  // (samples, columns)
  int64_t pre_strides[2];
  int64_t samples, rows, columns;
  Dtype dtype;
  double scale;
  Sink weight;  // its tensors (rows, columns)
  Sink bias;    // (rows), or without a target
};

constexpr int64_t update_rows = 24;       // of a task
constexpr int64_t tile_update_rows = 32;  // of a task of the matrix unit's update

// Softmax and cross-entropy of rows of outputs, contiguous, and its gradient in their dtype; labels below 0 leave their
// rows out.
struct CrossEntropy {
  Input outputs;  // (rows, classes)
  const int64_t* labels;
  int64_t classes;
  double weight;  // of a row in the gradient
  Output gradient;
  double* losses;  // (rows)
};

// The planes of h and Δh (planes, height, width), those of what is pooled (planes, output_…).
struct Pooling {
  Input h{};
  Input delta{};    // of the difference alone
  Input signal{};   // of the way back alone, pooled
  Output result{};  // pooled; of the way back shaped like h, and wide, unless by bands
  int64_t planes{}, height{}, width{}, output_height{}, output_width{};
  int64_t kernel[2]{}, stride[2]{}, padding[2]{}, dilation[2]{};
  bool by_bands{};  // windows of 2 × 2 side by side, in maps no wider than `pooling_width`
};

constexpr int64_t pooling_width = 512;

// Σ post ⊗ patch of pre and Σ post of a convolution of stride 1, one group, for each chunk of samples alone.
struct ConvolutionUpdate {
  Input post;       // (samples, channels, output_height, output_width), float32 or bfloat16
  Input post_mod;   // the same, to be subtracted from post; or none
  Input pre;        // (samples, inputs, height, width), no float64
  float* products;  // (chunks, channels, inputs · kernel): Σ post ⊗ patch
  float* totals;    // (chunks, channels): Σ post
  int64_t samples, channels, output_height, output_width;
  int64_t inputs, height, width;
  int64_t kernel[2], padding[2], dilation[2];
  int64_t chunk;  // samples
};

// What its buffers hold at most: the output's map at the padded input's width, the padded input, the taps of a kernel.
// The tasks are chunks × blocks of channels.
constexpr int64_t convolution_places = 2048;
constexpr int64_t convolution_inputs = 8192;
constexpr int64_t convolution_taps = 200;
constexpr int64_t convolution_channels = 4;

struct Kernels {
  const char* name;
  int64_t most_classes;  // up to which own projections are faster than the library's product and a pass over it
  int64_t most_samples;  // up to which own updates are
  // Elements begin … end of a tensor; the ranges of a tensor's tasks start at multiples of `elementwise_block`.
  void (*elementwise)(Input values, const Epilogue& epilogue, int64_t begin, int64_t end);
  // Tasks begin … end.
  void (*projection)(const Projection& projection, const Epilogue& epilogue, int64_t begin, int64_t end);
  // Tasks begin … end, of a matrix whose rows are contiguous.
  void (*batch_projection)(const Projection& projection, const Epilogue& epilogue, int64_t begin, int64_t end);
  // result[c] = scale · Σ over images and positions of values[image][c][position], for channels begin … end.
  void (*channel_sums)(Input values, int64_t images, int64_t channels, int64_t positions, double scale, Output result,
                       int64_t begin, int64_t end);
  // Tasks begin … end, of so many rows each.
  void (*linear_update)(const LinearUpdate& update, int64_t begin, int64_t end);
  // The same two by the matrix unit, which multiplies bfloat16: of factors whose rows are contiguous, or the matrix'
  // columns. Null where there is none. Scratch memory has room for `tile_samples` numbers of each class, and of as many
  // classes as fill `tile_terms`.
  void (*tile_projection)(const Projection& projection, const Epilogue& epilogue, void* scratch, int64_t begin,
                          int64_t end);
  void (*tile_update)(const LinearUpdate& update, int64_t begin, int64_t end);
  // Tasks begin … end.
  void (*convolution_update)(const ConvolutionUpdate& update, int64_t begin, int64_t end);
  // Rows begin … end.
  void (*cross_entropy)(const CrossEntropy& loss, int64_t begin, int64_t end);
  // Planes begin … end: pool(h).
  void (*max_pool2d_forward)(const Pooling& pooling, int64_t begin, int64_t end);
  // Planes begin … end: the signal at the places of the maxima, which the epilogue then finishes.
  void (*max_pool2d_backward)(const Pooling& pooling, const Epilogue& epilogue, int64_t begin, int64_t end);
  // Planes begin … end: pool(h + Δh) − pool(h).
  void (*max_pool2d_difference)(const Pooling& pooling, int64_t begin, int64_t end);
  // Elements begin … end of scale · gradient into a sink; the gradient of the sink's dtype or its wide one.
  void (*descend)(const Sink& sink, Input gradient, double scale, int64_t begin, int64_t end);
};

constexpr int64_t elementwise_block = 4096;

}  // namespace fastalign
