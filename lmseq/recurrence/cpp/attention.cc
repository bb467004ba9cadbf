// Attention to the last W tokens, forward and backward, without any array of T times W scores.
//
// Arrays are those of lmseq/mixers/attention.py: (B, T, heads, features), the cache (B, W, ...) before them.
// A token stands at its place in the stream of both, 0 ... W + T - 1. Scores of kRows queries beside kKeys
// keys are made, turned into weights and spent while they are in a core's own cache; weights are relative to
// the largest score so far (Milakov and Gimelshein 2018), and the backward pass makes them again from the
// logarithm of their sum (Dao et al. 2022). A task is a head of a row of the batch: of queries forward, of
// keys backward, so that nothing is summed by two threads.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "caught.h"
#include "sweep.h"
#include "xla/ffi/api/ffi.h"

namespace lmseq {
namespace {

namespace ffi = xla::ffi;

using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;
using Out = ffi::ResultBuffer<ffi::F32>;

constexpr int kRows = 64, kKeys = 64;
constexpr int kWide = 2, kPanel = kWide * kLanes;  // columns of a panel
constexpr int kTall = kSums / kWide;               // rows whose sums are in registers at once
constexpr int kColumns = kKeys / kPanel;           // panels of a block's scores

int padded(int size, int unit) { return (size + unit - 1) / unit * unit; }

// A matrix as panels of kPanel columns, rows one after the other: the right operand of a product.
class Panels {
 public:
  Panels(int rows, int columns)
      : rows_(rows), number_(padded(columns, kPanel) / kPanel), items_(size_t(rows) * number_ * kPanel) {
    std::memset(items_.data(), 0, size_t(rows) * number_ * kPanel * sizeof(float));
  }
  float& at(int row, int column) {
    return items_.data()[(size_t(column / kPanel) * rows_ + row) * kPanel + column % kPanel];
  }
  const float* panel(int p, int row = 0) const { return items_.data() + (size_t(p) * rows_ + row) * kPanel; }
  int rows() const { return rows_; }
  int number() const { return number_; }

 private:
  int rows_, number_;
  Block<float> items_;
};

// A left operand: item k of row i stands at items[i * down + k * along], so that it may be one transposed.
struct LeftOperand {
  const float* items;
  ptrdiff_t down, along;
};

// out (M rows, `stride` apart, of a panel's width) += left times a panel of so many rows.
template <int M>
inline void add_tile(LeftOperand left, int depth, const float* panel, float* out, ptrdiff_t stride) {
  Vector sums[M][kWide];
#pragma GCC unroll 24
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < kWide; ++j) sums[i][j] = load(out + i * stride + j * kLanes);
  }
  for (int k = 0; k < depth; ++k, panel += kPanel) {
    Vector right[kWide];
    for (int j = 0; j < kWide; ++j) right[j] = load(panel + j * kLanes);
#pragma GCC unroll 24
    for (int i = 0; i < M; ++i) {
      const Vector item = fill(left.items[i * left.down + k * left.along]);
      for (int j = 0; j < kWide; ++j) sums[i][j] += item * right[j];
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < kWide; ++j) store(out + i * stride + j * kLanes, sums[i][j]);
  }
}

void add_product(LeftOperand left, int rows, int depth, const float* panel, float* out, ptrdiff_t stride) {
  const int tiles = (rows + kTall - 1) / kTall;
  for (int tile = 0; tile < tiles; ++tile) {
    const int first = rows * tile / tiles, number = rows * (tile + 1) / tiles - first;
    with_rows<kTall>(first, number, [&]<int M>(int row) {
      const LeftOperand here{left.items + row * left.down, left.down, left.along};
      add_tile<M>(here, depth, panel, out + row * stride, stride);
    });
  }
}

// out (rows, kKeys) = left times the columns of a block of keys, which begins at `start`.
void multiply_block(LeftOperand left, int rows, const Panels& right, int start, float* out) {
  std::fill(out, out + rows * kKeys, 0.0f);
  for (int p = 0; p < kColumns; ++p) {
    add_product(left, rows, right.rows(), right.panel(start / kPanel + p), out + p * kPanel, kKeys);
  }
}

struct Sizes {
  int batch, time, window, heads, shared, width;  // B, T, W, N, N_kv, d

  static Sizes of(Floats queries, Floats cached) {
    const auto q = queries.dimensions(), k = cached.dimensions();
    return {int(q[0]), int(q[1]), int(k[1]), int(q[2]), int(k[2]), int(q[3])};
  }
  int places() const { return window + time; }
  int padded_width() const { return padded(width, kPanel); }
  size_t query(int b, int t, int head) const {
    return ((size_t(b) * time + t) * heads + head) * size_t(width);
  }
  // Of a place's key, in the array of the cache or in that of the new ones.
  size_t key(int b, int place, int head) const {
    const int length = place < window ? window : time, t = place < window ? place : place - window;
    return ((size_t(b) * length + t) * shared + head) * size_t(width);
  }
  // The first place that anything sees.
  int first(int filled) const { return window - std::clamp(filled, 0, window); }
};

