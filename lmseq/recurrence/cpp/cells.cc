// The loops of tanh RNN, GRU and LSTM layers over time, compiled for the processor at hand.
//
// Arrays are those of lmseq/recurrence/derivative.py, time-major and contiguous; so are the formulas.
// Forward: states from projected inputs, which are a row for each step and row of the batch, or, with ids,
// rows of a table, and a bias for all. Backward: the deltas of the gates from what the forward pass kept;
// step t = T ... 0 has dh_t = delta_{t+1} U^T + (the cotangent of output t), and step 0 leaves that of the
// initial state. Everything before and after these loops is XLA's.

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "caught.h"
#include "sweep.h"
#include "xla/ffi/api/ffi.h"

namespace lmseq {
namespace {

namespace ffi = xla::ffi;

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;
using Ids = ffi::Buffer<ffi::S32>;
// Arrays of a format's numbers, between the loops.
using Kept = ffi::AnyBuffer;
using KeptResult = ffi::Result<ffi::AnyBuffer>;

template <class Format>
typename Format::Number* numbers(const ffi::AnyBuffer& array) {
  if (ffi::ByteWidth(array.element_type()) != sizeof(typename Format::Number)) {
    throw std::invalid_argument("expected arrays of the precision's numbers between the loops");
  }
  return static_cast<typename Format::Number*>(array.untyped_data());
}

// x W + b of a row at a step.
class Inputs {
 public:
  Inputs(Array rows, Array bias, Ids ids)
      : rows_(rows.typed_data()),
        bias_(bias.typed_data()),
        ids_(ids.element_count() > 0 ? ids.typed_data() : nullptr),
        width_(rows.dimensions().back()),
        number_(static_cast<int64_t>(rows.element_count() / std::max<int64_t>(width_, 1))) {
    if (ids_ != nullptr && number_ == 0) throw std::invalid_argument("expected ids of a table with rows");
  }

  // Lanes of a row, the row-th of all steps' one after the other, from a column on.
  Vector at(size_t row, int column, int n) const {
    const int64_t place = ids_ == nullptr ? row : std::clamp<int64_t>(ids_[row], 0, number_ - 1);
    return load(rows_ + place * width_ + column, n) + load(bias_ + column, n);
  }

 private:
  const float *rows_, *bias_;
  const int32_t* ids_;
  int64_t width_, number_;
};

Shape shape_of(Array steps) {
  const auto dims = steps.dimensions();
  return {static_cast<int>(dims[0]), static_cast<int>(dims[1]), static_cast<int>(dims[2])};
}

template <class Format>
void rnn_forward(int64_t threads, Array x, Array bias, Ids ids, Array kernel, Array initial, Result outputs) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(*outputs);
  const Inputs inputs(x, bias, ids);
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
          const Vector hidden = tanh_of(sums[j] + inputs.at(shape.row(t, row), unit, n));
          store(out + at, hidden, n);
          left.put(t + 1, row, unit, hidden, n);
        }
      });
}

template <class Format>
void rnn_backward(int64_t threads, Array transposed, Array outputs, Array d_outputs, Array d_last,
                  KeptResult deltas, Result d_initial) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(outputs);
  auto* delta = numbers<Format>(*deltas);
  Left<Format> left(shape.rows, shape.units);
  sweep<Format, Cut>(
      threads_for(shape, 1, threads), shape, shape.units, transposed.typed_data(), shape.time, -1,
      shape.time + 1, left,
      [&](int t) { return t < shape.time ? Format::left(delta + shape.at(t, 0)) : nullptr; },
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
          Format::store_operand(delta + at, found, n);
          left.put(t - 1, row, unit, found, n);
        }
      });
}

