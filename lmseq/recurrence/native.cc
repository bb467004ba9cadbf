// The loops of tanh, GRU and LSTM layers over time, compiled for the processor at hand.
//
// A step of a recurrence is a product, h U, and a little arithmetic for every element of what comes out. XLA
// runs the two one after the other, writes the product to memory in between, and starts its threads anew for
// each step. Here the recurrent weights are packed once into panels whose columns are the gates of the same
// few units, so that a tile of rows finishes its product and its gates within the registers; threads share
// the units out for the whole sequence and meet once a step. Everything before and after the loop is XLA's.
//
// Arrays are those of lmseq/recurrence/derivative.py, time-major and contiguous; so are the formulas.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// ---- Vectors of the widest registers there are, and how many of them may hold sums at once.

#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 24;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kSums = 12;
#else
constexpr int kLanes = 4, kSums = 24;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector fill(float x) { return x - Vector{}; }

// The first n lanes; what lies behind them in memory is not touched.
inline Vector load(const float* from, int n = kLanes) {
  if (n == kLanes) return *reinterpret_cast<const Unaligned*>(from);
  Vector x{};
  for (int i = 0; i < n; ++i) x[i] = from[i];
  return x;
}

inline void store(float* to, Vector x, int n = kLanes) {
  if (n == kLanes) {
    *reinterpret_cast<Unaligned*>(to) = x;
  } else {
    for (int i = 0; i < n; ++i) to[i] = x[i];
  }
}

// The rational function of lmseq/recurrence/cells.py. Comparisons that fail leave a NaN as it is.
inline Vector tanh_of(Vector x) {
  const Vector bound = fill(7.90531f);
  x = x > bound ? bound : x;
  x = x < -bound ? -bound : x;
  const Vector square = x * x;
  Vector above = square * 1.541764452e-08f + 2.201656294e-05f;
  above = above * square + 3.578609020e-03f;
  above = above * square + 1.345030374e-01f;
  above = above * square + 9.999999943e-01f;
  Vector below = square * 8.594802631e-07f + 3.423009564e-04f;
  below = below * square + 2.619079919e-02f;
  below = below * square + 4.678363171e-01f;
  below = below * square + 1.0f;
  return x * above / below;
}

inline Vector sigmoid_of(Vector x) { return 0.5f + 0.5f * tanh_of(0.5f * x); }

// ---- Threads that stay: a job takes those that are idle, so that jobs beside each other never wait.

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  void wait() {
    const int phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    // A step takes tens of microseconds; whoever waits longer may stand on the core that its partner needs.
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
      if (spins > 1000) std::this_thread::yield();
#if defined(__x86_64__)
      else __builtin_ia32_pause();
#endif
    }
  }

 private:
  const int count_;
  std::atomic<int> arrived_{0}, phase_{0};
};

// The core that a thread runs on, for others to keep away from. Two threads that meet every few microseconds
// and were woken on the same core would otherwise share it for milliseconds before the system parts them.
class Core {
 public:
  Core() {
#if defined(__linux__)
    CPU_ZERO(&others_);
    if (sched_getaffinity(0, sizeof others_, &others_) == 0) CPU_CLR(sched_getcpu(), &others_);
#endif
  }

  void avoid() const {
#if defined(__linux__)
    if (CPU_COUNT(&others_) > 0) sched_setaffinity(0, sizeof others_, &others_);
#endif
  }

 private:
#if defined(__linux__)
  cpu_set_t others_;
#endif
};

class Team {
 public:
  using Work = std::function<void(int index, int count, Barrier& barrier)>;

