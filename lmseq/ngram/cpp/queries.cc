// What lmseq/ngram/native.py calls. What is wrong with an argument is told by a NaN or a negative number.

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <new>

#include "queries.h"

static_assert(std::endian::native == std::endian::little);

namespace lmseq {
namespace {

constexpr double WRONG = std::numeric_limits<double>::quiet_NaN();
constexpr int32_t REFUSED = -1;  // number of a word that is kept for ends

// The words of a text one by one; false at its end.
bool next_word(const char*& place, const char* end, Word& word) {
  while (place < end && is_blank(*place)) ++place;
  word.start = place;
  while (place < end && !is_blank(*place)) ++place;
  word.size = static_cast<size_t>(place - word.start);
  return word.size > 0;
}

// Numbers of at most `most` further words; -1 where one is refused.
int read_words(const Model& model, const char*& place, const char* end, int32_t* found, int most) {
  Word word;
  int count = 0;
  while (count < most && next_word(place, end, word)) {
    const int32_t number = model.words.find(word, end);
    if (number == REFUSED) return -1;
    found[count++] = number == Words::NONE ? UNK_ID : number;
  }
  return count;
}

bool is_word(const Model& model, int32_t word) { return 0 <= word && word < model.vocab_size(); }

// Ask for what `open_state` and the word behind it will look at; of a state of another model, for nothing.
void prefetch_state(const Model& model, const int32_t* state, int32_t word) {
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
bool open_state(const Model& model, const int32_t* state, Ranks& ranks) {
  if (state[0] != model.number) return false;
  ranks.last(model.order()) = UNSEEN;
  for (int n = 1; n < model.order(); ++n) {
    if (state[n] < OUTSIDE || state[n] >= model.orders[n - 1].size) return false;
    ranks.last(n) = state[n];
  }
  return true;
}

// UNSEEN for each rank that nothing follows and that weighs nothing: so states alike in effect are equal.
void close_state(const Model& model, Ranks& ranks, int32_t* state) {
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

double extend(const Model& model, const int32_t* state, int32_t word, int32_t* next) {
  Ranks ranks(model);
  if (!is_word(model, word) || !open_state(model, state, ranks)) return WRONG;
  double log_prob;
  ranks.score(&word, 1, &log_prob);
  close_state(model, ranks, next);
  return log_prob;
}

}  // namespace
}  // namespace lmseq

using namespace lmseq;

extern "C" {

Model* lmseq_model(int32_t order, const int32_t* const* first, const int32_t* const* word,
                   const double* const* log_prob, const double* const* log_backoff, const int64_t* sizes,
                   double log_unseen, bool to_unigram, int32_t number, const char* text,
                   const int64_t* offsets, int64_t num_words, int32_t first_word) {
  if (order < 1 || order > MOST_ORDER) return nullptr;
  try {
    std::vector<Order> orders;
    for (int n = 0; n < order; ++n)
      orders.push_back({first[n], word[n], log_prob[n], log_backoff[n], sizes[n]});
    Model* model = new Model{std::move(orders), log_unseen, to_unigram, number,
                             Words(text, offsets, num_words, first_word), {}};
    for (int n = 2; n <= std::min(order, 3); ++n)
      model->pairs.emplace_back(model->orders[n - 1], sizes[n - 2], sizes[0]);
    for (const char* mark : {"<s>", "</s>", "<eos>"})
      model->words.put({mark, std::strlen(mark)}, REFUSED);
    return model;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void lmseq_free(Model* model) { delete model; }

// ln p of a sentence and its end.
double lmseq_score(const Model* model, const char* text, int64_t size) {
  Ranks ranks(*model);
  ranks.begin();
  const char* end = text + size;
  double total = 0.0;
  for (int count = BLOCK; count == BLOCK;) {
    int32_t words[BLOCK];
    double log_probs[BLOCK];
    count = read_words(*model, text, end, words, BLOCK);
    if (count < 0) return WRONG;
    if (count < BLOCK) words[count] = EOS_ID;
    const int number = count + (count < BLOCK);
    ranks.score(words, number, log_probs);
    for (int i = 0; i < number; ++i) total += log_probs[i];
  }
  return total;
}

// Numbers of the words of a text, as many as it says; -1 where one is refused.
int64_t lmseq_words(const Model* model, const char* text, int64_t size, int32_t* found) {
  const char* end = text + size;
  int64_t total = 0;
  for (int count = BLOCK; count == BLOCK; total += count)
    if ((count = read_words(*model, text, end, found + total, BLOCK)) < 0) return -1;
  return total;
}

// ln p of each word of a stream of marked sentences; false where an id is no word.
bool lmseq_stream(const Model* model, const int32_t* words, int64_t size, double* log_probs) {
  Ranks ranks(*model);
  ranks.forget();
  for (int64_t i = 0; i < size; i += BLOCK) {
    const int count = static_cast<int>(std::min<int64_t>(BLOCK, size - i));
    const auto known = [=](int32_t id) { return is_word(*model, id); };
    if (!std::all_of(words + i, words + i + count, known)) return false;
    ranks.score(words + i, count, log_probs + i);
  }
  return true;
}

// ln p of a word after a state, and the state after it.
double lmseq_extend(const Model* model, const int32_t* state, int32_t word, int32_t* next) {
  prefetch_state(*model, state, word);
  return extend(*model, state, word, next);
}

// The same of many.
void lmseq_extend_all(const Model* model, const int32_t* states, const int32_t* words, int64_t size,
                      int32_t* next, double* log_probs) {
  const int width = model->order();
  const int64_t ahead = 8;
  for (int64_t i = 0; i < size; ++i) {
    if (i + ahead < size) prefetch_state(*model, states + width * (i + ahead), words[i + ahead]);
    log_probs[i] = extend(*model, states + width * i, words[i], next + width * i);
  }
}

}  // extern "C"
