#include "emulator/shared_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace fastalign::emulator {

namespace {

constexpr unsigned char poison = 0xFF;
constexpr size_t grain = 2;  // bytes: the smallest element
constexpr uint16_t nobody = 0;
constexpr uint16_t several_warps = 0xFFFF;
constexpr uint16_t several_lanes = 0x8000;  // plus their warp
constexpr unsigned most_warps = 32;

// Who has touched a grain of shared memory since the barrier of a number. Threads count from 1.
struct Grain {
  uint32_t barrier;
  uint16_t writer;
  uint16_t reader;
  uint16_t order_of_writer;  // how often its warp's lanes had been ordered
  uint16_t order_of_reader;
  bool copying;
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

Region fixed_part;
std::unique_ptr<void, Free> dynamic_memory;
size_t dynamic_bytes;
std::vector<Grain> grains;  // of the fixed part, then the dynamic one
uint32_t barriers = 0;      // never starts again, so that grains need not be cleared
uint16_t orders[most_warps];

Region dynamic_part() { return {dynamic_memory.get(), dynamic_bytes}; }

size_t grains_of(size_t bytes) { return (bytes + grain - 1) / grain + 1; }

// The grains of a stretch of shared memory.
struct Grains {
  Grain* first;
  Grain* last;
  Grain* begin() const { return first; }
  Grain* end() const { return last; }
};

Grains find(uintptr_t address, size_t bytes) {
  const bool dynamic = dynamic_part().holds(address, bytes);
  const auto start = reinterpret_cast<uintptr_t>(dynamic ? dynamic_part().begin : fixed_part.begin);
  Grain* const part = grains.data() + (dynamic ? grains_of(fixed_part.bytes) : 0);
  return {part + (address - start) / grain, part + (address - start + bytes - 1) / grain + 1};
}

unsigned warp_of(uint16_t toucher) {
  return toucher & several_lanes ? toucher & ~several_lanes : (toucher - 1u) / warp_size;
}

// Whether what a thread did before this one's access is not ordered before it.
bool unordered(uint16_t before, uint16_t order, uint16_t self, uint16_t order_of_self) {
  if (before == nobody || before == self) return false;
  if (before == several_warps || warp_of(before) != warp_of(self)) return true;
  return order == order_of_self;
}

uint16_t joined(uint16_t reader, uint16_t self) {
  if (reader == nobody || reader == self) return self;
  if (reader == several_warps || warp_of(reader) != warp_of(self)) return several_warps;
  return static_cast<uint16_t>(several_lanes | warp_of(self));
}

std::string name_of(uint16_t toucher) {
  if (toucher == several_warps) return "several threads have";
  if (toucher & several_lanes) return "several lanes of warp " + std::to_string(warp_of(toucher)) + " have";
  return "thread " + name_of_thread(toucher - 1u) + " has";
}

void conflict(uintptr_t address, size_t bytes, bool write, Where where, const std::string& why) {
  const bool dynamic = dynamic_part().holds(address, bytes);
  const auto start = reinterpret_cast<uintptr_t>(dynamic ? dynamic_part().begin : fixed_part.begin);
  fault(std::string(write ? "a write" : "a read") + " of byte " + std::to_string(address - start) + " of " +
            (dynamic ? "dynamic" : "static") + " shared memory, which " + why,
        where);
}

}  // namespace

void make_shared_memory(Region fixed, size_t dynamic) {
  constexpr size_t alignment = 128;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, dynamic) != 0) throw std::bad_alloc();
  dynamic_memory.reset(memory);
  dynamic_bytes = dynamic;
  fixed_part = fixed;
  grains.resize(std::max(grains.size(), grains_of(fixed.bytes) + grains_of(dynamic)));
}

void drop_shared_memory() { dynamic_memory.reset(); }

Region dynamic_shared_memory() { return dynamic_part(); }

void start_shared_memory() {
  std::memset(const_cast<void*>(fixed_part.begin), poison, fixed_part.bytes);
  std::memset(dynamic_memory.get(), poison, dynamic_bytes);
  for (Grain& each : grains) each.copying = false;
  order_threads();
}

bool is_shared(uintptr_t address, size_t bytes) {
  return dynamic_part().holds(address, bytes) || fixed_part.holds(address, bytes);
}

void touch_shared_memory(uintptr_t address, size_t bytes, Access access, Where where) {
  const unsigned warp = running_thread() / warp_size;
  const auto self = static_cast<uint16_t>(access == Access::read_by_warp ? several_lanes | warp : running_thread() + 1);
  const uint16_t order = orders[warp];
  const bool write = access == Access::write;
  for (Grain& each : find(address, bytes)) {
    if (each.copying) return conflict(address, bytes, write, where, "a copy may still write");
    if (each.barrier != barriers) each = {barriers, nobody, nobody, 0, 0, false};
    if (unordered(each.writer, each.order_of_writer, self, order)) {
      return conflict(address, bytes, write, where, name_of(each.writer) + " written since the last barrier");
    }
    if (!write) {
      each.reader = joined(each.reader, self);
      each.order_of_reader = order;
      continue;
    }
    if (unordered(each.reader, each.order_of_reader, self, order)) {
      return conflict(address, bytes, write, where, name_of(each.reader) + " read since the last barrier");
    }
    each.writer = self;
    each.order_of_writer = order;
  }
}

void start_copy_to(uintptr_t shared, size_t bytes, Where where) {
  touch_shared_memory(shared, bytes, Access::write, where);
  for (Grain& each : find(shared, bytes)) each.copying = true;
}

void land_copy_to(uintptr_t shared, size_t bytes) {
  for (Grain& each : find(shared, bytes)) each.copying = false;
  touch_shared_memory(shared, bytes, Access::write, {});
}

void order_threads() { ++barriers; }

void order_lanes(unsigned warp) { ++orders[warp]; }

}  // namespace fastalign::emulator