// Cosines and sines by which a place turns a pair of coordinates, (W + T, d / 2) each.
class Turns {
 public:
  Turns(const Sizes& sizes, double theta)
      : half_(sizes.width / 2), items_(size_t(sizes.places()) * 2 * half_) {
    for (int i = 0; i < half_; ++i) {
      const double frequency = std::pow(theta, -double(i) / half_);
      const double cos = std::cos(frequency), sin = std::sin(frequency);
      double x = 1, y = 0;
      for (int place = 0; place < sizes.places(); ++place) {
        if (place % 1024 == 0) x = std::cos(place * frequency), y = std::sin(place * frequency);
        items_[size_t(place) * 2 * half_ + i] = float(x);
        items_[size_t(place) * 2 * half_ + half_ + i] = float(y);
        const double next = x * cos - y * sin;
        y = x * sin + y * cos, x = next;
      }
    }
  }

  // A row times a factor, turned to where its place stands, or back.
  void turn(const float* from, float* to, int place, float factor, bool back = false) const {
    const float *cos = items_.data() + size_t(place) * 2 * half_, *sin = cos + half_;
    const float way = back ? -1.0f : 1.0f;
    for (int i = 0; i < half_; ++i) {
      const float x = factor * from[i], y = factor * from[half_ + i], s = way * sin[i];
      to[i] = x * cos[i] - y * s;
      to[half_ + i] = x * s + y * cos[i];
    }
  }

 private:
  int half_;
  std::vector<float> items_;
};

// Some rows of queries at the places from `place` on, and what each of them may see.
struct Queries {
  int first, rows, place;

  Queries(const Sizes& sizes, int first)
      : first(first), rows(std::min(kRows, sizes.time - first)), place(sizes.window + first) {}

  // work(start of the block) for each block of keys, counted from `base`, that any row sees a key of.
  template <class Work>
  void for_keys(const Sizes& sizes, int base, Work&& work) const {
    const int oldest = std::max(place - sizes.window + 1 - base, 0);
    for (int start = oldest / kKeys * kKeys; base + start < place + rows; start += kKeys) work(start);
  }

  // Scores -inf where a row does not see a key.
  void hide(const Sizes& sizes, int key, float* scores) const {
    if (key + kKeys - 1 <= place && key > place + rows - 1 - sizes.window) return;
    for (int row = 0; row < rows; ++row) {
      float* of_row = scores + row * kKeys;
      const int begin = std::clamp(place + row - sizes.window + 1 - key, 0, kKeys);
      const int end = std::clamp(place + row + 1 - key, begin, kKeys);
      std::fill(of_row, of_row + begin, -INFINITY);
      std::fill(of_row + end, of_row + kKeys, -INFINITY);
    }
  }
};

// The keys and values of a head that anything sees, as operands.
struct Seen {
  int base, number;
  Panels keys;    // (d, number), turned
  Panels values;  // (number, d)

  Seen(const Sizes& sizes, int b, int head, int filled, const Turns& turns, Floats cached_keys,
       Floats cached_values, Floats new_keys, Floats new_values)
      : base(sizes.first(filled)),
        number(sizes.places() - base),
        keys(sizes.width, padded(number, kKeys)),
        values(padded(number, kKeys), sizes.width) {
    std::vector<float> turned(sizes.width);
    for (int j = 0; j < number; ++j) {
      const int place = base + j;
      const size_t at = sizes.key(b, place, head);
      const bool old = place < sizes.window;
      turns.turn((old ? cached_keys : new_keys).typed_data() + at, turned.data(), place, 1.0f);
      const float* value = (old ? cached_values : new_values).typed_data() + at;
      for (int i = 0; i < sizes.width; ++i) keys.at(i, j) = turned[i], values.at(j, i) = value[i];
    }
  }
};

// scores (rows, kKeys) of turned queries beside the block of keys that begins at `start`.
void score(const Sizes& sizes, const Queries& queries, const Seen& seen, const float* turned, int start,
           float* scores) {
  multiply_block({turned, sizes.width, 1}, queries.rows, seen.keys, start, scores);
  queries.hide(sizes, seen.base + start, scores);
}

float largest(const float* row) {
  Vector most = load(row);
  for (int j = kLanes; j < kKeys; j += kLanes) {
    const Vector next = load(row + j);
    most = next > most ? next : most;
  }
  float found = most[0];
  for (int i = 1; i < kLanes; ++i) found = std::max(found, most[i]);
  return found;
}

