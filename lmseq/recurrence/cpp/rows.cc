// X^T Y, contracted over rows that lie one after the other in memory, of operands rounded to bfloat16, and
// the sum of Y's rows; and the same for an X of one-hot rows, which is a sum of rows by ids.
//
// They are the gradients of a kernel and a bias: X what came in, Y the cotangents of what went out. XLA on a
// CPU has products in bfloat16 for operands that are contracted along a last axis, and takes any other in
// float32, at half the speed. Here two rows make the pairs that the processor multiplies, so that nothing is
// transposed. Sums are in float32, in an order that threads do not change.

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "caught.h"
#include "sweep.h"
#include "xla/ffi/api/ffi.h"

namespace lmseq {
namespace {

namespace ffi = xla::ffi;

using Result = ffi::ResultBuffer<ffi::F32>;

#if defined(__AVX512BF16__)

// Tiles of kTall columns of X and kWide vectors of columns of Y have their sums in registers. Of X, kTiles
// tiles are packed beside each other; kPairs pairs of rows at a time stay in a core's second cache.
constexpr int kTall = 6, kWide = 4, kTiles = 8, kPairs = 512, kAhead = 16;
constexpr int kPanelX = kTall * kTiles, kPanelY = kWide * kLanes;
static_assert(kPanelX % kLanes == 0);

// Rows of float32 or bfloat16, of which some others may stand before the first.
class Rows {
 public:
  explicit Rows(ffi::AnyBuffer all) : Rows(all, all) {}
  Rows(ffi::AnyBuffer before, ffi::AnyBuffer rest)
      : width_(rest.dimensions()[1]), num_before_(before.dimensions()[0]), before_(before), rest_(rest) {}

  int width() const { return static_cast<int>(width_); }

  // Lanes of bfloat16 from a column on, zeros behind the last column.
  __m256i at(int64_t row, int column) const {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, width_ - column));
    const auto lanes = static_cast<__mmask16>((1u << n) - 1);
    const void* from = address(row, column);
    if (rest_.element_type() == ffi::BF16) return _mm256_maskz_loadu_epi16(lanes, from);
    return (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, from));
  }

  // The same as float32, which they may have been.
  __m512 numbers(int64_t row, int column) const {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, width_ - column));
    const auto lanes = static_cast<__mmask16>((1u << n) - 1);
    const void* from = address(row, column);
    if (rest_.element_type() == ffi::F32) return _mm512_maskz_loadu_ps(lanes, from);
    return _mm512_cvtpbh_ps((__m256bh)_mm256_maskz_loadu_epi16(lanes, from));
  }

  // Panels are read a few columns of a row at a time, which the processor does not foresee.
  void prefetch(int64_t row, int column) const { __builtin_prefetch(address(row, column)); }

 private:
  const char* address(int64_t row, int column) const {
    const bool is_before = row < num_before_;
    const ffi::AnyBuffer& from = is_before ? before_ : rest_;
    const int64_t first = (is_before ? row : row - num_before_) * width_ + column;
    return static_cast<const char*>(from.untyped_data()) + first * (from.element_type() == ffi::BF16 ? 2 : 4);
  }

  int64_t width_, num_before_;
  ffi::AnyBuffer before_, rest_;
};

// Columns [first, first + width) of rows [begin, count), in pairs of rows: (pairs, width). Adds them, as they
// are, to the sums of the columns, where those are wanted.
void pack(uint32_t* to, const Rows& rows, int64_t begin, int64_t count, int first, int width,
          float* sums = nullptr) {
  static const __m512i pairs = [] {
    alignas(64) uint16_t order[2 * kLanes];
    for (int i = 0; i < kLanes; ++i) order[2 * i] = i, order[2 * i + 1] = kLanes + i;
    return _mm512_load_si512(order);
  }();
  for (int64_t row = begin; row < count; row += 2) {
    for (int lane = 0; lane < width; lane += kLanes, to += kLanes) {
      const int column = first + lane;
      __m512i both = _mm512_setzero_si512();
      if (column < rows.width()) {
        for (int i = 0; i < 2; ++i) rows.prefetch(row + kAhead + i, column);
        both = _mm512_castsi256_si512(rows.at(row, column));
        const __m256i next = row + 1 < count ? rows.at(row + 1, column) : _mm256_setzero_si256();
        both = _mm512_inserti64x4(_mm512_zextsi256_si512(_mm512_castsi512_si256(both)), next, 1);
        if (sums != nullptr) {
          __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums + lane), rows.numbers(row, column));
          if (row + 1 < count) sum = _mm512_add_ps(sum, rows.numbers(row + 1, column));
          _mm512_storeu_ps(sums + lane, sum);
        }
      }
      _mm512_store_si512(to, _mm512_permutexvar_epi16(pairs, both));
    }
  }
}

