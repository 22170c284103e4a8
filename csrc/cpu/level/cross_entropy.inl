// Softmax and cross-entropy with its gradient. NaN and infinities come out as from the formula as it stands.

template <typename W>
W largest(const W* values, int64_t count) {
  W top[unit];
  for (int i = 0; i < unit; ++i) top[i] = values[i < count ? i : 0];
  int64_t first = 0;
  for (; first + unit <= count; first += unit) {
    FASTALIGN_VECTORIZE for (int i = 0; i < unit; ++i) top[i] = values[first + i] > top[i] ? values[first + i] : top[i];
  }
  for (; first < count; ++first) top[0] = values[first] > top[0] ? values[first] : top[0];
  W most = top[0];
  for (W value : top) most = value > most ? value : most;
  return most;
}

// Replaces values by exp(value − most); returns their sum.
template <typename W>
double exponentials(const W* values, W most, int64_t count, W* result) {
  double sums[unit] = {};
  int64_t first = 0;
  for (; first + unit <= count; first += unit) {
    FASTALIGN_VECTORIZE for (int i = 0; i < unit; ++i) result[first + i] = exponential(values[first + i] - most);
    FASTALIGN_VECTORIZE for (int i = 0; i < unit; ++i) sums[i] += double(result[first + i]);
  }
  W rest[unit] = {};
  for (int i = 0; first + i < count; ++i) rest[i] = values[first + i] - most;
  FASTALIGN_VECTORIZE for (int i = 0; i < unit; ++i) rest[i] = exponential(rest[i]);
  for (int i = 0; first + i < count; ++i) {
    result[first + i] = rest[i];
    sums[i] += double(rest[i]);
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

template <typename W>
void cross_entropy_in(const CrossEntropy& loss, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const W* outputs = static_cast<const W*>(loss.outputs.data) + row * loss.classes;
    W* gradient = static_cast<W*>(loss.gradient.data) + row * loss.classes;
    const int64_t label = loss.labels[row];
    if (label < 0) {
      memset(gradient, 0, size_t(loss.classes) * sizeof(W));
      loss.losses[row] = 0;
      continue;
    }
    const W most = largest(outputs, loss.classes);
    const double sum = exponentials(outputs, most, loss.classes, gradient);
    const W factor = W(loss.weight / sum);
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < loss.classes; ++i) gradient[i] *= factor;
    gradient[label] -= W(loss.weight);
    loss.losses[row] = ::log(sum) + (double(most) - double(outputs[label]));
  }
}

void cross_entropy(const CrossEntropy& loss, int64_t begin, int64_t end) {
  if (loss.outputs.dtype == Dtype::float64) return cross_entropy_in<double>(loss, begin, end);
  cross_entropy_in<float>(loss, begin, end);
}
