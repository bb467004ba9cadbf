// Tokens drawn from the k likeliest symbols of each row, as lmseq/sampling.py defines it, in two passes over
// a row: its maximum, and what is above the least of the k largest so far. Nothing is sorted but those.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include "caught.h"
#include "sweep.h"
#include "xla/ffi/api/ffi.h"

namespace lmseq {
namespace {

namespace ffi = xla::ffi;

constexpr int kBlock = 64;  // symbols that are looked at together
constexpr int kMost = 256;  // candidates that are all compared with each other

// A row's k largest scores (ln p - the row's maximum) / temperature, and a token drawn from them: V of a row
// that has something else than numbers, or nothing that can come.
class Row {
 public:
  Row(int k, float temperature) : k_(k), temperature_(temperature) {}

  int32_t draw(const float* row, int64_t size, float uniform, float top_p) {
    const float top = find_maxima(row, size);
    if (!std::isfinite(top)) return static_cast<int32_t>(size);
    find(row, size, top);
    rank();
    return choose(uniform, top_p, static_cast<int32_t>(size));
  }

 private:
  struct Candidate {
    float score;
    int32_t id;
  };

  float score(float log_prob, float top) const { return (log_prob - top) / temperature_; }

  // The largest of each block, and of all; what is no number is larger than any number.
  float find_maxima(const float* row, int64_t size) {
    maxima_.clear();
    float top = row[0];
    for (int64_t begin = 0; begin < size; begin += kBlock) {
      maxima_.push_back(largest(row + begin, std::min<int64_t>(kBlock, size - begin)));
      top = larger(top, maxima_.back());
    }
    return top;
  }

  // Candidates by rising id: all that is not below the k-th largest of the blocks' maxima, which has k scores
  // above it or equal to it.
  void find(const float* row, int64_t size, float top) {
    const int64_t num_blocks = static_cast<int64_t>(maxima_.size());
    float least = -std::numeric_limits<float>::infinity();
    if (num_blocks > k_) {
      sorted_ = maxima_;
      std::nth_element(sorted_.begin(), sorted_.begin() + k_ - 1, sorted_.end(), std::greater<float>());
      least = score(sorted_[k_ - 1], top);
    }
    found_.clear();
    for (int64_t block = 0; block < num_blocks; ++block) {
      if (score(maxima_[block], top) < least) continue;
      for (int64_t i = block * kBlock; i < std::min(size, (block + 1) * kBlock); ++i) {
        const float each = score(row[i], top);
        if (each >= least) found_.push_back({each, static_cast<int32_t>(i)});
      }
    }
    if (found_.size() > kMost) {
      const auto is_before = [](const Candidate& one, const Candidate& other) {
        return one.score > other.score || (one.score == other.score && one.id < other.id);
      };
      std::nth_element(found_.begin(), found_.begin() + k_ - 1, found_.end(), is_before);
      found_.resize(k_);
      std::sort(found_.begin(), found_.end(),
                [](const Candidate& one, const Candidate& other) { return one.id < other.id; });
    }
    count_ = static_cast<int>(found_.size());
    for (int i = 0; i < count_; ++i) scores_[i] = found_[i].score;
  }

  static float larger(float one, float other) { return one > other || one != one ? one : other; }

  static float largest(const float* from, int64_t count) {
    float lanes[kLanes];
    std::fill_n(lanes, kLanes, from[0]);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = larger(lanes[lane], from[i + lane]);
    }
    for (; i < count; ++i) lanes[0] = larger(lanes[0], from[i]);
    float top = lanes[0];
    for (const float lane : lanes) top = larger(top, lane);
    return top;
  }

  // Where each candidate stands: behind all larger ones, and equal ones of lower ids.
  void rank() {
    for (int i = 0; i < k_; ++i) order_[i] = 0;
    for (int i = 0; i < count_; ++i) {
      int before = 0;
      const float mine = scores_[i];
      for (int j = 0; j < i; ++j) before += scores_[j] >= mine;
      for (int j = i + 1; j < count_; ++j) before += scores_[j] > mine;
      is_kept_[i] = before < k_;
      if (is_kept_[i]) order_[before] = i;
    }
  }

