// The update of a linear layer for few samples: its sums never leave the first-level cache before they are used up.
//
// Both terms are packed, so that a vector holds neighbouring inputs and a line of memory neighbouring units: those of
// some rows stay in the second-level cache while the columns go by. A tile of the update stays in registers, and the
// weights are fetched one tile ahead.

// Asks for rows of a tensor of the sink, which will be written.
inline void fetch_tile(const void* tensor, Dtype dtype, int64_t rows, int64_t place, int64_t stride, int64_t count) {
  const int64_t size = dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
  const char* row = static_cast<const char*>(tensor) + place * size;
  for (int64_t r = 0; r < rows; ++r, row += stride * size) {
    for (int64_t byte = 0; byte < count * size; byte += 64) __builtin_prefetch(row + byte, 1);
  }
}

template <typename W, int rows>
int64_t update_tiles(const LinearUpdate& u, const W* post, const W* pre, int64_t first_row, int64_t row,
                     int64_t last_row, int64_t column, int64_t count) {
  alignas(64) W sums[rows * strip];
  constexpr Dtype wide = sizeof(W) == sizeof(double) ? Dtype::float64 : Dtype::float32;
  const bool written_as_it_is = u.weight.settings == nullptr && u.weight.target.dtype == wide && u.scale == 1;
  const bool in_place = written_as_it_is && count % lanes<W> == 0;
  for (; row + rows <= last_row; row += rows) {
    const int64_t place = row * u.columns + column, ahead = place + rows * u.columns;
    if (row + 2 * rows <= u.rows) {
      const void* const tensors[] = {u.weight.target.data, u.weight.states[0], u.weight.states[1]};
      for (const void* tensor : tensors) {
        if (tensor != nullptr) fetch_tile(tensor, u.weight.target.dtype, rows, ahead, u.columns, count);
      }
    }
    const Signal<W> signal{post + row - first_row, update_rows};
    if (in_place) {
      W* target = static_cast<W*>(u.weight.target.data) + place;
      strip_of_tiles<W, rows>(signal, u.samples, pre, strip, count, target, u.columns);
      continue;
    }
    strip_of_tiles<W, rows>(signal, u.samples, pre, strip, count, sums);
    sink_rows(u.weight, Gradient<W>{sums, strip, rows, count, W(u.scale)}, place, u.columns);
  }
  return row;
}

// The update of the bias of some rows, whose terms are packed.
template <typename W>
void update_bias(const LinearUpdate& u, const W* post, int64_t first_row, int64_t rows) {
  double sums[update_rows] = {};
  for (int64_t sample = 0; sample < u.samples; ++sample, post += update_rows) {
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < update_rows; ++i) sums[i] += double(post[i]);
  }
  W gradient[update_rows];
  for (int64_t i = 0; i < update_rows; ++i) gradient[i] = W(u.scale * sums[i]);
  sink_rows(u.bias, Gradient<W>{gradient, 0, 1, rows, W(1)}, first_row, 0);
}

template <typename W>
void linear_update_in(const LinearUpdate& u, int64_t begin, int64_t end) {
  constexpr int64_t most_blocks = 8;
  constexpr int64_t room = FASTALIGN_MOST_SAMPLES * update_rows;
  alignas(64) W packed_post[most_blocks * room], packed_pre[FASTALIGN_MOST_SAMPLES * strip];
  const Unpacked<W> post{static_cast<const W*>(u.post), u.post_strides[1], u.post_strides[0], u.rows};
  const Unpacked<W> pre{static_cast<const W*>(u.pre), u.pre_strides[1], u.pre_strides[0], u.columns};
  for (; begin < end; begin += most_blocks) {
    const int64_t blocks = end - begin < most_blocks ? end - begin : most_blocks;
    const auto last_row = [&](int64_t first) { return first + update_rows < u.rows ? first + update_rows : u.rows; };
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t first = (begin + i) * update_rows, rows = last_row(first) - first;
      pack(post, u.samples, first, rows, update_rows, packed_post + i * room);
      if (u.bias.target.data != nullptr) update_bias(u, packed_post + i * room, first, rows);
    }
    for (int64_t column = 0; column < u.columns; column += strip) {
      const int64_t count = u.columns - column < strip ? u.columns - column : int64_t(strip);
      pack(pre, u.samples, column, count, strip, packed_pre);
      for (int64_t i = 0; i < blocks; ++i) {
        const int64_t first = (begin + i) * update_rows, last = last_row(first);
        const W* terms = packed_post + i * room;
        int64_t row = update_tiles<W, 6>(u, terms, packed_pre, first, first, last, column, count);
        row = update_tiles<W, 2>(u, terms, packed_pre, first, row, last, column, count);
        update_tiles<W, 1>(u, terms, packed_pre, first, row, last, column, count);
      }
    }
  }
}

void linear_update(const LinearUpdate& update, int64_t begin, int64_t end) {
  if (update.dtype == Dtype::float64) return linear_update_in<double>(update, begin, end);
  linear_update_in<float>(update, begin, end);
}
