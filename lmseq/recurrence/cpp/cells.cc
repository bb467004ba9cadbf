// The loops of tanh RNN, GRU and LSTM layers over time, compiled for the processor at hand.
//
// Arrays are those of lmseq/recurrence/derivative.py, time-major and contiguous; so are the formulas.
// Forward: states from projected inputs. Backward: the deltas of the gates from what the forward pass kept;
// step t = T ... 0 has dh_t = delta_{t+1} U^T + (the cotangent of output t), and step 0 leaves that of the
// initial state. Everything before and after these loops is XLA's.

#include <algorithm>
#include <cstdint>

#include "caught.h"
#include "sweep.h"
#include "xla/ffi/api/ffi.h"

namespace lmseq {
namespace {

namespace ffi = xla::ffi;

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
      [&](int t, int row, int p, Vector(&sums)[2]) {
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
void rnn_backward(int64_t threads, Array transposed, Array outputs, Array d_outputs, Array d_last,
                  Result deltas, Result d_initial) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(outputs);
  float* delta = deltas->typed_data();
  Left<Format> left(shape.rows, shape.units);
  sweep<Format, Cut>(
      threads_for(shape, 1, threads), shape, shape.units, transposed.typed_data(), shape.time, -1,
      shape.time + 1, left, [&](int t) { return t < shape.time ? delta + shape.at(t, 0) : nullptr; },
      [&](int t, int row, int p, Vector(&sums)[2]) {
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
void gru_forward(int64_t threads, Array x, Array kernel, Array bias, Array initial, Result gates,
                 Result candidates, Result recurrents, Result outputs) {
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
      [&](int t, int row, int p, Vector(&sums)[3]) {
        const int unit = Cut::unit(p, 0), n = Cut::lanes(p, 0, units);
        const size_t at = shape.at(t, row);
        const float* in = x.typed_data() + 3 * at + unit;
        const float* before =
            (t ? out + shape.at(t - 1, row) : initial.typed_data() + shape.at(0, row)) + unit;
        const Vector reset = sigmoid_of(sums[0] + load(in, n)),
                     keeps = sigmoid_of(sums[1] + load(in + units, n));
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
void gru_backward(int64_t threads, Array transposed, Array gates, Array candidates, Array recurrents,
                  Array outputs, Array initial, Array d_outputs, Array d_last, Result deltas, Result d_xs,
                  Result d_initial) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(outputs);
  const int units = shape.units;
  float *delta = deltas->typed_data(), *carried = d_initial->typed_data();
  Left<Format> left(shape.rows, 3 * units);
  sweep<Format, Cut>(
      threads_for(shape, 3, threads), shape, 3 * units, transposed.typed_data(), shape.time, -1,
      shape.time + 1, left, [&](int t) { return t < shape.time ? delta + 3 * shape.at(t, 0) : nullptr; },
      [&](int t, int row, int p, Vector(&sums)[2]) {
        for (int j = 0; j < 2; ++j) {
          const int unit = Cut::unit(p, j), n = Cut::lanes(p, j, units);
          if (n == 0) continue;
          const size_t state = shape.at(0, row) + unit;
          // What reaches h_{t-1} past the product, dh_t z_t, waits where the initial state's gradient will
          // be.
          Vector d_hidden =
              t < shape.time ? sums[j] + load(carried + state, n) : load(d_last.typed_data() + state, n);
          if (t > 0) {
            const size_t at = shape.at(t - 1, row);
            const float* gate = gates.typed_data() + 2 * at + unit;
            const Vector reset = load(gate, n), keeps = load(gate + units, n);
            const Vector candidate = load(candidates.typed_data() + at + unit, n);
            const Vector recurrent = load(recurrents.typed_data() + at + unit, n);
            const float* before =
                t > 1 ? outputs.typed_data() + shape.at(t - 2, row) + unit : initial.typed_data() + state;
            d_hidden += load(d_outputs.typed_data() + at + unit, n);
            const Vector d_new = d_hidden * (1.0f - keeps) * (1.0f - candidate * candidate);
            const Vector found[3] = {d_new * recurrent * reset * (1.0f - reset),
                                     d_hidden * (load(before, n) - candidate) * keeps * (1.0f - keeps),
                                     d_new * reset};
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
void lstm_forward(int64_t threads, Array x, Array kernel, Array initial, Array memory, Result gates,
                  Result cells, Result outputs) {
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
      [&](int t, int row, int p, Vector(&sums)[4]) {
        const int unit = Cut::unit(p, 0), n = Cut::lanes(p, 0, units);
        const size_t at = shape.at(t, row);
        const float* in = x.typed_data() + 4 * at + unit;
        const float* before =
            (t ? cell + shape.at(keep ? t - 1 : 0, row) : memory.typed_data() + shape.at(0, row)) + unit;
        const Vector i = sigmoid_of(sums[0] + load(in, n)), f = sigmoid_of(sums[1] + load(in + units, n));
        const Vector g = tanh_of(sums[2] + load(in + 2 * units, n)),
                     o = sigmoid_of(sums[3] + load(in + 3 * units, n));
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
                   Array d_hidden_last, Array d_cell_last, Result deltas, Result d_hidden_first,
                   Result d_cell_first) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(cells);
  const int units = shape.units;
  float *delta = deltas->typed_data(), *d_cell = d_cell_first->typed_data();
  Left<Format> left(shape.rows, 4 * units);
  sweep<Format, Cut>(
      threads_for(shape, 4, threads), shape, 4 * units, transposed.typed_data(), shape.time, -1,
      shape.time + 1, left, [&](int t) { return t < shape.time ? delta + 4 * shape.at(t, 0) : nullptr; },
      [&](int t, int row, int p, Vector(&sums)[2]) {
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
          const float* before =
              (t > 1 ? cells.typed_data() + shape.at(t - 2, row) + unit : memory.typed_data() + state);
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

// What XLA calls.

template <auto single, auto half>
struct InFormat;

template <class... Buffers, void (*single)(int64_t, Buffers...), void (*half)(int64_t, Buffers...)>
struct InFormat<single, half> {
  static ffi::Error call(bool bfloat16, int64_t threads, Buffers... buffers) {
    return caught("the packed recurrent weights", [&] { (bfloat16 ? half : single)(threads, buffers...); });
  }
};

auto bound() { return ffi::Ffi::Bind().Attr<bool>("bfloat16").Attr<int64_t>("threads"); }

}  // namespace
}  // namespace lmseq

#define LMSEQ_HANDLER(name, arguments)                                                                    \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                          \
      lmseq_##name, (lmseq::InFormat<&lmseq::name<lmseq::Float32>, &lmseq::name<lmseq::Bfloat16>>::call), \
      lmseq::bound() arguments)
#define IN .Arg<lmseq::Array>()
#define OUT .Ret<lmseq::Array>()

LMSEQ_HANDLER(rnn_forward, IN IN IN OUT);
LMSEQ_HANDLER(rnn_backward, IN IN IN IN OUT OUT);
LMSEQ_HANDLER(gru_forward, IN IN IN IN OUT OUT OUT OUT);
LMSEQ_HANDLER(gru_backward, IN IN IN IN IN IN IN IN OUT OUT OUT);
LMSEQ_HANDLER(lstm_forward, IN IN IN IN OUT OUT OUT);
LMSEQ_HANDLER(lstm_backward, IN IN IN IN IN IN IN OUT OUT OUT);

extern "C" bool lmseq_has_bfloat16() { return lmseq::kHasBfloat16; }
