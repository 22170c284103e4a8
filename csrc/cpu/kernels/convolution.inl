// The update of a convolution of stride 1 and few inputs, the patches read in place.
//
// With the rows of the output's map as far apart as those of the padded input, and zeros between them, tap t of the
// kernel sums post[p] · pre[p + offset of t] over one run of places p, which is split over the lanes of a vector. A
// block of output channels × taps stays in registers over the map of an image; the images of a chunk are summed in the
// cache.

constexpr int block_taps = 5;

// Adds Σ over `vectors` of post · pre to sums, for a block of channels × taps, lane by lane.
template <int channels>
inline void add_products(const float* post, int64_t post_stride, const float* pre, const int64_t* offsets,
                         int64_t vectors, float* sums) {
  using Vector = VectorOf<float>::type;
  Vector sum[channels][block_taps] = {};
  for (int64_t i = 0; i < vectors; ++i) {
    Vector d[channels];
    for (int c = 0; c < channels; ++c) memcpy(&d[c], post + c * post_stride + i * lanes<float>, sizeof(Vector));
#pragma GCC unroll 8
    for (int t = 0; t < block_taps; ++t) {
      Vector x;
      memcpy(&x, pre + offsets[t] + i * lanes<float>, sizeof(Vector));
#pragma GCC unroll 8
      for (int c = 0; c < channels; ++c) sum[c][t] += d[c] * x;
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < block_taps; ++t) {
#pragma GCC unroll 8
    for (int c = 0; c < channels; ++c) {
      Vector before;
      float* place = sums + (t * channels + c) * lanes<float>;
      memcpy(&before, place, sizeof(Vector));
      before += sum[c][t];
      memcpy(place, &before, sizeof(Vector));
    }
  }
}

inline double sum_of_lanes(VectorOf<float>::type values) {
  double sums[lanes<float>];
  for (int lane = 0; lane < lanes<float>; ++lane) sums[lane] = double(values[lane]);
#pragma GCC unroll 4
  for (int half = lanes<float> / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

typedef uint32_t LaneBits __attribute__((vector_size(FASTALIGN_VECTOR_BYTES)));

inline VectorOf<float>::type vector_of(const float* from) {
  VectorOf<float>::type values;
  memcpy(&values, from, sizeof(values));
  return values;
}

inline VectorOf<float>::type vector_of(const Bfloat16* from) {
  typedef uint16_t Halves __attribute__((vector_size(FASTALIGN_VECTOR_BYTES / 2)));
  Halves halves;
  memcpy(&halves, from, sizeof(halves));
  return VectorOf<float>::type(__builtin_convertvector(halves, LaneBits) << 16);
}

// A map of post, or of post − post_mod, its rows `width` apart and zeros behind each; returns its sum. A row is read by
// whole vectors, of which `last_lanes` cuts the last one off, and what that writes too much is written over by the
// next.
template <bool modulated, typename S>
inline double spread_rows(const S* post, const S* post_mod, int64_t rows, int64_t columns, int64_t width,
                          LaneBits last_lanes, float* spread) {
  using Vector = VectorOf<float>::type;
  constexpr int side = lanes<float>;
  const auto read = [&](int64_t at) {
    Vector d = vector_of(post + at);
    if (modulated) d -= vector_of(post_mod + at);
    return d;
  };
  Vector sum = {};
  for (int64_t row = 0; row < rows; ++row) {
    int64_t column = 0;
    for (; column + side < columns; column += side) {
      const Vector d = read(row * columns + column);
      sum += d;
      memcpy(spread + row * width + column, &d, sizeof(d));
    }
    const Vector d = Vector(LaneBits(read(row * columns + column)) & last_lanes);
    sum += d;
    memcpy(spread + row * width + column, &d, sizeof(d));
  }
  return sum_of_lanes(sum);
}

template <typename S>
double spread_map(const ConvolutionUpdate& u, int64_t map, int64_t width, LaneBits last_lanes, float* spread) {
  const int64_t rows = u.output_height, columns = u.output_width, size = rows * columns;
  const bool modulated = u.post_mod.data != nullptr;
  const S* post = static_cast<const S*>(u.post.data) + map * size;
  const S* post_mod = modulated ? static_cast<const S*>(u.post_mod.data) + map * size : nullptr;
  S end[convolution_places], end_mod[convolution_places];
  if ((map + 1) * size + lanes<float> > u.samples * u.channels * size) {  // whole vectors reach beyond the tensor
    memcpy(end, post, size_t(size) * sizeof(S));
    if (modulated) memcpy(end_mod, post_mod, size_t(size) * sizeof(S));
    post = end;
    post_mod = end_mod;
  }
  return modulated ? spread_rows<true>(post, post_mod, rows, columns, width, last_lanes, spread)
                   : spread_rows<false>(post, post_mod, rows, columns, width, last_lanes, spread);
}

// The input of an image, with its padding.
inline void copy_input(const ConvolutionUpdate& u, int64_t image, int64_t height, int64_t width, float* pre) {
  const int64_t first = image * u.inputs * u.height * u.width;
  float buffer[convolution_inputs];
  const float* from = load(u.pre, first, u.inputs * u.height * u.width, buffer);
  if (u.padding[0] == 0 && u.padding[1] == 0) {
    memcpy(pre, from, size_t(u.inputs * u.height * u.width) * sizeof(float));
    return;
  }
  for (int64_t row = 0; row < u.inputs * u.height; ++row) {
    const int64_t padded_row = row / u.height * height + u.padding[0] + row % u.height;
    memcpy(pre + padded_row * width + u.padding[1], from + row * u.width, size_t(u.width) * sizeof(float));
  }
}

// Fetches a part of the maps that come next, while the present ones are computed.
inline void prefetch_maps(const ConvolutionUpdate& u, int64_t map, int64_t maps, int64_t part, int64_t parts) {
  const int64_t size = u.output_height * u.output_width, first = maps * size * part / parts;
  const int64_t count = maps * size * (part + 1) / parts - first;
  prefetch(u.post.data, u.post.dtype, map * size + first, count);
  prefetch(u.post_mod.data, u.post_mod.dtype, map * size + first, count);
}

// The images first … last, for the output channels from `channel`: writes what they sum up to.
template <int channels>
void update_channels(const ConvolutionUpdate& u, int64_t channel, int64_t first, int64_t last, float* products,
                     float* all_totals) {
  constexpr int side = lanes<float>;
  alignas(64) float post[channels * convolution_places];
  alignas(64) float pre[convolution_inputs + convolution_places];
  alignas(64) float sums[convolution_taps * channels * side];
  int64_t offsets[convolution_taps];
  double totals[channels] = {};
  const int64_t height = u.height + 2 * u.padding[0], width = u.width + 2 * u.padding[1];
  const int64_t taps = u.inputs * u.kernel[0] * u.kernel[1];
  const int64_t groups = (taps + block_taps - 1) / block_taps;
  const int64_t vectors = (u.output_height * width + side - 1) / side;
  LaneBits last_lanes;
  for (int lane = 0; lane < side; ++lane) last_lanes[lane] = lane <= (u.output_width - 1) % side ? ~0u : 0u;
  const auto spread = u.post.dtype == Dtype::bfloat16 ? spread_map<Bfloat16> : spread_map<float>;
  const int64_t real = u.channels - channel < channels ? u.channels - channel : channels;

  int64_t tap = 0;
  for (int64_t input = 0; input < u.inputs; ++input) {
    for (int64_t row = 0; row < u.kernel[0]; ++row) {
      for (int64_t column = 0; column < u.kernel[1]; ++column) {
        offsets[tap++] = (input * height + row * u.dilation[0]) * width + column * u.dilation[1];
      }
    }
  }
  while (tap < groups * block_taps) offsets[tap++] = 0;
  const int64_t post_stride = (vectors + 1) * side;
  memset(post, 0, size_t(channels * post_stride) * sizeof(float));
  memset(pre, 0, size_t(u.inputs * height * width + (u.kernel[1] - 1) * u.dilation[1] + side) * sizeof(float));
  memset(sums, 0, size_t(groups * block_taps * channels * side) * sizeof(float));

  for (int64_t image = first; image < last; ++image) {
    copy_input(u, image, height, width, pre);
    for (int64_t c = 0; c < real; ++c) {
      totals[c] += spread(u, image * u.channels + channel + c, width, last_lanes, post + c * post_stride);
    }
    for (int64_t group = 0; group < groups; ++group) {
      if (image + 1 < last) prefetch_maps(u, (image + 1) * u.channels + channel, real, group, groups);
      add_products<channels>(post, post_stride, pre, offsets + group * block_taps, vectors,
                             sums + group * block_taps * channels * side);
    }
  }

  for (int64_t c = 0; c < real; ++c) {
    for (int64_t t = 0; t < taps; ++t) {
      VectorOf<float>::type sum;
      memcpy(&sum, sums + (t * channels + c) * side, sizeof(sum));
      products[c * taps + t] = float(sum_of_lanes(sum));
    }
    all_totals[c] = float(totals[c]);
  }
}

void convolution_update(const ConvolutionUpdate& u, int64_t begin, int64_t end) {
  constexpr int channels = FASTALIGN_TILE_VECTORS;
  static_assert(convolution_channels % channels == 0);
  const int64_t blocks = (u.channels + convolution_channels - 1) / convolution_channels;
  const int64_t taps = u.inputs * u.kernel[0] * u.kernel[1];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t chunk = task / blocks, first = chunk * u.chunk;
    const int64_t last = first + u.chunk < u.samples ? first + u.chunk : u.samples;
    const int64_t block = task % blocks * convolution_channels;
    for (int64_t channel = block; channel < block + convolution_channels && channel < u.channels; channel += channels) {
      const int64_t place = chunk * u.channels + channel;
      update_channels<channels>(u, channel, first, last, u.products + place * taps, u.totals + place);
    }
  }
}
