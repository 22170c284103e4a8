#include "emulator/memory.h"

#include <link.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "emulator/grid.h"

namespace fastalign::emulator {

namespace {

struct Library {
  const void* inside;  // an address in it
  Region image;
  Region thread_local_storage;
};

struct Launch {
  Region arguments;
  Library kernel;    // its thread-local storage is the static shared memory
  Library emulator;  // where threadIdx and its like are
  const Stacks* stacks;
};

Launch launch;
bool checking = false;

std::vector<Buffer>& buffers() {
  static std::vector<Buffer> all;
  return all;
}

int look_at(dl_phdr_info* info, size_t, void* result) {
  Library& library = *static_cast<Library*>(result);
  library.thread_local_storage = {info->dlpi_tls_data, 0};
  uintptr_t end = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type == PT_LOAD) end = info->dlpi_addr + segment.p_vaddr + segment.p_memsz;
    if (segment.p_type == PT_TLS) library.thread_local_storage.bytes = segment.p_memsz;
  }
  library.image = {reinterpret_cast<const void*>(info->dlpi_addr), end - info->dlpi_addr};
  return library.image.holds(reinterpret_cast<uintptr_t>(library.inside), 1) ? 1 : 0;
}

Library find_library(const void* inside) {
  Library library{inside, {}, {}};
  dl_iterate_phdr(look_at, &library);
  return library;
}

// Where an address stands, seen from the nearest memory that may be touched.
std::string nearest(uintptr_t address) {
  std::string text = "outside all memory that the kernel may touch";
  size_t least = size_t{1} << 20;
  std::vector<Buffer> all = buffers();
  all.push_back({"dynamic shared memory", dynamic_shared_memory(), true});
  for (const Buffer& buffer : all) {
    const auto begin = reinterpret_cast<uintptr_t>(buffer.region.begin);
    const uintptr_t end = begin + buffer.region.bytes;
    const size_t distance = address < begin ? begin - address : address - end;
    if (buffer.region.holds(address, 1) || distance >= least) continue;
    least = distance;
    text = std::to_string(distance) + " bytes " + (address < begin ? "before " : "after the end of ") + buffer.name;
  }
  return text;
}

void check(uintptr_t address, size_t bytes, bool write, Where where) {
  if (!checking || launch.stacks->contain(address, bytes)) return;
  if (is_shared(address, bytes))
    return touch_shared_memory(address, bytes, write ? Access::write : Access::read, where);
  const Buffer* only_read = nullptr;
  for (const Buffer& buffer : buffers()) {
    if (!buffer.region.holds(address, bytes)) continue;
    if (!write || buffer.writable) return;
    only_read = &buffer;
  }
  if (only_read != nullptr) return fault("a write to " + only_read->name + ", which is for reading", where);
  for (const Region& readable : {launch.arguments, launch.kernel.image, launch.emulator.image}) {
    if (!write && readable.holds(address, bytes)) return;
  }
  fault((write ? "a write of " : "a read of ") + std::to_string(bytes) + " bytes, " + nearest(address), where);
}

}  // namespace

void clear_buffers() { buffers().clear(); }

void add_buffer(Buffer buffer) { buffers().push_back(std::move(buffer)); }

bool is_in_a_buffer(Region region, bool writable) {
  const auto begin = reinterpret_cast<uintptr_t>(region.begin);
  for (const Buffer& buffer : buffers()) {
    if (buffer.region.holds(begin, region.bytes) && (buffer.writable || !writable)) return true;
  }
  return false;
}

MemoryOfLaunch::MemoryOfLaunch(const void* kernel, Region arguments, size_t dynamic_shared_memory,
                               const Stacks& stacks) {
  launch.arguments = arguments;
  launch.stacks = &stacks;
  launch.kernel = find_library(kernel);
  launch.emulator = find_library(reinterpret_cast<const void*>(&start));
  make_shared_memory(launch.kernel.thread_local_storage, dynamic_shared_memory);
  checking = true;
}

MemoryOfLaunch::~MemoryOfLaunch() {
  checking = false;
  drop_shared_memory();
}

void check_global_read(const void* address, size_t bytes, const char* what, Where where) {
  const auto number = reinterpret_cast<uintptr_t>(address);
  for (const Buffer& buffer : buffers()) {
    if (buffer.region.holds(number, bytes)) return;
  }
  fault(std::string(what) + " reads " + std::to_string(bytes) + " bytes of global memory, " + nearest(number), where);
}

void check_shared(const void* address, size_t bytes, const char* what, Where where) {
  const auto number = reinterpret_cast<uintptr_t>(address);
  if (!is_shared(number, bytes)) fault(std::string(what) + " outside shared memory, " + nearest(number), where);
}

void check_alignment(const void* address, size_t alignment, const char* what, Where where) {
  const size_t beyond = reinterpret_cast<uintptr_t>(address) % alignment;
  if (beyond == 0) return;
  fault(std::string(what) + " by a misaligned address, " + std::to_string(beyond) + " bytes after a multiple of " +
            std::to_string(alignment),
        where);
}

}  // namespace fastalign::emulator

#ifndef __SANITIZE_ADDRESS__  // which has its own

// The compiler calls these before every access of an instrumented source (-fsanitize=kernel-address).
#define FASTALIGN_ACCESSES(bytes)                                                     \
  extern "C" void __asan_load##bytes##_noabort(uintptr_t address) {                   \
    fastalign::emulator::check(address, bytes, false, {__builtin_return_address(0)}); \
  }                                                                                   \
  extern "C" void __asan_store##bytes##_noabort(uintptr_t address) {                  \
    fastalign::emulator::check(address, bytes, true, {__builtin_return_address(0)});  \
  }

FASTALIGN_ACCESSES(1)
FASTALIGN_ACCESSES(2)
FASTALIGN_ACCESSES(4)
FASTALIGN_ACCESSES(8)
FASTALIGN_ACCESSES(16)

extern "C" void __asan_loadN_noabort(uintptr_t address, size_t bytes) {
  fastalign::emulator::check(address, bytes, false, {__builtin_return_address(0)});
}
extern "C" void __asan_storeN_noabort(uintptr_t address, size_t bytes) {
  fastalign::emulator::check(address, bytes, true, {__builtin_return_address(0)});
}
extern "C" void __asan_handle_no_return() {}

#endif
