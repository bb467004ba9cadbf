// X^T Y, contracted over rows that lie one after the other in memory, in float32 or of operands rounded to
// bfloat16, and the sum of Y's rows; and the same for an X of one-hot rows, which is a sum of rows by ids.
//
// They are the gradients of a kernel and a bias: X what came in, Y the cotangents of what went out. XLA on a
// CPU turns one of the operands first. In bfloat16 it has products only for operands that are contracted
// along a last axis, and takes any other in float32, at half the speed. Here rows are packed as they lie: in
// bfloat16 two of them make the pairs that the processor multiplies. Sums are in float32, in an order that
// threads do not change.

#include <algorithm>
#include <cstdint>

#include "caught.h"
#include "sweep.h"
#include "xla/ffi/api/ffi.h"

namespace lmseq {
namespace {

namespace ffi = xla::ffi;

using Result = ffi::ResultBuffer<ffi::F32>;

// Tiles of kTall columns of X and kWide vectors of columns of Y have their sums in registers. Of X, kTiles
// tiles are packed beside each other; so many items of Y at a time stay in a core's second cache.
constexpr int kTall = 6, kWide = kSums / kTall, kTiles = 8, kItems = 512, kAhead = 16;
constexpr int kPanelX = kTall * kTiles, kPanelY = kWide * kLanes;
static_assert(kPanelX % kLanes == 0);

// Rows of float32 or bfloat16, of which some others may stand before the first.
class Rows {
 public:
  explicit Rows(ffi::AnyBuffer all) : Rows(all, all) {}
  Rows(ffi::AnyBuffer before, ffi::AnyBuffer rest)
      : width_(rest.dimensions()[1]),
        num_before_(before.dimensions()[0]),
        before_(before),
        rest_(rest),
        is_half_(rest.element_type() == ffi::BF16) {}

  int width() const { return static_cast<int>(width_); }

  // Lanes of a row from a column on, zeros behind the last column.
  Vector at(int64_t row, int column) const {
#if defined(__AVX512BF16__)
    if (is_half_) return (Vector)_mm512_cvtpbh_ps((__m256bh)halves(row, column));
#endif
    return load(static_cast<const float*>(address(row, column)), lanes(column));
  }

#if defined(__AVX512BF16__)
  // The same rounded to bfloat16.
  __m256i rounded(int64_t row, int column) const {
    return is_half_ ? halves(row, column) : Bfloat16::round(at(row, column));
  }
#endif

  // Panels are read a few columns of a row at a time, which the processor does not foresee.
  void prefetch(int64_t row, int column) const { __builtin_prefetch(address(row, column)); }

 private:
  int lanes(int column) const { return static_cast<int>(std::min<int64_t>(kLanes, width_ - column)); }

#if defined(__AVX512BF16__)
  __m256i halves(int64_t row, int column) const {
    return _mm256_maskz_loadu_epi16(first_lanes(lanes(column)), address(row, column));
  }
#endif

  const void* address(int64_t row, int column) const {
    const bool is_before = row < num_before_;
    const ffi::AnyBuffer& from = is_before ? before_ : rest_;
    const int64_t first = (is_before ? row : row - num_before_) * width_ + column;
    return static_cast<const char*>(from.untyped_data()) + first * (is_half_ ? 2 : 4);
  }

