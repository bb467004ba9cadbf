// Lines of ARPA files, read and written: lmseq/ngram/arpa_sections.py and arpa.py, for what is plain.

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <new>
#include <vector>

#include "tables.h"
#include "words.h"

namespace lmseq {
namespace {

bool is_digit(char c) { return '0' <= c && c <= '9'; }

// 10 to the power of 0 ... 22, which are exact.
constexpr int EXACT = 22;
constexpr std::array<double, EXACT + 1> TENS = [] {
  std::array<double, EXACT + 1> found{};
  double power = 1.0;
  for (double& each : found) each = power, power *= 10.0;
  return found;
}();

// The number nearest to a word of digits, or -inf; false for any other, which is left to Python.
bool read_number(Word word, double& found) {
  const char *place = word.start, *end = word.start + word.size;
  const bool negative = place < end && *place == '-';
  if (negative) ++place;
  if (negative && word.size == 4 && !std::memcmp(place, "inf", 3)) {
    found = -std::numeric_limits<double>::infinity();
    return true;
  }
  const char* const start = place;
  uint64_t digits = 0;
  int power = 0, significant = 0;
  for (; place < end && is_digit(*place); ++place) {
    digits = 10 * digits + (*place - '0');
    significant += significant || *place != '0';
  }
  const char* const point = place;
  if (place < end && *place == '.')
    for (++place; place < end && is_digit(*place); ++place) {
      digits = 10 * digits + (*place - '0');
      significant += significant || *place != '0';
      --power;
    }
  if (place - start - (place > point) == 0) return false;  // no digit
  if (place < end && (*place == 'e' || *place == 'E')) {
    ++place;
    const bool down = place < end && *place == '-';
    if (place < end && (*place == '-' || *place == '+')) ++place;
    if (place == end || end - place > 4) return false;
    int exponent = 0;
    for (; place < end && is_digit(*place); ++place) exponent = 10 * exponent + (*place - '0');
    power += down ? -exponent : exponent;
  }
  if (place != end) return false;
  if (significant <= 15 && std::abs(power) <= EXACT) {  // one operation on exact numbers is rounded once
    const double whole = static_cast<double>(digits);
    found = power < 0 ? whole / TENS[-power] : whole * TENS[power];
  } else {
#ifdef __cpp_lib_to_chars
    const auto [stop, error] = std::from_chars(start, end, found);
    if (error != std::errc() || stop != end) return false;
#else
    return false;
#endif
  }
  if (negative) found = -found;
  return true;
}

// The next word of a line; empty at its end.
Word next_field(const char*& place, const char* end) {
  while (place < end && is_blank(*place)) ++place;
  Word word{place, 0};
  while (place < end && !is_blank(*place)) ++place;
  word.size = static_cast<size_t>(place - word.start);
  return word;
}

// The entries that an entry's prefixes are, order by order, and then those of the next entry.
struct Path {
  const Order* orders;
  int order;
  int64_t at[MOST_ORDER];

  Path(const Order* orders, int order, int64_t entry) : orders(orders), order(order) {
    for (int n = order; n-- > 0;) {
      at[n] = entry;
      if (!n) break;
      const int32_t* const first = orders[n].first;
      const int64_t below = orders[n - 1].size;
      const int64_t place = std::upper_bound(first, first + below + 1, entry) - first - 1;
      entry = std::clamp<int64_t>(place, 0, below - 1);  // of a damaged table, some prefix
    }
  }

  void next() {
    ++at[order - 1];
    for (int n = order - 1; n > 0; --n)
      while (at[n - 1] + 1 < orders[n - 1].size && orders[n].first[at[n - 1] + 1] <= at[n]) ++at[n - 1];
  }
};

constexpr int NUMBER = 32;  // bytes of one that is written

char* write_number(char* place, double value) {
#ifdef __cpp_lib_to_chars
  return std::to_chars(place, place + NUMBER, value, std::chars_format::general, 8).ptr;
#else
  return place + std::snprintf(place, NUMBER, "%.8g", value);
#endif
}

}  // namespace
}  // namespace lmseq

using namespace lmseq;

