// Questions to a model, as queries.cc and functions.cc pass them on. What is wrong with an argument is told by
// a NaN or a negative number.
#pragma once

#include <cstring>
#include <limits>

#include "queries.h"

namespace lmseq {

constexpr double WRONG = std::numeric_limits<double>::quiet_NaN();
constexpr int32_t REFUSED = -1;  // number of a word that is kept for ends

// The words of a text one by one; false at its end.
inline bool next_word(const char*& place, const char* end, Word& word) {
  while (place < end && is_blank(*place)) ++place;
  word.start = place;
  while (place < end && !is_blank(*place)) ++place;
  word.size = static_cast<size_t>(place - word.start);
  return word.size > 0;
}

// Numbers of at most `most` further words; -1 where one is refused.
inline int read_words(const Model& model, const char*& place, const char* end, int32_t* found, int most) {
  Word word;
  int count = 0;
  while (count < most && next_word(place, end, word)) {
    const int32_t number = model.words.find(word, end);
    if (number == REFUSED) return -1;
    found[count++] = number == Words::NONE ? UNK_ID : number;
  }
  return count;
}

inline bool is_word(const Model& model, int32_t word) { return 0 <= word && word < model.vocab_size(); }

// Ask for what `open_state` and the word behind it will look at; of a state of another model, for nothing.
inline void prefetch_state(const Model& model, const int32_t* state, int32_t word) {
  if (state[0] != model.number || !is_word(model, word)) return;
  for (int n = 1; n < model.order(); ++n) {
    const int32_t rank = state[n];
    if (rank < 0 || rank >= model.orders[n - 1].size) continue;
    prefetch(model.orders[n - 1].log_backoff + rank);
    if (n <= std::ssize(model.pairs) && !model.pairs[n - 1].empty())
      model.pairs[n - 1].prefetch(rank, word);
    else
      prefetch(model.orders[n].first + rank);
  }
}

// The ranks that a state is made of; false for a state of another model.
inline bool open_state(const Model& model, const int32_t* state, Ranks& ranks) {
  if (state[0] != model.number) return false;
  ranks.last(model.order()) = UNSEEN;
  for (int n = 1; n < model.order(); ++n) {
    if (state[n] < OUTSIDE || state[n] >= model.orders[n - 1].size) return false;
    ranks.last(n) = state[n];
  }
  return true;
}

// UNSEEN for each rank that nothing follows and that weighs nothing: so states alike in effect are equal.
inline void close_state(const Model& model, Ranks& ranks, int32_t* state) {
  const bool same = model.log_unseen == 0.0 && !model.to_unigram;
  state[0] = model.number;
  for (int n = 1; n < model.order(); ++n) {
    const int32_t rank = ranks.last(n);
    int64_t low, high;
    const bool weighs = rank >= 0 && (model.orders[n - 1].log_backoff[rank] != 0.0 ||
                                      children(model.orders[n], rank, low, high));
    state[n] = same && !weighs ? UNSEEN : rank;
  }
}

// ln p of a word after a state, and the state after it; a NaN for a state of another model, and for no word.
inline double extend_state(const Model& model, const int32_t* state, int32_t word, int32_t* next) {
  prefetch_state(model, state, word);
  Ranks ranks(model);
  if (!is_word(model, word) || !open_state(model, state, ranks)) return WRONG;
  double log_prob;
  ranks.score(&word, 1, &log_prob);
  close_state(model, ranks, next);
  return log_prob;
}

// ln p of a sentence and its end.
inline double score_sentence(const Model& model, const char* text, int64_t size) {
  Ranks ranks(model);
  ranks.begin();
  const char* end = text + size;
  double total = 0.0;
  for (int count = BLOCK; count == BLOCK;) {
    int32_t words[BLOCK];
    double log_probs[BLOCK];
    count = read_words(model, text, end, words, BLOCK);
    if (count < 0) return WRONG;
    if (count < BLOCK) words[count] = EOS_ID;
    const int number = count + (count < BLOCK);
    ranks.score(words, number, log_probs);
    for (int i = 0; i < number; ++i) total += log_probs[i];
  }
  return total;
}

}  // namespace lmseq
