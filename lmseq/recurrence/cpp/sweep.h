// The loop over time: in each step a product with weights that stay packed, and what is made of its sums.
//
// A step of a recurrence is a product, h U, and a little arithmetic for every element of what comes out. XLA
// runs the two one after the other, writes the product to memory in between, and starts its threads anew for
// each step. Here the recurrent weights are packed once into panels whose columns are the gates of the same
// few units, so that a tile of rows finishes its product and its gates within the registers; threads share
// the units out for the whole sequence and meet once a step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>

#include "team.h"
#include "vectors.h"

namespace lmseq {

// Memory that vectors can be read from.

template <class Item>
class Block {
 public:
  explicit Block(size_t size) : items_(static_cast<Item*>(std::aligned_alloc(64, bytes(size)))) {
    if (items_ == nullptr) throw std::bad_alloc();
  }
  Block(const Block&) = delete;
  ~Block() { std::free(items_); }
  Item* data() const { return items_; }

 private:
  static size_t bytes(size_t size) { return (size * sizeof(Item) + 64) / 64 * 64; }
  Item* items_;
};

// Operands of a product are float32, or bfloat16 in pairs with sums in float32. A format has items of kDepth
// numbers along the contracted axis, and, where the left operand is not the float32 array that a step leaves
// behind, two buffers for it that steps write and read in turn. Number is what the arrays are made of that
// the forward loop leaves for the backward one, tanhs and sigmoids, and this one for the products after it.
struct Float32 {
  using Item = float;
  using Number = float;
  static constexpr int kDepth = 1;
  static constexpr bool kBuffered = false;

  static void store_operand(Number* to, Vector x, int n) { store(to, x, n); }
  static void store_tanh(Number* to, Vector x, int n) { store(to, x, n); }
  static void store_sigmoid(Number* to, Vector x, int n) { store(to, x, n); }
  static Vector load_tanh(const Number* from, int n) { return load(from, n); }
  static Vector load_sigmoid(const Number* from, int n) { return load(from, n); }
  static const float* left(const Number* operands) { return operands; }
  static void pack(Item* to, const float* const rows[1], int n) { store(to, load(rows[0], n)); }
  static Vector times(Item left, const Item* right, Vector sum) { return sum + fill(left) * load(right); }
};

#if defined(__AVX512BF16__)
struct Bfloat16 {
  using Item = uint32_t;
  using Number = uint16_t;  // of tanhs and sigmoids in float16, which has three bits more between -1 and 1
  static constexpr int kDepth = 2;
  static constexpr bool kBuffered = true;

  static void store_operand(Number* to, Vector x, int n) {
    _mm256_mask_storeu_epi16(to, first_lanes(n), round(x));
  }
  static void store_tanh(Number* to, Vector x, int n) {
    _mm256_mask_storeu_epi16(to, first_lanes(n), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
  }
  static Vector load_tanh(const Number* from, int n) {
    return (Vector)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), from));
  }
  // Near 1 it is what is left to 1 that counts, as many steps multiply: it is stored instead, as -(1 - x),
  // which is -0 for 1.
  static void store_sigmoid(Number* to, Vector x, int n) { store_tanh(to, x > 0.5f ? -(1.0f - x) : x, n); }
  static Vector load_sigmoid(const Number* from, int n) {
    typedef int32_t Bits __attribute__((vector_size(4 * kLanes)));
    const Vector x = load_tanh(from, n);
    return (Bits)x < 0 ? 1.0f + x : x;
  }
  // No array of float32 to multiply, only whether there is one: a buffer has the operand.
  static const float* left(const Number* operands) { return reinterpret_cast<const float*>(operands); }
  static __m256i round(Vector x) { return (__m256i)_mm512_cvtneps_pbh((__m512)x); }
  static void pack(Item* to, const float* const rows[2], int n) {
    uint16_t halves[2][kLanes];
    for (int i = 0; i < 2; ++i) {
      _mm256_storeu_si256((__m256i*)halves[i], round(rows[i] == nullptr ? Vector{} : load(rows[i], n)));
    }
    for (int lane = 0; lane < kLanes; ++lane) to[lane] = halves[0][lane] | uint32_t{halves[1][lane]} << 16;
  }
  static Vector times(Item left, const Item* right, Vector sum) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(left),
                                    (__m512bh)_mm512_loadu_si512(right));
  }
};
constexpr bool kHasBfloat16 = true;
#else
using Bfloat16 = Float32;
constexpr bool kHasBfloat16 = false;
#endif

