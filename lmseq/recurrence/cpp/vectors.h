// Vectors of the widest registers there are, and the arithmetic of gates over them.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace lmseq {

// Lanes of a vector, and how many vectors may hold sums at once beside what else a product needs.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 24;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kSums = 12;
#else
constexpr int kLanes = 4, kSums = 24;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector fill(float x) { return x - Vector{}; }

// Parts of a vector by masks, but for the address sanitizer, which does not see those.
#if defined(__AVX512F__) && !defined(__SANITIZE_ADDRESS__)
#define LMSEQ_HAS_MASKS 1
#endif

#if defined(__AVX512F__)
inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }
#endif

// The first n lanes; what lies behind them in memory is not touched.
inline Vector load(const float* from, int n = kLanes) {
  if (n == kLanes) return *reinterpret_cast<const Unaligned*>(from);
#if defined(LMSEQ_HAS_MASKS)
  return (Vector)_mm512_maskz_loadu_ps(first_lanes(n), from);
#else
  Vector x{};
  for (int i = 0; i < n; ++i) x[i] = from[i];
  return x;
#endif
}

inline void store(float* to, Vector x, int n = kLanes) {
  if (n == kLanes) {
    *reinterpret_cast<Unaligned*>(to) = x;
    return;
  }
#if defined(LMSEQ_HAS_MASKS)
  _mm512_mask_storeu_ps(to, first_lanes(n), (__m512)x);
#else
  for (int i = 0; i < n; ++i) to[i] = x[i];
#endif
}

// The rational function of lmseq/recurrence/cells.py. Comparisons that fail leave a NaN as it is.
inline Vector tanh_of(Vector x) {
  const Vector bound = fill(7.90531f);
  x = x > bound ? bound : x;
  x = x < -bound ? -bound : x;
  const Vector square = x * x;
  Vector above = square * 1.541764452e-08f + 2.201656294e-05f;
  above = above * square + 3.578609020e-03f;
  above = above * square + 1.345030374e-01f;
  above = above * square + 9.999999943e-01f;
  Vector below = square * 8.594802631e-07f + 3.423009564e-04f;
  below = below * square + 2.619079919e-02f;
  below = below * square + 4.678363171e-01f;
  below = below * square + 1.0f;
  return x * above / below;
}

inline Vector sigmoid_of(Vector x) { return 0.5f + 0.5f * tanh_of(0.5f * x); }

// exp(x) for x up to 88, 0 below -87.3: 2^n times 1 + r + r^2 q(r) for r within log(2) / 2 of 0, with q of
// degree 4 found by weighted least squares (Lawson 1961): within 4e-9 before rounding. A NaN stays one.
inline Vector exp_of(Vector x) {
  typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
  const float rounder = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to whole numbers
  const Vector above = fill(88.0f), below = fill(-87.3f);
  const Vector inside = x > above ? above : x < below ? below : x;
  const Vector moved = inside * 1.44269504f + rounder, whole = moved - rounder;
  const Vector rest = (inside - whole * 0.693359375f) + whole * 2.121944400e-04f;
  Vector power = rest * 1.381459859e-03f + 8.368716907e-03f;
  power = power * rest + 4.166838805e-02f;
  power = power * rest + 1.666652063e-01f;
  power = power * rest + 4.999999345e-01f;
  power = power * rest * rest + rest + 1.0f;
  const Bits exponent = ((Bits)moved - 0x4B400000u) << 23;
  const Vector found = (Vector)((Bits)power + exponent);
  return x < below ? Vector{} : x == x ? found : x;
}

}  // namespace lmseq