// The row's numbers become exp(x - shift); their sum.
float weigh(float* row, float shift) {
  Vector sums{};
  for (int j = 0; j < kKeys; j += kLanes) {
    const Vector weights = exp_of(load(row + j) - shift);
    store(row + j, weights);
    sums += weights;
  }
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += sums[i];
  return sum;
}

// Tasks over the threads of the team, one for each head of so many in a row of the batch.
template <class Task>
void share_out(int64_t threads, const Sizes& sizes, int heads, Task&& task) {
  const int tasks = sizes.batch * heads;
  const double work = double(sizes.batch) * sizes.heads * sizes.time * sizes.window * sizes.width;
  const int most = static_cast<int>(std::clamp(work / kWorthwhile, 1.0, double(std::max(tasks, 1))));
  Team::of_process().run(static_cast<int>(std::min<int64_t>(threads, most)), 1, tasks,
                         [&](int, int i) { task(i); });
}

void attention_forward(int64_t threads, double theta, Floats all_queries, Floats new_keys, Floats new_values,
                       Floats cached_keys, Floats cached_values, Integers filled, Out read, Out normalizers) {
  const Sizes sizes = Sizes::of(all_queries, cached_keys);
  const Turns turns(sizes, theta);
  const int width = sizes.width, stride = sizes.padded_width();
  const float scale = 1.0f / std::sqrt(float(width));

  const auto head_of_row = [&](int task) {
    const int b = task / sizes.heads, head = task % sizes.heads;
    const Seen seen(sizes, b, head / (sizes.heads / sizes.shared), filled.typed_data()[b], turns, cached_keys,
                    cached_values, new_keys, new_values);
    Block<float> turned(kRows * width), scores(kRows * kKeys), sums(kRows * stride);
    float top[kRows], total[kRows];
    for (int first = 0; first < sizes.time; first += kRows) {
      const Queries queries(sizes, first);
      for (int row = 0; row < queries.rows; ++row) {
        turns.turn(all_queries.typed_data() + sizes.query(b, first + row, head), turned.data() + row * width,
                   queries.place + row, scale);
      }
      std::fill(top, top + kRows, -FLT_MAX);
      std::fill(total, total + kRows, 0.0f);
      std::fill(sums.data(), sums.data() + kRows * stride, 0.0f);
      queries.for_keys(sizes, seen.base, [&](int start) {
        score(sizes, queries, seen, turned.data(), start, scores.data());
        for (int row = 0; row < queries.rows; ++row) {
          float* of_row = scores.data() + row * kKeys;
          const float now = std::max(top[row], largest(of_row)), kept = std::exp(top[row] - now);
          total[row] = total[row] * kept + weigh(of_row, now);
          for (int i = 0; i < stride; ++i) sums.data()[row * stride + i] *= kept;
          top[row] = now;
        }
        for (int p = 0; p < seen.values.number(); ++p) {
          add_product({scores.data(), kKeys, 1}, queries.rows, kKeys, seen.values.panel(p, start),
                      sums.data() + p * kPanel, stride);
        }
      });
      for (int row = 0; row < queries.rows; ++row) {
        float* to = read->typed_data() + sizes.query(b, first + row, head);
        for (int i = 0; i < width; ++i) to[i] = sums.data()[row * stride + i] / total[row];
        normalizers->typed_data()[size_t(task) * sizes.time + first + row] = top[row] + std::log(total[row]);
      }
    }
  };
  share_out(threads, sizes, sizes.heads, head_of_row);
}

