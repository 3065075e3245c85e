// Sixteen lanes in one register: AVX-512 with VNNI. Here only: what `simd256.h` does with two registers.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

// The compiler's own vectors: operators work lane by lane.
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint8_t vb __attribute__((vector_size(64)));

constexpr bool WIDE = true;  // registers: 32 of 16 lanes

INLINE vf set1(float x) { return (vf)_mm512_set1_ps(x); }
INLINE vi set1_int(int32_t x) { return (vi)_mm512_set1_epi32(x); }
INLINE vf load(const float* p) { return (vf)_mm512_loadu_ps(p); }
INLINE void store(float* p, vf v) { _mm512_storeu_ps(p, (__m512)v); }
INLINE vb load_bytes(const uint8_t* p) { return (vb)_mm512_loadu_si512(p); }
INLINE void store_bytes(uint8_t* p, vb v) { _mm512_storeu_si512(p, (__m512i)v); }
INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf where_less(vf a, vf b, vf then, vf otherwise) { return a < b ? then : otherwise; }
INLINE vf where_less(vi a, vi b, vf then, vf otherwise) { return a < b ? then : otherwise; }
INLINE vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }  // b where either is NaN
INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }
INLINE vi to_int(vf v) { return __builtin_convertvector(v, vi); }
INLINE vf as_float(vi v) { return (vf)v; }
INLINE vi as_int(vf v) { return (vi)v; }

// Four bytes, again and again.
INLINE vb broadcast4(const int8_t* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return (vb)set1_int(word);
}

// Sixteen numbers of -128 to 127.
INLINE void store_int8(int8_t* p, vi v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v)); }

INLINE vf int8_to_float(const int8_t* p) {
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}

INLINE vf half_to_float(const uint16_t* p) {
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}

// Of sixteen pairs of bfloat16, those at even and at odd places.
INLINE vf even_bf16(vf pairs) { return (vf)((vi)pairs << 16); }
INLINE vf odd_bf16(vf pairs) { return (vf)((vi)pairs & (int32_t)0xffff0000); }

INLINE vf bf16_to_float(const uint16_t* p) {
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}

// To the nearest, ties to even; not for NaN.
INLINE void float_to_bf16(uint16_t* p, vf v) {
    const __m512i bits = (__m512i)v, odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

// acc[lane] += sum over i < 4 of w[4 * lane + i] * a[4 * lane + i]; w unsigned below 2^BITS, a signed, |a| <= 127. Exact.
template <int BITS>
INLINE vi dot4(vi acc, vb w, vb a) {
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)a);
}

// `v` with `bit`, which is not set in it, set in each byte whose bit of `mask` is set.
INLINE vb with_bit(vb v, uint64_t mask, uint8_t bit) {
    return (vb)_mm512_mask_add_epi8((__m512i)v, mask, (__m512i)v, _mm512_set1_epi8((char)bit));
}

// Lane i of row j becomes what lane j of row i was.
INLINE void transpose(vf* row) {
    // Four rounds of interleaving halves.
    const vi low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const vi high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    vf next[16];
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            next[2 * i] = __builtin_shuffle(row[i], row[i + 8], low);
            next[2 * i + 1] = __builtin_shuffle(row[i], row[i + 8], high);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) row[i] = next[i];
    }
}
