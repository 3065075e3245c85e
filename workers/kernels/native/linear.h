// Matrix products with packed weights: tokens by rows. Here only: tiles, and the order of sums.
#pragma once
#include "linear_amx.h"
#include "packed.h"

// A block of rows by N tokens, integers. `CODED` is how the codes lie: as in the records, or unpacked to 8 bits.
template <int CODED, int BITS, int PER, bool MINS, int N>
INLINE void integer_tile(
    const Matrix& m, const uint8_t* record, const uint8_t* codes, const Activations& a, int begin, vf (*out)[TILE]) {
    constexpr int CHAINS = N == 1 ? 2 : 1;  // integer sums may be taken in any order
    constexpr int PARTS = GROUP / PER;      // scales in 32 inputs
    constexpr int OPERANDS = 8 / PARTS;
    constexpr int RECORD = record_bytes(BITS, PER, MINS), STEP = CODED == BITS ? RECORD : code_bytes(8);
    // Where little is computed between two lines, the processor's own prefetchers do it better.
    constexpr bool FETCH = CODED == BITS && (BITS >= 6 || (BITS == 5 && N > 1));
    constexpr int AHEAD = 4096;
    const int groups = m.inputs / GROUP;
    const int8_t* x = a.codes + (size_t)begin * a.cells() * CELL;
    const Notes* notes = a.notes + (size_t)begin * a.cells();
    vf totals[HALVES][N];
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) totals[0][t] = totals[1][t] = vf{};
    for (int g = 0; g < groups; g++, record += RECORD, codes += STEP) {
        if (FETCH && begin == 0)
            for (int i = 0; i < RECORD; i += 64) __builtin_prefetch(record + AHEAD + i, 0, 2);
        const uint16_t* scales = (const uint16_t*)(record + code_bytes(BITS));
        const int which = g % 2;  // of the cell
        vf weighted[HALVES][N];
#pragma GCC unroll 2
        for (int part = 0; part < PARTS; part++) {
            vi sums[HALVES][N][CHAINS];
#pragma GCC unroll 16
            for (int t = 0; t < N; t++) {
                sums[0][t][0] = sums[1][t][0] = vi{};
                if constexpr (!MINS) {  // what the codes are larger by, of all inputs
                    int32_t sum = notes[t].sums[2 * which + part];
                    if constexpr (PARTS == 1) sum += notes[t].sums[2 * which + 1];
                    sums[0][t][0] = sums[1][t][0] = set1_int(-m.offset * sum);
                }
                for (int c = 1; c < CHAINS; c++) sums[0][t][c] = sums[1][t][c] = vi{};
            }
#pragma GCC unroll 16
            for (int i = 0; i < OPERANDS; i++) {
                const int index = part * OPERANDS + i;
                const vb w = operand<CODED>(codes, index, 0), v = operand<CODED>(codes, index, 1);
#pragma GCC unroll 16
                for (int t = 0; t < N; t++) {
                    const vb word = broadcast4(x + t * CELL + which * GROUP + index * 4);
                    sums[0][t][i % CHAINS] = dot4<BITS>(sums[0][t][i % CHAINS], w, word);
                    sums[1][t][i % CHAINS] = dot4<BITS>(sums[1][t][i % CHAINS], v, word);
                }
            }
#pragma GCC unroll 2
            for (int half = 0; half < HALVES; half++) {
                const vf scale = half_to_float(scales + (part * HALVES + half) * LANES);
#pragma GCC unroll 16
                for (int t = 0; t < N; t++) {
                    for (int c = 1; c < CHAINS; c++) sums[half][t][0] += sums[half][t][c];
                    const vf found = to_float(sums[half][t][0]);
                    weighted[half][t] = part ? fma(found, scale, weighted[half][t]) : found * scale;
                }
            }
        }
#pragma GCC unroll 16
        for (int t = 0; t < N; t++) {
            const vf scale = set1(notes[t].scales[which]);
            totals[0][t] = fma(weighted[0][t], scale, totals[0][t]);
            totals[1][t] = fma(weighted[1][t], scale, totals[1][t]);
        }
        if constexpr (MINS) {
            const uint16_t* mins = scales + PARTS * BLOCK;
            const vf low = half_to_float(mins), high = half_to_float(mins + LANES);
#pragma GCC unroll 16
            for (int t = 0; t < N; t++) {
                const vf share = set1(notes[t].shares[which]);
                totals[0][t] = fma(low, share, totals[0][t]);
                totals[1][t] = fma(high, share, totals[1][t]);
            }
        }
        if (which) x += N * CELL, notes += N;
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) out[0][t] = totals[0][t], out[1][t] = totals[1][t];
}