void attention_backward(int64_t threads, double theta, Floats all_queries, Floats new_keys, Floats new_values,
                        Floats cached_keys, Floats cached_values, Integers filled, Floats read,
                        Floats normalizers, Floats d_read, Out d_queries, Out d_new_keys, Out d_new_values,
                        Out d_cached_keys, Out d_cached_values) {
  const Sizes sizes = Sizes::of(all_queries, cached_keys);
  const Turns turns(sizes, theta);
  const int width = sizes.width, stride = sizes.padded_width(), group = sizes.heads / sizes.shared;
  const float scale = 1.0f / std::sqrt(float(width));

  const auto head_of_row = [&](int task) {
    const int b = task / sizes.shared, shared = task % sizes.shared;
    const Seen seen(sizes, b, shared, filled.typed_data()[b], turns, cached_keys, cached_values, new_keys,
                    new_values);
    const int length = padded(seen.number, kKeys);
    Panels key_rows(length, width), value_columns(width, length);
    Panels query_rows(kRows, width), d_rows(kRows, width);
    for (int j = 0; j < seen.number; ++j) {
      for (int i = 0; i < width; ++i) {
        key_rows.at(j, i) = seen.keys.panel(j / kPanel, i)[j % kPanel];
        value_columns.at(i, j) = seen.values.panel(i / kPanel, j)[i % kPanel];
      }
    }
    Block<float> turned(kRows * width), scores(kRows * kKeys), slopes(kRows * kKeys),
        d_turned(kRows * stride), d_keys(size_t(length) * stride), d_values(size_t(length) * stride);
    std::fill(d_keys.data(), d_keys.data() + size_t(length) * stride, 0.0f);
    std::fill(d_values.data(), d_values.data() + size_t(length) * stride, 0.0f);
    float means[kRows], shifts[kRows];

    for (int head = shared * group; head < (shared + 1) * group; ++head) {
      for (int first = 0; first < sizes.time; first += kRows) {
        const Queries queries(sizes, first);
        for (int row = 0; row < queries.rows; ++row) {
          const size_t at = sizes.query(b, first + row, head);
          float* now = turned.data() + row * width;
          turns.turn(all_queries.typed_data() + at, now, queries.place + row, scale);
          means[row] = 0;
          for (int i = 0; i < width; ++i) {
            const float slope = d_read.typed_data()[at + i];
            query_rows.at(row, i) = now[i];
            d_rows.at(row, i) = slope;
            means[row] += slope * read.typed_data()[at + i];
          }
          shifts[row] = normalizers.typed_data()[(size_t(b) * sizes.heads + head) * sizes.time + first + row];
        }
        const LeftOperand d_out{d_read.typed_data() + sizes.query(b, first, head), sizes.heads * width, 1};
        std::fill(d_turned.data(), d_turned.data() + kRows * stride, 0.0f);
        queries.for_keys(sizes, seen.base, [&](int start) {
          score(sizes, queries, seen, turned.data(), start, scores.data());
          multiply_block(d_out, queries.rows, value_columns, start, slopes.data());
          for (int row = 0; row < queries.rows; ++row) {
            float *weights = scores.data() + row * kKeys, *slope = slopes.data() + row * kKeys;
            weigh(weights, shifts[row]);
            for (int j = 0; j < kKeys; j += kLanes) {
              store(slope + j, load(weights + j) * (load(slope + j) - means[row]));
            }
          }
          const size_t at = size_t(start) * stride;
          for (int p = 0; p < stride / kPanel; ++p) {
            const int column = p * kPanel;
            add_product({scores.data(), 1, kKeys}, kKeys, queries.rows, d_rows.panel(p),
                        d_values.data() + at + column, stride);
            add_product({slopes.data(), 1, kKeys}, kKeys, queries.rows, query_rows.panel(p),
                        d_keys.data() + at + column, stride);
            add_product({slopes.data(), kKeys, 1}, queries.rows, kKeys, key_rows.panel(p, start),
                        d_turned.data() + column, stride);
          }
        });
        for (int row = 0; row < queries.rows; ++row) {
          turns.turn(d_turned.data() + row * stride,
                     d_queries->typed_data() + sizes.query(b, first + row, head), queries.place + row, scale,
                     true);
        }
      }
    }
    for (int place = 0; place < sizes.places(); ++place) {
      const size_t at = sizes.key(b, place, shared), from = size_t(place - seen.base) * stride;
      float* d_key = (place < sizes.window ? d_cached_keys : d_new_keys)->typed_data() + at;
      float* d_value = (place < sizes.window ? d_cached_values : d_new_values)->typed_data() + at;
      if (place < seen.base) {
        std::fill(d_key, d_key + width, 0.0f);
        std::fill(d_value, d_value + width, 0.0f);
      } else {
        turns.turn(d_keys.data() + from, d_key, place, 1.0f, true);
        std::copy_n(d_values.data() + from, width, d_value);
      }
    }
  };
  share_out(threads, sizes, sizes.shared, head_of_row);
}

template <auto function>
struct Caught;

template <class... Arguments, void (*function)(Arguments...)>
struct Caught<function> {
  static ffi::Error call(Arguments... arguments) {
    return caught("the keys that attention reads", [&] { function(arguments...); });
  }
};

auto bound() { return ffi::Ffi::Bind().Attr<int64_t>("threads").Attr<double>("theta"); }

}  // namespace
}  // namespace lmseq

#define IN .Arg<lmseq::Floats>()
#define COUNTS .Arg<lmseq::Integers>()
#define OUT .Ret<lmseq::Floats>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(lmseq_attention_forward, lmseq::Caught<&lmseq::attention_forward>::call,
                              lmseq::bound() IN IN IN IN IN COUNTS OUT OUT);
XLA_FFI_DEFINE_HANDLER_SYMBOL(lmseq_attention_backward, lmseq::Caught<&lmseq::attention_backward>::call,
                              lmseq::bound() IN IN IN IN IN COUNTS IN IN IN OUT OUT OUT OUT OUT);
