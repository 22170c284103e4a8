#include "cpu/dispatch.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fastalign {

namespace {

const char* const levels[] = {"baseline", nullptr};

}  // namespace

const char* const* cpu_levels() { return levels; }

const char* cpu_level() {
  const char* asked = std::getenv("FASTALIGN_CPU_CAPABILITY");
  if (asked != nullptr && std::strcmp(asked, "baseline") != 0) {
    throw std::invalid_argument(std::string("FASTALIGN_CPU_CAPABILITY: expected baseline, got ") + asked);
  }
  return levels[0];
}

}  // namespace fastalign
