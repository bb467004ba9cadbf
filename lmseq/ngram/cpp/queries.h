// The probability of words after what is before them: lmseq/ngram/backoff.py, a block of words at a time.
#pragma once

#include <algorithm>
#include <vector>

#include "pairs.h"
#include "tables.h"
#include "words.h"

namespace lmseq {

constexpr int BLOCK = 32;  // words that are looked up together, so that their ways to memory overlap

struct Model {
  std::vector<Order> orders;
  double log_unseen;
  bool to_unigram;   // from a context straight to unigrams
  int32_t number;    // which says whose a state is
  Words words;
  std::vector<Pairs> pairs;  // of orders 2 and 3

  int order() const { return static_cast<int>(orders.size()); }
  int64_t vocab_size() const { return orders[0].size; }
};

// Ranks of what the last words end with: of order n at [n - 1], 0 for the one before the block, then its own.
class Ranks {
 public:
  explicit Ranks(const Model& model) : model_(model), order_(model.order()) {}

  void begin() {  // of a sentence
    forget();
    ranks_[0][0] = BOS_ID;
  }

  void forget() {
    for (int n = 1; n <= order_; ++n) ranks_[n - 1][0] = OUTSIDE;
  }

  int32_t& last(int n) { return ranks_[n - 1][0]; }

  // ln p of each of at most BLOCK words, 0 at <s>, which begins a sentence.
  void score(const int32_t* words, int count, double* log_probs) {
    std::copy_n(words, count, ranks_[0] + 1);
    for (int i = 0; i < count; ++i) log_probs[i] = unigrams_[i] = model_.orders[0].log_prob[words[i]];
    for (int n = 2; n <= order_; ++n) {
      find(n, words, count);
      add(n, count, log_probs);
    }
    for (int i = 0; i < count; ++i)
      if (words[i] == BOS_ID) log_probs[i] = 0.0;
    for (int n = 1; n < order_; ++n) ranks_[n - 1][0] = ranks_[n - 1][count];
  }

 private:
  // Ranks of order n; all addresses are asked for before the first is looked at.
  void find(int n, const int32_t* words, int count) {
    const Order& table = model_.orders[n - 1];
    const Pairs* pairs = n - 2 < std::ssize(model_.pairs) ? &model_.pairs[n - 2] : nullptr;
    if (pairs && pairs->empty()) pairs = nullptr;
    const int32_t* prefixes = ranks_[n - 2];
    int32_t* found = ranks_[n - 1] + 1;
    num_known_ = 0;
    for (int i = 0; i < count; ++i) {  // without branches, which would be guessed wrongly
      known_[num_known_] = i;
      num_known_ += prefixes[i] >= 0;
      found[i] = prefixes[i];
    }
    for (int k = 0; k < num_known_; ++k) {
      const int i = known_[k];
      if (pairs)
        pairs->prefetch(prefixes[i], words[i]);
      else
        prefetch(table.word + table.first[prefixes[i]]);
    }
    for (int k = 0; k < num_known_; ++k) {
      const int i = known_[k];
      const int32_t rank = pairs ? pairs->find(prefixes[i], words[i]) : child(table, prefixes[i], words[i]);
      found[i] = rank;
      const int64_t place = rank < 0 ? 0 : rank;
      prefetch(table.log_prob + place);
      if (n == order_) continue;
      prefetch(table.log_backoff + place);
      prefetch(model_.orders[n].first + place);
    }
    for (int i = 0; i < count; ++i) found[i] = words[i] == BOS_ID ? OUTSIDE : found[i];
  }

  // What is stored for the n-gram, or else the weight of its context with what a shorter one has.
  void add(int n, int count, double* log_probs) {
    const Order &table = model_.orders[n - 1], &below = model_.orders[n - 2];
    const int32_t *contexts = ranks_[n - 2], *found = ranks_[n - 1] + 1;
    for (int k = 0; k < num_known_; ++k) {
      const int i = known_[k];
      const bool is_there = found[i] >= 0;
      const double stored = *(is_there ? table.log_prob + found[i] : below.log_backoff + contexts[i]);
      const double backed_off = stored + (model_.to_unigram ? unigrams_[i] : log_probs[i]);
      log_probs[i] = is_there ? stored : backed_off;
    }
    if (model_.log_unseen == 0.0 && !model_.to_unigram) return;
    for (int i = 0; i < count; ++i)
      if (contexts[i] == UNSEEN)
        log_probs[i] = model_.log_unseen + (model_.to_unigram ? unigrams_[i] : log_probs[i]);
  }

  const Model& model_;
  const int order_;
  int num_known_;
  int known_[BLOCK + 1];  // those of the block whose context is in the tables
  double unigrams_[BLOCK];
  int32_t ranks_[MOST_ORDER][BLOCK + 1];
};

}  // namespace lmseq
