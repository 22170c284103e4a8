#include "cuda/kernels/product.h"

#include "cuda/device/arithmetic.cuh"
#include "cuda/device/dynamic_shared.cuh"
#include "cuda/device/epilogue.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/device/load.cuh"

namespace fastalign::cuda {

namespace {

constexpr int stages = 4;  // few blocks have many steps to go: what they wait for has to be on its way long before

template <Arithmetic arithmetic, Order order>
struct ProductTypes {
  using T = Element<arithmetic>;
  using Left = OperandTile<T, Order::along_sum>;
  using Right = OperandTile<T, order>;
  struct Stage {
    Left left;
    Right right;
  };
  using Sums = TileSums<arithmetic, Left, Right>;
  using Memory = TileMemory<Stage, Sums, stages>;
};

// Blocks one after another go down the result: they share the right operand's tile.
template <Arithmetic arithmetic, Order order>
__global__ void __launch_bounds__(tile_threads, 2)
    product_kernel(const Operand left, const Operand right, const ResultEpilogue epilogue, const bool vectors) {
  using Types = ProductTypes<arithmetic, order>;
  using T = typename Types::T;
  auto& memory = *dynamic_shared_memory<typename Types::Memory>();
  const int64_t tiles_down = (left.rows + tile_size - 1) / tile_size;
  const int64_t first_row = blockIdx.x % tiles_down * tile_size;
  const int64_t first_column = blockIdx.x / tiles_down * tile_size;
  const MatrixLoader<typename Types::Left> load_left(left, first_row);
  const MatrixLoader<typename Types::Right> load_right(right, first_column);

  typename Types::Sums sums;
  const auto load = [&](typename Types::Stage& stage, int64_t step) {
    load_left(stage.left, step * tile_step<T>, left.sums);
    load_right(stage.right, step * tile_step<T>, left.sums);
  };
  const auto multiply = [&](const typename Types::Stage& stage) { sums.add(stage.left, stage.right); };
  sum_steps(memory, steps_of<T>(left.sums), load, NothingToForm(), multiply);

  share_results(memory, sums);
  const auto inside = [&](int row, int column) {
    return first_row + row < left.rows && first_column + column < right.rows;
  };
  if (vectors) {
    visit_shared_results<vector_elements<T>>(memory, [&](int row, int column, Wide<T>(&values)[vector_elements<T>]) {
      if (!inside(row, column)) return;
      const uint4 operand = operand_vector<T>(epilogue, first_row + row, first_column + column);
      finish<T>(epilogue, first_row + row, first_column + column, values, operand);
    });
  } else {
    visit_shared_results<1>(memory, [&](int row, int column, Wide<T>(&values)[1]) {
      if (inside(row, column)) finish<T>(epilogue, first_row + row, first_column + column, values[0]);
    });
  }
}

template <Arithmetic arithmetic, Order order>
void launch_product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue) {
  using Types = ProductTypes<arithmetic, order>;
  const auto tiles = [](int64_t size) { return (size + tile_size - 1) / tile_size; };
  const int64_t blocks = tiles(epilogue.rows) * tiles(epilogue.columns);  // a result of 2³¹ tiles is beyond all memory
  launch(product_kernel<arithmetic, order>,
         {dim3(static_cast<unsigned>(blocks)), dim3(tile_threads), sizeof(typename Types::Memory)}, device.stream,
         operand_of(left, Order::along_sum), operand_of(right, order), epilogue,
         takes_vectors<typename Types::T>(epilogue));
}

template <Arithmetic arithmetic>
void launch_product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue) {
  if (order_of(right) == Order::along_sum) {
    launch_product<arithmetic, Order::along_sum>(device, left, right, epilogue);
  } else {
    launch_product<arithmetic, Order::along_result>(device, left, right, epilogue);
  }
}

}  // namespace

void fused_product(Device& device, const View& left, const View& right, const ResultEpilogue& epilogue) {
  if (epilogue.rows == 0 || epilogue.columns == 0) return;
  switch (arithmetic_of(left.dtype, device.tf32)) {
    case Arithmetic::float64:
      return launch_product<Arithmetic::float64>(device, left, right, epilogue);
    case Arithmetic::float32:
      return launch_product<Arithmetic::float32>(device, left, right, epilogue);
    case Arithmetic::tf32:
      return launch_product<Arithmetic::tf32>(device, left, right, epilogue);
    case Arithmetic::bfloat16:
      return launch_product<Arithmetic::bfloat16>(device, left, right, epilogue);
    case Arithmetic::float16:
      return launch_product<Arithmetic::float16>(device, left, right, epilogue);
  }
}

}  // namespace fastalign::cuda
