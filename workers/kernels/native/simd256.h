// Sixteen lanes in two registers: AVX2 with FMA and F16C. Here only: what `simd512.h` does with one.
//
// Two vectors of the compiler's, not one of 64 bytes: that one would live in memory.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

template <class V>
struct Two {
    V low, high;
    auto operator[](int i) const {
        constexpr int half = sizeof(V) / sizeof(low[0]);
        return i < half ? low[i] : high[i - half];
    }
};
typedef Two<float __attribute__((vector_size(32)))> vf;
typedef Two<int32_t __attribute__((vector_size(32)))> vi;
typedef Two<uint8_t __attribute__((vector_size(32)))> vb;

template <class V> INLINE Two<V> operator+(Two<V> a, Two<V> b) { return {a.low + b.low, a.high + b.high}; }
template <class V> INLINE Two<V> operator-(Two<V> a, Two<V> b) { return {a.low - b.low, a.high - b.high}; }
template <class V> INLINE Two<V> operator*(Two<V> a, Two<V> b) { return {a.low * b.low, a.high * b.high}; }
template <class V> INLINE Two<V> operator/(Two<V> a, Two<V> b) { return {a.low / b.low, a.high / b.high}; }
template <class V> INLINE Two<V> operator-(Two<V> a) { return {-a.low, -a.high}; }
template <class V> INLINE Two<V> operator<<(Two<V> a, int bits) { return {a.low << bits, a.high << bits}; }
template <class V> INLINE Two<V> operator>>(Two<V> a, int bits) { return {a.low >> bits, a.high >> bits}; }
INLINE vb operator&(vb a, uint8_t mask) { return {a.low & mask, a.high & mask}; }
template <class V> INLINE Two<V>& operator+=(Two<V>& a, Two<V> b) { return a = a + b; }

constexpr bool WIDE = false;  // registers: 16 of 8 lanes

INLINE __m256 float_half(const vf& v, int half) { return (__m256)(half ? v.high : v.low); }
INLINE vf both(__m256 low, __m256 high) { return {(decltype(vf::low))low, (decltype(vf::low))high}; }
INLINE vi both(__m256i low, __m256i high) { return {(decltype(vi::low))low, (decltype(vi::low))high}; }

INLINE vf set1(float x) { return both(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE vi set1_int(int32_t x) { return both(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
INLINE vf load(const float* p) { return both(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
INLINE void store(float* p, vf v) {
    _mm256_storeu_ps(p, (__m256)v.low);
    _mm256_storeu_ps(p + 8, (__m256)v.high);
}
INLINE vb load_bytes(const uint8_t* p) {
    typedef decltype(vb::low) half;
    return {(half)_mm256_loadu_si256((const __m256i*)p), (half)_mm256_loadu_si256((const __m256i*)(p + 32))};
}
INLINE void store_bytes(uint8_t* p, vb v) {
    _mm256_storeu_si256((__m256i*)p, (__m256i)v.low);
    _mm256_storeu_si256((__m256i*)(p + 32), (__m256i)v.high);
}
INLINE vf fma(vf a, vf b, vf c) {
    return both(
        _mm256_fmadd_ps((__m256)a.low, (__m256)b.low, (__m256)c.low),
        _mm256_fmadd_ps((__m256)a.high, (__m256)b.high, (__m256)c.high));
}
template <class V>
INLINE vf where_less(Two<V> a, Two<V> b, vf then, vf otherwise) {
    return {a.low < b.low ? then.low : otherwise.low, a.high < b.high ? then.high : otherwise.high};
}
INLINE vf max(vf a, vf b) {
    return both(_mm256_max_ps((__m256)a.low, (__m256)b.low), _mm256_max_ps((__m256)a.high, (__m256)b.high));
}
INLINE vf to_float(vi v) { return both(_mm256_cvtepi32_ps((__m256i)v.low), _mm256_cvtepi32_ps((__m256i)v.high)); }
INLINE vi to_int(vf v) { return both(_mm256_cvttps_epi32((__m256)v.low), _mm256_cvttps_epi32((__m256)v.high)); }
INLINE vf as_float(vi v) { return both((__m256)v.low, (__m256)v.high); }
INLINE vi as_int(vf v) { return both((__m256i)v.low, (__m256i)v.high); }

INLINE vb broadcast4(const int8_t* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    typedef decltype(vb::low) half;
    return {(half)_mm256_set1_epi32(word), (half)_mm256_set1_epi32(word)};
}

INLINE void store_int8(int8_t* p, vi v) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)v.low, (__m256i)v.high), 0xd8);
    _mm_storeu_si128(
        (__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

INLINE vf int8_to_float(const int8_t* p) {
    const auto half = [](const int8_t* q) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)q)));
    };
    return both(half(p), half(p + 8));
}