// gates r, z (T, B, 2H), candidate and h U_n + b (T, B, H); none of the three is kept if they are empty.
template <class Format>
void gru_forward(int64_t threads, Array x, Array input_bias, Ids ids, Array kernel, Array bias, Array initial,
                 KeptResult gates, KeptResult candidates, Result recurrents, Result outputs) {
  using Cut = Columns<3, 1>;
  const Shape shape = shape_of(*outputs);
  const int units = shape.units;
  const bool keep = gates->element_count() > 0;
  const Inputs inputs(x, input_bias, ids);
  auto *kept = numbers<Format>(*gates), *tanhs = numbers<Format>(*candidates);
  float* out = outputs->typed_data();
  Left<Format> left(shape.rows, units);
  left.put(0, initial.typed_data());
  sweep<Format, Cut>(
      threads_for(shape, 3, threads), shape, units, kernel.typed_data(), 0, 1, shape.time, left,
      [&](int t) { return t ? out + shape.at(t - 1, 0) : initial.typed_data(); },
      [&](int t, int row, int p, Vector(&sums)[3]) {
        const int unit = Cut::unit(p, 0), n = Cut::lanes(p, 0, units);
        const size_t at = shape.at(t, row), place = shape.row(t, row);
        const float* before =
            (t ? out + shape.at(t - 1, row) : initial.typed_data() + shape.at(0, row)) + unit;
        const Vector reset = sigmoid_of(sums[0] + inputs.at(place, unit, n)),
                     keeps = sigmoid_of(sums[1] + inputs.at(place, units + unit, n));
        const Vector recurrent = sums[2] + load(bias.typed_data() + unit, n);
        const Vector candidate = tanh_of(inputs.at(place, 2 * units + unit, n) + reset * recurrent);
        const Vector hidden = candidate + keeps * (load(before, n) - candidate);
        if (keep) {
          Format::store_sigmoid(kept + 2 * at + unit, reset, n);
          Format::store_sigmoid(kept + 2 * at + units + unit, keeps, n);
          Format::store_tanh(tanhs + at + unit, candidate, n);
          store(recurrents->typed_data() + at + unit, recurrent, n);
        }
        store(out + at + unit, hidden, n);
        left.put(t + 1, row, unit, hidden, n);
      });
}

