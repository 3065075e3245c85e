// Matrix products with packed weights: tokens by rows. Here only: packing as it is read, tiles, and the order of sums.
//
// A matrix is cut into blocks of 16 rows, one row a lane. An output is summed over the inputs in their order, group by
// group, whatever tile, batch or thread it is computed in: results do not depend on the batch.
//
// Kinds, by bits of a weight:
//   4, 5, 6, 8   codes: weight = scale * (code - offset), or scale * code + min, per row and group of inputs.
//                Activations are rounded to 8 bits per token and 32 inputs.
//   16, 32       bfloat16 and float32; activations stay float32.
// Codes of one block and 32 inputs, in operands of 4 inputs (byte 4 * lane + i is input 4 * operand + i of that row):
//   8 bits: 8 operands of 64 bytes. Less: 4 vectors of 64 bytes, operand 2j in the low and 2j + 1 in the high nibbles
//   of vector j; then for each further bit, 8 masks of 64 bits, one an operand.
#pragma once
#include "simd.h"

constexpr int GROUP = 32;   // inputs that share an activation's scale
constexpr int ABREAST = 2;  // blocks of a tile: an input that is broadcast serves both
constexpr int TILE = WIDE ? 8 : 2;  // tokens of a tile at most: its sums fill half of the registers

struct Matrix {  // as `workers.kernels.library.Matrix`
    int32_t bits, group, rows, inputs, offset, reserved;
    const void* codes;       // [blocks][inputs / 32][bytes], or [blocks][inputs][16] of bfloat16 or float32
    const uint16_t* scales;  // float16 [blocks][inputs / group][16]
    const uint16_t* mins;    // the same, or null
    const float* bias;       // [rows] or null
    int blocks() const { return (rows + LANES - 1) / LANES; }
    bool integer() const { return bits <= 8; }
};

constexpr int code_bytes(int bits) { return bits == 8 ? 512 : 256 + 64 * (bits - 4); }

// The activations of a step, tile by tile: a tile of n tokens that begins at token t lies at t * inputs, and within it
// four inputs (a float) of all its tokens lie together. Sums are over 16 inputs, shares are scale * sum over 32.
struct Activations {
    int8_t* codes;   // [inputs / 4][n][4]
    float* scales;   // [inputs / 32][n]
    float* shares;   // [inputs / 32][n]
    int32_t* sums;   // [inputs / 16][n]
    float* floats;   // [inputs][n]
    int inputs, tokens;
};

// Tokens are cut into as few tiles as can be, which are as even as can be: the larger ones come first.
struct Tiles {
    int count, size, larger;  // `larger` tiles have a token more than `size`
    explicit Tiles(int tokens) : count((tokens + TILE - 1) / TILE), size(tokens / count), larger(tokens % count) {}
    int begin(int tile) const { return tile * size + (tile < larger ? tile : larger); }
    int tokens(int tile) const { return size + (tile < larger); }
    int of(int token) const {
        const int inside = larger * (size + 1);
        return token < inside ? token / (size + 1) : larger + (token - inside) / size;
    }
};

// Rounds inputs [from, to) of one token (multiples of 32) to 8 bits, into its place.
static inline void quantise(const Activations& a, int token, const float* x, int from, int to) {
    const Tiles tiles(a.tokens);
    const int tile = tiles.of(token), begin = tiles.begin(tile), n = tiles.tokens(tile), lane = token - begin;
    int8_t* codes = a.codes + (size_t)begin * a.inputs;
    float* scales = a.scales + (size_t)begin * (a.inputs / GROUP);
    float* shares = a.shares + (size_t)begin * (a.inputs / GROUP);
    int32_t* sums = a.sums + (size_t)begin * (a.inputs / 16);
    for (int k = from; k < to; k += GROUP) {
        const vf low = load(x + k), high = load(x + k + 16);
        const float most = largest(max(max(low, -low), max(high, -high)));
        const float inverse = most > 0 ? 127.0f / most : 0.0f, scale = most / 127.0f;
        const vi q[2] = {round_to_int(low * set1(inverse)), round_to_int(high * set1(inverse))};
        int32_t totals[2];
        for (int half = 0; half < 2; half++) {
            int8_t bytes[LANES];
            store_int8(bytes, q[half]);
            for (int i = 0; i < 4; i++)
                std::memcpy(codes + ((size_t)(k / 4 + 4 * half + i) * n + lane) * 4, bytes + 4 * i, 4);
            totals[half] = total(q[half]);
            sums[(k / 16 + half) * n + lane] = totals[half];
        }
        scales[k / GROUP * n + lane] = scale;
        shares[k / GROUP * n + lane] = scale * (float)(totals[0] + totals[1]);
    }
}

