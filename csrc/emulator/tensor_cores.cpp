#include "emulator/tensor_cores.h"

#include <cuda_fp16.h>

#include <array>
#include <bit>

#include "emulator/memory.h"

namespace fastalign::emulator {

namespace {

constexpr unsigned all_lanes = 0xFFFFFFFFu;
constexpr int size = 8;  // of the matrices that ldmatrix loads, and of the blocks that a product's matrices consist of

// The value of every float16 number: CUDA's conversion on the host is slow.
const std::array<float, 1 << 16>& float16_values() {
  static const auto values = [] {
    std::array<float, 1 << 16> all;
    for (unsigned bits = 0; bits < all.size(); ++bits) all[bits] = __half(__half_raw{static_cast<uint16_t>(bits)});
    return all;
  }();
  return values;
}

struct Load {
  const uint16_t* row;
  bool transposed;
  uint32_t* r;

  static void carry_out(void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      const Load& mine = *static_cast<Load*>(lanes[lane]);
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t pair[2];
        for (int i = 0; i < 2; ++i) {
          const int row = mine.transposed ? lane % 4 * 2 + i : lane / 4;
          const int column = mine.transposed ? lane / 4 : lane % 4 * 2 + i;
          pair[i] = static_cast<Load*>(lanes[size * matrix + row])->row[column];
        }
        mine.r[matrix] = pair[0] | uint32_t{pair[1]} << 16;
      }
    }
  }
};

struct Product {
  Operand operand;
  float* d;
  const uint32_t* a;
  const uint32_t* b;

  static void carry_out(void* const* lanes) {
    float a[16][16];
    float b[16][8];
    float d[16][8];
    const Operand operand = static_cast<Product*>(lanes[0])->operand;
    const int packed = operand == Operand::tf32 ? 1 : 2;  // elements in a register
    const int depth = 8 * packed;
    for (int lane = 0; lane < 32; ++lane) {
      const Product& mine = *static_cast<Product*>(lanes[lane]);
      const int group = lane / 4;
      const int member = lane % 4;
      for (int i = 0; i < packed; ++i) {
        const int k = packed * member + i;
        for (int r = 0; r < 4; ++r) a[group + r % 2 * 8][k + r / 2 * depth / 2] = element(operand, mine.a[r], i);
        for (int r = 0; r < 2; ++r) b[k + r * depth / 2][group] = element(operand, mine.b[r], i);
      }
      for (int r = 0; r < 4; ++r) d[group + r / 2 * 8][2 * member + r % 2] = mine.d[r];
    }
    for (int m = 0; m < 16; ++m) {
      for (int k = 0; k < depth; ++k) {
        for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int r = 0; r < 4; ++r) {
        static_cast<Product*>(lanes[lane])->d[r] = d[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
      }
    }
  }

  static float element(Operand operand, uint32_t word, int index) {
    if (operand == Operand::tf32) return std::bit_cast<float>(word & ~0x1FFFu);
    const uint32_t half = word >> 16 * index & 0xFFFFu;
    return operand == Operand::float16 ? float16_values()[half] : std::bit_cast<float>(half << 16);
  }
};

}  // namespace

void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, Place place) {
  const Where where{nullptr, &place};
  check_alignment(row, 16, "ldmatrix", where);
  check_shared(row, 16, "ldmatrix", where);
  touch_shared_memory(reinterpret_cast<uintptr_t>(row), 16, Access::read_by_warp, where);
  Load mine{static_cast<const uint16_t*>(row), transposed, r};
  wait_for_lanes(all_lanes, &Load::carry_out, &mine, "ldmatrix", place);
}

void multiply(Operand operand, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  Product mine{operand, d, a, b};
  wait_for_lanes(all_lanes, &Product::carry_out, &mine, "mma", place);
}

uint32_t round_to_tf32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const bool finite = (bits >> 23 & 0xFF) != 0xFF;
  return finite ? (bits + 0x1000) & ~0x1FFFu : bits;
}

}  // namespace fastalign::emulator