// sums += the tile's columns of X times a panel of Y, over so many pairs.
inline void multiply(const uint32_t* x, const uint32_t* y, int64_t pairs, __m512 (&sums)[kTall][kWide]) {
  for (int64_t k = 0; k < pairs; ++k, x += kPanelX, y += kPanelY) {
    __m512bh right[kWide];
#pragma GCC unroll 4
    for (int j = 0; j < kWide; ++j) right[j] = (__m512bh)_mm512_load_si512(y + j * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kTall; ++i) {
      const auto left = (__m512bh)_mm512_set1_epi32(x[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]);
    }
  }
}

void product_over_rows(int64_t threads, ffi::AnyBuffer before, ffi::AnyBuffer x, ffi::AnyBuffer y,
                       Result product, Result sum) {
  const Rows left(before, x), right(y);
  const int64_t count = y.dimensions()[0], pairs = (count + 1) / 2;
  const int tall = left.width(), wide = static_cast<int>(y.dimensions()[1]);
  const int panels_x = (tall + kPanelX - 1) / kPanelX, panels_y = (wide + kPanelY - 1) / kPanelY;
  float* out = product->typed_data();
  const int64_t block = std::min<int64_t>(kPairs, pairs);
  Block<uint32_t> xs(panels_x * pairs * kPanelX), ys(panels_y * block * kPanelY);

  const auto tile = [&](const uint32_t* y, int p, int column, int64_t from, int64_t size) {
    const uint32_t* x = xs.data() + (column / kPanelX * pairs + from) * kPanelX + column % kPanelX;
    const int rows = std::min(kTall, tall - column);
    __m512 sums[kTall][kWide];
    const auto each = [&](auto&& visit) {
#pragma GCC unroll 6
      for (int i = 0; i < kTall; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kWide; ++j) {
          const int first = p * kPanelY + j * kLanes, n = std::clamp(wide - first, 0, kLanes);
          const auto lanes = static_cast<__mmask16>(i < rows ? (1u << n) - 1 : 0);
          visit(sums[i][j], out + static_cast<int64_t>(column + i) * wide + first, lanes);
        }
      }
    };
    each([&](__m512& sum, const float* at, __mmask16 lanes) {
      sum = from ? _mm512_maskz_loadu_ps(lanes, at) : _mm512_setzero_ps();
    });
    multiply(x, y, size, sums);
    each([&](__m512& sum, float* at, __mmask16 lanes) { _mm512_mask_storeu_ps(at, lanes, sum); });
  };

  // X is packed in a step of its own, before the first; a block of a panel of Y by whoever uses it, just
  // before.
  const auto work = [&](int step, int p) {
    if (step == 0) {
      for (int q = p; q < panels_x; q += panels_y) {
        pack(xs.data() + q * pairs * kPanelX, left, 0, count, q * kPanelX, kPanelX);
      }
      return;
    }
    uint32_t* y = ys.data() + p * block * kPanelY;
    float sums[kPanelY] = {};
    for (int64_t k = 0; k < std::max<int64_t>(pairs, 1); k += kPairs) {
      const int64_t size = std::min<int64_t>(kPairs, pairs - k);
      pack(y, right, 2 * k, std::min(count, 2 * (k + size)), p * kPanelY, kPanelY, sums);
      for (int i = 0; i < tall; i += kTall) tile(y, p, i, k, size);
    }
    std::copy_n(sums, std::min(kPanelY, wide - p * kPanelY), sum->typed_data() + p * kPanelY);
  };
  Team::of_process().run(static_cast<int>(std::min<int64_t>(threads, panels_y)), 2, panels_y, work);
}