static inline void place_floats(const Activations& a, int token, const float* x, int from, int to) {
    const Tiles tiles(a.tokens);
    const int tile = tiles.of(token), begin = tiles.begin(tile), n = tiles.tokens(tile);
    float* floats = a.floats + (size_t)begin * a.inputs + (token - begin);
    for (int k = from; k < to; k++) floats[(size_t)k * n] = x[k];
}

template <int BITS>
INLINE vb operand(const uint8_t* codes, int index) {
    if constexpr (BITS == 8) return load_bytes(codes + 64 * index);
    const vb pair = load_bytes(codes + 64 * (index / 2));
    vb value = (index & 1 ? pair >> 4 : pair) & 15;
    const uint64_t* masks = (const uint64_t*)(codes + 256);
    if constexpr (BITS >= 5) value = with_bit(value, masks[index], 16);
    if constexpr (BITS >= 6) value = with_bit(value, masks[8 + index], 32);
    return value;
}

// What a tile reads of its blocks. The last block of an odd number stands for both.
template <class T>
struct Pair {
    const T* of[ABREAST];
    Pair(const T* base, const int* blocks, size_t per_block) {
        for (int b = 0; b < ABREAST; b++) of[b] = base ? base + blocks[b] * per_block : nullptr;
    }
};

// Two blocks of rows by N tokens, integers. `CODED` is how the codes lie, which may be unpacked to 8 bits already.
template <int CODED, int BITS, int PER, int N>
INLINE void integer_tile(
    const Matrix& m, Pair<uint8_t> codes, const int* blocks, const Activations& a, int begin, vf (*out)[TILE]) {
    constexpr int CHAINS = N == 1 ? 2 : 1;  // integer sums may be taken in any order
    constexpr int PARTS = GROUP / PER;      // scales in 32 inputs
    constexpr int OPERANDS = 8 / PARTS;
    const int groups = m.inputs / GROUP;
    const Pair<uint16_t> scales(m.scales, blocks, (size_t)groups * PARTS * LANES);
    const Pair<uint16_t> mins(m.mins, blocks, (size_t)groups * PARTS * LANES);
    const int8_t* x = a.codes + (size_t)begin * a.inputs;
    const float* x_scales = a.scales + (size_t)begin * groups;
    const float* x_shares = a.shares + (size_t)begin * groups;
    const int32_t* x_sums = a.sums + (size_t)begin * groups * 2;
    vf totals[ABREAST][N];
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) totals[0][t] = totals[1][t] = vf{};
    for (int g = 0; g < groups; g++) {
        vf weighted[ABREAST][N];
#pragma GCC unroll 2
        for (int part = 0; part < PARTS; part++) {
            vi sums[ABREAST][N][CHAINS];
#pragma GCC unroll 16
            for (int t = 0; t < N; t++) {
                int32_t s = x_sums[(2 * g + part) * N + t];
                if constexpr (PARTS == 1) s += x_sums[(2 * g + 1) * N + t];
                sums[0][t][0] = sums[1][t][0] = set1_int(-m.offset * s);
                for (int c = 1; c < CHAINS; c++) sums[0][t][c] = sums[1][t][c] = vi{};
            }
#pragma GCC unroll 16
            for (int i = 0; i < OPERANDS; i++) {
                const int index = part * OPERANDS + i;
                const vb w = operand<CODED>(codes.of[0], index), v = operand<CODED>(codes.of[1], index);
#pragma GCC unroll 16
                for (int t = 0; t < N; t++) {
                    const vb word = broadcast4(x + ((size_t)(8 * g + index) * N + t) * 4);
                    sums[0][t][i % CHAINS] = dot4<BITS>(sums[0][t][i % CHAINS], w, word);
                    sums[1][t][i % CHAINS] = dot4<BITS>(sums[1][t][i % CHAINS], v, word);
                }
            }
#pragma GCC unroll 2
            for (int b = 0; b < ABREAST; b++) {
                const vf scale = half_to_float(scales.of[b] + (size_t)(g * PARTS + part) * LANES);
#pragma GCC unroll 16
                for (int t = 0; t < N; t++) {
                    for (int c = 1; c < CHAINS; c++) sums[b][t][0] += sums[b][t][c];
                    const vf found = to_float(sums[b][t][0]);
                    weighted[b][t] = part ? fma(found, scale, weighted[b][t]) : found * scale;
                }
            }
        }
#pragma GCC unroll 16
        for (int t = 0; t < N; t++) {
            const vf scale = set1(x_scales[g * N + t]);
            totals[0][t] = fma(weighted[0][t], scale, totals[0][t]);
            totals[1][t] = fma(weighted[1][t], scale, totals[1][t]);
        }
        if (m.mins) {
            const vf low = half_to_float(mins.of[0] + (size_t)g * LANES);
            const vf high = half_to_float(mins.of[1] + (size_t)g * LANES);
#pragma GCC unroll 16
            for (int t = 0; t < N; t++) {
                const vf share = set1(x_shares[g * N + t]);
                totals[0][t] = fma(low, share, totals[0][t]);
                totals[1][t] = fma(high, share, totals[1][t]);
            }
        }
        for (int b = 0; b < ABREAST; b++) codes.of[b] += code_bytes(CODED);
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) out[0][t] = totals[0][t], out[1][t] = totals[1][t];
}