extern "C" {

// The words of a file by their numbers 0, 1, ..., and <UNK>, which is <unk>.
Words* lmseq_vocabulary(const char* text, const int64_t* offsets, int64_t size) {
  try {
    Words* words = new Words(text, offsets, size, 0);
    words->put({"<UNK>", 5}, UNK_ID);
    return words;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void lmseq_free_vocabulary(Words* words) { delete words; }

// Read lines of n words as long as they are plain: a number, words that are known, and of all but the highest
// order perhaps a number. Without a vocabulary n is 1, and ids are two numbers, where a word begins and ends.
// Returns the bytes read, and in `lines` how many lines.
int64_t lmseq_read_lines(const Words* words, const char* text, int64_t size, int32_t n, bool highest,
                         int64_t most, int32_t* ids, double* log_prob, double* log_backoff, int64_t* lines) {
  const char *place = text, *const end = text + size;
  int64_t count = 0;
  for (; count < most; ++count) {
    const char* const stop = static_cast<const char*>(std::memchr(place, '\n', end - place));
    if (!stop) break;
    const char* at = place;
    bool plain = read_number(next_field(at, stop), log_prob[count]);
    for (int i = 0; plain && i < n; ++i) {
      const Word word = next_field(at, stop);
      plain = word.size > 0;
      if (!words) {
        ids[2 * count] = static_cast<int32_t>(word.start - text);
        ids[2 * count + 1] = static_cast<int32_t>(at - text);
      } else if (plain) {
        const int32_t id = words->find(word, end);
        ids[n * count + i] = id;
        plain = id != Words::NONE;
      }
    }
    if (!plain) break;
    const Word last = next_field(at, stop);
    log_backoff[count] = 0.0;
    if (last.size && (!read_number(last, log_backoff[count]) || next_field(at, stop).size)) break;
    if (highest && log_backoff[count] != 0.0) break;
    place = stop + 1;
  }
  *lines = count;
  return place - text;
}

// Ranks of the first n - 1 of each n words, in tables of orders 1 ... n - 1; gives the number of the first
// line that has none, or how many lines there are.
int64_t lmseq_prefix_ranks(int32_t n, const int32_t* const* first, const int32_t* const* word,
                           const int64_t* sizes, const int32_t* ids, int64_t lines, int64_t* ranks) {
  constexpr int64_t block = 64;
  for (int64_t start = 0; start < lines; start += block) {
    const int64_t stop = std::min(start + block, lines);
    for (int64_t i = start; i < stop; ++i) ranks[i] = ids[n * i];
    for (int depth = 1; depth < n - 1; ++depth) {
      const Order table{first[depth], word[depth], nullptr, nullptr, sizes[depth]};
      for (int64_t i = start; i < stop; ++i)
        if (ranks[i] >= 0) prefetch(table.word + table.first[ranks[i]]);
      for (int64_t i = start; i < stop; ++i) {
        if (ranks[i] < 0) continue;
        ranks[i] = child(table, ranks[i], ids[n * i + depth]);
        if (ranks[i] >= 0 && depth + 1 < n - 1) prefetch(first[depth + 1] + ranks[i]);
      }
    }
    for (int64_t i = start; i < stop; ++i)
      if (ranks[i] < 0) return i;
  }
  return lines;
}

// Places of ascending keys, equal ones in the order in which they come; false without memory for it.
bool lmseq_sort(const int64_t* keys, int64_t size, int64_t* order) {
  for (int64_t i = 0; i < size; ++i) order[i] = i;
  if (std::is_sorted(keys, keys + size)) return true;
  constexpr int BITS = 11;
  struct Item {
    uint64_t key;
    int64_t place;
  };
  try {
    std::vector<Item> items(size), other(size);
    uint64_t most = 0;
    for (int64_t i = 0; i < size; ++i) {
      items[i] = {static_cast<uint64_t>(keys[i]), i};
      most |= items[i].key;
    }
    const int bits = std::bit_width(most);
    for (int shift = 0; shift < bits; shift += BITS) {
      std::vector<int64_t> starts((1 << BITS) + 1);
      const auto digit = [=](const Item& item) { return item.key >> shift & ((1 << BITS) - 1); };
      for (const Item& item : items) ++starts[digit(item) + 1];
      for (int i = 0; i < 1 << BITS; ++i) starts[i + 1] += starts[i];
      for (const Item& item : items) other[starts[digit(item)]++] = item;
      items.swap(other);
    }
    for (int64_t i = 0; i < size; ++i) order[i] = items[i].place;
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

// Lines of the entries start ... stop - 1 of order n, with names by number, and the numbers to write of them.
// Returns the bytes written, or -1 where they are more than there is room for.
int64_t lmseq_write_lines(int32_t n, const int32_t* const* first, const int32_t* const* word,
                          const int64_t* sizes, const char* names, const int64_t* offsets, int64_t start,
                          int64_t stop, const double* log_prob, const double* log_backoff, char* text,
                          int64_t room) {
  if (n < 1 || n > MOST_ORDER || std::count(sizes, sizes + n, 0)) return -1;
  std::array<Order, MOST_ORDER> orders;
  for (int i = 0; i < n; ++i) orders[i] = {first[i], word[i], nullptr, nullptr, sizes[i]};
  char* place = text;
  Path path(orders.data(), n, start);
  for (int64_t entry = start; entry < stop; ++entry, path.next()) {
    if (text + room - place < NUMBER) return -1;
    place = write_number(place, log_prob[entry - start]);
    for (int i = 0; i < n; ++i) {
      const int32_t id = orders[i].word[path.at[i]];
      if (id < 0 || id >= sizes[0]) return -1;
      const int64_t size = offsets[id + 1] - offsets[id];
      if (text + room - place < size + 1 + NUMBER + 2) return -1;
      *place++ = i ? ' ' : '\t';
      std::memcpy(place, names + offsets[id], size);
      place += size;
    }
    if (log_backoff) {
      *place++ = '\t';
      place = write_number(place, log_backoff[entry - start]);
    }
    *place++ = '\n';
  }
  return place - text;
}

}  // extern "C"
