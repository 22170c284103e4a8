#include "emulator/taken_out.h"

#include <cstddef>
#include <utility>

namespace fastalign::emulator {

namespace {

int out = -1;
std::vector<bool> reached;

}  // namespace

bool taken_out(int number) {
  if (static_cast<size_t>(number) >= reached.size()) reached.resize(static_cast<size_t>(number) + 1);
  reached[static_cast<size_t>(number)] = true;
  return number == out;
}

void take_out(int number) { out = number; }

std::vector<int> parts_reached() {
  std::vector<int> numbers;
  for (size_t i = 0; i < reached.size(); ++i) {
    if (reached[i]) numbers.push_back(static_cast<int>(i));
  }
  reached.clear();
  return numbers;
}

}  // namespace fastalign::emulator