template <int BITS, int N>
INLINE void float_tile(const Matrix& m, const int* blocks, const Activations& a, int begin, vf (*out)[TILE]) {
    const float* x = a.floats + (size_t)begin * a.inputs;
    const auto weights = [&](int b, int k) {
        const size_t at = ((size_t)blocks[b] * m.inputs + k) * LANES;
        if constexpr (BITS == 16) return bf16_to_float((const uint16_t*)m.codes + at);
        return load((const float*)m.codes + at);
    };
    vf even[ABREAST][N], odd[ABREAST][N];  // two chains: fused multiply-adds take their time
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) even[0][t] = odd[0][t] = even[1][t] = odd[1][t] = vf{};
    for (int k = 0; k < m.inputs; k += 2) {
        const vf w[2] = {weights(0, k), weights(1, k)}, v[2] = {weights(0, k + 1), weights(1, k + 1)};
#pragma GCC unroll 16
        for (int t = 0; t < N; t++) {
            const vf first = set1(x[(size_t)k * N + t]), second = set1(x[(size_t)(k + 1) * N + t]);
            even[0][t] = fma(w[0], first, even[0][t]);
            even[1][t] = fma(w[1], first, even[1][t]);
            odd[0][t] = fma(v[0], second, odd[0][t]);
            odd[1][t] = fma(v[1], second, odd[1][t]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) out[0][t] = even[0][t] + odd[0][t], out[1][t] = even[1][t] + odd[1][t];
}

// All tokens by two blocks, tile by tile; `compute` is given how many tokens the tile has as a constant.
template <class C, class F>
INLINE void each_tile(const Activations& a, const int* blocks, const C& compute, const F& finish) {
    const Tiles tiles(a.tokens);
    vf out[ABREAST][TILE];
    for (int tile = 0; tile < tiles.count; tile++) {
        const int begin = tiles.begin(tile), n = tiles.tokens(tile);
        with_constant<TILE>(n, [&](auto N) { compute(N, begin, out); });
        for (int b = 0; b < (blocks[1] == blocks[0] ? 1 : ABREAST); b++)
            for (int t = 0; t < n; t++) finish(blocks[b], begin + t, out[b][t]);
    }
}

// Codes of a block, unpacked to 8 bits: for many tokens it pays to do it once, but for those of 4 bits.
template <int BITS>
static void unpack(const uint8_t* codes, int groups, uint8_t* out) {
    for (int g = 0; g < groups; g++, codes += code_bytes(BITS))
        for (int i = 0; i < 8; i++, out += 64) store_bytes(out, operand<BITS>(codes, i));
}

template <int CODED, int BITS, int PER, class F>
static void integer_blocks(
    const Matrix& m, const Pair<uint8_t>& codes, const int* blocks, const Activations& a, const F& finish) {
    each_tile(
        a, blocks,
        [&](auto N, int begin, vf (*out)[TILE]) {
            integer_tile<CODED, BITS, PER, N>(m, codes, blocks, a, begin, out);
        },
        finish);
}

template <int BITS, int PER, class F>
static void coded_blocks(const Matrix& m, const int* blocks, const Activations& a, uint8_t* scratch, const F& finish) {
    const int groups = m.inputs / GROUP;
    const Pair<uint8_t> codes((const uint8_t*)m.codes, blocks, (size_t)groups * code_bytes(BITS));
    if (BITS == 4 || BITS == 8 || a.tokens <= TILE) return integer_blocks<BITS, BITS, PER>(m, codes, blocks, a, finish);
    const int both[ABREAST] = {0, 1};
    const size_t unpacked = (size_t)groups * code_bytes(8);
    for (int b = 0; b < ABREAST; b++) unpack<BITS>(codes.of[b], groups, scratch + b * unpacked);
    integer_blocks<8, BITS, PER>(m, Pair<uint8_t>(scratch, both, unpacked), blocks, a, finish);
}

template <int BITS, class F>
static void float_blocks(const Matrix& m, const int* blocks, const Activations& a, const F& finish) {
    each_tile(
        a, blocks, [&](auto N, int begin, vf (*out)[TILE]) { float_tile<BITS, N>(m, blocks, a, begin, out); }, finish);
}

// All tokens by blocks `first` and, where there is one, `first + 1`: `finish(block, token, values)` gets 16 outputs.
// `scratch`: ABREAST * inputs * 16 bytes of the calling thread.
template <class F>
static void block_product(const Matrix& m, int first, const Activations& a, uint8_t* scratch, const F& finish) {
    const int blocks[ABREAST] = {first, first + 1 < m.blocks() ? first + 1 : first};
    switch (m.bits) {
        case 4: return coded_blocks<4, 32>(m, blocks, a, scratch, finish);
        case 5: return coded_blocks<5, 32>(m, blocks, a, scratch, finish);
        case 6: return coded_blocks<6, 16>(m, blocks, a, scratch, finish);
        case 8: return coded_blocks<8, 32>(m, blocks, a, scratch, finish);
        case 16: return float_blocks<16>(m, blocks, a, finish);
        default: return float_blocks<32>(m, blocks, a, finish);
    }
}

// Row `row` of the matrix as floats: how an embedding is looked up.
static inline void matrix_row(const Matrix& m, int row, float* out) {
    const int block = row / LANES, lane = row % LANES, groups = m.inputs / GROUP;
    if (!m.integer()) {
        for (int k = 0; k < m.inputs; k++) {
            const size_t at = ((size_t)block * m.inputs + k) * LANES + lane;
            if (m.bits == 32) out[k] = ((const float*)m.codes)[at];
            else {
                const uint32_t wide = (uint32_t)((const uint16_t*)m.codes)[at] << 16;
                std::memcpy(out + k, &wide, 4);
            }
        }
        return;
    }
    const uint8_t* codes = (const uint8_t*)m.codes + (size_t)block * groups * code_bytes(m.bits);
    float scale = 0, least = 0;
    for (int k = 0; k < m.inputs; k++) {
        if (k % m.group == 0) {
            const size_t at = ((size_t)block * (m.inputs / m.group) + k / m.group) * LANES;
            scale = half_to_float(m.scales + at)[lane];
            least = m.mins ? half_to_float(m.mins + at)[lane] : -scale * m.offset;
        }
        const uint8_t* group = codes + (size_t)(k / GROUP) * code_bytes(m.bits);
        const int index = k % GROUP / 4, byte = 4 * lane + k % 4;
        int code;
        if (m.bits == 8) code = group[64 * index + byte];
        else {
            code = (group[64 * (index / 2) + byte] >> (4 * (index & 1))) & 15;
            for (int bit = 4; bit < m.bits; bit++) {
                uint64_t mask;
                std::memcpy(&mask, group + 256 + 64 * (bit - 4) + 8 * index, 8);
                code |= (int)(mask >> byte & 1) << bit;
            }
        }
        out[k] = scale * code + least;
    }
}
