// Attention by `vdpbf16ps`, for Zen 4 and later: one instruction for two fused multiply-adds of floats. Here only: tiles in
// the order of sums that `attention.h` defines.
#pragma once
#include "attention_bf16.h"

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)

INLINE vf dot2(vf acc, vf a, vf b) { return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b); }
INLINE vf load_pairs(const uint16_t* p) { return load((const float*)p); }
INLINE vf set1_pair(const uint16_t* p) {
    float pair;
    std::memcpy(&pair, p, sizeof(pair));
    return set1(pair);
}

struct DotTiles : PairTiles<true> {
    static constexpr const char* NAME = "vdpbf16ps";
    static constexpr int QUERIES = 6, VALUES = 4;  // of a tile: its sums fill the registers
    static constexpr bool AT_ONCE = false;
    static bool allowed() { return true; }
    struct Use {};

    // Scores of N queries against 32 keys. `out` and `weights` have a row of SPLIT for each query.
    template <int N>
    INLINE void score_tile(const uint16_t* queries, int width, const uint16_t* keys, float* out) {
        vf totals[N][2];
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) totals[i][0] = totals[i][1] = vf{};
        for (int d = 0; d < width; d += STRETCH, keys += 2 * TILE_NUMBERS) {
            vf sums[2][N][2];
#pragma GCC unroll 2
            for (int odd = 0; odd < 2; odd++) {
#pragma GCC unroll 8
                for (int i = 0; i < N; i++) sums[odd][i][0] = sums[odd][i][1] = vf{};
                for (int pair = odd; pair < LANES; pair += 2) {
                    const vf low = load_pairs(keys + pair * STRETCH), high = load_pairs(keys + TILE_NUMBERS + pair * STRETCH);
#pragma GCC unroll 8
                    for (int i = 0; i < N; i++) {
                        const vf q = set1_pair(queries + i * width + d + 2 * pair);
                        sums[odd][i][0] = dot2(sums[odd][i][0], q, low);
                        sums[odd][i][1] = dot2(sums[odd][i][1], q, high);
                    }
                }
            }
#pragma GCC unroll 8
            for (int i = 0; i < N; i++)
                for (int half = 0; half < 2; half++) totals[i][half] += sums[0][i][half] + sums[1][i][half];
        }
#pragma GCC unroll 8
        for (int i = 0; i < N; i++)
            for (int half = 0; half < 2; half++) store(out + i * SPLIT + half * LANES, totals[i][half]);
    }

    // Adds 32 values, weighted, to what N queries have seen: P vectors of them.
    template <int N, int P>
    INLINE void add_tile(Seen* seen, const uint16_t* values, int from, const uint16_t* weights) {
        vf sums[2][N][P];
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
#pragma GCC unroll 8
            for (int i = 0; i < N; i++)
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) sums[odd][i][p] = vf{};
            for (int pair = odd; pair < LANES; pair += 2) {
                vf v[P];
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) v[p] = load_pairs(values + (from / LANES + p) * TILE_NUMBERS + pair * STRETCH);
#pragma GCC unroll 8
                for (int i = 0; i < N; i++) {
                    const vf w = set1_pair(weights + i * SPLIT + 2 * pair);
#pragma GCC unroll 4
                    for (int p = 0; p < P; p++) sums[odd][i][p] = dot2(sums[odd][i][p], w, v[p]);
                }
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < N; i++)
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) {
                float* at = seen[i].values + from + p * LANES;
                store(at, load(at) + (sums[0][i][p] + sums[1][i][p]));
            }
    }

    static void score(
        const Strip& strip, int stretch, const uint16_t* queries, int width, const uint16_t* keys, int,
        float (*out)[SPLIT]) {
        strip.each_tile<QUERIES>(stretch, [&](auto N, int i) {
            score_tile<N>(queries + i * width, width, keys, out[i] + stretch * STRETCH);
        });
    }
    static void add_values(
        const Strip& strip, int stretch, const uint16_t (*weights)[SPLIT], const uint16_t* values, int dim, Seen* seen) {
        strip.each_tile<QUERIES>(stretch, [&](auto N, int i) {
            const uint16_t* by = weights[i] + stretch * STRETCH;
            int d = 0;
            for (; d + VALUES * LANES <= dim; d += VALUES * LANES) add_tile<N, VALUES>(seen + i, values, d, by);
            for (; d < dim; d += LANES) add_tile<N, 1>(seen + i, values, d, by);
        });
    }
};

#endif
