// Softmax and cross-entropy with its gradient, a stretch of a row at a time. NaN and infinities come out as from the
// formula as it stands.

// Elements of a row.
template <typename W>
struct Stretch {
  const W* values;  // filled up to whole units with −∞, which changes no maximum and no sum of exponentials
  int64_t first, count, filled;
};

template <typename W, typename Function>
inline void each_stretch(const CrossEntropy& loss, int64_t row, const Function& function) {
  W buffer[stretch];
  for (int64_t first = 0; first < loss.classes; first += stretch) {
    const int64_t count = loss.classes - first < stretch ? loss.classes - first : stretch;
    const int64_t filled = (count + unit - 1) / unit * unit;
    const W* values = load(loss.outputs, row * loss.classes + first, count, buffer);
    if (filled > count) {
      if (values != buffer) memcpy(buffer, values, size_t(count) * sizeof(W));
      for (int64_t i = count; i < filled; ++i) buffer[i] = -W(INFINITY);
      values = buffer;
    }
    function(Stretch<W>{values, first, count, filled});
  }
}

template <typename W>
W largest(const Stretch<W>& part, W most) {
  using Vector = typename VectorOf<W>::type;
  Vector top = Vector{} + most;
  for (int64_t i = 0; i < part.filled; i += lanes<W>) {
    Vector value;
    memcpy(&value, part.values + i, sizeof(Vector));
    top = value > top ? value : top;
  }
  for (int lane = 0; lane < lanes<W>; ++lane) most = top[lane] > most ? top[lane] : most;
  return most;
}

// result = exp(values − most); returns the sum.
template <typename W>
double exponentials(const Stretch<W>& part, W most, W* result) {
  using Vector = typename VectorOf<W>::type;
  const int64_t count = part.filled / unit * unit;
  FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) result[i] = exponential(part.values[i] - most);
  // As many sums at every level, so that none gets long before it goes on in float64.
  constexpr int vectors = unit / lanes<W>;
  Vector sums[vectors] = {};
  for (int64_t i = 0; i < count; i += unit) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      Vector value;
      memcpy(&value, result + i + v * lanes<W>, sizeof(Vector));
      sums[v] += value;
    }
  }
  double total = 0;
  for (const Vector& part_sum : sums) {
    for (int lane = 0; lane < lanes<W>; ++lane) total += double(part_sum[lane]);
  }
  return total;
}

template <typename W>
void cross_entropy_in(const CrossEntropy& loss, int64_t begin, int64_t end) {
  W gradient[stretch] = {}, buffer[1];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t label = loss.labels[row], start = row * loss.classes;
    W most = -W(INFINITY);
    double sum = 0;
    if (label < 0) {
      memset(gradient, 0, sizeof(gradient));
      loss.losses[row] = 0;
    } else {
      each_stretch<W>(loss, row, [&](const Stretch<W>& part) { most = largest(part, most); });
      each_stretch<W>(loss, row, [&](const Stretch<W>& part) { sum += exponentials(part, most, gradient); });
      loss.losses[row] = ::log(sum) + (double(most) - double(*load(loss.outputs, start + label, 1, buffer)));
    }
    const W factor = W(loss.weight / sum);
    each_stretch<W>(loss, row, [&](const Stretch<W>& part) {
      if (label >= 0) {
        if (loss.classes > stretch) exponentials(part, most, gradient);  // else they are still there
        FASTALIGN_VECTORIZE for (int64_t i = 0; i < part.count; ++i) gradient[i] *= factor;
        if (label >= part.first && label < part.first + part.count) gradient[label - part.first] -= W(loss.weight);
      }
      store(loss.gradient, start + part.first, part.count, gradient);
    });
  }
}

void cross_entropy(const CrossEntropy& loss, int64_t begin, int64_t end) {
  if (loss.outputs.dtype == Dtype::float64) return cross_entropy_in<double>(loss, begin, end);
  cross_entropy_in<float>(loss, begin, end);
}
