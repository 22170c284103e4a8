#include "cpu/dispatch.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

namespace fastalign {

namespace baseline {
extern const Kernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;
}
#endif

namespace {

#if defined(__x86_64__)
const Kernels* const levels[] = {&baseline::kernels, &avx2::kernels, &avx512::kernels, &amx::kernels};
const char* const names[] = {"baseline", "avx2", "avx512", "amx", nullptr};
#else
const Kernels* const levels[] = {&baseline::kernels};
const char* const names[] = {"baseline", nullptr};
#endif
static_assert(std::size(names) == std::size(levels) + 1);

#if defined(__x86_64__)
// Whether there is a matrix unit for bfloat16, and this process has the right to it.
bool has_matrix_unit() {
#if defined(__linux__)
  constexpr int request_permission = 0x1023, tile_data = 18;    // ARCH_REQ_XCOMP_PERM
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;  // which not every compiler knows by name
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx512bf16") && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
         (edx & amx_bf16) != 0 && (edx & amx_tile) != 0 && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

// How many of the levels this machine has.
size_t supported() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 1;
  for (const bool has : {__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"),
                         __builtin_cpu_supports("avx512dq"), __builtin_cpu_supports("avx512vl")}) {
    if (!has) return 2;
  }
  if (!has_matrix_unit()) return 3;
#endif
  return std::size(levels);
}

const Kernels& choose() {
  const char* variable = std::getenv("FASTALIGN_CPU_CAPABILITY");
  const size_t usable = supported();
  if (variable == nullptr) return *levels[usable - 1];
  const std::string asked = variable;
  std::string known;
  for (size_t i = 0; i < std::size(levels); ++i) {
    if (asked == names[i] && i < usable) return *levels[i];
    if (asked == names[i]) throw std::invalid_argument("FASTALIGN_CPU_CAPABILITY: this machine has no " + asked);
    known += (i == 0 ? "" : ", ") + std::string(names[i]);
  }
  throw std::invalid_argument("FASTALIGN_CPU_CAPABILITY: expected one of " + known + ", got '" + asked + "'");
}

}  // namespace

const char* const* cpu_levels() { return names; }

const char* cpu_level() { return cpu_kernels().name; }

const Kernels& cpu_kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

bool library_multiplies_bfloat16() {
#if defined(__x86_64__)
  const Kernels* const level = &cpu_kernels();
  static const bool does =
      (level == &avx512::kernels || level == &amx::kernels) && __builtin_cpu_supports("avx512bf16");
  return does;
#else
  return false;
#endif
}

}  // namespace fastalign
