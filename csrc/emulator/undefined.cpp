// Undefined behaviour of a kernel as a fault: the functions that the compiler calls where its checks fail
// (-fsanitize=undefined), instead of those of its own library, which would print and go on.

#ifndef __SANITIZE_ADDRESS__  // where the compiler's own library is wanted

#include <cstdint>
#include <string>

#include "emulator/grid.h"

namespace {

// As the compiler lays them out.
struct SourceLocation {
  const char* file;
  uint32_t line;
  uint32_t column;
};

struct TypeMismatch {
  SourceLocation location;
  const void* type;
  unsigned char alignment_exponent;
  unsigned char kind;
};

void report(const std::string& what, const SourceLocation& location) {
  const std::string path = location.file == nullptr ? "?" : location.file;
  fastalign::emulator::fault(what + " at " + path.substr(path.find_last_of('/') + 1) + ":" +
                             std::to_string(location.line));
}

}  // namespace

extern "C" void __ubsan_handle_type_mismatch_v1(const TypeMismatch* mismatch, uintptr_t address) {
  const uintptr_t alignment = uintptr_t{1} << mismatch->alignment_exponent;
  if (address == 0) return report("an access through a null pointer", mismatch->location);
  if (address % alignment == 0) return report("an access beyond the object", mismatch->location);
  report("a misaligned access: " + std::to_string(address % alignment) + " bytes after a multiple of " +
             std::to_string(alignment),
         mismatch->location);
}

#define FASTALIGN_UNDEFINED(handler, what) \
  extern "C" void __ubsan_handle_##handler(const SourceLocation* location) { report(what, *location); }

FASTALIGN_UNDEFINED(out_of_bounds, "an index out of bounds")
FASTALIGN_UNDEFINED(pointer_overflow, "a pointer that overflows")
FASTALIGN_UNDEFINED(add_overflow, "an addition that overflows")
FASTALIGN_UNDEFINED(sub_overflow, "a subtraction that overflows")
FASTALIGN_UNDEFINED(mul_overflow, "a multiplication that overflows")
FASTALIGN_UNDEFINED(negate_overflow, "a negation that overflows")
FASTALIGN_UNDEFINED(divrem_overflow, "a division by zero or one that overflows")
FASTALIGN_UNDEFINED(shift_out_of_bounds, "a shift out of bounds")
FASTALIGN_UNDEFINED(load_invalid_value, "a bool or enum of no valid value")
FASTALIGN_UNDEFINED(invalid_builtin, "a built-in function with an invalid argument")
FASTALIGN_UNDEFINED(nonnull_arg, "a null pointer as an argument")
FASTALIGN_UNDEFINED(builtin_unreachable, "unreachable code, reached,")

#endif
