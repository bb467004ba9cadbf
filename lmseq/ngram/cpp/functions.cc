// Questions as functions that Python calls as its own: a foreign call takes longer than a short sentence. Of
// Python's stable ABI the addresses are passed in, so that neither its headers nor its library are needed.

#include <limits>

#include "asking.h"

namespace lmseq {
namespace {

struct Object;  // Python's

struct Method {
  const char* name;
  void (*function)();
  int kind;
  const char* meaning;
};

constexpr int ONE_ARGUMENT = 0x0008, ARGUMENTS = 0x0080;  // METH_O, METH_FASTCALL

// In the order of native.py's PYTHON.
struct Python {
  const char* (*utf8)(Object*, ptrdiff_t*);
  int (*bytes)(Object*, char**, ptrdiff_t*);
  long long (*integer)(Object*);
  void* (*address)(Object*);
  void (*clear)();
  Object* (*make_float)(double);
  Object* (*make_bytes)(const char*, ptrdiff_t);
  Object* (*make_tuple)(ptrdiff_t, ...);
  Object* (*make_function)(Method*, Object*, Object*);
  void (*release)(Object*);
};

Python python;

const Model& model_of(Object* self) { return *static_cast<const Model*>(python.address(self)); }

Object* wrong() {
  python.clear();
  return python.make_float(std::numeric_limits<double>::quiet_NaN());
}

// ln p of a sentence; what is no text, or no UTF-8, has Python's own error.
Object* score(Object* self, Object* line) {
  ptrdiff_t size;
  const char* text = python.utf8(line, &size);
  return text ? python.make_float(score_sentence(model_of(self), text, size)) : nullptr;
}

// The state after a state and a word, and ln p; a NaN where something is wrong.
Object* extend(Object* self, Object* const* arguments, ptrdiff_t number) {
  const Model& model = model_of(self);
  const ptrdiff_t width = static_cast<ptrdiff_t>(model.order() * sizeof(int32_t));
  char* state;
  ptrdiff_t size;
  if (number != 2 || python.bytes(arguments[0], &state, &size) || size != width) return wrong();
  const long long word = python.integer(arguments[1]);  // -1 where it is none
  if (word < 0 || word >= model.vocab_size()) return wrong();
  int32_t before[MOST_ORDER], after[MOST_ORDER];
  std::memcpy(before, state, width);
  const double log_prob = extend_state(model, before, static_cast<int32_t>(word), after);
  if (log_prob != log_prob) return wrong();
  Object* next = python.make_bytes(reinterpret_cast<const char*>(after), width);
  Object* found = python.make_float(log_prob);
  Object* both = next && found ? python.make_tuple(2, next, found) : nullptr;
  if (next) python.release(next);
  if (found) python.release(found);
  return both;
}

Method METHODS[] = {
    {"score", reinterpret_cast<void (*)()>(score), ONE_ARGUMENT, nullptr},
    {"extend", reinterpret_cast<void (*)()>(extend), ARGUMENTS, nullptr},
};

}  // namespace
}  // namespace lmseq

extern "C" {

// The function of that number; self: the address of a model, as Python's integer. To be called with Python's
// lock held.
lmseq::Object* lmseq_function(const lmseq::Python* python, lmseq::Object* self, int32_t which) {
  lmseq::python = *python;
  return python->make_function(&lmseq::METHODS[which], self, nullptr);
}

}  // extern "C"
