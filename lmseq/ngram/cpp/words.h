// Words of a text, and their numbers: an open hash table that compares whole words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace lmseq {

inline bool is_blank(unsigned char c) {  // data/corpora.py's BLANKS
  return c <= ' ' && (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\0');
}

struct Word {
  const char* start;
  size_t size;
};

class Words {
 public:
  static constexpr int32_t NONE = INT32_MIN;

  // offsets: size + 1 places in text; word i has the number first + i. Of words alike the last one counts.
  Words(const char* text, const int64_t* offsets, int64_t size, int32_t first)
      : text_(text, text + offsets[size]) {
    uint64_t slots = 16;
    while (slots < 2 * static_cast<uint64_t>(size + 8)) slots *= 2;
    slots_.resize(slots);
    mask_ = slots - 1;
    for (int64_t i = 0; i < size; ++i) {
      const Word word{text_.data() + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i])};
      if (word.size) put(word, static_cast<int32_t>(first + i));
    }
  }

  void put(Word word, int32_t number) {
    const Key key(word, word.start + word.size);
    Slot* slot = place(key, word);
    *slot = {key.head, key.tail, word.start, static_cast<uint32_t>(word.size), number};
  }

  // end: of what may be read behind the word.
  int32_t find(Word word, const char* end) const {
    const Slot* slot = const_cast<Words*>(this)->place(Key(word, end), word);
    return slot->size ? slot->number : NONE;
  }

 private:
  struct Slot {
    uint64_t head = 0, tail = 0;
    const char* start = nullptr;
    uint32_t size = 0;
    int32_t number = 0;
  };

  // The first eight bytes, and the next eight or, of a long word, the last eight.
  struct Key {
    uint64_t head, tail;

    Key(Word word, const char* end) {
      if (word.size <= 8) {
        head = part(word.start, word.size, end);
        tail = 0;
      } else {
        std::memcpy(&head, word.start, 8);
        std::memcpy(&tail, word.start + word.size - 8, 8);
      }
    }

    static uint64_t part(const char* start, size_t size, const char* end) {
      uint64_t found = 0;
      if (end - start >= 8) {
        std::memcpy(&found, start, 8);
        return size == 8 ? found : found & ((uint64_t{1} << 8 * size) - 1);
      }
      std::memcpy(&found, start, size);
      return found;
    }

    uint64_t hash() const {  // Knuth's multiplicative hashing
      const uint64_t mixed = (head ^ (tail * 0x9E3779B97F4A7C15u)) * 0xD6E8FEB86659FD93u;
      return mixed ^ (mixed >> 32);
    }
  };

  // Where a word is, or the free place where it would be.
  Slot* place(const Key& key, Word word) {
    for (uint64_t i = key.hash() & mask_;; i = (i + 1) & mask_) {
      Slot& slot = slots_[i];
      if (!slot.size) return &slot;
      if (slot.head == key.head && slot.tail == key.tail && slot.size == word.size &&
          (word.size <= 16 || !std::memcmp(slot.start, word.start, word.size)))
        return &slot;
    }
  }

  std::vector<char> text_;
  std::vector<Slot> slots_;
  uint64_t mask_ = 0;
};

}  // namespace lmseq
