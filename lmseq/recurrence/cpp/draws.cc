// Words drawn from the tables of count models, entry by entry: a round of lmseq/models/ngram_draws.py, row
// after row, without a program of XLA's around every lookup.

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "caught.h"
#include "xla/ffi/api/ffi.h"

namespace lmseq {
namespace {

namespace ffi = xla::ffi;

using Ids = ffi::Buffer<ffi::S32>;
using Units = ffi::Buffer<ffi::U32>;
using Reals = ffi::Buffer<ffi::F32>;

constexpr int32_t UNSEEN = -1, OUTSIDE = -2;  // instead of a rank

// The entries of one order. Nothing in them is trusted: a place outside is moved to the nearest one.
struct Order {
  const int32_t *first, *word;
  int64_t num_contexts, num_entries;

  std::pair<int64_t, int64_t> children(int32_t context) const {
    const int64_t place = std::clamp<int64_t>(context, 0, num_contexts - 1);
    const int64_t low = std::clamp<int64_t>(first[place], 0, num_entries);
    return {low, std::clamp<int64_t>(first[place + 1], low, num_entries)};
  }

  // Rank of a word after a context, by bisection.
  int32_t child(int32_t context, int32_t wanted) const {
    if (context < 0) return context == OUTSIDE ? OUTSIDE : UNSEEN;
    const auto [low, high] = children(context);
    const int32_t* found = std::lower_bound(word + low, word + high, wanted);
    return found < word + high && *found == wanted ? static_cast<int32_t>(found - word) : UNSEEN;
  }
};

std::vector<Order> orders_of(ffi::RemainingArgs tables) {
  std::vector<Order> orders;
  for (size_t n = 0; n + 1 < tables.size(); n += 2) {
    const auto first = tables.get<Ids>(n), word = tables.get<Ids>(n + 1);
    if (!first || !word || first->element_count() < 2 || !word->element_count()) return {};
    orders.push_back({first->typed_data(), word->typed_data(),
                      static_cast<int64_t>(first->element_count()) - 1,
                      static_cast<int64_t>(word->element_count())});
  }
  return orders;
}

// The entry of low ... high - 1 in which a share of their mass ends.
int64_t entry_of(const Units& cumulative, uint32_t before, uint32_t mass, uint32_t bits, int64_t low,
                 int64_t high) {
  const uint32_t wanted = static_cast<uint32_t>((static_cast<uint64_t>(bits) * mass) >> 32) + 1;
  const int64_t last = static_cast<int64_t>(cumulative.element_count()) - 1;
  const uint32_t* sums = cumulative.typed_data();
  const auto place = [=](int64_t each) { return std::clamp<int64_t>(each, 0, last); };
  const uint32_t *begin = sums + place(low + 1), *end = std::max(begin, sums + place(high) + 1);
  // Sums are taken modulo 2^32: their distance to the first one is what grows.
  const auto is_less = [=](uint32_t sum, uint32_t amount) { return sum - before < amount; };
  return std::lower_bound(begin, end, wanted, is_less) - sums - 1;
}

void propose(ffi::Span<const int64_t> never, Units bits, Reals bounds, Units mass, Units before, Ids low,
             Ids high, Ids carry, Ids drawn, Ids ranks, Units cumulative, Ids symbol_of,
             const std::vector<Order>& orders, ffi::Result<Ids> new_drawn, ffi::Result<Ids> new_ranks) {
  const int64_t num_rows = bounds.dimensions()[0], num_orders = bounds.dimensions()[1],
                num_contexts = num_orders - 1, num_proposals = bits.dimensions()[0],
                num_words = symbol_of.element_count();
  int32_t *out = new_drawn->typed_data(), *found = new_ranks->typed_data();
  std::copy_n(drawn.typed_data(), num_rows, out);
  std::copy_n(ranks.typed_data(), num_rows * num_contexts, found);
  std::vector<int64_t> begins;
  for (int64_t n = 0, begin = 0; n < num_orders; begin += orders[n++].num_entries) begins.push_back(begin);
  const bool is_for_all = num_proposals == num_rows;  // else for the first rows that wait
  int64_t proposal = 0;
  for (int64_t row = 0; row < num_rows && proposal < num_proposals; ++row) {
    if (is_for_all) proposal = row;
    if (out[row] >= 0) continue;
    const uint32_t* chance = bits.typed_data() + 2 * proposal++;
    const float *bound = bounds.typed_data() + row * num_orders, whole = bound[num_contexts];
    const float share = static_cast<float>(chance[0] >> 9) * 0x1p-23f * whole;
    int64_t level = 0;
    for (int64_t n = 0; n < num_orders; ++n) level += bound[n] <= share;
    level = std::min(level, num_contexts);
    const int64_t place = row * num_orders + level;
    const int64_t entry = entry_of(cumulative, before.typed_data()[place], mass.typed_data()[place],
                                   chance[1], low.typed_data()[place], high.typed_data()[place]);
    const Order& order = orders[level];
    const int32_t word = order.word[std::clamp<int64_t>(entry - begins[level], 0, order.num_entries - 1)];
    const int32_t symbol = symbol_of.typed_data()[std::clamp<int64_t>(word, 0, num_words - 1)];
    bool is_refused = std::find(never.begin(), never.end(), symbol) != never.end() || whole == 0.0f;
    for (int64_t n = 0; n < num_contexts; ++n) {
      const int32_t rank = orders[n + 1].child(carry.typed_data()[row * num_contexts + n], word);
      found[row * num_contexts + n] = rank;
      is_refused |= rank >= 0 && n >= level;
    }
    out[row] = is_refused ? -1 : word;
  }
}

ffi::Error call(int64_t, ffi::Span<const int64_t> never, Units bits, Reals bounds, Units mass, Units before,
                Ids low, Ids high, Ids carry, Ids drawn, Ids ranks, Units cumulative, Ids symbol_of,
                ffi::RemainingArgs tables, ffi::Result<Ids> new_drawn, ffi::Result<Ids> new_ranks) {
  return caught("the orders", [&] {
    const std::vector<Order> orders = orders_of(tables);
    const size_t num_orders = orders.size(), num_rows = drawn.element_count(), size = num_rows * num_orders;
    const bool are_levels = bounds.dimensions().size() == 2 && mass.element_count() == size &&
                            before.element_count() == size && low.element_count() == size &&
                            high.element_count() == size;
    const bool are_states =
        carry.element_count() == size - num_rows && ranks.element_count() == size - num_rows &&
        new_ranks->element_count() == size - num_rows && new_drawn->element_count() == num_rows;
    if (orders.empty() || bounds.dimensions()[0] != static_cast<int64_t>(num_rows) ||
        bounds.element_count() != size || !are_levels || !are_states || bits.dimensions().size() != 2 ||
        bits.dimensions()[1] != 2 || !cumulative.element_count() || !symbol_of.element_count()) {
      throw std::invalid_argument("expected levels, contexts and ranks of as many rows, of all orders");
    }
    propose(never, bits, bounds, mass, before, low, high, carry, drawn, ranks, cumulative, symbol_of, orders,
            new_drawn, new_ranks);
  });
}

}  // namespace
}  // namespace lmseq

XLA_FFI_DEFINE_HANDLER_SYMBOL(lmseq_draw_round, lmseq::call,
                              xla::ffi::Ffi::Bind()
                                  .Attr<int64_t>("threads")
                                  .Attr<xla::ffi::Span<const int64_t>>("never")
                                  .Arg<lmseq::Units>()
                                  .Arg<lmseq::Reals>()
                                  .Arg<lmseq::Units>()
                                  .Arg<lmseq::Units>()
                                  .Arg<lmseq::Ids>()
                                  .Arg<lmseq::Ids>()
                                  .Arg<lmseq::Ids>()
                                  .Arg<lmseq::Ids>()
                                  .Arg<lmseq::Ids>()
                                  .Arg<lmseq::Units>()
                                  .Arg<lmseq::Ids>()
                                  .RemainingArgs()
                                  .Ret<lmseq::Ids>()
                                  .Ret<lmseq::Ids>());