  int64_t width_, num_before_;
  ffi::AnyBuffer before_, rest_;
  bool is_half_;
};

// Lanes of the columns of one row, or of a pair of rows side by side, of which the second may be missing.
inline void put(float* to, const Rows& rows, int64_t row, int64_t, int column) {
  store(to, rows.at(row, column));
}

#if defined(__AVX512BF16__)
inline void put(uint32_t* to, const Rows& rows, int64_t row, int64_t count, int column) {
  static const __m512i pairs = [] {
    alignas(64) uint16_t order[2 * kLanes];
    for (int i = 0; i < kLanes; ++i) order[2 * i] = i, order[2 * i + 1] = kLanes + i;
    return _mm512_load_si512(order);
  }();
  const __m256i next = row + 1 < count ? rows.rounded(row + 1, column) : _mm256_setzero_si256();
  const __m512i both = _mm512_inserti64x4(_mm512_zextsi256_si512(rows.rounded(row, column)), next, 1);
  _mm512_store_si512(to, _mm512_permutexvar_epi16(pairs, both));
}
#endif

// Columns [first, first + width) of rows [begin, count), as the items of a product: (items, width). Adds
// them, as they are, to the sums of the columns, where those are wanted.
template <class Format>
void pack(typename Format::Item* to, const Rows& rows, int64_t begin, int64_t count, int first, int width,
          float* sums = nullptr) {
  constexpr int kDepth = Format::kDepth;
  for (int64_t row = begin; row < count; row += kDepth) {
    for (int lane = 0; lane < width; lane += kLanes, to += kLanes) {
      const int column = first + lane;
      if (column >= rows.width()) {
        std::fill_n(to, kLanes, 0);
        continue;
      }
      for (int i = 0; i < kDepth; ++i) rows.prefetch(row + kAhead + i, column);
      put(to, rows, row, count, column);
      if (sums == nullptr) continue;
      Vector sum = load(sums + lane);
      for (int i = 0; i < kDepth && row + i < count; ++i) sum += rows.at(row + i, column);
      store(sums + lane, sum);
    }
  }
}

// sums += the tile's columns of X times a panel of Y, over so many items.
template <class Format>
inline void multiply(const typename Format::Item* x, const typename Format::Item* y, int64_t items,
                     Vector (&sums)[kTall][kWide]) {
  for (int64_t k = 0; k < items; ++k, x += kPanelX, y += kPanelY) {
#pragma GCC unroll 6
    for (int i = 0; i < kTall; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) sums[i][j] = Format::times(x[i], y + j * kLanes, sums[i][j]);
    }
  }
}

template <class Format>
void product_over_rows(int64_t threads, const Rows& left, const Rows& right, int64_t count, float* product,
                       float* sum) {
  using Item = typename Format::Item;
  constexpr int kDepth = Format::kDepth;
  const int64_t items = (count + kDepth - 1) / kDepth, block = std::min<int64_t>(kItems, items);
  const int tall = left.width(), wide = right.width();
  const int panels_x = (tall + kPanelX - 1) / kPanelX, panels_y = (wide + kPanelY - 1) / kPanelY;
  Block<Item> xs(panels_x * items * kPanelX), ys(panels_y * block * kPanelY);

  const auto tile = [&](const Item* y, int p, int column, int64_t from, int64_t size) {
    const Item* x = xs.data() + (column / kPanelX * items + from) * kPanelX + column % kPanelX;
    const int rows = std::min(kTall, tall - column);
    Vector sums[kTall][kWide];
    const auto each = [&](auto&& visit) {
#pragma GCC unroll 6
      for (int i = 0; i < kTall; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kWide; ++j) {
          const int first = p * kPanelY + j * kLanes, n = i < rows ? std::clamp(wide - first, 0, kLanes) : 0;
          visit(sums[i][j], product + static_cast<int64_t>(column + i) * wide + first, n);
        }
      }
    };
    each([&](Vector& sum, const float* at, int n) { sum = from ? load(at, n) : Vector{}; });
    multiply<Format>(x, y, size, sums);
    each([&](Vector& sum, float* at, int n) { store(at, sum, n); });
  };

  // X is packed in a step of its own, before the first; a block of a panel of Y by whoever uses it, just
  // before.
  const auto work = [&](int step, int p) {
    if (step == 0) {
      for (int q = p; q < panels_x; q += panels_y) {
        pack<Format>(xs.data() + q * items * kPanelX, left, 0, count, q * kPanelX, kPanelX);
      }
      return;
    }
    Item* y = ys.data() + p * block * kPanelY;
    float sums[kPanelY] = {};
    for (int64_t k = 0; k < std::max<int64_t>(items, 1); k += kItems) {
      const int64_t size = std::min<int64_t>(kItems, items - k);
      pack<Format>(y, right, kDepth * k, std::min(count, kDepth * (k + size)), p * kPanelY, kPanelY, sums);
      for (int i = 0; i < tall; i += kTall) tile(y, p, i, k, size);
    }
    std::copy_n(sums, std::min(kPanelY, wide - p * kPanelY), sum + p * kPanelY);
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
        const int n = std::min(kLanes, end - column);
        store(sum + column, load(sum + column, n) + from.at(row, column), n);
      }
    }
  });
}

bool fits(ffi::AnyBuffer rows) {
  const auto type = rows.element_type();
  return rows.dimensions().size() == 2 && (type == ffi::F32 || (type == ffi::BF16 && kHasBfloat16));
}

ffi::Error call(bool bfloat16, int64_t threads, ffi::AnyBuffer before, ffi::AnyBuffer x, ffi::AnyBuffer y,
                Result product, Result sum) {
  const auto top = before.dimensions(), rest = x.dimensions(), other = y.dimensions(),
             found = product->dimensions();
  if (!fits(before) || !fits(x) || !fits(y) || before.element_type() != x.element_type() ||
      top[1] != rest[1] || top[0] + rest[0] < other[0] || found.size() != 2 || found[0] != rest[1] ||
      found[1] != other[1] || sum->element_count() != static_cast<size_t>(other[1])) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument,
                      "expected rows of X for all of Y, their product, and a sum");
  }
  if (bfloat16 && !kHasBfloat16) {
    return ffi::Error(ffi::ErrorCode::kUnimplemented, "this processor has no bfloat16 products");
  }
  const auto run = bfloat16 ? product_over_rows<Bfloat16> : product_over_rows<Float32>;
  return caught("the packed rows", [&] {
    run(threads, Rows(before, x), Rows(y), other[0], product->typed_data(), sum->typed_data());
  });
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
                                  .Attr<bool>("bfloat16")
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
