// What the 32 lanes of a warp do together: shuffles and votes.

#pragma once

#include "emulator/grid.h"
#include "emulator/shared_memory.h"

namespace fastalign::emulator {

// Reads the lane's neighbour `source`, or its own value where that is -1.
template <typename T>
struct Shuffle {
  T value;
  int source;

  static void exchange(void* const* lanes) {
    T before[32];
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr) before[lane] = static_cast<Shuffle*>(lanes[lane])->value;
    }
    for (int lane = 0; lane < 32; ++lane) {
      auto* const self = static_cast<Shuffle*>(lanes[lane]);
      if (self != nullptr && self->source >= 0) self->value = before[self->source];
    }
  }
};

template <typename T>
T shuffle(unsigned mask, T value, int source, const char* name, Place place) {
  static_assert(sizeof(T) <= 8, "a shuffle exchanges at most 8 bytes");
  check_source(mask, source, name);
  Shuffle<T> mine{value, source};
  wait_for_lanes(mask, &Shuffle<T>::exchange, &mine, name, place);
  return mine.value;
}

struct Vote {
  bool predicate;
  unsigned ballot;

  static void count(void* const* lanes) {
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr && static_cast<Vote*>(lanes[lane])->predicate) ballot |= 1u << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr) static_cast<Vote*>(lanes[lane])->ballot = ballot;
    }
  }
};

inline unsigned vote(unsigned mask, bool predicate, const char* name, Place place) {
  Vote mine{predicate, 0};
  wait_for_lanes(mask, &Vote::count, &mine, name, place);
  return mine.ballot;
}

// Only this one orders what the lanes do to memory.
inline void order(void* const*) { order_lanes(running_thread() / warp_size); }

}  // namespace fastalign::emulator

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu,
                       fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  fastalign::emulator::wait_for_lanes(mask, &fastalign::emulator::order, nullptr, "__syncwarp", place);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  fastalign::emulator::check_width(width);
  const int first = fastalign::emulator::lane() / width * width;
  return fastalign::emulator::shuffle(mask, value, first + (source & (width - 1)), "__shfl_sync", place);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  fastalign::emulator::check_width(width);
  const int lane = fastalign::emulator::lane();
  const bool inside = delta <= static_cast<unsigned>(lane % width);
  return fastalign::emulator::shuffle(mask, value, inside ? lane - static_cast<int>(delta) : -1, "__shfl_up_sync",
                                      place);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  fastalign::emulator::check_width(width);
  const int lane = fastalign::emulator::lane();
  const bool inside = delta < static_cast<unsigned>(width - lane % width);
  return fastalign::emulator::shuffle(mask, value, inside ? lane + static_cast<int>(delta) : -1, "__shfl_down_sync",
                                      place);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flipped, int width = 32,
                  fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  fastalign::emulator::check_width(width);
  const int lane = fastalign::emulator::lane();
  const int source = lane ^ flipped;
  const bool inside = source >= 0 && source < (lane / width + 1) * width;
  return fastalign::emulator::shuffle(mask, value, inside ? source : -1, "__shfl_xor_sync", place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  return fastalign::emulator::vote(mask, predicate != 0, "__ballot_sync", place);
}

inline int __any_sync(unsigned mask, int predicate,
                      fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  return fastalign::emulator::vote(mask, predicate != 0, "__any_sync", place) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      fastalign::emulator::Place place = fastalign::emulator::Place::current()) {
  return fastalign::emulator::vote(mask, predicate != 0, "__all_sync", place) == mask;
}