struct Shape {
  int time, rows, units;  // T, B, H
  size_t row(int t, int row) const { return static_cast<size_t>(t) * rows + row; }
  size_t at(int t, int row) const { return this->row(t, row) * units; }
};

// What a product's columns are: vector j of panel p stands for kLanes units from unit(p, j) on, of gate(j).
template <int kGates, int kBlocks>
struct Columns {
  static constexpr int kVectors = kGates * kBlocks, kUnits = kBlocks * kLanes;
  static int gate(int j) { return j % kGates; }
  static int unit(int p, int j) { return p * kUnits + j / kGates * kLanes; }
  static int lanes(int p, int j, int units) { return std::clamp(units - unit(p, j), 0, kLanes); }
};

// The left operand of the next step's product, (B, depth).
template <class Format>
class Left {
 public:
  using Item = typename Format::Item;

  Left(int rows, int depth)
      : rows_(rows),
        depth_(depth),
        items_((depth + Format::kDepth - 1) / Format::kDepth),
        buffers_(Format::kBuffered ? 2 * static_cast<size_t>(rows) * items_ : 0) {
    if (Format::kBuffered)
      std::memset(buffers_.data(), 0, 2 * static_cast<size_t>(rows) * items_ * sizeof(Item));
  }

  // Numbers for step t to read, n of them from column on, which were also written where `row` finds them.
  void put(int t, int row, int column, Vector x, int n) {
#if defined(__AVX512BF16__)
    if constexpr (Format::kBuffered) {
      Format::store_operand(
          reinterpret_cast<uint16_t*>(buffer(t) + static_cast<size_t>(row) * items_) + column, x, n);
    }
#endif
  }

  // A whole array (B, depth) for step t.
  void put(int t, const float* from) {
    for (int row = 0; row < rows_; ++row) {
      for (int column = 0; column < depth_; column += kLanes) {
        const int n = std::min(kLanes, depth_ - column);
        put(t, row, column, load(from + static_cast<size_t>(row) * depth_ + column, n), n);
      }
    }
  }

  const Item* row(int t, int row, const float* array) const {
    if constexpr (Format::kBuffered) {
      return buffer(t) + static_cast<size_t>(row) * items_;
    } else {
      return array + static_cast<size_t>(row) * depth_;
    }
  }

  int items() const { return items_; }

 private:
  Item* buffer(int t) const { return buffers_.data() + (t & 1) * static_cast<size_t>(rows_) * items_; }

  int rows_, depth_, items_;
  Block<Item> buffers_;
};

// What is read next, brought near while something else is multiplied: so many cache lines for each item.
struct Ahead {
  const char* from;
  int lines;
};

// sums = left (M rows, `stride` items apart) times a panel.
template <class Format, int M, int N>
inline void multiply(const typename Format::Item* left, int items, const typename Format::Item* panel,
                     Ahead ahead, Vector (&sums)[M][N]) {
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) sums[i][j] = Vector{};
  }
  for (int k = 0; k < items; ++k, panel += N * kLanes) {
    for (int line = 0; line < ahead.lines; ++line, ahead.from += 64) __builtin_prefetch(ahead.from, 0, 2);
#pragma GCC unroll 24
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        sums[i][j] = Format::times(left[static_cast<size_t>(i) * items + k], panel + j * kLanes, sums[i][j]);
      }
    }
  }
}

// work.<M>(first) for M rows from `first` on, where M <= most is known to the compiler.
template <int M, class Work>
inline void with_rows(int first, int rows, Work&& work) {
  if constexpr (M > 0) {
    if (rows == M) {
      work.template operator()<M>(first);
    } else {
      with_rows<M - 1>(first, rows, work);
    }
  }
}