  // The token at which the cumulative probability of what is kept, by rising id, first exceeds a share of
  // its sum.
  int32_t choose(float uniform, float top_p, int32_t vocab_size) {
    float sum = 0.0f, before = 0.0f, total = 0.0f, cumulative = 0.0f;
    const float top = scores_[order_[0]];
    for (int r = 0; r < k_; ++r) sum += probs_[order_[r]] = std::exp(scores_[order_[r]] - top);
    for (int r = 0; r < k_; ++r) {
      const float prob = probs_[order_[r]] / sum;
      probs_[order_[r]] = before < top_p ? prob : 0.0f;
      before += prob;
    }
    for (int i = 0; i < count_; ++i) total += is_kept_[i] ? probs_[i] : 0.0f;
    for (int i = 0; i < count_; ++i) {
      if (!is_kept_[i]) continue;
      cumulative += probs_[i];
      if (cumulative > uniform * total && probs_[i] > 0.0f) return found_[i].id;
    }
    return vocab_size;
  }

  const int k_;
  const float temperature_;
  std::vector<float> maxima_, sorted_;
  std::vector<Candidate> found_;
  int count_ = 0;
  float scores_[kMost], probs_[kMost];
  int order_[kMost];
  bool is_kept_[kMost];
};

void draw(int64_t threads, int k, float top_p, float temperature, ffi::Buffer<ffi::F32> uniforms,
          ffi::Buffer<ffi::F32> log_probs, ffi::ResultBuffer<ffi::S32> tokens) {
  constexpr int64_t kRows = 8, kNumbers = 1 << 14;  // of a task, and from which on another thread is worth it
  const int64_t num_rows = log_probs.dimensions()[0], vocab_size = log_probs.dimensions()[1];
  const int64_t tasks = (num_rows + kRows - 1) / kRows;
  const auto work = [&](int, int task) {
    Row each(k, temperature);
    for (int64_t row = task * kRows; row < std::min(num_rows, (task + 1) * kRows); ++row) {
      tokens->typed_data()[row] =
          each.draw(log_probs.typed_data() + row * vocab_size, vocab_size, uniforms.typed_data()[row], top_p);
    }
  };
  threads = std::clamp<int64_t>(num_rows * vocab_size / kNumbers, 1, std::min(threads, tasks));
  Team::of_process().run(static_cast<int>(threads), 1, static_cast<int>(tasks), work);
}

ffi::Error call(int64_t threads, int64_t top_k, float top_p, float temperature,
                ffi::Buffer<ffi::F32> uniforms, ffi::Buffer<ffi::F32> log_probs,
                ffi::ResultBuffer<ffi::S32> tokens) {
  return caught("the likeliest", [&] {
    const auto rows = log_probs.dimensions();
    if (rows.size() != 2 || uniforms.element_count() != static_cast<size_t>(rows[0]) ||
        tokens->element_count() != static_cast<size_t>(rows[0]) || top_k < 1 ||
        top_k > std::min<int64_t>(kMost, rows[1])) {
      throw std::invalid_argument("expected a number and a token for each row, of k symbols or more");
    }
    if (rows[0]) draw(threads, static_cast<int>(top_k), top_p, temperature, uniforms, log_probs, tokens);
  });
}

}  // namespace
}  // namespace lmseq

XLA_FFI_DEFINE_HANDLER_SYMBOL(lmseq_draw_likeliest, lmseq::call,
                              xla::ffi::Ffi::Bind()
                                  .Attr<int64_t>("threads")
                                  .Attr<int64_t>("top_k")
                                  .Attr<float>("top_p")
                                  .Attr<float>("temperature")
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::S32>>());
