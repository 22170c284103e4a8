#include "emulator/copies.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "emulator/memory.h"

namespace fastalign::emulator {

namespace {

struct Copy {
  void* shared;
  const void* global;
  int bytes;
  int source_bytes;
  int group;

  uintptr_t address() const { return reinterpret_cast<uintptr_t>(shared); }
};

struct Copies {
  std::vector<Copy> under_way;
  int groups;  // that have been closed
};

std::vector<Copies> all;

Copies& mine() { return all[running_thread()]; }

}  // namespace

void start_copy(void* shared, const void* global, int bytes, int source_bytes, Place place) {
  const Where where{nullptr, &place};
  if (source_bytes < 0 || source_bytes > bytes) {
    fault("cp.async of " + std::to_string(bytes) + " bytes, " + std::to_string(source_bytes) + " of them read,", where);
  }
  check_alignment(shared, bytes, "cp.async", where);
  check_alignment(global, bytes, "cp.async", where);
  check_shared(shared, bytes, "cp.async", where);
  if (source_bytes > 0) check_global_read(global, source_bytes, "cp.async", where);
  const Copy copy{shared, global, bytes, source_bytes, mine().groups};
  start_copy_to(copy.address(), bytes, where);
  mine().under_way.push_back(copy);
}

void commit_copies() { ++mine().groups; }

void wait_for_copies(int pending) {
  std::vector<Copy>& under_way = mine().under_way;
  const int last = mine().groups - pending;  // the first group that may still be under way
  const auto rest =
      std::find_if(under_way.begin(), under_way.end(), [&](const Copy& copy) { return copy.group >= last; });
  for (auto copy = under_way.begin(); copy != rest; ++copy) {
    land_copy_to(copy->address(), copy->bytes);
    std::memcpy(copy->shared, copy->global, copy->source_bytes);
    std::memset(static_cast<unsigned char*>(copy->shared) + copy->source_bytes, 0, copy->bytes - copy->source_bytes);
  }
  under_way.erase(under_way.begin(), rest);
}

void forget_copies(unsigned threads) {
  all.resize(threads);
  for (Copies& copies : all) {
    copies.under_way.clear();
    copies.groups = 0;
  }
}

}  // namespace fastalign::emulator
