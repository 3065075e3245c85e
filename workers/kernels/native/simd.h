// Sixteen lanes of float and int32, and the few operations that the kernels need. Here only: what differs by processor.
//
// Vectors are GCC's own (64 bytes; the compiler cuts them into what the target has), so one source serves AVX-512, AVX2
// and everything else. Results do not depend on the target: every operation is exact, or one IEEE rounding per lane.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float vf __attribute__((vector_size(64), aligned(64)));
typedef int32_t vi __attribute__((vector_size(64), aligned(64)));
typedef uint8_t vb __attribute__((vector_size(64), aligned(64)));
typedef float vf_u __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint8_t vb_u __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint16_t vh_u __attribute__((vector_size(32), aligned(2), may_alias));

constexpr int LANES = 16;
#define INLINE static inline __attribute__((always_inline))

INLINE vf set1(float x) { return vf{} + x; }
INLINE vf load(const float* p) { return *(const vf_u*)p; }
INLINE void store(float* p, vf v) { *(vf_u*)p = v; }
INLINE vb load_bytes(const uint8_t* p) { return *(const vb_u*)p; }
INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }

// One rounding: the compiler is told not to contract by itself, so that every path rounds alike.
INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    union { vf v; __m256 h[2]; } x{a}, y{b}, z{c};
    z.h[0] = _mm256_fmadd_ps(x.h[0], y.h[0], z.h[0]);
    z.h[1] = _mm256_fmadd_ps(x.h[1], y.h[1], z.h[1]);
    return z.v;
#else
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

INLINE vf max(vf a, vf b) { return a > b ? a : b; }

// Lanes are folded in halves: always the same order.
INLINE float sum(vf v) {
    float x[LANES];
    store(x, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) x[i] += x[i + width];
    return x[0];
}

INLINE float largest(vf v) {
    float x[LANES];
    store(x, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
    return x[0];
}

// To the nearest integer, ties to even; |v| < 2^22.
INLINE vi round_to_int(vf v) {
    const vf magic = set1(12582912.0f);
    return __builtin_convertvector((v + magic) - magic, vi);
}

// exp to 2 ulp (Cephes' expf); below -87 it is 0.
INLINE vf exp(vf x) {
    const vf low = set1(-87.0f), high = set1(88.0f);
    const vf inside = x < low ? low : (x > high ? high : x);
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
    const vf result = p * (vf)((n + 127) << 23);
    return x < low ? vf{} : result;
}

INLINE vf half_to_float(const uint16_t* p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
    union { vf v; __m256 h[2]; } out;
    out.h[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
    out.h[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)));
    return out.v;
#else
    vf out;
    for (int i = 0; i < LANES; i++) {
        _Float16 h;
        std::memcpy(&h, p + i, 2);
        out[i] = (float)h;
    }
    return out;
#endif
}

INLINE vf bf16_to_float(const uint16_t* p) {
    typedef uint32_t vu __attribute__((vector_size(64)));
    return (vf)(__builtin_convertvector(*(const vh_u*)p, vu) << 16);
}

// To the nearest, ties to even; not for NaN.
INLINE void float_to_bf16(uint16_t* p, vf v) {
    typedef uint32_t vu __attribute__((vector_size(64)));
    const vu bits = (vu)v;
    *(vh_u*)p = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, vh_u);
}

// acc[lane] += sum over i < 4 of w[4 * lane + i] * a[i]; w unsigned below 2^BITS, a signed, |a| <= 127. Exact.
template <int BITS>
INLINE vi dot4(vi acc, vb w, int32_t a) {
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(a));
#elif defined(__AVX2__)
    union { vb v; __m256i h[2]; } x{w};
    union { vi v; __m256i h[2]; } y{acc};
    const __m256i b = _mm256_set1_epi32(a), ones = _mm256_set1_epi16(1), nibble = _mm256_set1_epi8(15);
    for (int i = 0; i < 2; i++) {
        if constexpr (BITS < 8) {  // two products of 7 bits by 7 bits fit 16 bits
            y.h[i] = _mm256_add_epi32(y.h[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x.h[i], b), ones));
        } else {  // of 8 bits they do not: low and high nibbles apart
            const __m256i low = _mm256_and_si256(x.h[i], nibble);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x.h[i], 4), nibble);
            y.h[i] = _mm256_add_epi32(y.h[i], _mm256_madd_epi16(_mm256_maddubs_epi16(low, b), ones));
            y.h[i] = _mm256_add_epi32(
                y.h[i], _mm256_madd_epi16(_mm256_maddubs_epi16(high, b), _mm256_set1_epi16(16)));
        }
    }
    return y.v;
#else
    int8_t b[4];
    std::memcpy(b, &a, 4);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) acc[lane] += (int32_t)w[4 * lane + i] * b[i];
    return acc;
#endif
}

// `v` with `bit` set in each byte whose bit of `mask` is set.
INLINE vb with_bit(vb v, uint64_t mask, uint8_t bit) {
#if defined(__AVX512BW__)
    return (vb)_mm512_mask_add_epi8((__m512i)v, mask, (__m512i)v, _mm512_set1_epi8((char)bit));
#elif defined(__AVX2__)
    union { vb v; __m256i h[2]; } x{v};
    const __m256i select = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    const __m256i spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    for (int i = 0; i < 2; i++) {
        const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)(mask >> (32 * i))), spread);
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, select), select);
        x.h[i] = _mm256_or_si256(x.h[i], _mm256_and_si256(set, _mm256_set1_epi8((char)bit)));
    }
    return x.v;
#else
    for (int i = 0; i < 64; i++) v[i] |= (mask >> i & 1) ? bit : 0;
    return v;
#endif
}