// deltas of r, z and h U_n + b, packed; d_xs the same with that of x_n in the last place.
template <class Format>
void gru_backward(int64_t threads, Array transposed, Kept gates, Kept candidates, Array recurrents,
                  Array outputs, Array initial, Array d_outputs, Array d_last, KeptResult deltas,
                  KeptResult d_xs, Result d_initial) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(outputs);
  const int units = shape.units;
  auto *delta = numbers<Format>(*deltas), *d_inputs = numbers<Format>(*d_xs);
  const auto *kept = numbers<Format>(gates), *tanhs = numbers<Format>(candidates);
  float* carried = d_initial->typed_data();
  Left<Format> left(shape.rows, 3 * units);
  sweep<Format, Cut>(
      threads_for(shape, 3, threads), shape, 3 * units, transposed.typed_data(), shape.time, -1,
      shape.time + 1, left,
      [&](int t) { return t < shape.time ? Format::left(delta + 3 * shape.at(t, 0)) : nullptr; },
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
            const auto* gate = kept + 2 * at + unit;
            const Vector reset = Format::load_sigmoid(gate, n), keeps = Format::load_sigmoid(gate + units, n);
            const Vector candidate = Format::load_tanh(tanhs + at + unit, n);
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
              Format::store_operand(delta + to, found[g], n);
              Format::store_operand(d_inputs + to, g < 2 ? found[g] : d_new, n);
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
void lstm_forward(int64_t threads, Array x, Array bias, Ids ids, Array kernel, Array initial, Array memory,
                  KeptResult gates, Result cells, Result outputs) {
  using Cut = Columns<4, 1>;
  const Shape shape = shape_of(*outputs);
  const int units = shape.units;
  const bool keep = gates->element_count() > 0;
  const Inputs inputs(x, bias, ids);
  auto* kept = numbers<Format>(*gates);
  float *out = outputs->typed_data(), *cell = cells->typed_data();
  Left<Format> left(shape.rows, units);
  left.put(0, initial.typed_data());
  sweep<Format, Cut>(
      threads_for(shape, 4, threads), shape, units, kernel.typed_data(), 0, 1, shape.time, left,
      [&](int t) { return t ? out + shape.at(t - 1, 0) : initial.typed_data(); },
      [&](int t, int row, int p, Vector(&sums)[4]) {
        const int unit = Cut::unit(p, 0), n = Cut::lanes(p, 0, units);
        const size_t at = shape.at(t, row), place = shape.row(t, row);
        const float* before =
            (t ? cell + shape.at(keep ? t - 1 : 0, row) : memory.typed_data() + shape.at(0, row)) + unit;
        const Vector i = sigmoid_of(sums[0] + inputs.at(place, unit, n)),
                     f = sigmoid_of(sums[1] + inputs.at(place, units + unit, n)),
                     g = tanh_of(sums[2] + inputs.at(place, 2 * units + unit, n)),
                     o = sigmoid_of(sums[3] + inputs.at(place, 3 * units + unit, n));
        const Vector c = f * load(before, n) + i * g, hidden = o * tanh_of(c);
        if (keep) {
          auto* gate = kept + 4 * at + unit;
          Format::store_sigmoid(gate, i, n);
          Format::store_sigmoid(gate + units, f, n);
          Format::store_tanh(gate + 2 * units, g, n);
          Format::store_sigmoid(gate + 3 * units, o, n);
        }
        store(cell + shape.at(keep ? t : 0, row) + unit, c, n);
        store(out + at + unit, hidden, n);
        left.put(t + 1, row, unit, hidden, n);
      });
}

template <class Format>
void lstm_backward(int64_t threads, Array transposed, Kept gates, Array cells, Array memory, Array d_outputs,
                   Array d_hidden_last, Array d_cell_last, KeptResult deltas, Result d_hidden_first,
                   Result d_cell_first) {
  using Cut = Columns<1, 2>;
  const Shape shape = shape_of(cells);
  const int units = shape.units;
  auto* delta = numbers<Format>(*deltas);
  const auto* kept = numbers<Format>(gates);
  float* d_cell = d_cell_first->typed_data();
  Left<Format> left(shape.rows, 4 * units);
  sweep<Format, Cut>(
      threads_for(shape, 4, threads), shape, 4 * units, transposed.typed_data(), shape.time, -1,
      shape.time + 1, left,
      [&](int t) { return t < shape.time ? Format::left(delta + 4 * shape.at(t, 0)) : nullptr; },
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
          const auto* gate = kept + 4 * at + unit;
          const Vector i = Format::load_sigmoid(gate, n), f = Format::load_sigmoid(gate + units, n),
                       g = Format::load_tanh(gate + 2 * units, n),
                       o = Format::load_sigmoid(gate + 3 * units, n);
          const Vector squashed = tanh_of(load(cells.typed_data() + at + unit, n));
          const float* before =
              (t > 1 ? cells.typed_data() + shape.at(t - 2, row) + unit : memory.typed_data() + state);
          d_hidden += load(d_outputs.typed_data() + at + unit, n);
          const Vector later = load((t < shape.time ? d_cell : d_cell_last.typed_data()) + state, n);
          const Vector d_c = later + d_hidden * o * (1.0f - squashed * squashed);
          const Vector found[4] = {d_c * g * i * (1.0f - i), d_c * load(before, n) * f * (1.0f - f),
                                   d_c * i * (1.0f - g * g), d_hidden * squashed * o * (1.0f - o)};
          for (int k = 0; k < 4; ++k) {
            Format::store_operand(delta + 4 * at + k * units + unit, found[k], n);
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
#define IDS .Arg<lmseq::Ids>()
#define IN_KEPT .Arg<lmseq::Kept>()
#define OUT .Ret<lmseq::Array>()
#define OUT_KEPT .Ret<lmseq::Kept>()

LMSEQ_HANDLER(rnn_forward, IN IN IDS IN IN OUT);
LMSEQ_HANDLER(rnn_backward, IN IN IN IN OUT_KEPT OUT);
LMSEQ_HANDLER(gru_forward, IN IN IDS IN IN IN OUT_KEPT OUT_KEPT OUT OUT);
LMSEQ_HANDLER(gru_backward, IN IN_KEPT IN_KEPT IN IN IN IN IN OUT_KEPT OUT_KEPT OUT);
LMSEQ_HANDLER(lstm_forward, IN IN IDS IN IN IN OUT_KEPT OUT OUT);
LMSEQ_HANDLER(lstm_backward, IN IN_KEPT IN IN IN IN IN OUT_KEPT OUT OUT);

extern "C" bool lmseq_has_bfloat16() { return lmseq::kHasBfloat16; }