// A task's columns of the table of sums stay in a core's second cache.
void sum_by_id(int64_t threads, ffi::Buffer<ffi::S32> ids, ffi::AnyBuffer rows, Result sums) {
  constexpr int64_t kNumbers = 1 << 16;
  const Rows from(rows);
  const int64_t count = rows.dimensions()[0], vocab_size = sums->dimensions()[0];
  const int width = from.width(), most = static_cast<int>(kNumbers / std::max<int64_t>(vocab_size, 1)),
            share = static_cast<int>((width + threads - 1) / threads),
            columns = std::max(std::min(most, share) / kLanes, 1) * kLanes,
            tasks = (width + columns - 1) / columns;
  const int32_t* id = ids.typed_data();
  float* out = sums->typed_data();
  Team::of_process().run(static_cast<int>(std::min<int64_t>(threads, tasks)), 1, tasks, [&](int, int task) {
    const int begin = task * columns, end = std::min(width, begin + columns);
    for (int64_t token = 0; token < vocab_size; ++token) {
      std::fill(out + token * width + begin, out + token * width + end, 0.0f);
    }
    for (int64_t row = 0; row < count; ++row) {
      if (id[row] < 0 || id[row] >= vocab_size) continue;
      float* sum = out + id[row] * static_cast<int64_t>(width);
      for (int column = begin; column < end; column += kLanes) {
        from.prefetch(row + kAhead, column);
        const auto lanes = static_cast<__mmask16>((1u << std::min(kLanes, end - column)) - 1);
        const __m512 before = _mm512_maskz_loadu_ps(lanes, sum + column);
        _mm512_mask_storeu_ps(sum + column, lanes, _mm512_add_ps(before, from.numbers(row, column)));
      }
    }
  });
}

#else

void sum_by_id(int64_t, ffi::Buffer<ffi::S32>, ffi::AnyBuffer, Result) {
  throw std::runtime_error("this processor has no bfloat16 products");
}

void product_over_rows(int64_t, ffi::AnyBuffer, ffi::AnyBuffer, ffi::AnyBuffer, Result, Result) {
  throw std::runtime_error("this processor has no bfloat16 products");
}

#endif

bool fits(ffi::AnyBuffer rows) {
  const auto type = rows.element_type();
  return rows.dimensions().size() == 2 && (type == ffi::F32 || type == ffi::BF16);
}

ffi::Error call(int64_t threads, ffi::AnyBuffer before, ffi::AnyBuffer x, ffi::AnyBuffer y, Result product,
                Result sum) {
  const auto top = before.dimensions(), rest = x.dimensions(), other = y.dimensions(),
             found = product->dimensions();
  if (!fits(before) || !fits(x) || !fits(y) || before.element_type() != x.element_type() ||
      top[1] != rest[1] || top[0] + rest[0] < other[0] || found.size() != 2 || found[0] != rest[1] ||
      found[1] != other[1] || sum->element_count() != static_cast<size_t>(other[1])) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument,
                      "expected rows of X for all of Y, their product, and a sum");
  }
  return caught("the packed rows", [&] { product_over_rows(threads, before, x, y, product, sum); });
}

ffi::Error call_by_id(int64_t threads, ffi::Buffer<ffi::S32> ids, ffi::AnyBuffer rows, Result sums) {
  const auto expected = rows.dimensions(), found = sums->dimensions();
  if (!fits(rows) || ids.element_count() != static_cast<size_t>(expected[0]) || found.size() != 2 ||
      found[1] != expected[1]) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "expected an id for each row, and sums as wide");
  }
  return caught("the sums", [&] { sum_by_id(threads, ids, rows, sums); });
}

}  // namespace
}  // namespace lmseq

XLA_FFI_DEFINE_HANDLER_SYMBOL(lmseq_product_over_rows, lmseq::call,
                              xla::ffi::Ffi::Bind()
                                  .Attr<int64_t>("threads")
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(lmseq_sum_by_id, lmseq::call_by_id,
                              xla::ffi::Ffi::Bind()
                                  .Attr<int64_t>("threads")
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>());
