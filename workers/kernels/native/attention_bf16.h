// How pairs of bfloat16 lie for the instructions that multiply them. Here only: rounding and turning, for AMX and for
// `vdpbf16ps`.
//
// A pair is a lane of 32 bits. AMX takes neighbours (even, odd), and `vdpbf16ps` two of the even places or two of the odd
// ones, the later one first: of each four numbers (2, 0) and (3, 1). Tiles are [16 pairs][16 lanes]: the lanes are keys, or
// numbers of a value.
#pragma once
#include "attention.h"

#if defined(__AVX512BF16__)

constexpr int TILE_NUMBERS = 16 * STRETCH;

template <bool FOURS>  // whether numbers are taken in fours, for `vdpbf16ps`
struct PairTiles {
    using Number = uint16_t;

    static __m512i ordered(__m512i v) {
        if constexpr (!FOURS) return v;
        return _mm512_shuffle_epi8(v, _mm512_set4_epi32(0x0b0a0f0e, 0x09080d0c, 0x03020706, 0x01000504));
    }
    static void put(vf low, vf high, uint16_t* out) {
        _mm512_store_si512(out, ordered((__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low)));
    }
    static void put_query(const float* query, int dim, uint16_t* out) {
        for (int d = 0; d < dim; d += STRETCH)
            put(load(query + d), d + LANES < dim ? load(query + d + LANES) : vf{}, out + d);
    }
    static void put_weights(vf low, vf high, uint16_t* out) { put(low, high, out); }

    // [dim / 32][half of the keys] tiles.
    static void put_keys(const Keys& keys, const Stretch& stretch, uint16_t* out) {
        if (keys.numbers == Numbers::INT8) return put_int8_keys(keys, stretch, out);
        for (int d = 0; d < keys.dim; d += STRETCH) {
            const __mmask16 pairs = d + LANES < keys.dim ? 0xffff : 0xff;
            for (int half = 0; half < STRETCH; half += LANES, out += TILE_NUMBERS) {
                vf rows[LANES];
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++)
                    rows[i] = (vf)ordered(_mm512_maskz_loadu_epi32(pairs, stretch.of[half + i] + 2 * d));
                transpose(rows);
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) store((float*)out + i * LANES, rows[i]);
            }
        }
    }
    // Numbers are turned in fours.
    static void put_int8_keys(const Keys& keys, const Stretch& stretch, uint16_t* out) {
        for (int d = 0; d < keys.dim; d += 4 * LANES) {
            const int fours = (keys.dim - d) / 4 < LANES ? (keys.dim - d) / 4 : LANES, tiles = fours > LANES / 2 ? 2 : 1;
            for (int half = 0; half < 2; half++) {
                vf rows[LANES];
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++)
                    rows[i] = (vf)_mm512_maskz_loadu_epi32((1 << fours) - 1, stretch.of[half * LANES + i] + d);
                transpose(rows);
                for (int tile = 0; tile < tiles; tile++) {
                    uint16_t* to = out + (2 * tile + half) * TILE_NUMBERS;
                    for (int i = 0; i < LANES / 2; i++, to += 2 * STRETCH) {
                        const vf four = rows[tile * LANES / 2 + i];
                        const vf n0 = quarter<0>(four), n1 = quarter<1>(four), n2 = quarter<2>(four), n3 = quarter<3>(four);
                        _mm512_store_si512(to, FOURS ? pairs(n2, n0) : pairs(n0, n1));
                        _mm512_store_si512(to + STRETCH, FOURS ? pairs(n3, n1) : pairs(n2, n3));
                    }
                }
            }
            out += 2 * tiles * TILE_NUMBERS;
        }
    }
    // [dim / 16] tiles.
    static void put_values(const Keys& keys, const Stretch& stretch, uint16_t* out) {
        if (keys.numbers == Numbers::INT8)
            return put_value_pairs(keys, out, [&](int low, int high, int d) {
                const auto of = [&](int key) { return int8_to_float((const int8_t*)stretch.of[key] + keys.value + d); };
                return pairs(of(low), of(high));
            });
        put_value_pairs(keys, out, [&](int low, int high, int d) {
            const auto of = [&](int key) {
                return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(stretch.of[key] + keys.value + 2 * d)));
            };
            return _mm512_or_si512(of(low), _mm512_slli_epi32(of(high), 16));
        });
    }

  private:
    // Of floats that are exact in bfloat16.
    static __m512i pairs(vf low, vf high) {
        return _mm512_or_si512(_mm512_srli_epi32((__m512i)low, 16), (__m512i)high);
    }
    // `f(low, high, d)`: pairs of numbers from d on of two values.
    template <class F>
    INLINE void put_value_pairs(const Keys& keys, uint16_t* out, const F& f) {
        for (int d = 0; d < keys.dim; d += LANES)
            for (int pair = 0; pair < LANES; pair++, out += 2 * LANES) {
                const int low = FOURS ? pair / 2 * 4 + pair % 2 + 2 : 2 * pair, high = FOURS ? low - 2 : low + 1;
                _mm512_store_si512(out, f(low, high, d));
            }
    }
};

#endif