  // The work on the caller's thread and on up to most - 1 others, fewer where they are taken.
  void run(int most, const Work& work) {
    std::vector<Worker*> mine;
    {
      std::lock_guard<std::mutex> hold(mutex_);
      while (static_cast<int>(workers_.size()) + 1 < most) {
        workers_.push_back(std::make_unique<Worker>());
        idle_.push_back(workers_.back().get());
        std::thread(&Team::serve, this, idle_.back()).detach();
      }
      while (!idle_.empty() && static_cast<int>(mine.size()) + 1 < most) {
        mine.push_back(idle_.back());
        idle_.pop_back();
      }
    }
    const int count = static_cast<int>(mine.size()) + 1;
    const Core core;
    Barrier barrier(count);
    {
      std::lock_guard<std::mutex> hold(mutex_);
      for (int i = 1; i < count; ++i) {
        mine[i - 1]->job = [&work, &barrier, &core, i, count] {
          core.avoid();
          work(i, count, barrier);
        };
      }
    }
    if (count > 1) wake_.notify_all();
    work(0, count, barrier);
    std::unique_lock<std::mutex> hold(mutex_);
    done_.wait(hold, [&] { return std::all_of(mine.begin(), mine.end(), [](auto* one) { return !one->job; }); });
    idle_.insert(idle_.end(), mine.begin(), mine.end());
  }

  // Never destroyed: its threads wait until the process ends.
  static Team& of_process() {
    static Team* team = new Team;
    return *team;
  }

 private:
  struct Worker {
    std::function<void()> job;
  };