// Bytes that stay in a core's second cache from step to step.
constexpr size_t kNear = 3 << 18;

// For t = first, first + step, ... (count of them): sums = left_t W, and `finish(t, row, p, sums of the row)`
// for every row and panel; W is (depth, gates * H) in memory. `array(t)` is the left operand in float32, or
// null where there is nothing to multiply and the sums are zero.
template <class Format, class Cut, class Array, class Finish>
void sweep(int threads, const Shape& shape, int depth, const float* weights, int first, int step, int count,
           Left<Format>& left, Array&& array, Finish&& finish) {
  constexpr int N = Cut::kVectors, most = kSums / N;
  constexpr int gates = N / (Cut::kUnits / kLanes);
  const int panels = (shape.units + Cut::kUnits - 1) / Cut::kUnits, items = left.items();
  const size_t panel_size = static_cast<size_t>(items) * N * kLanes,
               width = static_cast<size_t>(gates) * shape.units;
  const int tiles = (shape.rows + most - 1) / most;
  Block<typename Format::Item> packed(panels * panel_size);
  const size_t packed_share = panels * panel_size * sizeof(typename Format::Item) / std::max(threads, 1);

  const auto pack = [&](int p) {
    auto* out = packed.data() + p * panel_size;
    for (int k = 0; k < depth; k += Format::kDepth) {
      for (int j = 0; j < N; ++j, out += kLanes) {
        const float* rows[Format::kDepth];
        const float* row =
            weights + k * width + static_cast<size_t>(Cut::gate(j)) * shape.units + Cut::unit(p, j);
        for (int i = 0; i < Format::kDepth; ++i) rows[i] = k + i < depth ? row + i * width : nullptr;
        Format::pack(out, rows, Cut::lanes(p, j, shape.units));
      }
    }
  };

  const bool is_far = Format::kBuffered && packed_share > kNear;
  // Each tile of a panel brings as much of the next one.
  const int lines = (N + tiles - 1) / std::max(tiles, 1);
  const auto advance = [&](int t, int p) {
    const float* now = array(t);
    const char* next = reinterpret_cast<const char*>(packed.data() + (p + 1) * panel_size);
    for (int tile = 0; tile < tiles; ++tile) {
      const bool is_worth = is_far && p + 1 < panels && tile * lines < N;
      const Ahead ahead{next + static_cast<size_t>(tile) * items * lines * 64, is_worth ? lines : 0};
      const int row = shape.rows * tile / tiles, rows = shape.rows * (tile + 1) / tiles - row;
      with_rows<most>(row, rows, [&]<int M>(int row) {
        Vector sums[M][N];
        if (now == nullptr) {
          for (auto& each : sums) std::fill(std::begin(each), std::end(each), Vector{});
        } else {
          multiply<Format, M, N>(left.row(t, row, now), items, packed.data() + p * panel_size, ahead, sums);
        }
#pragma GCC unroll 24
        for (int m = 0; m < M; ++m) finish(t, row + m, p, sums[m]);
      });
    }
  };

  // The weights are packed in a step of their own, before the first.
  Team::of_process().run(std::min(threads, panels), count + 1, panels, [&](int i, int p) {
    if (i == 0) {
      pack(p);
    } else {
      advance(first + (i - 1) * step, p);
    }
  });
}

// A core is worth its share of at least so many multiplications a step. Of fewer rows than kFewRows a step
// takes as long as of so many: the weights come from a cache that is not the nearest.
constexpr double kWorthwhile = 1 << 19;
constexpr int kFewRows = 6;

inline int threads_for(const Shape& shape, int gates, int64_t most) {
  const double work = static_cast<double>(std::max(shape.rows, kFewRows)) * shape.units * shape.units * gates;
  return static_cast<int>(
      std::clamp(work / kWorthwhile, 1.0, static_cast<double>(std::max<int64_t>(most, 1))));
}

}  // namespace lmseq
