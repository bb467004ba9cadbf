// The tables of a count model as lmseq/ngram/backoff.py has them, and how an entry is found in one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lmseq {

constexpr int32_t UNSEEN = -1, OUTSIDE = -2;  // instead of a rank
constexpr int32_t UNK_ID = 0, BOS_ID = 1, EOS_ID = 2;
constexpr int MOST_ORDER = 64;
constexpr int64_t LARGE = 1 << 24;  // entries of a table of which there should be no copy

// The n-grams of one order, sorted by (prefix, word). Files are mapped, so nothing in them is trusted.
struct Order {
  const int32_t* first;
  const int32_t* word;
  const double* log_prob;
  const double* log_backoff;
  int64_t size;
};

inline void prefetch(const void* place) { __builtin_prefetch(place); }

// Where the entries of a prefix lie; false where there are none, or the table is damaged.
inline bool children(const Order& table, int64_t prefix, int64_t& low, int64_t& high) {
  low = table.first[prefix];
  high = table.first[prefix + 1];
  return 0 <= low && low < high && high <= table.size;
}

// Rank of a prefix, which is one of the order below, with a word behind it, or UNSEEN.
inline int32_t child(const Order& table, int64_t prefix, int32_t word) {
  int64_t low, high;
  if (!children(table, prefix, low, high)) return UNSEEN;
  const int32_t* found = table.word + low;
  for (int64_t left = high - low; left > 1;) {  // without branches, which would be guessed wrongly
    const int64_t half = left / 2;
    found += half & -static_cast<int64_t>(found[half - 1] < word);
    left -= half;
  }
  return *found == word ? static_cast<int32_t>(found - table.word) : UNSEEN;
}

}  // namespace lmseq
