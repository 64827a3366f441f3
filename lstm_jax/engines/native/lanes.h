// Vectors of LANES floats, by the compiler's own extension: the same text for AVX-512, AVX2, NEON.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define UNALIGNED __attribute__((vector_size(LANES * 4), aligned(4), may_alias))
typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t M __attribute__((vector_size(LANES * 4)));
typedef float Unaligned UNALIGNED;

// A stream of rows that a step reads or writes: the first row, floats from row to row, and from one
// group of units to the next.
typedef struct {
  float* at;
  long step, across;
} Stream;

static inline V load(const float* p) { return *(const Unaligned*)p; }
static inline void store(float* p, V v) { *(Unaligned*)p = v; }
static inline V all(float x) { return x - (V){0}; }
static inline V pick(M m, V a, V b) { return (V)((m & (M)a) | (~m & (M)b)); }
static inline V vabs(V x) { return (V)((M)x & 0x7fffffff); }
static inline V vmax(V a, V b) { return pick((a > b) | (a != a), a, b); }  // NaN wins
static inline V vmin(V a, V b) { return pick((a < b) | (a != a), a, b); }
// Sums over units: which of a vector are there, and the sum of its numbers.
static inline M units(long count) {
  M order;
  for (int k = 0; k < LANES; k++) order[k] = k;
  return order < (int32_t)count;
}
static inline float total(V x) {
  float lane[LANES];
  memcpy(lane, &x, sizeof x);
  for (int width = LANES / 2; width; width /= 2)
    for (int k = 0; k < width; k++) lane[k] += lane[k + width];
  return lane[0];
}
static inline V vsign(V x) { return pick(x > 0.0f, all(1), pick(x < 0.0f, all(-1), x)); }

// e^x of |x| below 88: x = n log 2 + r, a polynomial in r, n into the exponent. NaN stays NaN.
static inline V vexp_bounded(V x) {
  V shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: n in the lowest bits
  V n = shifted - 12582912.0f;
  V r = x - n * 0.693359375f + n * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * (V)(((M)shifted << 23) + (127 << 23));
}
static inline V bounded(V x, float k) {
  x = pick(x > k, all(k), x);
  return pick(x < -k, all(-k), x);
}
static inline V vexp(V x) {
  V y = vexp_bounded(bounded(x, 87.0f));
  y = pick(x > 88.72f, all(INFINITY), pick(x > 87.0f, y * vexp_bounded(x - 87.0f), y));
  return pick(x < -87.0f, all(0), y);
}
static inline V vsigmoid(V x) { return 1.0f / (1.0f + vexp_bounded(bounded(-x, 87.0f))); }

// A rational function, as Eigen and XLA have it.
static inline V vtanh(V x) {
  V u = bounded(x, 7.90531110763549805f), s = u * u;
  V p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * s + -8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  V q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return u * p / q;
}

// The C library's own, lane by lane: for what no standard cell asks for.
#define BY_LANE(name, function)                            \
  static inline V name(V x) {                              \
    float lane[LANES];                                     \
    memcpy(lane, &x, sizeof x);                            \
    for (int k = 0; k < LANES; k++) lane[k] = function(lane[k]); \
    memcpy(&x, lane, sizeof x);                            \
    return x;                                              \
  }
BY_LANE(vlog, logf)
BY_LANE(vlog1p, log1pf)
BY_LANE(vexpm1, expm1f)
BY_LANE(vsqrt, sqrtf)
BY_LANE(vsin, sinf)
BY_LANE(vcos, cosf)
BY_LANE(verf, erff)
static inline V vpow(V x, V y) {
  float a[LANES], b[LANES];
  memcpy(a, &x, sizeof x);
  memcpy(b, &y, sizeof y);
  for (int k = 0; k < LANES; k++) a[k] = powf(a[k], b[k]);
  memcpy(&x, a, sizeof x);
  return x;
}