  void serve(Worker* self) {
    std::unique_lock<std::mutex> hold(mutex_);
    for (;;) {
      wake_.wait(hold, [&] { return static_cast<bool>(self->job); });
      hold.unlock();
      self->job();
      hold.lock();
      self->job = nullptr;
      done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
};

// ---- Memory that vectors can be read from.

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

// ---- Operands of a product: float32, or bfloat16 in pairs with sums in float32.

// A format has items of kDepth numbers along the contracted axis, and, where the left operand is not the
// float32 array that a step leaves behind, two buffers for it that steps write and read in turn.
struct Float32 {
  using Item = float;
  static constexpr int kDepth = 1;
  static constexpr bool kBuffered = false;

  static void pack(Item* to, const float* const rows[1], int n) { store(to, load(rows[0], n)); }
  static Vector times(Item left, const Item* right, Vector sum) {
    return sum + fill(left) * load(right);
  }
};

#if defined(__AVX512BF16__)
struct Bfloat16 {
  using Item = uint32_t;
  static constexpr int kDepth = 2;
  static constexpr bool kBuffered = true;

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

// ---- The loop.

struct Shape {
  int time, rows, units;  // T, B, H
  size_t at(int t, int row) const { return (static_cast<size_t>(t) * rows + row) * units; }
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
      : rows_(rows), depth_(depth), items_((depth + Format::kDepth - 1) / Format::kDepth),
        buffers_(Format::kBuffered ? 2 * static_cast<size_t>(rows) * items_ : 0) {
    if (Format::kBuffered) std::memset(buffers_.data(), 0, 2 * static_cast<size_t>(rows) * items_ * sizeof(Item));
  }

  // Numbers for step t to read, n of them from column on, which were also written where `row` finds them.
  void put(int t, int row, int column, Vector x, int n) {
#if defined(__AVX512BF16__)
    if constexpr (Format::kBuffered) {
      uint16_t halves[kLanes];
      _mm256_storeu_si256((__m256i*)halves, Format::round(x));
      uint16_t* to = reinterpret_cast<uint16_t*>(buffer(t) + row * items_) + column;
      std::memcpy(to, halves, n * sizeof(uint16_t));
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

// sums = left (M rows, `stride` items apart) times a panel.
template <class Format, int M, int N>
inline void multiply(const typename Format::Item* left, int items, const typename Format::Item* panel,
                     Vector (&sums)[M][N]) {
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) sums[i][j] = Vector{};
  }
  for (int k = 0; k < items; ++k, panel += N * kLanes) {
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

// For t = first, first + step, ... (count of them): sums = left_t W, and `finish(t, row, p, sums of the row)`
// for every row and panel; W is (depth, gates * H) in memory. `array(t)` is the left operand in float32, or
// null where there is nothing to multiply and the sums are zero.
template <class Format, class Cut, class Array, class Finish>
void sweep(int threads, const Shape& shape, int depth, const float* weights, int first, int step, int count,
           Left<Format>& left, Array&& array, Finish&& finish) {
  constexpr int N = Cut::kVectors, most = kSums / N;
  constexpr int gates = N / (Cut::kUnits / kLanes);
  const int panels = (shape.units + Cut::kUnits - 1) / Cut::kUnits, items = left.items();
  const size_t panel_size = static_cast<size_t>(items) * N * kLanes, width = static_cast<size_t>(gates) * shape.units;
  const int tiles = (shape.rows + most - 1) / most;
  Block<typename Format::Item> packed(panels * panel_size);

  Team::of_process().run(std::min(threads, panels), [&](int index, int number, Barrier& barrier) {
    const int from = panels * index / number, to = panels * (index + 1) / number;
    for (int p = from; p < to; ++p) {
      auto* out = packed.data() + p * panel_size;
      for (int k = 0; k < depth; k += Format::kDepth) {
        for (int j = 0; j < N; ++j, out += kLanes) {
          const float* rows[Format::kDepth];
          const float* row = weights + k * width + static_cast<size_t>(Cut::gate(j)) * shape.units + Cut::unit(p, j);
          for (int i = 0; i < Format::kDepth; ++i) rows[i] = k + i < depth ? row + i * width : nullptr;
          Format::pack(out, rows, Cut::lanes(p, j, shape.units));
        }
      }
    }
    for (int i = 0, t = first; i < count; ++i, t += step) {
      const float* now = array(t);
      for (int p = from; p < to; ++p) {
        for (int tile = 0; tile < tiles; ++tile) {
          const int row = shape.rows * tile / tiles, rows = shape.rows * (tile + 1) / tiles - row;
          with_rows<most>(row, rows, [&]<int M>(int row) {
            Vector sums[M][N];
            if (now == nullptr) {
              for (auto& each : sums) std::fill(std::begin(each), std::end(each), Vector{});
            } else {
              multiply<Format, M, N>(left.row(t, row, now), items, packed.data() + p * panel_size, sums);
            }
#pragma GCC unroll 24
            for (int m = 0; m < M; ++m) finish(t, row + m, p, sums[m]);
          });
        }
      }
      barrier.wait();
    }
  });
}

// A core is worth its share of at least so many multiplications a step.
constexpr double kWorthwhile = 1 << 19;

int threads_for(const Shape& shape, int gates, int64_t most) {
  const double work = static_cast<double>(shape.rows) * shape.units * shape.units * gates;
  return static_cast<int>(std::clamp(work / kWorthwhile, 1.0, static_cast<double>(std::max<int64_t>(most, 1))));
}

// ---- The cells. Forward: states from projected inputs. Backward: the deltas of the gates from what the
// forward pass kept; step t = T ... 0 has dh_t = delta_{t+1} U^T + (the cotangent of output t), and step 0
// leaves that of the initial state.

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

Shape shape_of(Array steps) {
  const auto dims = steps.dimensions();
  return {static_cast<int>(dims[0]), static_cast<int>(dims[1]), static_cast<int>(dims[2])};
}

template <class Format>
void rnn_forward(int64_t threads, Array x, Array kernel, Array initial, Result outputs) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(*outputs);
  const float* in = x.typed_data();
  float* out = outputs->typed_data();
  Left<Format> left(shape.rows, shape.units);
  left.put(0, initial.typed_data());
  sweep<Format, Cut>(
      threads_for(shape, 1, threads), shape, shape.units, kernel.typed_data(), 0, 1, shape.time, left,
      [&](int t) { return t ? out + shape.at(t - 1, 0) : initial.typed_data(); },
      [&](int t, int row, int p, Vector (&sums)[2]) {
        for (int j = 0; j < 2; ++j) {
          const int unit = Cut::unit(p, j), n = Cut::lanes(p, j, shape.units);
          if (n == 0) continue;
          const size_t at = shape.at(t, row) + unit;
          const Vector hidden = tanh_of(sums[j] + load(in + at, n));
          store(out + at, hidden, n);
          left.put(t + 1, row, unit, hidden, n);
        }
      });
}

template <class Format>
void rnn_backward(int64_t threads, Array transposed, Array outputs, Array d_outputs, Array d_last, Result deltas,
                  Result d_initial) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(outputs);
  float* delta = deltas->typed_data();
  Left<Format> left(shape.rows, shape.units);
  sweep<Format, Cut>(
      threads_for(shape, 1, threads), shape, shape.units, transposed.typed_data(), shape.time, -1, shape.time + 1, left,
      [&](int t) { return t < shape.time ? delta + shape.at(t, 0) : nullptr; },
      [&](int t, int row, int p, Vector (&sums)[2]) {
        for (int j = 0; j < 2; ++j) {
          const int unit = Cut::unit(p, j), n = Cut::lanes(p, j, shape.units);
          if (n == 0) continue;
          const size_t state = shape.at(0, row) + unit;
          Vector d_hidden = t < shape.time ? sums[j] : load(d_last.typed_data() + state, n);
          if (t == 0) {
            store(d_initial->typed_data() + state, d_hidden, n);
            continue;
          }
          const size_t at = shape.at(t - 1, row) + unit;
          const Vector hidden = load(outputs.typed_data() + at, n);
          d_hidden += load(d_outputs.typed_data() + at, n);
          const Vector found = d_hidden * (1.0f - hidden * hidden);
          store(delta + at, found, n);
          left.put(t - 1, row, unit, found, n);
        }
      });
}

// gates r, z (T, B, 2H), candidate and h U_n + b (T, B, H); none of the three is kept if they are empty.
template <class Format>
void gru_forward(int64_t threads, Array x, Array kernel, Array bias, Array initial, Result gates, Result candidates,
                 Result recurrents, Result outputs) {
  using Cut = Columns<3, 1>;
  const Shape shape = shape_of(*outputs);
  const int units = shape.units;
  const bool keep = gates->element_count() > 0;
  float* out = outputs->typed_data();
  Left<Format> left(shape.rows, units);
  left.put(0, initial.typed_data());
  sweep<Format, Cut>(
      threads_for(shape, 3, threads), shape, units, kernel.typed_data(), 0, 1, shape.time, left,
      [&](int t) { return t ? out + shape.at(t - 1, 0) : initial.typed_data(); },
      [&](int t, int row, int p, Vector (&sums)[3]) {
        const int unit = Cut::unit(p, 0), n = Cut::lanes(p, 0, units);
        const size_t at = shape.at(t, row);
        const float* in = x.typed_data() + 3 * at + unit;
        const float* before = (t ? out + shape.at(t - 1, row) : initial.typed_data() + shape.at(0, row)) + unit;
        const Vector reset = sigmoid_of(sums[0] + load(in, n)), keeps = sigmoid_of(sums[1] + load(in + units, n));
        const Vector recurrent = sums[2] + load(bias.typed_data() + unit, n);
        const Vector candidate = tanh_of(load(in + 2 * units, n) + reset * recurrent);
        const Vector hidden = candidate + keeps * (load(before, n) - candidate);
        if (keep) {
          store(gates->typed_data() + 2 * at + unit, reset, n);
          store(gates->typed_data() + 2 * at + units + unit, keeps, n);
          store(candidates->typed_data() + at + unit, candidate, n);
          store(recurrents->typed_data() + at + unit, recurrent, n);
        }
        store(out + at + unit, hidden, n);
        left.put(t + 1, row, unit, hidden, n);
      });
}

// deltas of r, z and h U_n + b, packed; d_xs the same with that of x_n in the last place.
template <class Format>
void gru_backward(int64_t threads, Array transposed, Array gates, Array candidates, Array recurrents, Array outputs,
                  Array initial, Array d_outputs, Array d_last, Result deltas, Result d_xs, Result d_initial) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(outputs);
  const int units = shape.units;
  float *delta = deltas->typed_data(), *carried = d_initial->typed_data();
  Left<Format> left(shape.rows, 3 * units);
  sweep<Format, Cut>(
      threads_for(shape, 3, threads), shape, 3 * units, transposed.typed_data(), shape.time, -1, shape.time + 1, left,
      [&](int t) { return t < shape.time ? delta + 3 * shape.at(t, 0) : nullptr; },
      [&](int t, int row, int p, Vector (&sums)[2]) {
        for (int j = 0; j < 2; ++j) {
          const int unit = Cut::unit(p, j), n = Cut::lanes(p, j, units);
          if (n == 0) continue;
          const size_t state = shape.at(0, row) + unit;
          // What reaches h_{t-1} past the product, dh_t z_t, waits where the initial state's gradient will be.
          Vector d_hidden = t < shape.time ? sums[j] + load(carried + state, n) : load(d_last.typed_data() + state, n);
          if (t > 0) {
            const size_t at = shape.at(t - 1, row);
            const float* gate = gates.typed_data() + 2 * at + unit;
            const Vector reset = load(gate, n), keeps = load(gate + units, n);
            const Vector candidate = load(candidates.typed_data() + at + unit, n);
            const Vector recurrent = load(recurrents.typed_data() + at + unit, n);
            const float* before = t > 1 ? outputs.typed_data() + shape.at(t - 2, row) + unit : initial.typed_data() + state;
            d_hidden += load(d_outputs.typed_data() + at + unit, n);
            const Vector d_new = d_hidden * (1.0f - keeps) * (1.0f - candidate * candidate);
            const Vector found[3] = {d_new * recurrent * reset * (1.0f - reset),
                                     d_hidden * (load(before, n) - candidate) * keeps * (1.0f - keeps), d_new * reset};
            for (int g = 0; g < 3; ++g) {
              const size_t to = 3 * at + g * units + unit;
              store(delta + to, found[g], n);
              store(d_xs->typed_data() + to, g < 2 ? found[g] : d_new, n);
              left.put(t - 1, row, g * units + unit, found[g], n);
            }
            d_hidden = d_hidden * keeps;
          }
          store(carried + state, d_hidden, n);
        }
      });
}

// gates i, f, g, o (T, B, 4H) and c (T, B, H); where the gates are empty, only the last c is kept, (1, B, H).
template <class Format>
void lstm_forward(int64_t threads, Array x, Array kernel, Array initial, Array memory, Result gates, Result cells,
                  Result outputs) {
  using Cut = Columns<4, 1>;
  const Shape shape = shape_of(*outputs);
  const int units = shape.units;
  const bool keep = gates->element_count() > 0;
  float *out = outputs->typed_data(), *cell = cells->typed_data();
  Left<Format> left(shape.rows, units);
  left.put(0, initial.typed_data());
  sweep<Format, Cut>(
      threads_for(shape, 4, threads), shape, units, kernel.typed_data(), 0, 1, shape.time, left,
      [&](int t) { return t ? out + shape.at(t - 1, 0) : initial.typed_data(); },
      [&](int t, int row, int p, Vector (&sums)[4]) {
        const int unit = Cut::unit(p, 0), n = Cut::lanes(p, 0, units);
        const size_t at = shape.at(t, row);
        const float* in = x.typed_data() + 4 * at + unit;
        const float* before = (t ? cell + shape.at(keep ? t - 1 : 0, row) : memory.typed_data() + shape.at(0, row)) + unit;
        const Vector i = sigmoid_of(sums[0] + load(in, n)), f = sigmoid_of(sums[1] + load(in + units, n));
        const Vector g = tanh_of(sums[2] + load(in + 2 * units, n)), o = sigmoid_of(sums[3] + load(in + 3 * units, n));
        const Vector c = f * load(before, n) + i * g, hidden = o * tanh_of(c);
        if (keep) {
          float* gate = gates->typed_data() + 4 * at + unit;
          store(gate, i, n);
          store(gate + units, f, n);
          store(gate + 2 * units, g, n);
          store(gate + 3 * units, o, n);
        }
        store(cell + shape.at(keep ? t : 0, row) + unit, c, n);
        store(out + at + unit, hidden, n);
        left.put(t + 1, row, unit, hidden, n);
      });
}

template <class Format>
void lstm_backward(int64_t threads, Array transposed, Array gates, Array cells, Array memory, Array d_outputs,
                   Array d_hidden_last, Array d_cell_last, Result deltas, Result d_hidden_first, Result d_cell_first) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(cells);
  const int units = shape.units;
  float *delta = deltas->typed_data(), *d_cell = d_cell_first->typed_data();
  Left<Format> left(shape.rows, 4 * units);
  sweep<Format, Cut>(
      threads_for(shape, 4, threads), shape, 4 * units, transposed.typed_data(), shape.time, -1, shape.time + 1, left,
      [&](int t) { return t < shape.time ? delta + 4 * shape.at(t, 0) : nullptr; },
      [&](int t, int row, int p, Vector (&sums)[2]) {
        for (int j = 0; j < 2; ++j) {
          const int unit = Cut::unit(p, j), n = Cut::lanes(p, j, units);
          if (n == 0) continue;
          const size_t state = shape.at(0, row) + unit;
          Vector d_hidden = t < shape.time ? sums[j] : load(d_hidden_last.typed_data() + state, n);
          if (t == 0) {
            store(d_hidden_first->typed_data() + state, d_hidden, n);
            if (shape.time == 0) store(d_cell + state, load(d_cell_last.typed_data() + state, n), n);
            continue;
          }
          const size_t at = shape.at(t - 1, row);
          const float* gate = gates.typed_data() + 4 * at + unit;
          const Vector i = load(gate, n), f = load(gate + units, n);
          const Vector g = load(gate + 2 * units, n), o = load(gate + 3 * units, n);
          const Vector squashed = tanh_of(load(cells.typed_data() + at + unit, n));
          const float* before = (t > 1 ? cells.typed_data() + shape.at(t - 2, row) + unit : memory.typed_data() + state);
          d_hidden += load(d_outputs.typed_data() + at + unit, n);
          const Vector later = load((t < shape.time ? d_cell : d_cell_last.typed_data()) + state, n);
          const Vector d_c = later + d_hidden * o * (1.0f - squashed * squashed);
          const Vector found[4] = {d_c * g * i * (1.0f - i), d_c * load(before, n) * f * (1.0f - f),
                                   d_c * i * (1.0f - g * g), d_hidden * squashed * o * (1.0f - o)};
          for (int k = 0; k < 4; ++k) {
            store(delta + 4 * at + k * units + unit, found[k], n);
            left.put(t - 1, row, k * units + unit, found[k], n);
          }
          store(d_cell + state, d_c * f, n);
        }
      });
}

// ---- What XLA calls.

template <auto single, auto half>
struct InFormat;

template <class... Buffers, void (*single)(int64_t, Buffers...), void (*half)(int64_t, Buffers...)>
struct InFormat<single, half> {
  static ffi::Error call(bool bfloat16, int64_t threads, Buffers... buffers) {
    try {
      (bfloat16 ? half : single)(threads, buffers...);
    } catch (const std::bad_alloc&) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for the packed recurrent weights");
    }
    return ffi::Error::Success();
  }
};

auto bound() { return ffi::Ffi::Bind().Attr<bool>("bfloat16").Attr<int64_t>("threads"); }

}  // namespace

#define LMSEQ_HANDLER(name, arguments) \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(       \
      lmseq_##name, (InFormat<&name<Float32>, &name<Bfloat16>>::call), bound() arguments)
#define IN .Arg<Array>()
#define OUT .Ret<Array>()

LMSEQ_HANDLER(rnn_forward, IN IN IN OUT);
LMSEQ_HANDLER(rnn_backward, IN IN IN IN OUT OUT);
LMSEQ_HANDLER(gru_forward, IN IN IN IN OUT OUT OUT OUT);
LMSEQ_HANDLER(gru_backward, IN IN IN IN IN IN IN IN OUT OUT OUT);
LMSEQ_HANDLER(lstm_forward, IN IN IN IN OUT OUT OUT);
LMSEQ_HANDLER(lstm_backward, IN IN IN IN IN IN IN OUT OUT OUT);

extern "C" bool lmseq_has_bfloat16() { return kHasBfloat16; }
