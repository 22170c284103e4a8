// The counter-based generator Philox4x32-10, once for CPU and CUDA: any element's word can be drawn alone.
//
// Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Word i of the stream of a 64-bit key is output i
// mod 4 of counter i div 4.

#pragma once

#include "common/elementary.h"

namespace fastalign {
namespace FASTALIGN_LEVEL_NAMESPACE {

struct RandomWords {
  uint32_t word[4];
};

// The four words of a counter.
FASTALIGN_HOST_DEVICE inline RandomWords random_words(uint64_t counter, uint64_t key) {
  uint32_t c0 = static_cast<uint32_t>(counter);
  uint32_t c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = 0;
  uint32_t c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t(c0) * 0xD2511F53u;
    const uint64_t product1 = uint64_t(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace FASTALIGN_LEVEL_NAMESPACE
}  // namespace fastalign
