// For tests/ops/take_out.py, which guards every part of the kernels that must not be missing, by a number each.

#pragma once

#include <vector>

namespace fastalign::emulator {

// Whether the part of a number is out.
bool taken_out(int number);

// Takes one part out from here on; none where the number is negative.
void take_out(int number);

// The numbers that have been asked for since the last call.
std::vector<int> parts_reached();

// The smaller and the greater of two numbers, each of which may be out.
template <typename T>
T min(int part_of_a, int part_of_b, T a, T b) {
  if (taken_out(part_of_a)) return b;
  if (taken_out(part_of_b)) return a;
  return b < a ? b : a;
}
template <typename T>
T max(int part_of_a, int part_of_b, T a, T b) {
  if (taken_out(part_of_a)) return b;
  if (taken_out(part_of_b)) return a;
  return a < b ? b : a;
}

}  // namespace fastalign::emulator
