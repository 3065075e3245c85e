// Sixteen lanes of float and int32, and the few operations that the kernels need. Here only: what is the same on every
// processor; the rest is `simd512.h` and `simd256.h`.
//
// Results do not depend on the processor: every operation is exact, or one IEEE rounding per lane, and the compiler is
// told not to contract by itself.
#pragma once
#if defined(__AVX512F__)
#include "simd512.h"
#else
#include "simd256.h"
#endif
#include <cmath>
#include <type_traits>

constexpr int LANES = 16;

INLINE vi lane_numbers() {
    vi numbers;
    const int32_t count[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    std::memcpy(&numbers, count, sizeof(numbers));
    return numbers;
}

// Folds the lanes in halves, always in the same order: `f(first half, second half)` until there is one.
template <class V, class F>
INLINE auto folded(V v, const F& f) {
    typedef decltype(v[0] + v[0]) T;
    typedef T v8 __attribute__((vector_size(32)));
    typedef T v4 __attribute__((vector_size(16)));
    v8 a, b;
    std::memcpy(&a, &v, 32);
    std::memcpy(&b, (const char*)&v + 32, 32);
    a = f(a, b);
    v4 c, d;
    std::memcpy(&c, &a, 16);
    std::memcpy(&d, (const char*)&a + 16, 16);
    c = f(c, d);
    c = f(c, v4{c[2], c[3], c[2], c[3]});
    c = f(c, v4{c[1], c[1], c[1], c[1]});
    return c[0];
}

INLINE float sum(vf v) {
    return folded(v, [](auto a, auto b) { return a + b; });
}

INLINE float largest(vf v) {
    return folded(v, [](auto a, auto b) { return a > b ? a : b; });
}

INLINE int32_t total(vi v) {
    return folded(v, [](auto a, auto b) { return a + b; });
}

// To the nearest integer, ties to even; |v| < 2^22.
INLINE vi round_to_int(vf v) {
    const vf magic = set1(12582912.0f);
    return to_int((v + magic) - magic);
}

// Of sixteen times four numbers of -128 to 127, those at place `PART` of the four.
template <int PART>
INLINE vf quarter(vf quads) {
    return to_float((as_int(quads) << (24 - 8 * PART)) >> 24);
}

// Calls `f` with `n`, 1 <= n <= MOST, as a constant.
template <int MOST, class F>
INLINE void with_constant(int n, const F& f) {
    if constexpr (MOST > 1)
        if (n < MOST) return with_constant<MOST - 1>(n, f);
    f(std::integral_constant<int, MOST>{});
}

// exp to 2 ulp (Cephes' expf); below -87 it is 0.
INLINE vf exp(vf x) {
    const vf low = set1(-87.0f), high = set1(88.0f);
    const vf inside = where_less(x, low, low, where_less(high, x, high, x));
    const vi n = round_to_int(inside * set1(1.44269504f));
    const vf whole = to_float(n);
    vf r = fma(whole, set1(-0.693359375f), inside);
    r = fma(whole, set1(2.12194440e-4f), r);
    vf p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, r * r, r + set1(1.0f));
    return where_less(x, low, vf{}, p * as_float((n + set1_int(127)) << 23));
}
