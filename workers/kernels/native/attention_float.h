// Attention by fused multiply-adds of floats: what every processor has, and what float32 pages take. Here only: tiles in
// the order of sums that `attention.h` defines.
#pragma once
#include "attention.h"

// Of a tile, so that its sums fill the registers: queries, and vectors of their values.
constexpr int QUERIES = WIDE ? 6 : 2, VALUES = WIDE ? 4 : 2;

// Scores of N queries against 32 keys, [dim][32]. `out` and `weights` have a row of SPLIT for each query.
template <int N>
INLINE void score_floats(const float* queries, int width, const float* keys, int dim, float* out) {
    vf totals[N][2];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) totals[i][0] = totals[i][1] = vf{};
    for (int from = 0; from < dim; from += STRETCH) {
        const int end = from + STRETCH < dim ? from + STRETCH : dim;
        vf sums[2][N][2];
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
#pragma GCC unroll 8
            for (int i = 0; i < N; i++) sums[odd][i][0] = sums[odd][i][1] = vf{};
            for (int d = from + odd; d < end; d += 2) {
                const vf low = load(keys + d * STRETCH), high = load(keys + d * STRETCH + LANES);
#pragma GCC unroll 8
                for (int i = 0; i < N; i++) {
                    const vf q = set1(queries[i * width + d]);
                    sums[odd][i][0] = fma(q, low, sums[odd][i][0]);
                    sums[odd][i][1] = fma(q, high, sums[odd][i][1]);
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
INLINE void add_floats(Seen* seen, const float* values, int dim, int from, const float* weights) {
    vf sums[2][N][P];
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
#pragma GCC unroll 8
        for (int i = 0; i < N; i++)
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) sums[odd][i][p] = vf{};
        for (int key = odd; key < STRETCH; key += 2) {
            vf v[P];
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) v[p] = load(values + key * dim + from + p * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < N; i++) {
                const vf w = set1(weights[i * SPLIT + key]);
#pragma GCC unroll 4
                for (int p = 0; p < P; p++) sums[odd][i][p] = fma(w, v[p], sums[odd][i][p]);
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

static void score_stretch(
    const Strip& strip, int stretch, const float* queries, int width, const float* keys, int dim, float (*out)[SPLIT]) {
    strip.each_tile<QUERIES>(stretch, [&](auto N, int i) {
        score_floats<N>(queries + i * width, width, keys, dim, out[i] + stretch * STRETCH);
    });
}

static void add_stretch(
    const Strip& strip, int stretch, const float (*weights)[SPLIT], const float* values, int dim, Seen* seen) {
    strip.each_tile<QUERIES>(stretch, [&](auto N, int i) {
        const float* by = weights[i] + stretch * STRETCH;
        int d = 0;
        for (; d + VALUES * LANES <= dim; d += VALUES * LANES) add_floats<N, VALUES>(seen + i, values, dim, d, by);
        for (; d < dim; d += LANES) add_floats<N, 1>(seen + i, values, dim, d, by);
    });
}

// Keys that are exact in bfloat16 (BF16), or of float32, whose queries and weights aren't rounded then.
template <bool BF16>
struct FloatTiles {
    using Number = float;
    static constexpr const char* NAME = "FMA";
    static constexpr bool AT_ONCE = false;
    struct Use {};

    // A denormal is zero before it is rounded, as the instructions have it that round to bfloat16.
    static vf rounded(vf v) {
        if constexpr (!BF16) return v;
        alignas(32) uint16_t to[LANES];
        float_to_bf16(to, v + set1(0.0f));
        return bf16_to_float(to);
    }
    static vf load16(Numbers numbers, const uint8_t* p, int from) {
        if constexpr (!BF16) return load((const float*)p + from);
        return numbers == Numbers::INT8 ? int8_to_float((const int8_t*)p + from) : bf16_to_float((const uint16_t*)p + from);
    }

    static void put_query(const float* query, int dim, float* out) {
        for (int d = 0; d < dim; d += LANES) store(out + d, rounded(load(query + d)));
    }
    static void put_weights(vf low, vf high, float* out) {
        store(out, rounded(low));
        store(out + LANES, rounded(high));
    }
    // [dim][32]. Keys of bfloat16 are turned as pairs, which takes half as many shuffles, and those of int8 in fours.
    static void put_keys(const Keys& keys, const Stretch& stretch, float* out) {
        for (int half = 0; half < STRETCH; half += LANES) {
            vf rows[LANES];
            const auto put = [&](int d, vf value) { store(out + d * STRETCH + half, value); };
            int d = 0;
            const bool fours = keys.numbers == Numbers::INT8;
            for (; BF16 && fours && d + 4 * LANES <= keys.dim; d += 4 * LANES) {
                for (int i = 0; i < LANES; i++) rows[i] = load((const float*)(stretch.of[half + i] + d));
                transpose(rows);
                for (int i = 0; i < LANES; i++) {
                    put(d + 4 * i, quarter<0>(rows[i])), put(d + 4 * i + 1, quarter<1>(rows[i]));
                    put(d + 4 * i + 2, quarter<2>(rows[i])), put(d + 4 * i + 3, quarter<3>(rows[i]));
                }
            }
            for (; BF16 && !fours && d + 2 * LANES <= keys.dim; d += 2 * LANES) {
                for (int i = 0; i < LANES; i++) rows[i] = load((const float*)(stretch.of[half + i] + 2 * d));
                transpose(rows);
                for (int i = 0; i < LANES; i++) put(d + 2 * i, even_bf16(rows[i])), put(d + 2 * i + 1, odd_bf16(rows[i]));
            }
            for (; d < keys.dim; d += LANES) {
                for (int i = 0; i < LANES; i++) rows[i] = load16(keys.numbers, stretch.of[half + i], d);
                transpose(rows);
                for (int i = 0; i < LANES; i++) put(d + i, rows[i]);
            }
        }
    }
    // [32][dim].
    static void put_values(const Keys& keys, const Stretch& stretch, float* out) {
        for (int i = 0; i < STRETCH; i++)
            for (int d = 0; d < keys.dim; d += LANES)
                store(out + i * keys.dim + d, load16(keys.numbers, stretch.of[i] + keys.value, d));
    }
    static constexpr auto score = score_stretch;
    static constexpr auto add_values = add_stretch;
};
