// What takes an update: it is written, or a parameter and its states step down it (fastalign/ops/descent.py).

// Rows of a gradient, `stride` apart, still to be scaled.
template <typename W>
struct Gradient {
  const W* data;
  int64_t stride, rows, count;
  W scale;
};

// The numbers of a step in the dtype that it is computed in.
template <typename W>
struct Step {
  explicit Step(const Settings& s)
      : learning_rate(W(s.learning_rate)),
        weight_decay(W(s.weight_decay)),
        momentum(W(s.momentum)),
        mean_share(W(1 - s.momentum)),
        square_decay(W(s.square_decay)),
        square_share(W(1 - s.square_decay)),
        epsilon(W(s.epsilon)),
        mean_factor(W(1 / s.momentum_correction)),
        root_factor(W(1 / __builtin_sqrt(s.square_correction))) {}

  W learning_rate, weight_decay, momentum, mean_share, square_decay, square_share, epsilon, mean_factor, root_factor;
};

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// Stores a state, and returns it as it is then stored: parameters follow what the next step will find.
template <typename S, typename W>
inline W stored(W value, S& place) {
  narrow(value, place);
  return widen(place);
}

template <Descent descent, typename S, typename W>
inline void step_row(const Step<W>& n, const W* gradient, W scale, S* parameter, S* first, S* second, int64_t count) {
  FASTALIGN_VECTORIZE for (int64_t i = 0; i < count; ++i) {
    W p = widen(parameter[i]), g = scale * gradient[i];
    if constexpr (descent == Descent::adamw) {
      p -= n.learning_rate * n.weight_decay * p;
    } else {
      g += n.weight_decay * p;
    }
    W step = g;
    if constexpr (descent == Descent::momentum || descent == Descent::nesterov) {
      const W velocity = stored(n.momentum * widen(first[i]) + g, first[i]);
      step = descent == Descent::momentum ? velocity : g + n.momentum * velocity;
    } else if constexpr (descent == Descent::rmsprop) {
      const W squares = stored(n.square_decay * widen(first[i]) + n.square_share * g * g, first[i]);
      step = g / (root(squares) + n.epsilon);
    } else if constexpr (descent == Descent::adam || descent == Descent::adamw) {
      const W mean = stored(n.momentum * widen(first[i]) + n.mean_share * g, first[i]);
      const W squares = stored(n.square_decay * widen(second[i]) + n.square_share * g * g, second[i]);
      step = n.mean_factor * mean / (n.root_factor * root(squares) + n.epsilon);
    }
    narrow(p - n.learning_rate * step, parameter[i]);
  }
}

template <typename S>
inline S* at(void* tensor, int64_t place) {
  return tensor == nullptr ? nullptr : static_cast<S*>(tensor) + place;
}

template <Descent descent, typename S, typename W>
void step_rows(const Sink& sink, const Gradient<W>& gradient, int64_t place, int64_t stride) {
  const Step<W> numbers(*sink.settings);
  for (int64_t r = 0; r < gradient.rows; ++r, place += stride) {
    step_row<descent>(numbers, gradient.data + r * gradient.stride, gradient.scale, at<S>(sink.target.data, place),
                      at<S>(sink.states[0], place), at<S>(sink.states[1], place), gradient.count);
  }
}

template <typename S, typename W>
void write_rows(const Sink& sink, const Gradient<W>& gradient, int64_t place, int64_t stride) {
  S* target = static_cast<S*>(sink.target.data) + place;
  for (int64_t r = 0; r < gradient.rows; ++r, target += stride) {
    const W* values = gradient.data + r * gradient.stride;
    FASTALIGN_VECTORIZE for (int64_t i = 0; i < gradient.count; ++i) narrow(gradient.scale * values[i], target[i]);
  }
}

template <typename S, typename W>
void sink_rows_in(const Sink& sink, const Gradient<W>& gradient, int64_t place, int64_t stride) {
  if (sink.settings == nullptr) return write_rows<S>(sink, gradient, place, stride);
  switch (sink.descent) {
    case Descent::sgd:
      return step_rows<Descent::sgd, S>(sink, gradient, place, stride);
    case Descent::momentum:
      return step_rows<Descent::momentum, S>(sink, gradient, place, stride);
    case Descent::nesterov:
      return step_rows<Descent::nesterov, S>(sink, gradient, place, stride);
    case Descent::rmsprop:
      return step_rows<Descent::rmsprop, S>(sink, gradient, place, stride);
    case Descent::adam:
      return step_rows<Descent::adam, S>(sink, gradient, place, stride);
    case Descent::adamw:
      return step_rows<Descent::adamw, S>(sink, gradient, place, stride);
  }
}

// Rows of a gradient into the sink's tensors from `place` on, where rows are `stride` apart.
inline void sink_rows(const Sink& sink, const Gradient<double>& gradient, int64_t place, int64_t stride) {
  sink_rows_in<double>(sink, gradient, place, stride);
}

inline void sink_rows(const Sink& sink, const Gradient<float>& gradient, int64_t place, int64_t stride) {
  if (sink.target.dtype == Dtype::float32) return sink_rows_in<float>(sink, gradient, place, stride);
  if (sink.target.dtype == Dtype::bfloat16) return sink_rows_in<Bfloat16>(sink, gradient, place, stride);
  sink_rows_in<Float16>(sink, gradient, place, stride);
}

template <typename W>
void descend_in(const Sink& sink, Input gradient, double scale, int64_t begin, int64_t end) {
  W buffer[stretch];
  for (int64_t first = begin; first < end; first += stretch) {
    const int64_t count = end - first < stretch ? end - first : stretch;
    sink_rows(sink, Gradient<W>{load(gradient, first, count, buffer), 0, 1, count, W(scale)}, first, 0);
  }
}

void descend(const Sink& sink, Input gradient, double scale, int64_t begin, int64_t end) {
  if (gradient.dtype == Dtype::float64) return descend_in<double>(sink, gradient, scale, begin, end);
  descend_in<float>(sink, gradient, scale, begin, end);
}
