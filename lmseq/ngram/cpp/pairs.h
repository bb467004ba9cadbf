// Ranks by a hash table, for the orders whose prefixes have too many entries to bisect: memory is far away.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "tables.h"

namespace lmseq {

// A place is (prefix, word, rank + 1) in 64 bits, 0 where nothing is. Two to four places for each entry.
class Pairs {
 public:
  // below, vocab_size: numbers of prefixes and of words. Empty where the table is large, or the three numbers
  // are too long for a place.
  Pairs(const Order& table, int64_t below, int64_t vocab_size) {
    const int prefix_bits = std::bit_width(static_cast<uint64_t>(below));
    word_bits_ = std::bit_width(static_cast<uint64_t>(vocab_size));
    rank_bits_ = std::bit_width(static_cast<uint64_t>(table.size));
    if (!table.size || table.size >= LARGE || prefix_bits + word_bits_ + rank_bits_ > 64) return;
    const int bits = std::bit_width(static_cast<uint64_t>(2 * table.size - 1));
    places_.resize(uint64_t{1} << bits);
    shift_ = 64 - bits;
    for (int64_t prefix = 0; prefix < below; ++prefix) {
      int64_t low, high;
      if (!children(table, prefix, low, high)) continue;
      for (int64_t rank = low; rank < high; ++rank) put(prefix, table.word[rank], rank);
    }
  }

  bool empty() const { return places_.empty(); }

  void prefetch(int64_t prefix, int32_t word) const { lmseq::prefetch(&places_[start(key(prefix, word))]); }

  int32_t find(int64_t prefix, int32_t word) const {
    const uint64_t wanted = key(prefix, word);
    for (uint64_t i = start(wanted);; i = (i + 1) & (places_.size() - 1)) {
      const uint64_t found = places_[i];
      if (!found) return UNSEEN;
      if (found >> rank_bits_ == wanted)
        return static_cast<int32_t>(found & ((uint64_t{1} << rank_bits_) - 1)) - 1;
    }
  }

 private:
  uint64_t key(int64_t prefix, int32_t word) const {
    return static_cast<uint64_t>(prefix) << word_bits_ | static_cast<uint32_t>(word);
  }

  uint64_t start(uint64_t key) const { return key * 0x9E3779B97F4A7C15u >> shift_; }  // Knuth's

  // Of a damaged table there may be more entries than places, and words that are none.
  void put(int64_t prefix, int32_t word, int64_t rank) {
    if (filled_ >= places_.size() / 2 || word < 0 || word >> word_bits_) return;
    uint64_t i = start(key(prefix, word));
    while (places_[i]) i = (i + 1) & (places_.size() - 1);
    places_[i] = key(prefix, word) << rank_bits_ | static_cast<uint64_t>(rank + 1);
    ++filled_;
  }

  std::vector<uint64_t> places_;
  uint64_t filled_ = 0;
  int word_bits_ = 0, rank_bits_ = 0, shift_ = 0;
};

}  // namespace lmseq
