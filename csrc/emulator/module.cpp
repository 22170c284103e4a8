// The Python module of the emulated kernels.

#include "cuda/feedback_term.h"
#include "emulator/arrays.h"

namespace {

using fastalign::emulator::Array;
using namespace fastalign::emulator;

void feedback_term(uint64_t schedule, const Array& signal, const Array& feedback, const Array& kept, const Array& delta,
                   int activation, bool given_output) {
  const bool map = dimensions(kept) == 4;
  const fastalign::FeedbackTerm term{
      .signal = data(signal),
      .feedback = data(feedback),
      .kept = data(kept),
      .delta = data(delta),
      .samples = size(kept, 0),
      .classes = size(signal, 1),
      .channels = size(kept, 1),
      .height = map ? size(kept, 2) : 1,
      .width = map ? size(kept, 3) : 1,
      .signal_strides = {stride(signal, 0), stride(signal, 1)},
      .feedback_strides = {stride(feedback, 0), stride(feedback, 1)},
      .kept_strides = {stride(kept, 0), stride(kept, 1), map ? stride(kept, 2) : 0, map ? stride(kept, 3) : 0},
      .activation = static_cast<fastalign::Activation>(activation),
      .given_output = given_output,
  };
  emulate(schedule,
          {buffer("signal", signal, false), buffer("feedback", feedback, false), buffer("kept", kept, false),
           buffer("delta", delta, true)},
          [&] { fastalign::feedback_term(term, dtype(kept), nullptr); });
}

}  // namespace

PYBIND11_MODULE(emulated, module) { module.def("feedback_term", &feedback_term); }