INLINE vf half_to_float(const uint16_t* p) {
    return both(
        _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8))));
}

INLINE vf even_bf16(vf pairs) {
    const auto half = [](decltype(vf::low) v) { return (__m256)_mm256_slli_epi32((__m256i)v, 16); };
    return both(half(pairs.low), half(pairs.high));
}
INLINE vf odd_bf16(vf pairs) {
    const auto half = [](decltype(vf::low) v) {
        return (__m256)_mm256_and_si256((__m256i)v, _mm256_set1_epi32((int32_t)0xffff0000));
    };
    return both(half(pairs.low), half(pairs.high));
}

INLINE vf bf16_to_float(const uint16_t* p) {
    const auto half = [](const uint16_t* q) {
        return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)q)), 16);
    };
    return both(half(p), half(p + 8));
}

INLINE void float_to_bf16(uint16_t* p, vf v) {
    const auto half = [](__m256i bits) {
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    };
    const __m256i words = _mm256_packus_epi32(half((__m256i)v.low), half((__m256i)v.high));
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(words, 0xd8));
}

template <int BITS>
INLINE vi dot4(vi acc, vb w, vb a) {
    const __m256i ones = _mm256_set1_epi16(1);
    const auto half = [&](__m256i sum, __m256i x, __m256i b) {
        if constexpr (BITS < 8)  // two products of 7 bits by 7 bits fit 16 bits
            return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, b), ones));
        // Of 8 bits they do not: low and high nibbles apart.
        const __m256i nibble = _mm256_set1_epi8(15), low = _mm256_and_si256(x, nibble);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(low, b), ones));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(high, b), _mm256_set1_epi16(16)));
    };
    return both(
        half((__m256i)acc.low, (__m256i)w.low, (__m256i)a.low),
        half((__m256i)acc.high, (__m256i)w.high, (__m256i)a.high));
}

INLINE vb with_bit(vb v, uint64_t mask, uint8_t bit) {
    const __m256i select = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    const __m256i spread = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const auto half = [&](__m256i x, uint32_t bits) {
        const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)bits), spread);
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, select), select);
        return (decltype(vb::low))_mm256_or_si256(x, _mm256_and_si256(set, _mm256_set1_epi8((char)bit)));
    };
    return {half((__m256i)v.low, (uint32_t)mask), half((__m256i)v.high, (uint32_t)(mask >> 32))};
}

INLINE void transpose8(decltype(vf::low)* row) {
    typedef decltype(vi::low) index;
    const index low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
    decltype(vf::low) next[8];
#pragma GCC unroll 3
    for (int round = 0; round < 3; round++) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            next[2 * i] = __builtin_shuffle(row[i], row[i + 4], low);
            next[2 * i + 1] = __builtin_shuffle(row[i], row[i + 4], high);
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) row[i] = next[i];
    }
}

INLINE void transpose(vf* row) {
    decltype(vf::low) quarter[4][8];  // left and right of the upper rows, then of the lower ones
    for (int i = 0; i < 8; i++) {
        quarter[0][i] = row[i].low, quarter[1][i] = row[i].high;
        quarter[2][i] = row[8 + i].low, quarter[3][i] = row[8 + i].high;
    }
    for (auto& each : quarter) transpose8(each);
    for (int i = 0; i < 8; i++) {
        row[i] = {quarter[0][i], quarter[2][i]};
        row[8 + i] = {quarter[1][i], quarter[3][i]};
    }
}
