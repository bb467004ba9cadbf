// What lmseq/ngram/native.py calls with addresses and numbers.

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "asking.h"

static_assert(std::endian::native == std::endian::little);

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

// ln p of words, each after a state, and the states after them.
void lmseq_extend_all(const Model* model, const int32_t* states, const int32_t* words, int64_t size,
                      int32_t* next, double* log_probs) {
  const int width = model->order();
  const int64_t ahead = 8;
  for (int64_t i = 0; i < size; ++i) {
    if (i + ahead < size) prefetch_state(*model, states + width * (i + ahead), words[i + ahead]);
    log_probs[i] = extend_state(*model, states + width * i, words[i], next + width * i);
  }
}

}  // extern "C"