// Floats: N tokens from `place` on, which are a tile or a part of one.
template <int BITS, int N>
INLINE void float_tile(const Matrix& m, int block, const Activations& a, const Place& place, vf (*out)[TILE]) {
    const float* x = a.floats + (size_t)place.begin * a.cells() * CELL + (size_t)place.lane * LANES;
    const uint8_t* data = m.data + (size_t)block * m.inputs * BLOCK * (BITS / 8);
    const auto weights = [&](int k, int half) {
        const size_t at = (size_t)k * BLOCK + half * LANES;
        if constexpr (BITS == 16) return bf16_to_float((const uint16_t*)data + at);
        return load((const float*)data + at);
    };
    vf even[HALVES][N], odd[HALVES][N];  // two chains: fused multiply-adds take their time
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) even[0][t] = odd[0][t] = even[1][t] = odd[1][t] = vf{};
    for (int k = 0; k < m.inputs; k += 2) {
        const float* at = x + (size_t)(k / LANES) * place.tokens * LANES + k % LANES;
        const vf w[2] = {weights(k, 0), weights(k, 1)}, v[2] = {weights(k + 1, 0), weights(k + 1, 1)};
#pragma GCC unroll 16
        for (int t = 0; t < N; t++) {
            const vf first = set1(at[t * LANES]), second = set1(at[t * LANES + 1]);
            even[0][t] = fma(w[0], first, even[0][t]);
            even[1][t] = fma(w[1], first, even[1][t]);
            odd[0][t] = fma(v[0], second, odd[0][t]);
            odd[1][t] = fma(v[1], second, odd[1][t]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) out[0][t] = even[0][t] + odd[0][t], out[1][t] = even[1][t] + odd[1][t];
}

// All tokens by a block, in runs of at most TILE tokens of a tile; `compute` is given how many as a constant.
template <class C>
INLINE void each_tile(const Activations& a, const C& compute, const Finish& finish) {
    const Tiles tiles(a);
    vf out[HALVES][TILE];
    for (int tile = 0; tile < tiles.count; tile++) {
        const int begin = tiles.begin(tile), all = tiles.tokens(tile);
        for (int from = 0; from < all; from += TILE) {
            const int n = all - from < TILE ? all - from : TILE;
            with_constant<TILE>(n, [&](auto N) { compute(N, Place(begin, all, from), out); });
            for (int t = 0; t < n; t++) finish(Place(begin, all, from + t), out[0][t], out[1][t]);
        }
    }
}

template <int BITS, int PER, bool MINS>
static void integer_block(
    const Matrix& m, int block, const Activations& a, uint8_t* scratch, const Finish& finish) {
    constexpr int RECORD = record_bytes(BITS, PER, MINS);
    const int groups = m.inputs / GROUP;
    const uint8_t* record = m.data + (size_t)block * groups * RECORD;
    if (a.full) return amx_block<BITS, PER, MINS>(m, record, a, scratch, finish);
    // For many tokens it pays to unpack once, but for 4 bits, which are unpacked in passing.
    if (BITS == 4 || BITS == 8 || a.tokens <= TILE)
        return each_tile(
            a,
            [&](auto N, const Place& at, vf (*out)[TILE]) {
                integer_tile<BITS, BITS, PER, MINS, N>(m, record, record, a, at.begin, out);
            },
            finish);
    unpack<BITS>(record, RECORD, groups, scratch);
    each_tile(
        a,
        [&](auto N, const Place& at, vf (*out)[TILE]) {
            integer_tile<8, BITS, PER, MINS, N>(m, record, scratch, a, at.begin, out);
        },
        finish);
}

template <int BITS>
static void float_block(const Matrix& m, int block, const Activations& a, const Finish& finish) {
    each_tile(
        a, [&](auto N, const Place& at, vf (*out)[TILE]) { float_tile<BITS, N>(m, block, a, at, out); }, finish);
}

// All tokens by a block: `finish(place, low, high)` gets a token's outputs of its 32 rows, some of which may be behind the
// last one. `scratch`: `scratch_bytes` of the calling thread; where the activations are `full`, it runs inside `AmxUse`.
static void block_product(
    const Matrix& m, int block, const Activations& a, uint8_t* scratch, const Finish& finish) {
    switch (m.bits) {
        case 4:
            return m.mins ? integer_block<4, 32, true>(m, block, a, scratch, finish)
                          : integer_block<4, 32, false>(m, block, a, scratch, finish);
        case 5:
            return m.mins ? integer_block<5, 32, true>(m, block, a, scratch, finish)
                          : integer_block<5, 32, false>(m, block, a, scratch, finish);
        case 6: return integer_block<6, 16, false>(m, block, a, scratch, finish);
        case 8: return integer_block<8, 32, false>(m, block, a, scratch, finish);
        case 16: return float_block<16>(m, block, a, finish);
        default: return float_block<32>(m, block, a, finish);
    }
}
